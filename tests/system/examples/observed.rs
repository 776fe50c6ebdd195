//! A server with something to tell: `tests/bin/telemetry-pictures` has Prometheus watch it, and
//! draws what there is to see.
//!
//! Prints the address of its figures, puts the server under a load that changes for the seconds
//! named by the one argument, prints the spans of one more rewrap, and ends when standard input does.
#![expect(clippy::unwrap_used, reason = "whoever runs this wants to know")]

use std::{
    env, io,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_proto::policy::KeyMode;
use kasbah_system_tests::{
    admin::{EC_P256, RSA_2048, pem_of},
    client::{SessionKey, binding, kao, random_dek},
    decisions::{Reader, StandIn, policy},
    poll::within,
    server::{Server, Setup, free_address},
};
use kasbah_testkit::{
    collector::{Collector, Span, text},
    tokens::{SoftHsm, TestToken},
};
use serde_json::{Value, json};
use tokio::time::sleep;

const PERMIT: &str = "https://acme.example/attr/team/value/permit";
const DENY: &str = "https://acme.example/attr/team/value/deny";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Clients when there are most of them.
const CLIENTS: u32 = 6;
/// Data keys of one big document.
const MANY: usize = 40;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let seconds = env::args().nth(1).unwrap().parse().unwrap();
    let time = Duration::from_secs(seconds);
    let (stand_in, token) = (StandIn::start().await, SoftHsm::fresh());
    let (collector, address) = Collector::start().await.unwrap();
    let (server, figures, settings) = serve(&stand_in, &token, &format!("http://{address}"));
    let work = Work::prepare(&server, &settings).await;
    println!("{}", json!({ "metrics": figures }));
    let started = Instant::now();
    let clients = (0..CLIENTS).map(|number| work.client(number, started, time));
    let mut clients: tokio::task::JoinSet<()> = clients.collect();
    // For a while the collector takes nothing.
    sleep(time / 2).await;
    collector.refuse(true);
    sleep(time / 8).await;
    collector.refuse(false);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    work.traced().await;
    println!("{}", json!({ "spans": spans(&collector).await }));
    io::read_to_string(io::stdin()).unwrap();
}

/// A server with a registry, whose platform decides and whose queue is short; where its figures
/// are, and the settings of its provider.
fn serve(stand_in: &StandIn, token: &TestToken, collector: &str) -> (Server, String, String) {
    let (mut setup, figures) = (Setup::new(), free_address());
    setup.registry("sqlite:kasbah.db");
    setup.config["server"]["metrics"] = json!({ "listen": figures });
    setup.config["decisions"] = json!({ "mode": "platform" });
    setup.config["platform"] = json!({ "endpoint": stand_in.url() });
    let otlp = json!({ "endpoint": collector, "interval_seconds": 2 });
    setup.config["telemetry"] = json!({ "otlp": otlp, "traces": { "sample_ratio": 0.0 } });
    let mut settings = setup.token("softhsm", token, "prefer-sealed");
    settings["workers"] = 1.into();
    settings["queue"] = 12.into();
    (setup.serve(), figures, settings.to_string())
}

/// Keys, and who uses them.
#[derive(Clone)]
struct Work {
    reader: Reader,
    stranger: Reader,
    client: Arc<SessionKey>,
    rsa: String,
    ec: String,
}

impl Work {
    async fn prepare(server: &Server, settings: &str) -> Self {
        let admin = server.admin();
        admin.create_kas().await;
        let provider = admin.create_provider("main", "opentdf.io/hsm", settings).await.unwrap();
        let mut pems = Vec::new();
        for (kid, algorithm) in [("r1", RSA_2048), ("e1", EC_P256)] {
            let made = admin.generate(&provider, kid, algorithm, KeyMode::Remote, "").await;
            pems.push(pem_of(&made.unwrap()));
        }
        let [rsa, ec] = pems.try_into().unwrap();
        let reader = Reader::new(server.url(), server.token("alice"));
        let stranger = Reader::new(server.url(), "none".to_owned());
        let client = Arc::new(SessionKey::rsa());
        let work = Self { reader, stranger, client, rsa, ec };
        within(PATIENCE, async || work.ask(&work.reader, PERMIT, work.wrapped(PERMIT)).await).await;
        work
    }

