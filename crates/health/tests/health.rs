//! Checks that are scripted, a clock that is paused, and everything asked as clients ask.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    future, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Request as HttpRequest};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use kasbah_health::{Finding, Health, HealthCheck, Pace};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request, async_trait};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_server::Health as _,
};
use tower::ServiceExt;

const PACE: Pace = Pace { interval: Duration::from_secs(5), timeout: Duration::from_secs(3) };
/// Longer than any look takes, with the pause before it, and no moment at which one begins.
const SOON: Duration = Duration::from_secs(9);
const KAS: &str = "kas.AccessService";

/// What a scripted check does.
#[derive(Clone)]
enum Script {
    Find(Finding),
    Hang,
    Panic,
}

/// A check that does what it is told.
struct Scripted {
    name: &'static str,
    script: Mutex<Script>,
    looks: AtomicUsize,
}

impl Scripted {
    fn new(name: &'static str) -> Arc<Self> {
        let script = Mutex::new(Script::Find(Finding::up()));
        Arc::new(Self { name, script, looks: AtomicUsize::new(0) })
    }

    fn will(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn finds(&self, finding: Finding) {
        self.will(Script::Find(finding));
    }
}

#[async_trait]
impl HealthCheck for Scripted {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn check(&self) -> Finding {
        self.looks.fetch_add(1, SeqCst);
        let script = self.script.lock().unwrap().clone();
        match script {
            Script::Find(finding) => finding,
            Script::Hang => future::pending().await,
            Script::Panic => panic!("a scripted panic"),
        }
    }
}

/// A server with two dependencies.
struct Rig {
    health: Arc<Health>,
    database: Arc<Scripted>,
    token: Arc<Scripted>,
    tasks: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        let (database, token) = (Scripted::new("database"), Scripted::new("token"));
        let checks = vec![Arc::clone(&database) as _, Arc::clone(&token) as _];
        let health = Health::new(checks, &[KAS], PACE);
        Self { health, database, token, tasks: JoinSet::new() }
    }

    async fn started() -> Self {
        let mut rig = Self::new();
        rig.health.run_in(&mut rig.tasks);
        sleep(SOON).await;
        rig
    }

    fn router(&self) -> Router {
        self.health.router()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        get(self.router(), path).await
    }

    /// Status and name of what is not up.
    async fn unwell(&self) -> (u16, Vec<(String, String)>) {
        let (code, json) = self.get("/readyz").await;
        let parts = json["dependencies"].as_object().unwrap();
        let of = |(name, part): (&String, &Value)| {
            (name.clone(), part["status"].as_str().unwrap().to_owned())
        };
        (code, parts.iter().map(of).filter(|(_, status)| status != "up").collect())
    }

    async fn check(&self, service: &str) -> Result<ServingStatus, Code> {
        let answer = self.health.check(request(service)).await;
        answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
    }
}

async fn get(router: Router, path: &str) -> (u16, Value) {
    let request = HttpRequest::get(path).body(Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

fn request(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: service.to_owned() })
}

fn serving() -> (u16, Value) {
    (200, json!({ "status": "SERVING" }))
}

fn not_serving() -> (u16, Value) {
    (503, json!({ "status": "NOT_SERVING" }))
}

