//! `Rewrap`, from the token to the answer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::{StreamExt, stream};
use kasbah_audit::{NotKept, Receipt};
use kasbah_auth::Caller;
use kasbah_crypto::PublicKeyError;
use kasbah_proto::kas::{
    KeyAccessRewrapResult, PolicyRewrapResult, RewrapResponse, key_access_rewrap_result,
};
use kasbah_telemetry::instruments;
use kasbah_trust::{Deadline, KeyDetails, Lease, PublicKey, Recipient, RewrappedKey};
use prost_types::{ListValue, Value, value::Kind};
use time::OffsetDateTime;
use tokio::time::timeout_at;
use tracing::instrument;
use uuid::Uuid;

use crate::{
    AccessGranted, AuditEvent, AuditOutcome,
    access::{Verdict, decide},
    audit::OpenEvent,
    body::{Body, Entry, Kao, WithKao},
    builder::Parts,
    check::{Checked, check},
    context,
    edge::Fault,
    policy::Policy,
    redeem::{Candidate, Keys, Resolved, in_host, open_recipient, redeem},
    srt::{self, Times},
};

/// Metadata of every result: the obligations that access brings with it, or would.
const OBLIGATIONS: &str = "X-Required-Obligations";
/// Metadata of every permit: the custody of the data key.
const CUSTODY: &str = "X-Kasbah-Custody";

/// Who calls, from where, and for how long.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) address: Option<IpAddr>,
    pub(crate) user_agent: String,
    pub(crate) request: Uuid,
    /// The header `x-rewrap-additional-context`.
    pub(crate) context: Option<String>,
    pub(crate) started: Instant,
    pub(crate) deadline: Deadline,
}

/// One key access object on its way; `state` is how far it got.
struct Job<S> {
    event: OpenEvent,
    /// Obligations of its policy.
    obligations: Arc<[String]>,
    /// It was denied; what is done further only finds out whether it was tampered with.
    denied: Option<Fault>,
    state: Result<S, Fault>,
}

/// What became of one key access object.
struct Answer {
    obligations: Arc<[String]>,
    result: Result<RewrappedKey, Fault>,
}

/// What a request says.
struct Read {
    body: Body,
    /// `None` is a key on a curve that nothing can be encrypted to: a fault of each key access
    /// object.
    client: Option<PublicKey>,
    /// Obligations that the client can fulfil.
    fulfillable: Vec<String>,
}

/// Answers one request. Faults of single key access objects are in the answer; what fails here is
/// the request as a whole.
#[instrument(name = "rewrap", skip_all)]
pub(crate) async fn rewrap(
    parts: &Parts,
    call: &Call,
    token: &str,
) -> Result<RewrapResponse, Fault> {
    let _under_way = instruments().rewrap_request(call.started);
    let Read { body, client, fulfillable } =
        read(parts, call, token).inspect_err(|fault| refuse(parts, call, fault))?;
    let granted = grant_all(parts, call, &body, client.as_ref(), &fulfillable).await;
    let resolved = resolve_all(parts, call, granted).await;
    let recipient = match &client {
        Some(client) => open_recipient(client, sole_manager(&resolved), call.deadline).await,
        None => Err(Fault::INVALID_REQUEST),
    };
    let answers = redeem_all(parts, call, resolved, &recipient).await;
    let session_public_key = recipient.ok().and_then(|opened| opened.session_public_key());
    respond(&body, answers, session_public_key.unwrap_or_default())
}

fn read(parts: &Parts, call: &Call, token: &str) -> Result<Read, Fault> {
    if token.len() > parts.limits.srt_bytes {
        return Err(Fault::SRT_TOO_LARGE);
    }
    let times =
        Times { now: SystemTime::now(), skew: parts.clock_skew, lifetime: parts.srt_lifetime };
    let json = srt::open(token, times, call.caller.proof_key.as_deref())?;
    let body = Body::parse(&json, &parts.limits)?;
    let client = client_key(&body.client_public_key)?;
    let fulfillable = context::fulfillable(call.context.as_deref())?;
    Ok(Read { body, client, fulfillable })
}

/// Records that a request was refused as a whole.
pub(crate) fn refuse(parts: &Parts, call: &Call, fault: &Fault) {
    // Nothing is released, so nobody waits until the event is kept.
    let _ = open_event(parts, call, None, None).finish(fault.outcome, None);
}

fn client_key(pem: &str) -> Result<Option<PublicKey>, Fault> {
    match PublicKey::from_pem(pem) {
        Ok(key) => Ok(Some(key)),
        Err(PublicKeyError::UnsupportedCurve) => Ok(None),
        Err(error) => Err(Fault::client_key(error)),
    }
}

