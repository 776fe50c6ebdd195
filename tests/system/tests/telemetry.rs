//! What a server tells of itself: figures for Prometheus, and traces for a collector.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Algorithm, Curve, PrivateKeyParts, envelope::RootKey};
use kasbah_pkcs11::provision;
use kasbah_proto::policy::KeyMode;
use kasbah_system_tests::{
    admin::{RSA_2048, pem_of},
    client::{SessionKey, binding, body_v1, kao, random_dek},
    decisions::{POLICY_ID, Reader, StandIn, Told, body, policy},
    poll::within,
    recorder::Recorder,
    server::{Server, Setup, free_address},
    token,
};
use kasbah_testkit::{
    collector::{Collector, Span, text},
    golden,
    postgres::Postgres,
    tokens::{SoftHsm, TestToken},
};
use serde_json::{Value, json};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);
const PERMIT: &str = "https://acme.example/attr/team/value/permit";
const DENY: &str = "https://acme.example/attr/team/value/deny";
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const CKR_DEVICE_ERROR: u64 = 0x30;
/// What may stand beside a figure. Each has few values.
const LABELS: [&str; 13] = [
    "cache",
    "class",
    "custody",
    "key_type",
    "le",
    "manager",
    "operation",
    "outcome",
    "protocol",
    "reason",
    "result",
    "signal",
    "status",
];

/// A token with keys, and who decides on access to them.
struct Rig {
    token: TestToken,
    rsa: String,
    ec: String,
    client: SessionKey,
    stand_in: StandIn,
}

impl Rig {
    async fn new() -> Self {
        let token = SoftHsm::fresh();
        let opened = token::open(&token);
        let make = |kid, algorithm| {
            let entry = provision::generate(&opened, kid, algorithm).unwrap();
            entry.public_key.unwrap().to_pem()
        };
        let (rsa, ec) =
            (make("kid-rsa", Algorithm::Rsa2048), make("kid-ec", Algorithm::Ec(Curve::P256)));
        Self { token, rsa, ec, client: SessionKey::rsa(), stand_in: StandIn::start().await }
    }

    /// A configuration with both keys, and where it has figures.
    fn setup(&self) -> (Setup, Figures) {
        let (mut setup, figures) = watched();
        setup.hsm("softhsm", &self.token, "prefer-sealed");
        setup.config["providers"][0]["config"]["workers"] = 1.into();
        for (kid, algorithm) in [("kid-rsa", "rsa:2048"), ("kid-ec", "ec:secp256r1")] {
            let key = format!("pkcs11:object={kid}");
            setup.key(json!({
                "kid": kid, "algorithm": algorithm, "provider": "softhsm", "key": key,
            }));
        }
        self.decides(&mut setup);
        (setup, figures)
    }

    fn decides(&self, setup: &mut Setup) {
        setup.config["decisions"] = json!({ "mode": "platform", "timeout_ms": 20_000 });
        setup.config["platform"] = json!({ "endpoint": self.stand_in.url() });
    }

    /// Asks for data keys under one policy.
    async fn read(&self, reader: &Reader, policy: &str, kaos: Vec<Value>) -> Vec<Told> {
        reader.read(&self.client, &[(policy, kaos)]).await.unwrap()
    }

    /// Asks for a fresh data key.
    async fn opens(&self, reader: &Reader, kid: &str, pem: &str) {
        let (policy, dek) = (policy(&[PERMIT]), random_dek());
        let told = self.read(reader, &policy, vec![kao(kid, pem, &dek, &policy)]).await.remove(0);
        assert_eq!(told.dek(), dek, "{kid}");
    }
}

/// A configuration that tells Prometheus of itself, and where.
fn watched() -> (Setup, Figures) {
    let (mut setup, address) = (Setup::new(), free_address());
    setup.config["server"]["metrics"] = json!({ "listen": address });
    (setup, Figures(address))
}