#[tokio::test(start_paused = true)]
async fn it_is_alive_before_anybody_has_looked_and_ready_after() {
    let mut rig = Rig::new();
    assert_eq!(rig.get("/healthz").await, serving());
    assert_eq!(rig.get("/healthz?service=all").await, not_serving());
    assert_eq!(rig.check("").await, Ok(ServingStatus::Serving));
    assert_eq!(rig.check(KAS).await, Ok(ServingStatus::NotServing));
    let (code, json) = rig.get("/readyz").await;
    assert_eq!((code, &json["status"]), (503, &json!("unknown")));
    assert!(!rig.health.is_ready());

    rig.health.run_in(&mut rig.tasks);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.unwell().await, (200, vec![]));
    assert!(rig.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn what_is_down_is_named_and_nothing_else_and_its_return_is_seen() {
    let rig = Rig::started().await;
    rig.database.finds(Finding::down("cannot be reached", "postgres://secret@host: refused"));
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (503, vec![("database".into(), "down".into())]));
    for (service, answer) in [
        ("", serving()),
        ("?service=", serving()),
        ("?service=all", not_serving()),
        ("?service=kas", not_serving()),
        ("?service=kas.AccessService", not_serving()),
        ("?other=1&service=database", not_serving()),
        ("?service=token", serving()),
        ("?service=nobody", (503, json!({ "status": "UNKNOWN" }))),
    ] {
        assert_eq!(rig.get(&format!("/healthz{service}")).await, answer, "{service}");
    }
    for (service, answer) in [
        ("", Ok(ServingStatus::Serving)),
        ("all", Ok(ServingStatus::NotServing)),
        ("kas", Ok(ServingStatus::NotServing)),
        (KAS, Ok(ServingStatus::NotServing)),
        ("database", Ok(ServingStatus::NotServing)),
        ("token", Ok(ServingStatus::Serving)),
        ("nobody", Err(Code::NotFound)),
    ] {
        assert_eq!(rig.check(service).await, answer, "{service}");
    }
    let (_, json) = rig.get("/readyz").await;
    assert_eq!(json["dependencies"]["database"]["detail"], "cannot be reached");
    assert!(!json.to_string().contains("secret"), "the reason is for the log alone: {json}");

    rig.database.finds(Finding::up());
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (200, vec![]));
    assert_eq!(rig.get("/healthz?service=all").await, serving());
    let (_, json) = rig.get("/readyz").await;
    assert!(json["dependencies"]["database"].get("detail").is_none(), "{json}");
}

#[tokio::test(start_paused = true)]
async fn what_is_degraded_is_named_and_requests_are_served() {
    let rig = Rig::started().await;
    rig.token.finds(Finding::degraded("one of two is gone", "its name"));
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (200, vec![("token".into(), "degraded".into())]));
    assert_eq!(rig.get("/readyz").await.1["status"], "degraded");
    assert_eq!(rig.get("/healthz?service=all").await, serving());
    assert_eq!(rig.get("/healthz?service=token").await, serving());
    rig.database.finds(Finding::down("gone", ""));
    sleep(SOON).await;
    assert_eq!(rig.get("/readyz").await.1["status"], "down", "the worst counts");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_down_and_delays_nobody() {
    let rig = Rig::started().await;
    rig.database.will(Script::Hang);
    rig.token.finds(Finding::degraded("it limps", ""));
    // It hangs for some time already, and its own limit has not passed.
    sleep(Duration::from_secs(2)).await;
    let asked = Instant::now();
    assert_eq!(rig.unwell().await, (200, vec![("token".into(), "degraded".into())]));
    assert_eq!(rig.check("all").await, Ok(ServingStatus::Serving));
    assert_eq!(asked.elapsed(), Duration::ZERO, "answers come from memory");
    sleep(SOON).await;
    let both = vec![("database".into(), "down".into()), ("token".into(), "degraded".into())];
    assert_eq!(rig.unwell().await, (503, both));
    let (_, json) = rig.get("/readyz").await;
    assert_eq!(json["dependencies"]["database"]["detail"], "does not answer in time");
    let (hung, other) = (rig.database.looks.load(SeqCst), rig.token.looks.load(SeqCst));
    sleep(Duration::from_mins(1)).await;
    assert!(rig.database.looks.load(SeqCst) > hung, "it is given up for good");
    assert!(rig.token.looks.load(SeqCst) >= other + 11, "the other one waits for it");
    rig.database.finds(Finding::up());
    rig.token.finds(Finding::up());
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (200, vec![]));
}

#[tokio::test(start_paused = true)]
async fn one_that_panics_is_down_and_looks_again() {
    let rig = Rig::started().await;
    rig.database.will(Script::Panic);
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (503, vec![("database".into(), "down".into())]));
    assert!(!rig.get("/readyz").await.1.to_string().contains("scripted"));
    rig.database.finds(Finding::up());
    sleep(SOON).await;
    assert_eq!(rig.unwell().await, (200, vec![]));
}

