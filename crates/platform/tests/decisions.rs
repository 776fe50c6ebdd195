//! Decisions of a platform, asked of a stand-in that speaks the published messages over real gRPC.
//! A stand-in, because only that lies, hangs and quotes the caller's token on demand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod issuer;

use std::{
    fmt::{self, Write as _},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kasbah_access::{Decision, DecisionError, Decisions, Question, Subject};
use kasbah_platform::{
    BreakerRules, Connection, DecisionSettings, PlatformDecisions, SetupError, Uri,
};
use kasbah_proto::authorization::v2::{
    GetDecisionMultiResourceRequest, GetDecisionMultiResourceResponse, GetDecisionRequest,
    GetDecisionResponse, Resource, ResourceDecision,
    authorization_service_server::{AuthorizationService, AuthorizationServiceServer},
};
use prost::Message;
use secrecy::SecretString;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Barrier, Semaphore},
    time,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::issuer::Issuer;

/// What a caller sends; never to be seen in texts.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";

const LONG: Duration = Duration::from_hours(1);

type Answer = dyn Fn(&[Resource]) -> Result<Vec<ResourceDecision>, Status> + Send + Sync;

/// Method and message.
type Seen = (&'static str, Vec<u8>);

/// A platform that answers as it is told and remembers what it was asked.
#[derive(Clone)]
struct StandIn {
    answer: Arc<Mutex<Arc<Answer>>>,
    /// Tokens that are accepted; all are when there is none.
    tokens: Arc<Mutex<Vec<&'static str>>>,
    /// A question waits for one of these.
    gate: Arc<Semaphore>,
    /// All who ask have to be there before one is answered.
    barrier: Option<Arc<Barrier>>,
    /// Requests as they were sent.
    seen: Arc<Mutex<Vec<Seen>>>,
    calls: Arc<AtomicUsize>,
}

impl StandIn {
    fn new(
        answer: impl Fn(&[Resource]) -> Result<Vec<ResourceDecision>, Status> + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer: Arc::new(Mutex::new(Arc::new(answer))),
            tokens: Arc::default(),
            gate: Arc::new(Semaphore::new(100_000)),
            barrier: None,
            seen: Arc::default(),
            calls: Arc::default(),
        }
    }

    fn permitting() -> Self {
        Self::new(|resources| Ok(resources.iter().map(|resource| decided(resource, 2)).collect()))
    }

    fn failing(code: Code) -> Self {
        Self::new(move |_| Err(Status::new(code, format!("no such user: {TOKEN}"))))
    }

    /// Like `other` from now on.
    fn become_like(&self, other: &Self) {
        *self.answer.lock().unwrap() = Arc::clone(&other.answer.lock().unwrap());
    }

    /// Lets nobody through from now on.
    fn shut(&self) {
        self.gate.forget_permits(100_000);
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    async fn has_calls(&self, calls: usize) {
        while self.calls() < calls {
            time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn answer<Q: Message>(
        &self,
        method: &'static str,
        request: Request<Q>,
        resources: impl Fn(Q) -> Vec<Resource>,
    ) -> Result<Vec<ResourceDecision>, Status> {
        self.calls.fetch_add(1, SeqCst);
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        let is_accepted = {
            let tokens = self.tokens.lock().unwrap();
            tokens.is_empty() || tokens.iter().any(|t| header == Some(&format!("Bearer {t}")))
        };
        if !is_accepted {
            return Err(Status::unauthenticated(TOKEN));
        }
        let request = request.into_inner();
        self.seen.lock().unwrap().push((method, request.encode_to_vec()));
        self.gate.acquire().await.unwrap().forget();
        if let Some(barrier) = &self.barrier {
            barrier.wait().await;
        }
        let answer = Arc::clone(&self.answer.lock().unwrap());
        answer(&resources(request))
    }

    async fn serve(&self) -> SocketAddr {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None)
    }

    fn serve_on(&self, listener: TcpListener, tls: Option<Identity>) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = tls {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let service = AuthorizationServiceServer::new(self.clone())
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(usize::MAX);
        let serving =
            server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { serving.await.unwrap() });
        address
    }

    /// Who asks it, in no hurry.
    async fn decisions(&self) -> PlatformDecisions {
        decisions(self.serve().await, unhurried())
    }
}

#[tonic::async_trait]
impl AuthorizationService for StandIn {
    async fn get_decision(
        &self,
        request: Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        let resources = |request: GetDecisionRequest| request.resource.into_iter().collect();
        let decisions = self.answer("GetDecision", request, resources).await?;
        Ok(Response::new(GetDecisionResponse { decision: decisions.into_iter().next() }))
    }

    async fn get_decision_multi_resource(
        &self,
        request: Request<GetDecisionMultiResourceRequest>,
    ) -> Result<Response<GetDecisionMultiResourceResponse>, Status> {
        let resources = |request: GetDecisionMultiResourceRequest| request.resources;
        let resource_decisions =
            self.answer("GetDecisionMultiResource", request, resources).await?;
        // It is each decision that counts.
        let all_permitted = Some(true);
        Ok(Response::new(GetDecisionMultiResourceResponse { all_permitted, resource_decisions }))
    }
}

fn decided(resource: &Resource, decision: i32) -> ResourceDecision {
    ResourceDecision {
        ephemeral_resource_id: resource.ephemeral_id.clone(),
        decision,
        required_obligations: Vec::new(),
    }
}

fn connection(address: SocketAddr) -> Connection {
    let endpoint = format!("http://{address}").parse().unwrap();
    Connection { endpoint, ca_file: None, auth: None }
}

fn decisions(address: SocketAddr, settings: DecisionSettings) -> PlatformDecisions {
    PlatformDecisions::new(&connection(address), settings).unwrap()
}

fn unhurried() -> DecisionSettings {
    DecisionSettings { timeout: Duration::from_mins(1), ..DecisionSettings::default() }
}

/// Opens after `failures` and stays so for `open_for`.
fn breaking(failures: u32, open_for: Duration) -> DecisionSettings {
    DecisionSettings { breaker: BreakerRules { failures, open_for }, ..unhurried() }
}

fn subject() -> Subject {
    Subject {
        claims: Arc::default(),
        client_id: "sdk".to_owned(),
        token: Arc::new(SecretString::from(TOKEN)),
    }
}

fn fqn(value: &str) -> String {
    format!("https://example.com/attr/Color/value/{value}")
}

fn resources(count: usize) -> Vec<Vec<String>> {
    (0..count).map(|n| vec![fqn(&n.to_string())]).collect()
}

async fn ask(
    decisions: &PlatformDecisions,
    resources: &[Vec<String>],
) -> Result<Vec<Decision>, DecisionError> {
    ask_within(decisions, resources, LONG).await
}

async fn ask_within(
    decisions: &PlatformDecisions,
    resources: &[Vec<String>],
    left: Duration,
) -> Result<Vec<Decision>, DecisionError> {
    let subject = subject();
    let deadline = Instant::now() + left;
    decisions.decide(Question { subject: &subject, resources, fulfillable: &[], deadline }).await
}

async fn ask_one(decisions: &PlatformDecisions) -> Result<Vec<Decision>, DecisionError> {
    ask(decisions, &resources(1)).await
}

fn permit() -> Decision {
    Decision { permit: true, obligations: Vec::new() }
}

fn unavailable(answer: Result<Vec<Decision>, DecisionError>) -> String {
    match answer {
        Err(DecisionError::Unavailable(text)) => text.to_string(),
        other => panic!("not unavailable: {other:?}"),
    }
}

fn refused(answer: Result<Vec<Decision>, DecisionError>) -> String {
    match answer {
        Err(DecisionError::Refused(text)) => text.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// A field of a message: its number, and what it holds (shorter than 128 bytes, number below 16).
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 128 && number < 16);
    [&[number << 3 | 2, length], content].concat()
}

/// `entity_identifier` and `action`, which every request begins with.
fn who_reads() -> Vec<u8> {
    let token = [field(1, "rewrap-token"), field(2, TOKEN)].concat();
    [field(1, field(3, token)), field(2, field(4, "read"))].concat()
}

#[tokio::test]
async fn one_resource_is_one_get_decision_to_the_byte() {
    let platform = StandIn::permitting();
    let decisions = platform.decisions().await;
    let (red, blue) = ("https://a.co/attr/C/value/Red", "https://a.co/attr/C/value/b%20lue");
    let obligation = "https://a.co/obl/DRM/value/Mark".to_owned();
    let (subject, resources) = (subject(), [vec![red.to_owned(), blue.to_owned()]]);
    let question = Question {
        subject: &subject,
        resources: &resources,
        fulfillable: std::slice::from_ref(&obligation),
        deadline: Instant::now() + LONG,
    };
    assert_eq!(decisions.decide(question).await.unwrap(), [permit()]);
    let values = [field(1, red), field(1, blue)].concat();
    let resource = [field(1, "rewrap-0"), field(2, values)].concat();
    let expected = [who_reads(), field(3, resource), field(4, obligation)].concat();
    assert_eq!(platform.seen(), [("GetDecision", expected)]);
    assert_eq!(
        kasbah_proto::authorization::v2::authorization_service_server::SERVICE_NAME,
        "authorization.v2.AuthorizationService"
    );
}

#[tokio::test]
async fn several_resources_are_one_call_to_the_byte() {
    let platform = StandIn::permitting();
    let decisions = platform.decisions().await;
    let answer = ask(&decisions, &[vec!["urn:a".into()], vec!["urn:b".into()]]).await;
    assert_eq!(answer.unwrap(), [permit(), permit()]);
    let resource = |id, fqn| field(3, [field(1, id), field(2, field(1, fqn))].concat());
    let expected =
        [who_reads(), resource("rewrap-0", "urn:a"), resource("rewrap-1", "urn:b")].concat();
    assert_eq!(platform.seen(), [("GetDecisionMultiResource", expected)]);
}

#[tokio::test]
async fn only_2_is_a_permit_and_obligations_come_either_way() {
    for (number, is_permitted) in [(0, false), (1, false), (2, true)] {
        for obligations in [vec![], vec!["https://a.co/obl/DRM/value/Mark".to_owned(); 2]] {
            let required = obligations.clone();
            let platform = StandIn::new(move |resources| {
                let one = |resource| ResourceDecision {
                    required_obligations: required.clone(),
                    ..decided(resource, number)
                };
                Ok(resources.iter().map(one).collect())
            });
            let decisions = platform.decisions().await;
            let expected = Decision { permit: is_permitted, obligations };
            let one = ask_one(&decisions).await.unwrap();
            assert_eq!(one, std::slice::from_ref(&expected));
            let two = ask(&decisions, &resources(2)).await.unwrap();
            assert_eq!(two, [expected.clone(), expected]);
        }
    }
}

#[tokio::test]
async fn answers_in_any_order_find_their_resources() {
    let platform = StandIn::new(|resources| {
        let one = |resource: &Resource| {
            let n: i32 = resource.ephemeral_id.strip_prefix("rewrap-").unwrap().parse().unwrap();
            let required_obligations = vec![n.to_string()];
            ResourceDecision { required_obligations, ..decided(resource, 1 + n % 2) }
        };
        let mut answers: Vec<_> = resources.iter().map(one).collect();
        answers.rotate_left(7);
        answers.reverse();
        Ok(answers)
    });
    let decisions = platform.decisions().await;
    let answer = ask(&decisions, &resources(1000)).await.unwrap();
    let expected =
        (0..1000).map(|n| Decision { permit: n % 2 == 1, obligations: vec![n.to_string()] });
    assert_eq!(answer, expected.collect::<Vec<_>>());
    assert_eq!(platform.calls(), 1);
}

#[tokio::test]
async fn an_answer_that_cannot_be_right_is_none() {
    type Lie = fn(Vec<ResourceDecision>) -> Vec<ResourceDecision>;
    fn with_first(
        mut answer: Vec<ResourceDecision>,
        edit: impl FnOnce(&mut ResourceDecision),
    ) -> Vec<ResourceDecision> {
        edit(&mut answer[0]);
        answer
    }
    let lies: [(&str, Lie); 11] = [
        ("nothing", |_| Vec::new()),
        ("fewer", |answer| answer.into_iter().skip(1).collect()),
        ("unknown", |answer| with_first(answer, |one| one.ephemeral_resource_id = "x".into())),
        ("no id", |answer| with_first(answer, |one| one.ephemeral_resource_id.clear())),
        ("beyond", |a| with_first(a, |one| one.ephemeral_resource_id = "rewrap-9".into())),
        ("padded", |a| with_first(a, |one| one.ephemeral_resource_id = "rewrap-00".into())),
        ("number", |answer| with_first(answer, |one| one.decision = 3)),
        ("negative", |answer| with_first(answer, |one| one.decision = -2)),
        ("obligations", |answer| {
            with_first(answer, |one| one.required_obligations = vec!["urn:a".into(); 1001])
        }),
        ("obligation", |answer| {
            with_first(answer, |one| one.required_obligations = vec!["a".repeat(2049)])
        }),
        ("quoting", |a| with_first(a, |one| one.ephemeral_resource_id = TOKEN.into())),
    ];
    let only_of_several: [(&str, Lie); 2] = [
        ("more", |mut answer| {
            answer.push(ResourceDecision {
                ephemeral_resource_id: "rewrap-3".into(),
                ..answer[0].clone()
            });
            answer
        }),
        ("twice", |mut answer| {
            answer.push(answer[0].clone());
            answer
        }),
    ];
    let instead: [(&str, Lie); 1] = [("twice instead of another", |mut answer| {
        answer[1] = answer[0].clone();
        answer
    })];
    let for_one = lies.iter().map(|lie| (1, lie));
    let for_three = lies.iter().chain(&only_of_several).chain(&instead).map(|lie| (3, lie));
    for (count, &(name, lie)) in for_one.chain(for_three) {
        let platform = StandIn::new(move |resources| {
            Ok(lie(resources.iter().map(|resource| decided(resource, 2)).collect()))
        });
        let decisions = platform.decisions().await;
        let text = unavailable(ask(&decisions, &resources(count)).await);
        assert!(text.contains("gives answers that cannot be right"), "{name}: {text}");
        assert!(!text.contains(TOKEN), "{text}");
        assert_eq!(decisions.state().last_error.as_deref(), Some(text.as_str()));
    }
}

#[tokio::test]
async fn obligations_up_to_the_limit_are_taken() {
    let platform = StandIn::new(|resources| {
        let required_obligations = vec!["a".repeat(2048); 1000];
        Ok(vec![ResourceDecision { required_obligations, ..decided(&resources[0], 2) }])
    });
    let answer = ask_one(&platform.decisions().await).await.unwrap();
    assert_eq!(answer[0].obligations.len(), 1000);
}

#[tokio::test]
async fn an_answer_of_more_than_4_mib_is_none() {
    let platform = StandIn::new(|resources| {
        let required_obligations = vec!["a".repeat(2000); 800];
        let one = |resource| ResourceDecision {
            required_obligations: required_obligations.clone(),
            ..decided(resource, 2)
        };
        Ok(resources.iter().map(one).collect())
    });
    let decisions = platform.decisions().await;
    assert!(ask(&decisions, &resources(2)).await.is_ok());
    refused(ask(&decisions, &resources(3)).await);
}

#[tokio::test]
async fn what_the_platform_would_refuse_the_others_for_is_denied_alone() {
    let platform = StandIn::permitting();
    let decisions = platform.decisions().await;
    let colours = |count: usize| (0..count).map(|n| fqn(&n.to_string())).collect::<Vec<_>>();
    let bad = [
        colours(21),
        vec![],
        vec![fqn("red"), "no-uri".to_owned()],
        vec![String::new()],
        vec!["//example.com/attr/a/value/b".to_owned()],
        vec!["https://example.com/attr/a/value/b c".to_owned()],
        vec!["https://example.com/attr/a/value/%zz".to_owned()],
        vec!["https://exa%ffmple.com/attr/a/value/b".to_owned()],
        vec!["https://example.com/attr/a/value/\u{e9}".to_owned()],
        vec![fqn(&"a".repeat(2048))],
    ];
    for bad in &bad {
        let before = platform.calls();
        assert_eq!(ask(&decisions, std::slice::from_ref(bad)).await.unwrap(), [Decision::deny()]);
        assert_eq!(platform.calls(), before, "{bad:?} was asked about");
        let mixed = [vec![fqn("a")], bad.clone(), colours(20)];
        let expected = [permit(), Decision::deny(), permit()];
        assert_eq!(ask(&decisions, &mixed).await.unwrap(), expected, "{bad:?}");
        // The one that is left keeps its place.
        let mixed = [bad.clone(), vec![fqn("a")]];
        assert_eq!(ask(&decisions, &mixed).await.unwrap(), [Decision::deny(), permit()]);
        let (method, last) = platform.seen().pop().unwrap();
        assert_eq!(method, "GetDecision");
        let last = GetDecisionRequest::decode(&*last).unwrap();
        assert_eq!(last.resource.unwrap().ephemeral_id, "rewrap-1");
    }
}

#[tokio::test]
async fn questions_beyond_a_limit_are_refused_unasked() {
    let platform = StandIn::permitting();
    let decisions = platform.decisions().await;
    let subject = subject();
    let fulfill = async |count| {
        let (resources, fulfillable) = (resources(1), vec!["urn:o".to_owned(); count]);
        let (resources, fulfillable) = (&resources, &fulfillable);
        let deadline = Instant::now() + LONG;
        decisions.decide(Question { subject: &subject, resources, fulfillable, deadline }).await
    };
    assert!(fulfill(50).await.is_ok());
    let text = refused(fulfill(51).await);
    assert!(text.contains("51 fulfillable obligations") && text.contains("takes 50"), "{text}");
    let text = refused(ask(&decisions, &resources(1001)).await);
    assert!(text.contains("1001 resources") && text.contains("takes 1000"), "{text}");
    // What is left out does not count.
    let mut most = resources(1000);
    most.push(vec!["no-uri".to_owned()]);
    assert_eq!(ask(&decisions, &most).await.unwrap().iter().filter(|d| d.permit).count(), 1000);
    let large = vec![vec![fqn(&"a".repeat(1900)); 20]; 120];
    let text = refused(ask(&decisions, &large).await);
    assert!(text.contains("bytes"), "{text}");
    assert_eq!(platform.calls(), 2);
    assert_eq!(decisions.state().last_error, None, "that was no fault of the platform's");
}

#[tokio::test]
async fn every_code_has_its_class() {
    for number in 1..=16 {
        let code = Code::from(number);
        let platform = StandIn::failing(code);
        let decisions = decisions(platform.serve().await, breaking(1, LONG));
        let is_outage = matches!(
            code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::ResourceExhausted
                | Code::Aborted
        );
        let answer = ask(&decisions, &resources(2)).await;
        let text = if is_outage { unavailable(answer) } else { refused(answer) };
        assert!(text.contains(&format!("failed: {code:?}")), "{text}");
        assert_eq!(decisions.state().open, is_outage, "{code:?}");
        assert_eq!(platform.calls(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn a_question_that_takes_too_long_is_an_outage_or_was_given_up() {
    let platform = StandIn::permitting();
    platform.shut();
    let address = platform.serve().await;
    let short = Duration::from_millis(200);
    let slow = decisions(address, DecisionSettings { timeout: short, ..breaking(2, LONG) });
    let text = unavailable(ask_one(&slow).await);
    assert!(text.contains("took longer than 200ms"), "{text}");
    assert!(!slow.state().open);
    unavailable(ask_one(&slow).await);
    assert!(slow.state().open);

    let patient = decisions(address, breaking(1, LONG));
    let answer = ask_within(&patient, &resources(1), short).await;
    assert!(matches!(answer, Err(DecisionError::Cancelled(_))), "{answer:?}");
    assert!(!patient.state().open && patient.state().last_error.is_none());

    let asked = platform.calls();
    let answer = ask_within(&patient, &resources(1), Duration::ZERO).await;
    assert!(matches!(answer, Err(DecisionError::Cancelled(_))), "{answer:?}");
    assert_eq!(platform.calls(), asked, "nobody waits for it");
}

#[tokio::test]
async fn after_some_failures_nobody_asks() {
    let platform = StandIn::failing(Code::Unavailable);
    let decisions = decisions(platform.serve().await, breaking(3, LONG));
    for _ in 0..3 {
        let text = unavailable(ask_one(&decisions).await);
        assert!(!text.contains("not asked again"), "{text}");
    }
    platform.become_like(&StandIn::permitting());
    for _ in 0..20 {
        let text = unavailable(ask_one(&decisions).await);
        assert!(text.contains("Unavailable") && text.contains(", not asked again for 3"), "{text}");
    }
    assert_eq!(platform.calls(), 3);
    assert!(decisions.state().open);
}

#[tokio::test]
async fn refusals_and_denials_between_failures_are_answers() {
    let platform = StandIn::permitting();
    let decisions = decisions(platform.serve().await, breaking(2, LONG));
    let denying =
        StandIn::new(|resources| Ok(resources.iter().map(|one| decided(one, 1)).collect()));
    for other in [StandIn::failing(Code::Internal), denying] {
        for _ in 0..3 {
            platform.become_like(&StandIn::failing(Code::Unavailable));
            unavailable(ask_one(&decisions).await);
            platform.become_like(&other);
            assert!(!matches!(ask_one(&decisions).await, Err(DecisionError::Unavailable(_))));
        }
    }
    assert!(!decisions.state().open);
}

#[tokio::test]
async fn one_question_tries_while_the_others_fail() {
    let platform = StandIn::failing(Code::Unavailable);
    let address = platform.serve().await;
    let decisions = Arc::new(decisions(address, breaking(1, Duration::from_millis(1))));
    unavailable(ask_one(&decisions).await);
    time::sleep(Duration::from_millis(5)).await;
    platform.become_like(&StandIn::permitting());
    platform.shut();
    let trial = Arc::clone(&decisions);
    let trial = tokio::spawn(async move { ask_one(&trial).await });
    platform.has_calls(2).await;
    for answer in join_all((0..20).map(|_| ask_one(&decisions))).await {
        let text = unavailable(answer);
        assert!(text.contains("until a question under way is answered"), "{text}");
    }
    assert_eq!(platform.calls(), 2);
    assert!(decisions.state().open);
    platform.gate.add_permits(100);
    assert_eq!(trial.await.unwrap().unwrap(), [permit()]);
    assert!(!decisions.state().open);
    assert!(join_all((0..20).map(|_| ask_one(&decisions))).await.iter().all(Result::is_ok));
    assert_eq!(platform.calls(), 22);
}

#[tokio::test]
async fn a_platform_that_was_away_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let decisions = decisions(address, breaking(2, Duration::from_millis(20)));
    for _ in 0..2 {
        let text = unavailable(ask_one(&decisions).await);
        assert!(text.contains("the platform is up"), "{text}");
    }
    assert!(decisions.state().open);
    let until = async |wanted: fn(&Result<Vec<Decision>, DecisionError>) -> bool| {
        while !wanted(&ask_one(&decisions).await) {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    for _ in 0..2 {
        let platform = start(address);
        until(|answer| answer.as_ref().is_ok_and(|decisions| decisions[0].permit)).await;
        assert!(!decisions.state().open && decisions.state().last_error.is_none());
        platform.shutdown_background();
        until(|answer| matches!(answer, Err(DecisionError::Unavailable(_)))).await;
        until(|answer| answer.as_ref().is_err_and(|e| e.to_string().contains("not asked"))).await;
    }
}

/// A stand-in on a runtime of its own, whose end closes the connections too.
fn start(address: SocketAddr) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                break listener;
            }
            time::sleep(Duration::from_millis(5)).await;
        };
        StandIn::permitting().serve_on(listener, None);
    });
    runtime
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_question_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let decisions = decisions(listener.local_addr().unwrap(), unhurried());
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    unavailable(ask_one(&decisions).await);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let platform = StandIn::permitting();
    *platform.tokens.lock().unwrap() = vec!["t2"];
    let issuer = Issuer::granting(300).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "hunter2").unwrap();
    let auth = Some(issuer.credentials(secret));
    let connection = Connection { auth, ..connection(platform.serve().await) };
    let decisions = PlatformDecisions::new(&connection, breaking(1, LONG)).unwrap();
    assert_eq!(ask_one(&decisions).await.unwrap(), [permit()]);
    assert_eq!((issuer.count(), platform.calls()), (2, 2));
    assert_eq!(ask_one(&decisions).await.unwrap(), [permit()]);
    assert_eq!((issuer.count(), platform.calls()), (2, 3));
    *platform.tokens.lock().unwrap() = vec!["never"];
    let text = refused(ask_one(&decisions).await);
    assert!(text.contains("Unauthenticated; check client_id"), "{text}");
    assert_eq!((issuer.count(), platform.calls()), (3, 5));
    assert!(!decisions.state().open);
}