/// Adds a key that needs no token; its public key.
fn basic_key(setup: &mut Setup) -> String {
    let public = PrivateKeyParts::from_pem(golden::PRIVATE_KEY).unwrap().public_key().to_pem();
    let wrapped = wrap_private_key(&RootKey::from_hex(ROOT).unwrap(), golden::PRIVATE_KEY);
    setup.root_key("root1", ROOT);
    setup.write("basic.pem", &public);
    setup.write("basic.b64", wrapped.unwrap());
    setup.key(json!({
        "kid": "kid-basic", "algorithm": "rsa:2048", "public_key_file": "basic.pem",
        "wrapped_key_file": "basic.b64", "wrapping_key": "root1",
    }));
    public
}

/// Sends metrics and traces to a collector.
fn told_to(setup: &mut Setup, endpoint: &str) {
    let otlp = json!({ "endpoint": endpoint, "interval_seconds": 1 });
    setup.config["telemetry"] = json!({ "otlp": otlp, "traces": { "sample_ratio": 0.0 } });
}

fn reader(server: &Server) -> Reader {
    Reader::new(server.url(), server.token("subject-alice"))
}

/// Where a server has its figures.
struct Figures(String);

/// The figures of a moment: name and labels as they are written, and the value.
struct Scrape {
    text: String,
    series: HashMap<String, f64>,
}

impl Figures {
    fn scrape(&self) -> Scrape {
        let mut stream = TcpStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.0);
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Scrape { series: series.collect(), text: text.to_owned() }
    }
}

