//! `Rewrap`, from the token to the answer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::{StreamExt, stream};
use kasbah_crypto::PublicKeyError;
use kasbah_proto::kas::{
    KeyAccessRewrapResult, PolicyRewrapResult, RewrapResponse, key_access_rewrap_result,
};
use kasbah_trust::{Deadline, KeyDetails, Lease, PublicKey, Recipient, RewrappedKey};
use prost_types::{ListValue, Value, value::Kind};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    AccessGranted, AuditEvent, AuditOutcome, Caller,
    access::decide,
    audit::OpenEvent,
    body::{Body, Entry, WithKao},
    builder::Parts,
    check::{Checked, check},
    context,
    edge::Fault,
    policy::Policy,
    redeem::{Candidate, Keys, Resolved, open_recipient, redeem},
    srt,
};

/// Metadata of every result: the obligations that access requires; none without a decision service.
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
    state: Result<S, Fault>,
}

type Answer = Result<RewrappedKey, Fault>;

/// Answers one request. Faults of single key access objects are in the answer; what fails here is
/// the request as a whole.
pub(crate) async fn rewrap(
    parts: &Parts,
    call: &Call,
    token: &str,
) -> Result<RewrapResponse, Fault> {
    let body = read(parts, token)?;
    let client = client_key(&body.client_public_key)?;
    context::check(call.context.as_deref())?;

    let granted = grant_all(parts, call, &body, client.as_ref());
    let resolved = resolve_all(parts, call, granted).await;
    let recipient = match &client {
        Some(client) => open_recipient(client, sole_manager(&resolved), call.deadline).await,
        None => Err(Fault::INVALID_REQUEST),
    };
    let answers = redeem_all(parts, call, resolved, &recipient).await;
    let session_public_key = recipient.ok().and_then(|opened| opened.session_public_key());
    respond(&body, answers, session_public_key.unwrap_or_default())
}

fn read(parts: &Parts, token: &str) -> Result<Body, Fault> {
    if token.len() > parts.limits.srt_bytes {
        return Err(Fault::SRT_TOO_LARGE);
    }
    let json = srt::open(token, SystemTime::now(), parts.clock_skew)?;
    Body::parse(&json, &parts.limits)
}

/// `None` is a key on a curve that nothing can be encrypted to: a fault of each key access object.
fn client_key(pem: &str) -> Result<Option<PublicKey>, Fault> {
    match PublicKey::from_pem(pem) {
        Ok(key) => Ok(Some(key)),
        Err(PublicKeyError::UnsupportedCurve) => Ok(None),
        Err(error) => Err(Fault::client_key(error)),
    }
}

/// Checks the form of every key access object and decides on it.
fn grant_all(
    parts: &Parts,
    call: &Call,
    body: &Body,
    client: Option<&PublicKey>,
) -> Vec<Job<(Checked, AccessGranted)>> {
    let mut jobs = Vec::new();
    for entry in &body.entries {
        let policy = policy(entry);
        for kao in &entry.kaos {
            let event = OpenEvent::new(
                Arc::clone(&parts.audit),
                call.started,
                event(call, policy.as_ref().ok(), kao),
            );
            let state = match client {
                Some(client) => grant(call, &policy, kao, client),
                None => Err(Fault::INVALID_REQUEST),
            };
            jobs.push(Job { event, state });
        }
    }
    jobs
}

fn policy(entry: &Entry) -> Result<Policy, Fault> {
    let policy = entry.policy.as_ref().ok_or(Fault::MISSING_POLICY)?;
    if policy.id.is_empty() {
        return Err(Fault::MISSING_POLICY_ID);
    }
    Policy::parse(&policy.body)
}

fn grant(
    call: &Call,
    policy: &Result<Policy, Fault>,
    kao: &WithKao,
    client: &PublicKey,
) -> Result<(Checked, AccessGranted), Fault> {
    let policy = policy.as_ref().map_err(Clone::clone)?;
    let checked = check(kao.kao.as_ref().ok_or(Fault::KAO_MISSING)?)?;
    let granted = decide(policy, &call.caller, client, call.deadline)?;
    Ok((checked, granted))
}

/// Finds the keys of what was granted.
async fn resolve_all(
    parts: &Parts,
    call: &Call,
    jobs: Vec<Job<(Checked, AccessGranted)>>,
) -> Vec<Job<Resolved>> {
    let keys = Keys {
        service: &parts.keys,
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
    let state = match job.state {
        Ok((checked, granted)) => keys.resolve(checked, granted, legacy).await,
        Err(fault) => Err(fault),
    };
    Job { event: job.event, state }
}

/// The manager that answers for everything resolved, if there is just one.
fn sole_manager(jobs: &[Job<Resolved>]) -> Option<&Lease> {
    let resolved = jobs.iter().filter_map(|job| job.state.as_ref().ok());
    let mut leases = resolved.flat_map(|resolved| &resolved.candidates).map(|c| &c.lease);
    let first = leases.next()?;
    leases.all(|other| other.is_same(first)).then_some(first)
}

/// Has every data key re-encrypted, several at a time, and closes the audit events.
async fn redeem_all(
    parts: &Parts,
    call: &Call,
    jobs: Vec<Job<Resolved>>,
    recipient: &Result<Recipient, Fault>,
) -> Vec<Answer> {
    let redeeming = jobs.into_iter().map(|job| redeem_one(job, recipient, call.deadline)).collect();
    in_order(redeeming, parts.limits.concurrent_kaos).await
}

/// Runs up to `at_once` futures at the same time; outputs keep the order of the futures.
async fn in_order<F: Future>(futures: Vec<F>, at_once: usize) -> Vec<F::Output> {
    stream::iter(futures).buffered(at_once).collect().await
}

async fn redeem_one(
    job: Job<Resolved>,
    recipient: &Result<Recipient, Fault>,
    deadline: Deadline,
) -> Answer {
    let Job { mut event, state } = job;
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
            event.finish(AuditOutcome::Success, Some(redeemed.rewrapped.custody));
            Ok(redeemed.rewrapped)
        }
        Err(fault) => fail(event, fault),
    }
}

fn fail(event: OpenEvent, fault: Fault) -> Answer {
    event.finish(fault.outcome, None);
    Err(fault)
}

fn used(event: &mut OpenEvent, candidate: &Candidate) {
    let key: &KeyDetails = &candidate.key;
    event.used(key.kid.as_str(), key.algorithm, candidate.lease.designation().clone());
}

/// Until it is finished, an event says that the request was cut off.
fn event(call: &Call, policy: Option<&Policy>, kao: &WithKao) -> AuditEvent {
    let kao = kao.kao.as_ref();
    let binding = kao.and_then(|kao| kao.binding.as_ref());
    AuditEvent {
        time: OffsetDateTime::UNIX_EPOCH,
        policy: policy.map_or(Uuid::nil(), |policy| policy.uuid),
        attributes: policy.map(|policy| policy.attributes.clone()).unwrap_or_default(),
        actor: call.caller.subject.clone(),
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
    }
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
                answer.as_ref().map_err(Clone::clone)?.wrapped.clone(),
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
    let mut metadata = HashMap::from([(OBLIGATIONS.to_owned(), none_required())]);
    let (status, result) = match answer {
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

fn none_required() -> Value {
    Value { kind: Some(Kind::ListValue(ListValue::default())) }
}