/// Checks the form of every key access object, and has access to their policies decided.
async fn grant_all(
    parts: &Parts,
    call: &Call,
    body: &Body,
    client: Option<&PublicKey>,
    fulfillable: &[String],
) -> Vec<Job<(Checked, AccessGranted)>> {
    let mut checked: Vec<_> =
        body.entries.iter().map(|entry| Entered::new(parts, call, entry)).collect();
    // For a client that nothing can be encrypted to, nothing has to be decided.
    let decidable = checked.iter().filter_map(Entered::to_decide).filter(|_| client.is_some());
    let policies: Vec<_> = decidable.collect();
    let verdicts = decide(&parts.access, &call.caller, &policies, fulfillable, call.deadline).await;
    let mut verdicts = verdicts.into_iter();
    let mut jobs = Vec::new();
    for entered in &mut checked {
        let verdict = entered.to_decide().and_then(|_| verdicts.next());
        let kaos = std::mem::take(&mut entered.kaos);
        jobs.extend(kaos.into_iter().map(|kao| grant(parts, call, kao, verdict.as_ref(), client)));
    }
    jobs
}

/// A policy of a request with its key access objects.
struct Entered {
    policy: Result<Policy, Fault>,
    kaos: Vec<(OpenEvent, Result<Checked, Fault>)>,
}

impl Entered {
    fn new(parts: &Parts, call: &Call, entry: &Entry) -> Self {
        let policy = policy(entry);
        let kaos = entry.kaos.iter().map(|kao| {
            let event = open_event(parts, call, policy.as_ref().ok(), kao.kao.as_ref());
            let state = match (&policy, &kao.kao) {
                (Err(fault), _) => Err(fault.clone()),
                (Ok(_), None) => Err(Fault::KAO_MISSING),
                (Ok(_), Some(kao)) => check(kao),
            };
            (event, state)
        });
        Self { kaos: kaos.collect(), policy }
    }

    /// The policy, if there is anything that it decides on.
    fn to_decide(&self) -> Option<&Policy> {
        let has_sound = self.kaos.iter().any(|(_, state)| state.is_ok());
        self.policy.as_ref().ok().filter(|_| has_sound)
    }
}

fn policy(entry: &Entry) -> Result<Policy, Fault> {
    let policy = entry.policy.as_ref().ok_or(Fault::MISSING_POLICY)?;
    if policy.id.is_empty() {
        return Err(Fault::MISSING_POLICY_ID);
    }
    Policy::parse(&policy.body)
}

/// Turns a verdict into a grant for one key access object.
fn grant(
    parts: &Parts,
    call: &Call,
    (mut event, checked): (OpenEvent, Result<Checked, Fault>),
    verdict: Option<&Verdict>,
    client: Option<&PublicKey>,
) -> Job<(Checked, AccessGranted)> {
    let obligations: Arc<[String]> =
        verdict.map(|verdict| verdict.obligations.as_slice().into()).unwrap_or_default();
    event.obliged(&obligations);
    let job = |event, denied, state| Job { event, obligations, denied, state };
    let (checked, verdict, client) = match (checked, verdict, client) {
        (_, _, None) => return job(event, None, Err(Fault::INVALID_REQUEST)),
        (Err(fault), _, _) => return job(event, None, Err(fault)),
        (Ok(_), None, _) => return job(event, None, Err(Fault::FORBIDDEN)),
        (Ok(checked), Some(verdict), Some(client)) => (checked, verdict, client),
    };
    match (verdict.grant(client, call.deadline), &parts.nobody) {
        (Ok(granted), _) => job(event, None, Ok((checked, granted))),
        (Err(fault), Some(nobody)) if fault.is_denial() => {
            let granted = verdict.grant_to_nobody(nobody, call.deadline);
            job(event, Some(fault), Ok((checked, granted)))
        }
        (Err(fault), _) => job(event, None, Err(fault)),
    }
}

/// Finds the keys of what was granted.
async fn resolve_all(
    parts: &Parts,
    call: &Call,
    jobs: Vec<Job<(Checked, AccessGranted)>>,
) -> Vec<Job<Resolved>> {
    let keys = Keys {
        service: &parts.keys,
        min_proof: &parts.min_proof,
        proof: call.caller.proof,
        deadline: call.deadline,
        legacy_limit: parts.limits.legacy_keys,
    };
    let needs_legacy =
        jobs.iter().any(|job| job.state.as_ref().is_ok_and(|(checked, _)| checked.kid.is_none()));
    let legacy = if needs_legacy { keys.legacy().await } else { Ok(Vec::new()) };
    let resolving = jobs.into_iter().map(|job| resolve_one(keys, job, &legacy)).collect();
    in_order(resolving, parts.limits.concurrent_kaos).await
}

