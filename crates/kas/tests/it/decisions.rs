//! Who may read what is decided before a key is touched, by one question for a request.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_access::{Decision, DecisionError, Decisions, Question};
use kasbah_kas::{AccessRules, AuditOutcome, Limits};
use kasbah_proto::kas::RewrapResponse;
use prost_types::value::Kind;
use serde_json::{Value, json};

use crate::{harness::*, rewrap::P224};

const RED: &str = "https://acme.test/attr/team/value/red";
const BLUE: &str = "https://acme.test/attr/team/value/blue";
const MARK: &str = "https://acme.test/obl/drm/value/mark";

/// Answers as a test says, to inject faults; keeps what it was asked.
#[derive(Debug)]
struct Scripted {
    answer: Answer,
    asked: Mutex<Vec<Asked>>,
}

/// Resources, obligations that can be fulfilled, client, subject.
type Asked = (Vec<Vec<String>>, Vec<String>, String, String);

#[derive(Debug, Clone)]
enum Answer {
    Is(Result<Vec<Decision>, DecisionError>),
    Never,
    Panic,
}

#[async_trait]
impl Decisions for Scripted {
    async fn decide(&self, question: Question<'_>) -> Result<Vec<Decision>, DecisionError> {
        self.asked.lock().unwrap().push((
            question.resources.to_vec(),
            question.fulfillable.to_vec(),
            question.subject.client_id.clone(),
            question.subject.claims["sub"].as_str().unwrap().to_owned(),
        ));
        match &self.answer {
            Answer::Is(answer) => answer.clone(),
            Answer::Never => std::future::pending().await,
            Answer::Panic => panic!("a decision service of the test"),
        }
    }
}

fn permit() -> Decision {
    Decision { permit: true, obligations: Vec::new() }
}

fn obliged(permit: bool) -> Decision {
    Decision { permit, obligations: vec![MARK.to_owned()] }
}

fn guarded(fqns: &[&str]) -> String {
    let attributes: Vec<_> = fqns.iter().map(|fqn| json!({ "attribute": fqn })).collect();
    policy(&json!({ "body": { "dataAttributes": attributes } }))
}

async fn serve(
    answer: Answer,
    rules: AccessRules,
) -> (Server, Arc<Scripted>, kasbah_trust::KeyDetails) {
    let scripted = Arc::new(Scripted { answer, asked: Mutex::default() });
    let decisions: Arc<dyn Decisions> = scripted.clone();
    let key = key("r1", RSA);
    let limits = Limits { request_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = Server::with(vec![key.clone()], |builder| {
        builder.access(AccessRules { decisions: Some(decisions), ..rules }).limits(limits)
    });
    (server.await, scripted, key)
}

fn obligations(response: &RewrapResponse) -> Vec<Vec<String>> {
    let results = response.responses.iter().flat_map(|policy| &policy.results);
    let lists = results.map(|result| match &result.metadata["X-Required-Obligations"].kind {
        Some(Kind::ListValue(list)) => list.values.iter().map(text).collect(),
        other => panic!("no list: {other:?}"),
    });
    lists.collect()
}

fn text(value: &prost_types::Value) -> String {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("no text: {other:?}"),
    }
}

fn forbidden() -> String {
    fault("PermissionDenied", "forbidden")
}

/// A request with a policy per text, one key access object each.
fn request_of(key: &kasbah_trust::KeyDetails, policies: &[String]) -> Value {
    let entries = policies.iter().enumerate().map(|(index, policy)| {
        entry(&format!("p{index}"), policy, &[&kao("k", key, &dek(), policy)])
    });
    body(&Session::new(RSA).public_key(), &entries.collect::<Vec<_>>())
}