impl Scrape {
    /// The value of one series.
    #[track_caller]
    fn is(&self, series: &str, expected: f64) {
        let found = self.series.get(series);
        let same = found.is_some_and(|found| (found - expected).abs() < 1e-9);
        assert!(same, "{series} is {found:?} and not {expected} in\n{}", self.text);
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// All series of a name.
    fn of(&self, name: &str) -> BTreeMap<&str, f64> {
        let of = self.series.iter().filter(|(series, _)| named(series) == name);
        of.map(|(series, value)| (&**series, *value)).collect()
    }

    /// All names of series.
    fn names(&self) -> BTreeSet<&str> {
        self.series.keys().map(|series| named(series)).collect()
    }

    /// Every label of every figure; what `target_info` says is about the server.
    fn labels(&self) -> BTreeSet<&str> {
        let series = self.series.keys().filter(|series| named(series) != "target_info");
        let braces = series.filter_map(|series| series.split_once('{'));
        let labels = braces.flat_map(|(_, labels)| labels.split("=\"").map(last_word));
        labels.filter(|label| !label.is_empty()).collect()
    }
}

fn named(series: &str) -> &str {
    series.split('{').next().unwrap_or_default()
}

/// What stands behind the last mark of a text: the label before `="`.
fn last_word(text: &str) -> &str {
    text.rsplit(['{', ',', '}']).next().unwrap_or_default()
}

fn rewraps(outcome: &str, key_type: &str, manager: &str, custody: &str) -> String {
    format!(
        "kasbah_rewraps_total{{custody=\"{custody}\",key_type=\"{key_type}\",\
         manager=\"{manager}\",outcome=\"{outcome}\"}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_count_what_became_of_each_request() {
    const HSM: &str = "opentdf.io/hsm";
    let rig = Rig::new().await;
    let (mut setup, figures) = rig.setup();
    let basic = basic_key(&mut setup);
    let server = setup.serve();
    let alice = reader(&server);
    for _ in 0..3 {
        rig.opens(&alice, "kid-rsa", &rig.rsa).await;
    }
    rig.opens(&alice, "kid-ec", &rig.ec).await;
    rig.opens(&alice, "kid-basic", &basic).await;
    // Bound to another data key; not to be unwrapped at all; denied; of a key that is not there.
    let (permit, deny) = (policy(&[PERMIT]), policy(&[DENY]));
    let (dek, other) = (random_dek(), random_dek());
    let sound = kao("kid-rsa", &rig.rsa, &dek, &permit);
    let (mut unbound, mut noise, mut nobodys) = (sound.clone(), sound.clone(), sound.clone());
    unbound["policyBinding"]["hash"] = binding(&other, &permit).into();
    noise["wrappedKey"] = BASE64_STANDARD.encode([1; 256]).into();
    nobodys["kid"] = "kid-nobody".into();
    for (policy, kao, told) in [
        (&permit, unbound, "bad request"),
        (&permit, noise, "bad request"),
        (&deny, kao("kid-rsa", &rig.rsa, &dek, &deny), "forbidden"),
        (&permit, nobodys, "bad request"),
    ] {
        assert_eq!(rig.read(&alice, policy, vec![kao]).await[0].refusal(), told);
    }
    // A request that is refused as a whole: there is no such client key.
    let mut wrong = body(&rig.client, &[(&permit, vec![sound])]);
    wrong["clientPublicKey"] = "none".into();
    alice.rewrap(&wrong).await.unwrap_err();
    // And a caller who does not get in.
    let stranger = Reader::new(server.url(), "none".to_owned());
    stranger.rewrap(&body_v1(&rig.client, &permit, &json!({}))).await.unwrap_err();

    let scrape = figures.scrape();
    let counted = [
        (rewraps("success", "rsa:2048", HSM, "sealed"), 3.0),
        (rewraps("success", "ec:secp256r1", HSM, "transient"), 1.0),
        (rewraps("success", "rsa:2048", "opentdf.io/basic", "transient"), 1.0),
        (rewraps("tampered", "rsa:2048", HSM, "none"), 2.0),
        (rewraps("denied", "unknown", "none", "none"), 1.0),
        (rewraps("not-found", "unknown", "none", "none"), 1.0),
        (rewraps("malformed", "unknown", "none", "none"), 1.0),
    ];
    let expected = counted.iter().map(|(series, count)| (&**series, *count)).collect();
    assert_eq!(scrape.of("kasbah_rewraps_total"), expected);
    as_audited(&server, &scrape);
    let of_token = |step| format!("kasbah_manager_{step}_time_seconds_count{{manager=\"{HSM}\",");
    for step in ["queue", "execution"] {
        // Four good ones, and two that were tampered with.
        scrape.is(&format!("{}operation=\"rewrap\"}}", of_token(step)), 6.0);
    }
    for (series, expected) in [
        ("kasbah_rewrap_duration_seconds_count", 10.0),
        ("kasbah_rewrap_requests_in_flight", 0.0),
        ("kasbah_calls_in_flight", 0.0),
        ("kasbah_manager_queue_depth{manager=\"opentdf.io/hsm\"}", 0.0),
        ("kasbah_token_errors_total{class=\"caller\"}", 1.0),
        ("kasbah_token_errors_total{class=\"transient\"}", 0.0),
        ("kasbah_token_errors_total{class=\"gone\"}", 0.0),
        ("kasbah_token_errors_total{class=\"fatal\"}", 0.0),
        ("kasbah_decisions_total{result=\"permit\"}", 8.0),
        ("kasbah_decisions_total{result=\"deny\"}", 1.0),
        ("kasbah_decision_duration_seconds_count{result=\"answered\"}", 9.0),
        ("kasbah_cache_lookups_total{cache=\"tokens\",result=\"hit\"}", 9.0),
        ("kasbah_calls_total{result=\"admitted\"}", 10.0),
        ("kasbah_http_requests_total{protocol=\"grpc\",status=\"200\"}", 11.0),
        ("kasbah_http_request_duration_seconds_count{protocol=\"grpc\"}", 11.0),
    ] {
        scrape.is(series, expected);
    }
    // The stranger is counted once, and apart.
    let refused = scrape.of("kasbah_calls_total").into_values().sum::<f64>();
    assert!((refused - 11.0).abs() < 1e-9, "{}", scrape.text);
    nothing_of_a_request(&scrape, &[&dek, &other], &rig);
}

/// Counts are those of the audit log.
fn as_audited(server: &Server, scrape: &Scrape) {
    let mut audited = BTreeMap::<String, f64>::new();
    for event in server.audit() {
        let outcome = event["eventMetaData"]["kasbah"]["outcome"].as_str().unwrap();
        *audited.entry(outcome.to_owned()).or_default() += 1.0;
    }
    let mut counted = BTreeMap::<String, f64>::new();
    for (series, count) in scrape.of("kasbah_rewraps_total") {
        let outcome = series.split("outcome=\"").nth(1).unwrap().trim_end_matches("\"}");
        *counted.entry(outcome.to_owned()).or_default() += count;
    }
    assert_eq!(counted, audited);
}

/// No label is about a key, a caller or a request.
fn nothing_of_a_request(scrape: &Scrape, deks: &[&[u8]], rig: &Rig) {
    assert!(scrape.labels().is_subset(&LABELS.into()), "{:?}", scrape.labels());
    let mut words = vec!["kid-".to_owned(), "subject-alice".to_owned(), "acme.example".to_owned()];
    words.extend([POLICY_ID.to_owned(), rig.stand_in.url(), "127.0.0.1".to_owned()]);
    words.extend(deks.iter().flat_map(|dek| [hex::encode(dek), BASE64_STANDARD.encode(dek)]));
    for word in words {
        assert!(!scrape.text.contains(&word), "`{word}` is in\n{}", scrape.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_when_to_come_back() {
    let rig = Rig::new().await;
    let (mut setup, figures) = rig.setup();
    setup.config["server"]["limits"] = json!({ "calls_per_second": 1, "calls_burst": 3 });
    let server = setup.serve();
    let (alice, bob) = (reader(&server), Reader::new(server.url(), server.token("subject-bob")));
    let policy = policy(&[PERMIT]);
    let kao = kao("kid-rsa", &rig.rsa, &random_dek(), &policy);
    let body = body(&rig.client, &[(&policy, vec![kao])]);
    let mut refused = 0.0;
    let started = Instant::now();
    for _ in 0..20 {
        if let Err(status) = alice.rewrap(&body).await {
            assert_eq!(
                (status.code(), status.message()),
                (Code::ResourceExhausted, "too many requests")
            );
            assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
            refused += 1.0;
        }
    }
    // Three at once, and one for each second that this took.
    let most = 3.0 + started.elapsed().as_secs_f64().ceil();
    assert!((20.0 - most..=17.0).contains(&refused), "{refused} in {:?}", started.elapsed());
    bob.rewrap(&body).await.unwrap();
    let scrape = figures.scrape();
    scrape.is("kasbah_calls_total{result=\"too-often\"}", refused);
    scrape.is("kasbah_calls_total{result=\"admitted\"}", 21.0 - refused);
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.rewrap(&body).await.unwrap();
}

/// Many jobs at once for one worker: they wait longer than the token works on them.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_working_are_told_apart() {
    let rig = Rig::new().await;
    let (setup, figures) = rig.setup();
    let server = setup.serve();
    let policy = policy(&[PERMIT]);
    let kaos = (0..64).map(|_| kao("kid-rsa", &rig.rsa, &random_dek(), &policy)).collect();
    let told = rig.read(&reader(&server), &policy, kaos).await;
    assert!(told.iter().all(|told| told.status == "permit"));
    let scrape = figures.scrape();
    let sum = |step| {
        let labels = "{manager=\"opentdf.io/hsm\",operation=\"rewrap\"}";
        scrape.is(&format!("kasbah_manager_{step}_time_seconds_count{labels}"), 64.0);
        scrape.value(&format!("kasbah_manager_{step}_time_seconds_sum{labels}"))
    };
    let (waited, worked) = (sum("queue"), sum("execution"));
    let whole = scrape.value("kasbah_rewrap_duration_seconds_sum");
    assert!(waited > 2.0 * worked, "waited {waited}, worked {worked}");
    assert!(worked > 0.0 && worked < whole, "worked {worked} in {whole}: there is one worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_goes_is_counted_as_gone() {
    let rig = Rig::new().await;
    let recorder = Recorder::around(rig.token.module_path());
    recorder.fault("C_UnwrapKey", CKR_DEVICE_ERROR, 40);
    let (mut setup, figures) = rig.setup();
    setup.config["modules"]["softhsm"]["path"] = json!(Recorder::module());
    let server = setup.serve();
    let (alice, policy) = (reader(&server), policy(&[PERMIT]));
    let gone = "kasbah_token_errors_total{class=\"gone\"}";
    rig.opens(&alice, "kid-rsa", &rig.rsa).await;
    figures.scrape().is(gone, 0.0);
    let mut refused = 0.0;
    for _ in 0..60 {
        let kao = kao("kid-rsa", &rig.rsa, &random_dek(), &policy);
        let told = rig.read(&alice, &policy, vec![kao]).await.remove(0);
        if told.status == "fail" {
            assert_eq!(told.refusal(), "key manager unavailable");
            refused += 1.0;
        }
    }
    assert!(refused > 0.0, "no fault was injected");
    let scrape = figures.scrape();
    assert!(scrape.value(gone) > 0.0, "{}", scrape.text);
    scrape.is("kasbah_token_errors_total{class=\"caller\"}", 0.0);
    scrape.is(&rewraps("unavailable", "rsa:2048", "opentdf.io/hsm", "none"), refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrap_is_one_trace_from_the_client_to_who_decides() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const CLIENT: &str = "b7ad6b7169203331";
    let rig = Rig::new().await;
    let (collector, address) = Collector::start().await.unwrap();
    let (mut setup, _) = rig.setup();
    told_to(&mut setup, &format!("http://{address}"));
    let server = setup.serve();
    let alice = reader(&server);
    // Nobody asked for a trace of this one, and the ratio is 0.
    rig.opens(&alice, "kid-rsa", &rig.rsa).await;
    let untraced = rig.stand_in.take().remove(0).traceparent.unwrap();
    assert!(untraced.ends_with("-00"), "{untraced}");
    let (policy, dek) = (policy(&[PERMIT]), random_dek());
    let traced = alice.in_trace(&format!("00-{TRACE}-{CLIENT}-01"));
    let told = rig.read(&traced, &policy, vec![kao("kid-rsa", &rig.rsa, &dek, &policy)]).await;
    assert_eq!(told[0].dek(), dek);
    let asked = rig.stand_in.take().remove(0).traceparent.unwrap();

    let spans = within(PATIENCE, async || {
        let spans = collector.spans();
        // The outermost ends last.
        let whole = spans.iter().any(|span| span.name == "request");
        if whole { Ok(spans) } else { Err(format!("{spans:?}")) }
    })
    .await;
    assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE), "{spans:?}");
    let parents: Vec<_> = [
        ("request", CLIENT.to_owned()),
        ("rewrap", id(&spans, "request")),
        ("decide", id(&spans, "rewrap")),
        ("redeem", id(&spans, "rewrap")),
        ("key manager queue", id(&spans, "redeem")),
        ("token", id(&spans, "redeem")),
    ]
    .into();
    for (name, parent) in &parents {
        assert_eq!(&hex::encode(&one(&spans, name).parent_span_id), parent, "{name}");
    }
    assert_eq!(spans.len(), parents.len(), "{spans:?}");
    assert_eq!(asked, format!("00-{TRACE}-{}-01", id(&spans, "decide")));
    in_order(&spans);
    let redeem = &one(&spans, "redeem").attributes;
    for (key, value) in [("kid", "kid-rsa"), ("manager", "opentdf.io/hsm"), ("outcome", "success")]
    {
        assert_eq!(text(redeem, key).as_deref(), Some(value));
    }
    let told = format!("{spans:?}");
    for secret in [
        "subject-alice",
        POLICY_ID,
        "acme.example",
        &policy,
        &server.token("subject-alice")[..40],
        &hex::encode(&dek),
        &BASE64_STANDARD.encode(&dek),
        &format!("{dek:?}"),
    ] {
        assert!(!told.contains(secret), "`{secret}` is in {told}");
    }
}

/// Each begins and ends within its parent; the token has it after the queue, and the decision is
/// made before.
fn in_order(spans: &[Span]) {
    let time = |name| (one(spans, name).start_time_unix_nano, one(spans, name).end_time_unix_nano);
    for (outer, inner) in
        [("request", "rewrap"), ("rewrap", "decide"), ("rewrap", "redeem"), ("redeem", "token")]
    {
        let (outer, inner) = (time(outer), time(inner));
        assert!(outer.0 <= inner.0 && inner.0 <= inner.1 && inner.1 <= outer.1);
    }
    for (first, second) in [("decide", "redeem"), ("key manager queue", "token")] {
        assert!(time(first).1 <= time(second).0, "{first} is over before {second}");
    }
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name} in {spans:?}"));
    assert!(found.next().is_none(), "one {name} in {spans:?}");
    span
}

fn id(spans: &[Span], name: &str) -> String {
    hex::encode(&one(spans, name).span_id)
}

/// Everything that the dashboard shows and the documentation lists is there once it has happened:
/// a queue overflows, the database goes, and the collector takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_what_is_there() {
    let rig = Rig::new().await;
    let (collector, address) = Collector::start().await.unwrap();
    collector.refuse(true);
    let mut postgres = Postgres::start();
    let (mut setup, figures) = watched();
    setup.registry(&postgres.url());
    rig.decides(&mut setup);
    told_to(&mut setup, &format!("http://{address}"));
    let mut settings = setup.token("softhsm", &rig.token, "prefer-sealed");
    settings["workers"] = 1.into();
    settings["queue"] = 1.into();
    let server = setup.serve();
    let (admin, alice) = (server.admin(), reader(&server));
    admin.create_kas().await;
    let provider = admin.create_provider("main", "opentdf.io/hsm", &settings.to_string()).await;
    let made = admin.generate(&provider.unwrap(), "r1", RSA_2048, KeyMode::Remote, "").await;
    let (pem, policy) = (pem_of(&made.unwrap()), policy(&[PERMIT]));
    let sixteen = || (0..16).map(|_| kao("r1", &pem, &random_dek(), &policy)).collect::<Vec<_>>();
    within(PATIENCE, async || {
        let told = rig.read(&alice, &policy, sixteen()).await;
        let refusals: Vec<_> = told.iter().filter(|told| told.status == "fail").collect();
        match &refusals[..] {
            [] => Err("nobody was refused".to_owned()),
            [refusal, ..] => {
                assert_eq!(refusal.refusal(), "key manager busy");
                Ok(())
            }
        }
    })
    .await;
    postgres.stop();
    let scrape = within(PATIENCE, async || {
        rig.read(&alice, &policy, vec![kao("r1", &pem, &random_dek(), &policy)]).await;
        let scrape = figures.scrape();
        let wanted = ["kasbah_cache_stale_served_total", "kasbah_telemetry_failures_total"];
        let there = wanted.iter().all(|name| scrape.names().contains(name));
        if there { Ok(scrape) } else { Err("not all has happened") }
    })
    .await;
    as_shown(&scrape);
    as_documented(&scrape);
    assert!(scrape.labels().contains("status") && scrape.labels().contains("reason"));
}

/// Every query of the dashboard finds series with the labels that it names.
fn as_shown(scrape: &Scrape) {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/kasbah.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets: Vec<_> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).collect();
    assert!(targets.len() >= panels.len() && panels.len() > 10);
    for target in targets {
        let (query, legend) =
            (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
        let names = figures_in(query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let series = scrape.of(name);
            assert!(!series.is_empty(), "no {name} in\n{}", scrape.text);
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                let has = |series: &&str| series.contains(&format!("{label}=\""));
                assert!(series.keys().any(has), "{name} has no {label}");
            }
        }
    }
}

/// The documentation lists the figures, and no others.
fn as_documented(scrape: &Scrape) {
    let documentation = file("docs/telemetry.md");
    let documented: BTreeSet<_> =
        figures_in(&documentation).into_iter().filter(|name| !name.ends_with('_')).collect();
    let told: BTreeSet<_> =
        scrape.names().into_iter().filter(|name| name.starts_with("kasbah_")).map(family).collect();
    assert_eq!(told, documented);
}

/// Its name without what a histogram adds.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

fn figures_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("kasbah_")).collect()
}

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap()
}
