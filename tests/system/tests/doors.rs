//! What stands between a network and the services, from the binary: TLS, clients that leave, pages of
//! other origins, routes of old clients.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http2,
    header::{HeaderName, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::Header;
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{POLICY, SessionKey, body, kao, random_dek, request_claims},
    issuer::{AUDIENCE, Issuer},
    oidc::Holder,
    poll::within,
    recorder::Recorder,
    server::{Server, Setup},
    token,
    wire::{Answer, Version, Wire, handshake, trusting, trusting_with},
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ProtocolVersion,
    crypto::{SupportedKxGroup, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

const KEY: &str = "r1";
const PUBLIC_KEY: &str = "/kas.AccessService/PublicKey";
const REWRAP: &str = "/kas.AccessService/Rewrap";
/// For what happens by itself, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(45);

/// A configuration with a key in a token; its PEM.
fn in_token() -> (Setup, TestToken, String) {
    let fixture = SoftHsm::fresh();
    let key = provision::generate(&token::open(&fixture), KEY, Algorithm::Rsa2048).unwrap();
    (setup(&fixture), fixture, key.public_key.unwrap().to_pem())
}

fn setup(fixture: &TestToken) -> Setup {
    let mut setup = Setup::new();
    setup.hsm("softhsm", fixture, "require-sealed");
    setup.key(json!({
        "kid": KEY, "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    setup
}

fn wire(server: &Server) -> Wire {
    Wire { address: server.address.clone(), version: Version::Http1, tls: None }
}

/// A call in Connect's JSON.
fn call(path: &str, headers: &[(&str, &str)], message: &Value) -> Request<Vec<u8>> {
    let mut request = Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(message.to_string().into_bytes()).unwrap()
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{}, {error}: {answer:?}", answer.status))
}

/// A rewrap, and what is to come of it.
struct Rewrap {
    session: SessionKey,
    dek: Vec<u8>,
    body: Value,
}

impl Rewrap {
    /// Of a key access object that is there so many times.
    fn new(pem: &str, times: usize) -> Self {
        let (session, dek) = (SessionKey::rsa(), random_dek());
        let kaos = vec![kao(KEY, pem, &dek, POLICY); times];
        let body = body(&session, POLICY, &kaos);
        Self { session, dek, body }
    }

    fn message(&self) -> Value {
        let header = Header::new(jsonwebtoken::Algorithm::ES256);
        let signed = Issuer::new().sign(&header, &request_claims(&self.body));
        json!({ "signedRequestToken": signed })
    }

    /// The wrapped data key, as the recorder writes it.
    fn wrapped(&self) -> String {
        let kao = &self.body["requests"][0]["keyAccessObjects"][0]["keyAccessObject"];
        hex::encode(BASE64_STANDARD.decode(kao["wrappedKey"].as_str().unwrap()).unwrap())
    }

    fn came_back(&self, answer: &Value) -> bool {
        let wrapped = answer["responses"][0]["results"][0]["kasWrappedKey"].as_str();
        let wrapped = wrapped.unwrap_or_else(|| panic!("{answer}"));
        let wrapped = BASE64_STANDARD.decode(wrapped).unwrap();
        self.session.open(&wrapped, "").as_ref() == Some(&self.dek)
    }
}

// Clients that leave.

/// Key access objects of one request: a second or so of work for one worker.
const MANY: usize = 400;

/// A server whose calls of the token are counted; it has one worker.
struct Counted {
    server: Server,
    recorder: Recorder,
    pem: String,
    _token: TestToken,
}

impl Counted {
    fn start() -> Self {
        let (mut setup, fixture, pem) = in_token();
        let recorder = Recorder::around(fixture.module_path());
        setup.config["modules"]["softhsm"]["path"] = json!(Recorder::module());
        setup.config["providers"][0]["config"]["workers"] = 1.into();
        Self { server: setup.serve(), recorder, pem, _token: fixture }
    }

    fn request(&self, headers: &[(&str, &str)]) -> Request<Vec<u8>> {
        let authorization = bearer(&self.server.token("alice"));
        let headers = [headers, &[("authorization", &authorization)]].concat();
        call(REWRAP, &headers, &Rewrap::new(&self.pem, MANY).message())
    }

    fn ask(&self, who: &str, rewrap: &Rewrap) -> Request<Vec<u8>> {
        let authorization = bearer(&self.server.token(who));
        call(REWRAP, &[("authorization", &authorization)], &rewrap.message())
    }

    /// How many data keys went into the token so far.
    fn unwraps(&self) -> usize {
        self.recorder.text().matches(r#""function":"C_UnwrapKey""#).count()
    }

    /// Waits until an eighth of a request is done.
    async fn is_busy(&self, before: usize) {
        within(PATIENCE, async || {
            let done = self.unwraps() - before;
            if done >= MANY / 8 { Ok(()) } else { Err(format!("{done} of {MANY}")) }
        })
        .await;
    }

    /// How many data keys went into the token since, once no more do.
    async fn settled(&self, before: usize) -> usize {
        let mut last = self.unwraps();
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = self.unwraps();
            if now == last {
                return now - before;
            }
            last = now;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_no_work_for_whoever_left() {
    let counted = Counted::start();
    let before = counted.unwraps();
    let started = Instant::now();
    let answer = wire(&counted.server).send(counted.request(&[])).await.unwrap();
    let time = started.elapsed();
    assert_eq!(answer.status, 200);
    assert_eq!(counted.settled(before).await, MANY, "all of it is done for who waits");

    // A connection that is closed.
    let before = counted.unwraps();
    let mut stream = TcpStream::connect(&counted.server.address).await.unwrap();
    stream.write_all(&as_bytes(&counted.request(&[]))).await.unwrap();
    counted.is_busy(before).await;
    drop(stream);
    let closed = counted.settled(before).await;

    // A stream that is reset, on a connection that stays.
    let before = counted.unwraps();
    let stream = TcpStream::connect(&counted.server.address).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let answer = tokio::spawn(sender.send_request(over_http2(counted.request(&[]))));
    counted.is_busy(before).await;
    answer.abort();
    let reset = counted.settled(before).await;
    let still = sender.send_request(over_http2(call(PUBLIC_KEY, &[], &json!({})))).await.unwrap();
    assert_eq!(still.status(), 200);

    // A client that said how long it would wait: what is done by then is answered, or nothing is.
    let before = counted.unwraps();
    let patience = (time / 4).as_millis().to_string();
    let request = counted.request(&[("connect-timeout-ms", &patience)]);
    let answer = wire(&counted.server).send(request).await.unwrap();
    let late = counted.settled(before).await;
    assert!(in_time(&answer) <= late);

    println!("{MANY} take {time:?}; closed {closed}, reset {reset}, late {late}");
    for (how, done) in [("closed", closed), ("reset", reset), ("late", late)] {
        assert!(done < MANY * 3 / 4, "{how}: {done} of {MANY} were unwrapped all the same");
    }
    // Nothing is left of it: the next one is served at once.
    let rewrap = Rewrap::new(&counted.pem, 1);
    let answer = wire(&counted.server).send(counted.ask("alice", &rewrap)).await.unwrap();
    assert!(rewrap.came_back(&parsed(&answer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_asked_when_it_is_too_late_already() {
    let counted = Counted::start();
    let before = counted.unwraps();
    let request = counted.request(&[("connect-timeout-ms", "0")]);
    let answer = wire(&counted.server).send(request).await.unwrap();
    assert_eq!(in_time(&answer), 0);
    assert_eq!(counted.settled(before).await, 0);
}

/// A request that waits for the worker while its client leaves is cancelled, as the audit log says, and
/// never gets there.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_leaves_before_its_turn_never_gets_to_the_token() {
    let counted = Counted::start();
    let before = counted.unwraps();
    let others: Vec<_> = [(); 3]
        .into_iter()
        .map(|()| {
            let (wire, request) = (wire(&counted.server), counted.request(&[]));
            tokio::spawn(async move { wire.send(request).await.unwrap() })
        })
        .collect();
    counted.is_busy(before).await;
    let mut left = Vec::new();
    // As long as there is much to do before it would be their turn.
    while counted.unwraps() - before < 2 * MANY {
        let (who, rewrap) = (format!("leaver{}", left.len()), Rewrap::new(&counted.pem, 1));
        let mut stream = TcpStream::connect(&counted.server.address).await.unwrap();
        stream.write_all(&as_bytes(&counted.ask(&who, &rewrap))).await.unwrap();
        // For some that is before the server has read anything.
        sleep(Duration::from_millis(5 * (left.len() as u64 % 6))).await;
        drop(stream);
        left.push((who, rewrap.wrapped()));
    }
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    // One that stays gets there.
    let rewrap = Rewrap::new(&counted.pem, 1);
    let answer = wire(&counted.server).send(counted.ask("stayer", &rewrap)).await.unwrap();
    assert!(rewrap.came_back(&parsed(&answer)));
    let calls = counted.recorder.text();
    assert!(calls.contains(&rewrap.wrapped()));
    let events = counted.server.audit();
    let mut cancelled = 0;
    for (who, wrapped) in &left {
        assert!(!calls.contains(wrapped), "the token was asked for {who}");
        for event in events.iter().filter(|event| event["actor"]["id"] == **who) {
            assert_eq!(event["action"]["result"], "cancel", "{event}");
            cancelled += 1;
        }
    }
    println!("{} left, {cancelled} of them while they waited", left.len());
    assert!(cancelled > 0, "nobody was waiting");
}

/// How many data keys are in an answer to a client with a deadline: those that were done by then, or
/// it is told that it is too late.
fn in_time(answer: &Answer) -> usize {
    let told = parsed(answer);
    if answer.status == 504 {
        assert_eq!(told["code"], "deadline_exceeded");
        return 0;
    }
    assert_eq!(answer.status, 200, "{told}");
    let results = told["responses"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), MANY);
    let permitted = results.iter().filter(|result| result["status"] == "permit").count();
    let failed = results.iter().filter(|result| result["status"] == "fail").count();
    assert_eq!(permitted + failed, MANY);
    permitted
}

/// As HTTP/1.1 has it.
fn as_bytes(request: &Request<Vec<u8>>) -> Vec<u8> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}\r\n", value.to_str().unwrap())
    };
    let headers: String = request.headers().iter().map(header).collect();
    let (method, uri, length) = (request.method(), request.uri(), request.body().len());
    let head = format!(
        "{method} {uri} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), request.body()].concat()
}

fn over_http2(request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let mut request = request.map(|body| Full::new(body.into()));
    *request.uri_mut() = format!("http://localhost{}", request.uri()).parse().unwrap();
    request
}

// TLS.

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A connection that is closed on what nobody has read is reset, answer and all.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_while_they_send_reads_the_answer() {
    let (setup, _fixture, _) = in_token();
    let server = setup.serve();
    for (path, status) in [(REWRAP, "401"), ("/kas.AccessService/Nothing", "404")] {
        for part in [1, 2000, 20_000] {
            let mut stream = TcpStream::connect(&server.address).await.unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: kas\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                3 * part
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..3 {
                sleep(Duration::from_millis(30)).await;
                stream.write_all(&vec![b' '; part]).await.unwrap();
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{part}: {answer}");
        }
    }
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost`: DER, PEM, and the PEM of its key.
fn certified(by: &Authority) -> (Vec<u8>, String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    (certificate.der().to_vec(), certificate.pem(), key.serialize_pem())
}

/// A server with TLS; the DER of its certificate.
fn with_tls(by: &Authority) -> (Server, TestToken, Vec<u8>) {
    let (mut setup, fixture, _) = in_token();
    let (der, pem, key) = certified(by);
    setup.write("server.pem", pem);
    setup.write("server.key", key);
    setup.config["secrets"]["tls"] = json!({ "file": "server.key" });
    setup.config["server"]["tls"] =
        json!({ "certificate_file": "server.pem", "private_key": "tls" });
    (setup.serve(), fixture, der)
}

/// Replaces a file in one piece.
fn replace(server: &Server, name: &str, content: &str) {
    let draft = server.dir().join("draft");
    fs::write(&draft, content).unwrap();
    fs::rename(draft, server.dir().join(name)).unwrap();
}

/// The certificate that a new connection gets.
async fn certificate(server: &Server, config: &ClientConfig) -> Vec<u8> {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let stream = handshake(stream, config, &[Version::Http2]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_while_the_server_runs() {
    let ours = authority();
    let (server, _token, first) = with_tls(&ours);
    let config = trusting(&ours.pem());
    assert_eq!(certificate(&server, &config).await, first);
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let stream = handshake(stream, &config, &[Version::Http2]).await.unwrap();
    let kept = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut kept, connection) = kept.unwrap();
    tokio::spawn(connection);

    // The new certificate alone: its key is not there yet.
    let (second, pem, key) = certified(&ours);
    replace(&server, "server.pem", &pem);
    within(PATIENCE, async || {
        let told = server.log().matches("the certificate of the listener stays as it was").count();
        if told > 0 { Ok(()) } else { Err("nobody is told") }
    })
    .await;
    assert_eq!(certificate(&server, &config).await, first);
    replace(&server, "server.key", &key);
    let replaced = Instant::now();
    within(PATIENCE, async || {
        if certificate(&server, &config).await == second { Ok(()) } else { Err("the first one") }
    })
    .await;
    println!("served after {:?}", replaced.elapsed());
    let told = server.log().matches("the certificate of the listener stays as it was").count();
    assert_eq!(told, 1, "once each time:\n{}", server.log());

    // Who is connected is not disturbed.
    let answer = kept.send_request(over_http2(call(PUBLIC_KEY, &[], &json!({})))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["kid"], KEY);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_of_today() {
    let ours = authority();
    let (server, _token, _) = with_tls(&ours);
    let all: [&dyn SupportedKxGroup; 4] =
        [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let agreed = async |config: &ClientConfig| {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let stream = handshake(stream, config, &[Version::Http2, Version::Http1]).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let group = session.negotiated_key_exchange_group().unwrap().name();
        (session.protocol_version().unwrap(), group)
    };
    // Both have it first.
    let config = speaking(&ours, &all, &[&TLS13]);
    let hybrid = kx_group::X25519MLKEM768.name();
    assert_eq!(hybrid, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(agreed(&config).await, (ProtocolVersion::TLSv1_3, hybrid));
    for group in all {
        let config = speaking(&ours, &[group], &[&TLS13]);
        assert_eq!(agreed(&config).await, (ProtocolVersion::TLSv1_3, group.name()));
    }
    for group in [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1] {
        let config = speaking(&ours, &[group], &[&TLS12]);
        assert_eq!(agreed(&config).await, (ProtocolVersion::TLSv1_2, group.name()));
    }

    // Older ones get an alert: fatal, protocol_version.
    for minor in [1, 2] {
        let record = answer_to_hello(&server, minor).await;
        assert_eq!(
            (record[0], &record[5..7]),
            (21, &[2, 70][..]),
            "TLS 1.{}: {record:?}",
            minor - 1
        );
    }
    // The same greeting is good with the version that is spoken: a handshake message.
    let record = answer_to_hello(&server, 3).await;
    assert_eq!((record[0], record[5]), (22, 2), "{record:?}");
}

fn speaking(
    ours: &Authority,
    groups: &[&'static dyn SupportedKxGroup],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    trusting_with(&ours.pem(), provider, versions)
}

/// The beginning of what comes back for a greeting that knows no later version than TLS 1.`minor - 1`.
async fn answer_to_hello(server: &Server, minor: u8) -> Vec<u8> {
    let extensions: [(u16, &[u8]); 3] = [
        // supported_groups: secp256r1, ec_point_formats: uncompressed.
        (10, &[0, 2, 0, 23]),
        (11, &[1, 0]),
        // signature_algorithms: ecdsa_secp256r1_sha256.
        (13, &[0, 2, 4, 3]),
    ];
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &with_length(body)].concat())
        .collect();
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, and _AES_128_CBC_SHA, which older ones have.
    let suites = with_length(&[0xc0, 0x2b, 0xc0, 0x09]);
    let hello =
        [&[3, minor][..], &[7; 32], &[0], &suites, &[1, 0], &with_length(&extensions)].concat();
    let message = [&[1, 0][..], &with_length(&hello)].concat();
    let record = [&[22, 3, 1][..], &with_length(&message)].concat();
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = vec![0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// Bytes behind their length, in two bytes.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

// Pages of other origins.

const PAGE: &str = "https://app.example";

fn preflight(path: &str, origin: &str, headers: &str) -> Request<Vec<u8>> {
    Request::builder()
        .method(Method::OPTIONS)
        .uri(path)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", headers)
        .body(Vec::new())
        .unwrap()
}

/// The words of a header that is a list.
fn words(answer: &Answer, name: &str) -> Vec<String> {
    let list = answer.header(name).unwrap_or_default();
    list.split(',').map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()).collect()
}

fn has_all(found: &[String], wanted: &str) -> bool {
    wanted.split(',').all(|word| found.iter().any(|found| found == word))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_origins_that_are_configured_may_call() {
    let (mut setup, _token, _) = in_token();
    setup.config["server"]["cors"] = json!({
        "origins": [PAGE], "headers": ["x-ours"], "exposed_headers": ["x-told"],
        "credentials": true, "max_age_seconds": 77,
    });
    setup.config["server"]["rest"] = json!({});
    let server = setup.serve();
    let wire = wire(&server);
    let sent = "authorization,connect-protocol-version,content-type,dpop,x-virtrupubkey,x-ours";
    for path in [REWRAP, PUBLIC_KEY, "/kas/v2/rewrap", "/healthz"] {
        let answer = wire.send(preflight(path, PAGE, sent)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("access-control-max-age"), Some("77"));
        assert!(has_all(&words(&answer, "access-control-allow-headers"), sent), "{answer:?}");
        let methods = words(&answer, "access-control-allow-methods");
        assert!(has_all(&methods, "get,post,options"), "{answer:?}");
        assert!(words(&answer, "vary").contains(&"origin".to_owned()), "{answer:?}");
    }
    // It may read a refusal too, and what it says to do.
    let origin = [("origin", PAGE)];
    for (path, status) in [(PUBLIC_KEY, 200), (REWRAP, 401)] {
        let answer = wire.send(call(path, &origin, &json!({}))).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        let exposed = words(&answer, "access-control-expose-headers");
        assert!(has_all(&exposed, "dpop-nonce,www-authenticate,grpc-status,x-told"), "{exposed:?}");
    }
    let others = ["https://evil.example", "https://app.example.evil", "http://app.example", "null"];
    for other in others {
        let asked = wire.send(preflight(REWRAP, other, sent)).await.unwrap();
        let called = wire.send(call(PUBLIC_KEY, &[("origin", other)], &json!({}))).await.unwrap();
        for answer in [asked, called] {
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, None, "{other}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_not_call_unless_that_is_said() {
    let (setup, _token, _) = in_token();
    let server = setup.serve();
    let wire = wire(&server);
    let requests = [
        preflight(REWRAP, PAGE, "authorization"),
        call(PUBLIC_KEY, &[("origin", PAGE)], &json!({})),
    ];
    for request in requests {
        let answer = wire.send(request).await.unwrap();
        let names =
            answer.headers.keys().filter(|name| name.as_str().starts_with("access-control"));
        assert_eq!(names.count(), 0, "{answer:?}");
    }
}

// Routes of old clients.

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_find_their_routes_where_they_are_switched_on() {
    let (_, token, pem) = in_token();
    for (rest, prefix) in [(json!({}), "/kas"), (json!({ "prefix": "/a/b" }), "/a/b")] {
        let mut setup = setup(&token);
        setup.config["server"]["rest"] = rest;
        let server = setup.serve();
        let wire = wire(&server);
        let at = |path: &str| format!("{prefix}{path}");

        let answer =
            wire.send(get(&at("/v2/kas_public_key?algorithm=rsa:2048&v=2"))).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.header("deprecation").is_some_and(|since| since.starts_with('@')));
        assert_eq!(parsed(&answer), json!({ "publicKey": pem, "kid": KEY }));
        let answer = wire.send(get(&at("/v2/kas_public_key?v=1"))).await.unwrap();
        assert_eq!(parsed(&answer), json!({ "publicKey": pem, "kid": "" }));
        let answer = wire.send(get(&at("/kas_public_key"))).await.unwrap();
        assert_eq!(parsed(&answer), json!(pem));
        let answer = wire.send(get(&at("/v2/kas_public_key?algorithm=rsa:512"))).await.unwrap();
        assert_eq!((answer.status.as_u16(), &parsed(&answer)["code"]), (404, &5.into()));

        let (rewrap, path) = (Rewrap::new(&pem, 1), at("/v2/rewrap"));
        let authorization = bearer(&server.token("alice"));
        let request = call(&path, &[("authorization", &authorization)], &rewrap.message());
        let answer = wire.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(rewrap.came_back(&parsed(&answer)));
        let answer = wire.send(call(&path, &[], &rewrap.message())).await.unwrap();
        assert_eq!((answer.status.as_u16(), &parsed(&answer)["code"]), (401, &16.into()));
        assert_eq!(answer.header("content-type"), Some("application/json"));

        // A proof is for the path that the client called.
        let holder = Holder::ec();
        let token = server.token_with("alice", &json!({ "cnf": { "jkt": holder.thumbprint() } }));
        let elsewhere = holder.rewrap_proof(&token);
        let mut claims = holder.rewrap_claims(&token);
        claims["htu"] = format!("{AUDIENCE}{path}").into();
        let signed = holder.sign(&json!({ "alg": "ES256" }), &request_claims(&rewrap.body));
        let message = json!({ "signedRequestToken": signed });
        let authorization = format!("DPoP {token}");
        for (proof, status) in [(holder.proof(&claims), 200), (elsewhere, 401)] {
            let headers = [("authorization", &*authorization), ("dpop", &*proof)];
            let answer = wire.send(call(&path, &headers, &message)).await.unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
        }
        // Nothing is where it was not asked for, and methods are where they always are.
        for path in ["/v2/kas_public_key", "/other/v2/kas_public_key"] {
            assert_eq!(wire.send(get(path)).await.unwrap().status, 404, "{path}");
        }
        let under = call(&at(PUBLIC_KEY), &[], &json!({}));
        assert_eq!(wire.send(under).await.unwrap().status, 404);
        assert_eq!(wire.send(call(PUBLIC_KEY, &[], &json!({}))).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_routes_are_off_and_methods_have_a_prefix_where_that_is_said() {
    let (mut setup, _token, pem) = in_token();
    setup.config["server"]["prefix"] = "/kas".into();
    let server = setup.serve();
    let wire = wire(&server);
    for path in ["/kas/v2/kas_public_key", "/kas/kas_public_key", "/v2/kas_public_key"] {
        assert_eq!(wire.send(get(path)).await.unwrap().status, 404, "{path}");
    }
    let rewrap = Rewrap::new(&pem, 1);
    let authorization = bearer(&server.token("alice"));
    for path in [REWRAP.to_owned(), format!("/kas{REWRAP}")] {
        let request = call(&path, &[("authorization", &authorization)], &rewrap.message());
        assert!(rewrap.came_back(&parsed(&wire.send(request).await.unwrap())), "{path}");
        let refused = wire.send(call(&path, &[], &rewrap.message())).await.unwrap();
        assert_eq!(refused.status, 401, "{path}");
    }
    for path in ["/kas/kas", "/kasbah", "/KAS", "/kas/kas.AccessService"] {
        let request = call(&format!("{path}{PUBLIC_KEY}"), &[], &json!({}));
        assert_eq!(wire.send(request).await.unwrap().status, 404, "{path}");
    }
}