    /// Works while it is its time: there are more clients in the middle than at the ends.
    fn client(
        &self,
        number: u32,
        started: Instant,
        time: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let work = self.clone();
        async move {
            let sits_out = time * number / (2 * CLIENTS);
            sleep(sits_out).await;
            let mut turn = number;
            while started.elapsed() + sits_out < time {
                work.turn(turn).await;
                turn += 1;
                sleep(Duration::from_millis(40)).await;
            }
        }
    }

    /// Most is well; some of it is not.
    async fn turn(&self, turn: u32) {
        let asked = match turn {
            turn if turn % 97 == 0 => {
                let kaos = (0..MANY).flat_map(|_| self.wrapped(PERMIT)).collect();
                self.ask(&self.reader, PERMIT, kaos).await
            }
            turn if turn % 31 == 0 => self.ask(&self.stranger, PERMIT, self.wrapped(PERMIT)).await,
            turn if turn % 29 == 0 => {
                let mut kaos = self.wrapped(PERMIT);
                kaos[0]["wrappedKey"] = BASE64_STANDARD.encode([1; 256]).into();
                self.ask(&self.reader, PERMIT, kaos).await
            }
            turn if turn % 13 == 0 => {
                let mut kaos = self.wrapped(PERMIT);
                kaos[0]["policyBinding"]["hash"] = binding(&random_dek(), "another").into();
                self.ask(&self.reader, PERMIT, kaos).await
            }
            turn if turn % 7 == 0 => self.ask(&self.reader, DENY, self.wrapped(DENY)).await,
            turn if turn % 4 == 0 => {
                let policy = policy(&[PERMIT]);
                let kaos = vec![kao("e1", &self.ec, &random_dek(), &policy)];
                self.ask(&self.reader, PERMIT, kaos).await
            }
            _ => self.ask(&self.reader, PERMIT, self.wrapped(PERMIT)).await,
        };
        // What is refused here is meant to be; the figures tell.
        drop(asked);
    }

    async fn traced(&self) {
        let traced = self.reader.in_trace(TRACEPARENT);
        self.ask(&traced, PERMIT, self.wrapped(PERMIT)).await.unwrap();
    }

    fn wrapped(&self, fqn: &str) -> Vec<Value> {
        vec![kao("r1", &self.rsa, &random_dek(), &policy(&[fqn]))]
    }

    async fn ask(&self, reader: &Reader, fqn: &str, kaos: Vec<Value>) -> Result<(), tonic::Status> {
        let policy = policy(&[fqn]);
        reader.read(&self.client, &[(&policy, kaos)]).await.map(drop)
    }
}

/// The spans of the trace once all are there: the outermost ends last.
async fn spans(collector: &Collector) -> Vec<Value> {
    let spans = within(PATIENCE, async || {
        let spans = collector.spans();
        let whole = spans.iter().any(|span| span.name == "request");
        if whole { Ok(spans) } else { Err("not all spans are there") }
    });
    spans.await.iter().map(span).collect()
}

fn span(span: &Span) -> Value {
    let names = ["rpc.method", "policies", "kid", "manager", "operation", "outcome"];
    let attribute = |name: &str| Some((name.to_owned(), text(&span.attributes, name)?.into()));
    json!({
        "name": span.name,
        "id": hex::encode(&span.span_id),
        "parent": hex::encode(&span.parent_span_id),
        "trace": hex::encode(&span.trace_id),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "attributes": names.into_iter().filter_map(attribute).collect::<serde_json::Map<_, _>>(),
    })
}