#[tokio::test]
async fn without_a_token_the_platform_is_not_asked() {
    let platform = StandIn::permitting();
    let body = r#"{"error":"invalid_client"}"#.to_owned();
    let issuer = Issuer::answering("401 Unauthorized", body).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "hunter2").unwrap();
    let auth = Some(issuer.credentials(secret));
    let connection = Connection { auth, ..connection(platform.serve().await) };
    let decisions = PlatformDecisions::new(&connection, unhurried()).unwrap();
    let text = unavailable(ask_one(&decisions).await);
    assert!(text.contains("invalid_client"), "{text}");
    let requests = issuer.requests.lock().unwrap().len();
    assert_eq!((requests, platform.calls()), (1, 0));
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_an_outage() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let identity = Identity::from_pem(issued.cert.pem(), issued.signing_key.serialize_pem());
    let platform = StandIn::permitting();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = platform.serve_on(listener, Some(identity)).port();
    let directory = tempfile::tempdir().unwrap();
    let decisions = |pem: &str| {
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, pem).unwrap();
        let endpoint: Uri = format!("https://localhost:{port}").parse().unwrap();
        let connection = Connection { endpoint, ca_file: Some(ca_file), auth: None };
        PlatformDecisions::new(&connection, unhurried()).unwrap()
    };
    assert_eq!(ask_one(&decisions(&issued.cert.pem())).await.unwrap(), [permit()]);
    let text = unavailable(ask_one(&decisions(&other.cert.pem())).await);
    assert!(text.contains("certificate"), "{text}");
    assert_eq!(platform.calls(), 1);
}