#[tokio::test]
async fn one_question_covers_a_request_and_each_policy_gets_its_answer() {
    let answers = vec![permit(), Decision::deny(), obliged(true), obliged(false)];
    let (server, scripted, key) = serve(Answer::Is(Ok(answers)), AccessRules::default()).await;
    let policies = [
        guarded(&[RED]),
        OPEN_POLICY.to_owned(),
        guarded(&[BLUE, RED]),
        guarded(&[RED]),
        guarded(&[BLUE]),
    ];
    let context = json!({ "obligations": { "fulfillableFQNs": [format!(" {MARK} "), ""] } });
    let mut request = request(&srt(&request_of(&key, &policies)));
    let context = STANDARD.encode(context.to_string()).parse().unwrap();
    request.metadata_mut().insert("x-rewrap-additional-context", context);
    let response = server.send(request).await.unwrap();

    let outcomes = outcomes(&response);
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    assert_eq!((&outcomes[2], &outcomes[4]), (&Err(forbidden()), &Err(forbidden())));
    let none = Vec::<String>::new();
    let mark = vec![MARK.to_owned()];
    assert_eq!(
        obligations(&response),
        [none.clone(), none.clone(), none, mark.clone(), mark.clone()]
    );

    let asked = scripted.asked.lock().unwrap();
    let resources = [vec![RED], vec![BLUE, RED], vec![RED], vec![BLUE]];
    let resources = resources.map(|fqns| fqns.into_iter().map(str::to_owned).collect()).to_vec();
    assert_eq!(*asked, [(resources, mark.clone(), "dev".to_owned(), "dev".to_owned())]);
    let events = server.audit.take();
    let mut told: Vec<_> =
        events.iter().map(|event| (event.outcome.as_str(), event.obligations.len())).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [("denied", 0), ("denied", 1), ("success", 0), ("success", 0), ("success", 1)]
    );
}