async fn resolve_one(
    keys: Keys<'_>,
    job: Job<(Checked, AccessGranted)>,
    legacy: &Result<Vec<Arc<KeyDetails>>, Fault>,
) -> Job<Resolved> {
    let Job { event, obligations, denied, state } = job;
    let state = match state {
        Ok((checked, granted)) => keys.resolve(checked, granted, legacy).await,
        Err(fault) => Err(fault),
    };
    Job { event, obligations, denied, state }
}

/// The manager that answers for everything granted and resolved, if there is just one.
fn sole_manager(jobs: &[Job<Resolved>]) -> Option<&Lease> {
    let granted = jobs.iter().filter(|job| job.denied.is_none());
    let resolved = granted.filter_map(|job| job.state.as_ref().ok());
    let mut leases = resolved.flat_map(|resolved| &resolved.candidates).map(|c| &c.lease);
    let first = leases.next()?;
    leases.all(|other| other.is_same(first)).then_some(first)
}

/// Has every data key re-encrypted, several at a time, and releases them once the audit log has
/// their events.
async fn redeem_all(
    parts: &Parts,
    call: &Call,
    jobs: Vec<Job<Resolved>>,
    recipient: &Result<Recipient, Fault>,
) -> Vec<Answer> {
    let nobody = parts.nobody.as_ref().map(|nobody| in_host(nobody.public_key()));
    let redeeming = jobs.into_iter().map(|job| {
        let obligations = Arc::clone(&job.obligations);
        let (recipient, nobody) = (recipient, nobody.as_ref());
        async move {
            let redeemed = match job.denied {
                Some(_) => find_tampering(job, nobody, call.deadline).await,
                None => redeem_one(job, recipient, call.deadline).await,
            };
            (obligations, redeemed)
        }
    });
    let redeemed = in_order(redeeming.collect(), parts.limits.concurrent_kaos).await;
    let mut answers = Vec::with_capacity(redeemed.len());
    for (obligations, redeemed) in redeemed {
        let result = match redeemed {
            Ok((rewrapped, receipt)) => release(rewrapped, receipt, call.deadline).await,
            Err(fault) => Err(fault),
        };
        answers.push(Answer { obligations, result });
    }
    answers
}

/// Runs up to `at_once` futures at the same time; outputs keep the order of the futures.
async fn in_order<F: Future>(futures: Vec<F>, at_once: usize) -> Vec<F::Output> {
    stream::iter(futures).buffered(at_once).collect().await
}

/// A key leaves when its event is kept, and not before.
async fn release(
    rewrapped: RewrappedKey,
    receipt: Receipt,
    deadline: Deadline,
) -> Result<RewrappedKey, Fault> {
    match timeout_at(deadline.instant().into(), receipt.wait()).await {
        Ok(Ok(())) => Ok(rewrapped),
        Ok(Err(NotKept::Full)) => Err(Fault::AUDIT_BUSY),
        Ok(Err(NotKept::Failed)) | Err(_) => Err(Fault::AUDIT_UNAVAILABLE),
    }
}

async fn redeem_one(
    job: Job<Resolved>,
    recipient: &Result<Recipient, Fault>,
    deadline: Deadline,
) -> Result<(RewrappedKey, Receipt), Fault> {
    let Job { mut event, state, .. } = job;
    let resolved = match state {
        Ok(resolved) => resolved,
        Err(fault) => return fail(event, fault),
    };
    if let [only] = resolved.candidates.as_slice() {
        used(&mut event, only);
    }
    let recipient = match recipient {
        Ok(recipient) => recipient,
        Err(fault) => return fail(event, fault.clone()),
    };
    match redeem(resolved, recipient, deadline).await {
        Ok(redeemed) => {
            used(&mut event, &redeemed.used);
            let receipt = event.finish(AuditOutcome::Success, Some(redeemed.rewrapped.custody));
            Ok((redeemed.rewrapped, receipt))
        }
        Err(fault) => fail(event, fault),
    }
}