#[tokio::test]
async fn a_hundred_questions_are_under_way_at_once() {
    let platform = StandIn { barrier: Some(Arc::new(Barrier::new(100))), ..StandIn::permitting() };
    let decisions = platform.decisions().await;
    // Nobody is answered before all have asked, so that one after the other would take for ever.
    let answers = join_all((0..100).map(|_| ask_one(&decisions))).await;
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test]
async fn questions_beyond_the_bound_fail_and_those_given_up_make_room() {
    let platform = StandIn::permitting();
    platform.shut();
    let settings = DecisionSettings { under_way: 2, ..breaking(1, LONG) };
    let decisions = Arc::new(decisions(platform.serve().await, settings));
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let decisions = Arc::clone(&decisions);
            tokio::spawn(async move { ask_one(&decisions).await })
        })
        .collect();
    platform.has_calls(2).await;
    let text = unavailable(ask_one(&decisions).await);
    assert_eq!(text, "too many questions under way");
    assert_eq!((platform.calls(), decisions.state().open), (2, false));
    for question in asking {
        question.abort();
        assert!(question.await.unwrap_err().is_cancelled());
    }
    platform.gate.add_permits(100);
    assert_eq!(ask_one(&decisions).await.unwrap(), [permit()]);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_token_of_a_caller_is_in_no_text() {
    let log = Log::default();
    let writer = log.clone();
    // Everything that any library has to say, since all of it runs on this thread.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut texts = String::new();
    let mut note = |text: &dyn fmt::Debug| writeln!(texts, "{text:?} {text:#?}").unwrap();
    for number in 1..=16 {
        let platform = StandIn::failing(Code::from(number));
        let decisions = decisions(platform.serve().await, breaking(1, LONG));
        for count in [1, 2] {
            let error = ask(&decisions, &resources(count)).await.unwrap_err();
            note(&error.to_string());
            note(&error);
        }
        note(&decisions);
        note(&decisions.state());
        let request = GetDecisionRequest::decode(&*platform.seen()[..1][0].1);
        note(&request);
    }
    let answering = StandIn::permitting();
    ask_one(&answering.decisions().await).await.unwrap();
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("no decision is asked of the platform") && logged.contains("TRACE"));
    assert!(texts.contains("rewrap-token") && texts.contains("Unavailable"));
    for part in TOKEN.split('.') {
        assert!(!logged.contains(part) && !texts.contains(part), "{part} is in a text");
    }
}

#[tokio::test]
async fn settings_that_leave_no_room_are_refused() {
    let address = StandIn::permitting().serve().await;
    let good = DecisionSettings::default();
    let breaker = BreakerRules { failures: 0, ..good.breaker };
    for (name, settings) in [
        ("timeout", DecisionSettings { timeout: Duration::ZERO, ..good }),
        ("fqns_per_resource", DecisionSettings { fqns_per_resource: 0, ..good }),
        ("resources", DecisionSettings { resources: 0, ..good }),
        ("under_way", DecisionSettings { under_way: 0, ..good }),
        ("breaker.failures", DecisionSettings { breaker, ..good }),
    ] {
        let error = PlatformDecisions::new(&connection(address), settings).unwrap_err();
        assert!(matches!(error, SetupError::Zero(zero) if zero == name), "{error}");
    }
    let relative = Connection { endpoint: "/relative".parse().unwrap(), ..connection(address) };
    assert!(PlatformDecisions::new(&relative, good).is_err());
}