#[tokio::test]
async fn nobody_is_asked_about_what_needs_no_decision() {
    let (server, scripted, key) = serve(Answer::Panic, AccessRules::default()).await;
    // A client on a curve that nothing can be encrypted to.
    let mut unanswerable = request_of(&key, &[guarded(&[RED])]);
    unanswerable["clientPublicKey"] = P224.into();
    let told = outcomes(&server.rewrap(&unanswerable).await.unwrap());
    assert_eq!(told, [Err(invalid("invalid request"))]);

    let mut broken = request_of(&key, &[guarded(&[RED]), OPEN_POLICY.to_owned()]);
    broken["requests"][0]["keyAccessObjects"][0]["keyAccessObject"]["wrappedKey"] = "".into();
    let outcomes = outcomes(&server.rewrap(&broken).await.unwrap());
    assert_eq!(outcomes[0], Err(invalid("wrapped key is empty")));
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert!(scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_decision_is_no_access_and_says_why() {
    let unavailable = fault("Internal", "internal: auth-service-unavailable");
    let reason: Arc<str> = "a reason for the log".into();
    for (answer, text, outcome) in [
        (
            Answer::Is(Err(DecisionError::Unavailable(Arc::clone(&reason)))),
            unavailable.clone(),
            AuditOutcome::Unavailable,
        ),
        (
            Answer::Is(Err(DecisionError::Refused(Arc::clone(&reason)))),
            fault("PermissionDenied", "forbidden: pdp-denied"),
            AuditOutcome::Denied,
        ),
        (
            Answer::Is(Err(DecisionError::Cancelled(reason))),
            fault("Internal", "internal: context-cancelled"),
            AuditOutcome::Cancelled,
        ),
        (Answer::Panic, unavailable.clone(), AuditOutcome::Unavailable),
        (Answer::Is(Ok(Vec::new())), unavailable.clone(), AuditOutcome::Unavailable),
        (Answer::Is(Ok(vec![permit(), permit()])), unavailable, AuditOutcome::Unavailable),
        (Answer::Never, fault("Internal", "internal: context-cancelled"), AuditOutcome::Cancelled),
    ] {
        let (server, _, key) = serve(answer.clone(), AccessRules::default()).await;
        let sent = request_of(&key, &[guarded(&[RED]), OPEN_POLICY.to_owned()]);
        let found = server.rewrap(&sent).await.map(|response| outcomes(&response));
        let event = &server.audit.take()[0];
        assert_eq!((event.outcome, event.attributes.as_slice()), (outcome, &[RED.to_owned()][..]));
        // When time runs out there may be none left for the other one.
        let Ok(found) = found else { panic!("{answer:?}: {found:?}") };
        assert_eq!(found[0], Err(text), "{answer:?}");
        assert!(found[1].is_ok() || matches!(answer, Answer::Never), "{answer:?}: {found:?}");
    }
}

#[tokio::test]
async fn without_a_decision_service_attributes_are_denied() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let sent = request_of(&key, &[guarded(&[RED]), OPEN_POLICY.to_owned()]);
    let outcomes = outcomes(&server.rewrap(&sent).await.unwrap());
    let text = "forbidden: no decision service is configured for policies with attributes";
    assert_eq!(outcomes[0], Err(fault("PermissionDenied", text)));
    assert!(outcomes[1].is_ok());
}

#[tokio::test]
async fn policies_without_attributes_can_be_denied() {
    let rules = AccessRules { deny_without_attributes: true, ..AccessRules::default() };
    let (server, _, key) = serve(Answer::Is(Ok(vec![permit()])), rules).await;
    let sent = request_of(&key, &[OPEN_POLICY.to_owned(), guarded(&[RED])]);
    let outcomes = outcomes(&server.rewrap(&sent).await.unwrap());
    let text = "forbidden: policies without attributes are not opened here";
    assert_eq!(outcomes[0], Err(fault("PermissionDenied", text)));
    assert!(outcomes[1].is_ok());
}

#[tokio::test]
async fn tampering_is_told_after_a_denial_only_if_that_is_wanted() {
    let tampered = |key: &kasbah_trust::KeyDetails| {
        let mut sent = request_of(key, &[guarded(&[RED]), guarded(&[BLUE])]);
        let kao = &mut sent["requests"][0]["keyAccessObjects"][0]["keyAccessObject"];
        kao["policyBinding"]["hash"] = hash(&dek(), "another policy").into();
        sent
    };
    let denied = || Answer::Is(Ok(vec![Decision::deny(), Decision::deny()]));

    let (server, _, key) = serve(denied(), AccessRules::default()).await;
    let found = outcomes(&server.rewrap(&tampered(&key)).await.unwrap());
    assert_eq!(found, [Err(forbidden()), Err(forbidden())]);
    assert!(server.audit.take().iter().all(|event| event.manager.is_none()), "the key was used");

    let rules = AccessRules { check_binding_after_denial: true, ..AccessRules::default() };
    let (server, _, key) = serve(denied(), rules).await;
    let found = outcomes(&server.rewrap(&tampered(&key)).await.unwrap());
    assert_eq!(found, [Err(BAD_REQUEST.to_owned()), Err(forbidden())]);
    let events = server.audit.take();
    let outcomes: Vec<_> = events.iter().map(|event| event.outcome).collect();
    assert_eq!(outcomes, [AuditOutcome::Tampered, AuditOutcome::Denied]);
    assert!(events.iter().all(|event| event.manager.is_some()), "the key was used");

    // Without a decision there is no denial to check after.
    let undecided = Answer::Is(Err(DecisionError::Unavailable("a reason".into())));
    let rules = AccessRules { check_binding_after_denial: true, ..AccessRules::default() };
    let (server, _, key) = serve(undecided, rules).await;
    let found = outcomes_of(&server, &tampered(&key)).await;
    let unavailable = fault("Internal", "internal: auth-service-unavailable");
    assert_eq!(found, [Err(unavailable.clone()), Err(unavailable)]);
    assert!(server.audit.take().iter().all(|event| event.manager.is_none()), "the key was used");
}

async fn outcomes_of(server: &Server, sent: &Value) -> Vec<Outcome> {
    outcomes(&server.rewrap(sent).await.unwrap())
}

#[tokio::test]
async fn requests_are_decided_at_the_same_time() {
    /// Answers when ten ask at once.
    #[derive(Debug)]
    struct Ten(tokio::sync::Barrier, AtomicUsize);

    #[async_trait]
    impl Decisions for Ten {
        async fn decide(&self, _: Question<'_>) -> Result<Vec<Decision>, DecisionError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.wait().await;
            Ok(vec![permit()])
        }
    }

    let ten = Arc::new(Ten(tokio::sync::Barrier::new(10), AtomicUsize::new(0)));
    let decisions: Arc<dyn Decisions> = ten.clone();
    let key = key("r1", RSA);
    let rules = AccessRules { decisions: Some(decisions), ..AccessRules::default() };
    let server = Server::with(vec![key.clone()], |builder| builder.access(rules)).await;
    let sent = request_of(&key, &[guarded(&[RED])]);
    let asking = (0..10).map(|_| server.rewrap(&sent));
    for response in futures_util::future::join_all(asking).await {
        assert!(outcomes(&response.unwrap())[0].is_ok());
    }
    assert_eq!(ten.1.load(Ordering::Relaxed), 10);
}