/// After a denial: has the data key re-encrypted for nobody, to hear whether it is bound to the
/// policy. Whatever else comes of it, the answer stays the denial.
async fn find_tampering(
    job: Job<Resolved>,
    nobody: Option<&Result<Recipient, Fault>>,
    deadline: Deadline,
) -> Result<(RewrappedKey, Receipt), Fault> {
    let Job { mut event, denied, state, .. } = job;
    let redeemed = match (state, nobody) {
        (Ok(resolved), Some(Ok(nobody))) => {
            if let [only] = resolved.candidates.as_slice() {
                used(&mut event, only);
            }
            redeem(resolved, nobody, deadline).await.err()
        }
        (Err(fault), _) => Some(fault),
        (Ok(_), _) => None,
    };
    let denied = denied.unwrap_or(Fault::FORBIDDEN);
    fail(event, redeemed.filter(|fault| *fault == Fault::BAD_REQUEST).unwrap_or(denied))
}

fn fail<T>(event: OpenEvent, fault: Fault) -> Result<T, Fault> {
    // Nothing is released, so nobody waits until the event is kept.
    let _ = event.finish(fault.outcome, None);
    Err(fault)
}

fn used(event: &mut OpenEvent, candidate: &Candidate) {
    let key: &KeyDetails = &candidate.key;
    event.used(key.kid.as_str(), key.algorithm, candidate.lease.designation().clone());
}

/// Until it is finished, an event says that the request was cut off.
fn open_event(parts: &Parts, call: &Call, policy: Option<&Policy>, kao: Option<&Kao>) -> OpenEvent {
    let binding = kao.and_then(|kao| kao.binding.as_ref());
    let event = AuditEvent {
        time: OffsetDateTime::UNIX_EPOCH,
        policy: policy.map_or(Uuid::nil(), |policy| policy.uuid),
        attributes: policy.map(|policy| policy.attributes.clone()).unwrap_or_default(),
        obligations: Vec::new(),
        actor: call.caller.token.subject.clone(),
        issuer: call.caller.token.issuer.clone(),
        client: call.caller.client_id.clone(),
        proof: call.caller.proof,
        token_fingerprint: call.caller.token.fingerprint,
        kid: kao.map(|kao| kao.kid.clone()).unwrap_or_default(),
        algorithm: None,
        policy_binding: binding.map(|binding| binding.hash.clone()).unwrap_or_default(),
        user_agent: call.user_agent.clone(),
        address: call.address,
        request: call.request,
        outcome: AuditOutcome::Cancelled,
        custody: None,
        manager: None,
        latency_us: 0,
    };
    OpenEvent::new(Arc::clone(&parts.audit), call.started, event)
}

/// Puts the answers, which are in the order of the request, under their ids. The one answer to a
/// version 1 body is the answer to the request as well.
fn respond(
    body: &Body,
    answers: Vec<Answer>,
    session_public_key: String,
) -> Result<RewrapResponse, Fault> {
    let mut response = RewrapResponse { session_public_key, ..RewrapResponse::default() };
    if body.is_v1 {
        for answer in &answers {
            set_entity_wrapped_key(
                &mut response,
                answer.result.as_ref().map_err(Clone::clone)?.wrapped.clone(),
            );
        }
    }
    let mut answers = answers.into_iter();
    let responses = body.entries.iter().map(|entry| PolicyRewrapResult {
        policy_id: entry.policy.as_ref().map(|policy| policy.id.clone()).unwrap_or_default(),
        results: entry.kaos.iter().zip(answers.by_ref()).map(result).collect(),
    });
    response.responses = responses.collect();
    Ok(response)
}

#[expect(deprecated, reason = "version 1 clients read nothing else")]
fn set_entity_wrapped_key(response: &mut RewrapResponse, wrapped: Vec<u8>) {
    response.entity_wrapped_key = wrapped;
}

fn result((kao, answer): (&WithKao, Answer)) -> KeyAccessRewrapResult {
    let mut metadata = HashMap::from([(OBLIGATIONS.to_owned(), list_of(&answer.obligations))]);
    let (status, result) = match answer.result {
        Ok(rewrapped) => {
            let level = rewrapped.custody.level.as_str().to_owned();
            metadata.insert(CUSTODY.to_owned(), Value { kind: Some(Kind::StringValue(level)) });
            ("permit", key_access_rewrap_result::Result::KasWrappedKey(rewrapped.wrapped))
        }
        Err(fault) => ("fail", key_access_rewrap_result::Result::Error(fault.kao_text())),
    };
    KeyAccessRewrapResult {
        metadata,
        key_access_object_id: kao.id.clone(),
        status: status.to_owned(),
        result: Some(result),
    }
}

fn list_of(texts: &[String]) -> Value {
    let values = texts.iter().map(|text| Value { kind: Some(Kind::StringValue(text.clone())) });
    Value { kind: Some(Kind::ListValue(ListValue { values: values.collect() })) }
}