#[tokio::test(start_paused = true)]
async fn since_is_when_the_state_began_and_details_may_change_within() {
    let rig = Rig::started().await;
    let since = async || {
        let (_, json) = rig.get("/readyz").await;
        let database = &json["dependencies"]["database"];
        (database["since"].as_str().unwrap().to_owned(), database["detail"].clone())
    };
    rig.database.finds(Finding::down("one", ""));
    sleep(SOON).await;
    let (first, detail) = since().await;
    assert_eq!(detail, "one");
    assert!(first.ends_with('Z') && first.contains('T'), "{first}");
    rig.database.finds(Finding::down("two", ""));
    sleep(SOON).await;
    assert_eq!(since().await, (first.clone(), json!("two")));
    // It comes and goes.
    let mut before = first;
    for round in 0..10 {
        let up = round % 2 == 0;
        rig.database.finds(if up { Finding::up() } else { Finding::down("two", "") });
        sleep(SOON).await;
        let (now, _) = since().await;
        assert!(now > before, "round {round}: {now} is not after {before}");
        assert_eq!(rig.health.is_ready(), up);
        before = now;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_is_alive_and_not_ready() {
    let rig = Rig::started().await;
    rig.health.drain();
    assert_eq!(rig.get("/healthz").await, serving());
    assert_eq!(rig.get("/healthz?service=kas").await, not_serving());
    assert_eq!(rig.get("/healthz?service=database").await, serving());
    assert_eq!(rig.check("").await, Ok(ServingStatus::Serving));
    assert_eq!(rig.check(KAS).await, Ok(ServingStatus::NotServing));
    let (code, json) = rig.get("/readyz").await;
    assert_eq!((code, &json["status"]), (503, &json!("draining")));
    rig.database.finds(Finding::down("its pool was closed", ""));
    sleep(SOON).await;
    assert!(!rig.health.is_ready(), "good news of a dependency do not undo it");
    let (_, json) = rig.get("/readyz").await;
    assert_eq!(json["dependencies"]["database"]["status"], "up", "what ends now is no news");
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_each_change_once_and_ends_with_the_server() {
    let rig = Rig::started().await;
    let mut watch = rig.health.watch(request(KAS)).await.unwrap().into_inner();
    let mut next = async || {
        let next = timeout(Duration::from_mins(1), watch.next()).await;
        next.map(|next| next.map(|message| message.unwrap().status()))
    };
    assert_eq!(next().await, Ok(Some(ServingStatus::Serving)));
    assert!(next().await.is_err(), "nothing has changed");
    rig.token.finds(Finding::degraded("it limps", ""));
    assert!(next().await.is_err(), "it is still serving");
    rig.database.finds(Finding::down("gone", ""));
    assert_eq!(next().await, Ok(Some(ServingStatus::NotServing)));
    rig.token.finds(Finding::down("gone", ""));
    assert!(next().await.is_err(), "it is still not serving");
    rig.token.finds(Finding::up());
    rig.database.finds(Finding::up());
    assert_eq!(next().await, Ok(Some(ServingStatus::Serving)));
    rig.health.drain();
    assert_eq!(next().await, Ok(Some(ServingStatus::NotServing)));
    assert_eq!(next().await, Ok(None), "the server waits for it in vain");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_nothing_says_so_and_stays() {
    let rig = Rig::started().await;
    let mut unknown = rig.health.watch(request("nobody")).await.unwrap().into_inner();
    let mut alive = rig.health.watch(request("")).await.unwrap().into_inner();
    let status = |message: Option<Result<tonic_health::pb::HealthCheckResponse, _>>| {
        message.map(|message: Result<_, tonic::Status>| message.unwrap().status())
    };
    assert_eq!(status(unknown.next().await), Some(ServingStatus::ServiceUnknown));
    assert_eq!(status(alive.next().await), Some(ServingStatus::Serving));
    assert!(timeout(Duration::from_mins(1), unknown.next()).await.is_err(), "it ended");
    rig.health.drain();
    assert_eq!(status(unknown.next().await), None);
    assert_eq!(status(alive.next().await), None, "being alive does not change");
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_and_one_that_ends_makes_room() {
    let rig = Rig::started().await;
    let mut all = Vec::new();
    let refusal = loop {
        match rig.health.watch(request("")).await {
            Ok(watch) => all.push(watch),
            Err(refusal) => break refusal,
        }
        assert!(all.len() <= 1000, "there is no bound");
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(rig.check("").await, Ok(ServingStatus::Serving), "only watches are bounded");
    all.pop();
    assert!(rig.health.watch(request("")).await.is_ok());
}

/// A log that is read back.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_has_each_change_once_with_its_reason() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let rig = Rig::started().await;
    assert_eq!(log.take(), "", "that all is well is no news");
    rig.database.finds(Finding::down("cannot be reached", "connection refused"));
    sleep(Duration::from_mins(5)).await;
    let text = log.take();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [" WARN ", "cannot be reached", "database", "state=\"down\"", "connection refused"]
    {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    rig.database.finds(Finding::up());
    sleep(Duration::from_mins(5)).await;
    let text = log.take();
    assert!(text.contains(" INFO ") && text.contains("works again"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
