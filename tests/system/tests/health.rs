//! A server that says whether it is well: each thing it needs is taken away, and given back.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Algorithm, PrivateKeyParts, envelope::RootKey};
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{POLICY, SessionKey, kao, random_dek},
    decisions::{Fault, Reader, StandIn, policy},
    issuer::AUDIENCE,
    poll::within,
    server::{Server, Setup, built, kasbah},
    token,
};
use kasbah_testkit::{
    golden,
    oidc::TestIssuer,
    postgres::Postgres,
    tokens::{SoftHsm, TestToken, set_env},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
/// For a server to notice something, on a machine that has other work.
const PATIENCE: Duration = Duration::from_mins(1);
const SERVING: &str = "SERVING";
const NOT_SERVING: &str = "NOT_SERVING";

/// Status and body of an answer over HTTP/1.1.
fn call(address: &str, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (line, body) = request.split_once('\n').unwrap_or((request, ""));
    let head = format!(
        "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: application/json\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// What a server says of itself, without a token.
struct Asked<'a>(&'a Server);

impl Asked<'_> {
    fn healthz(&self, query: &str) -> (u16, String) {
        let (code, body) = call(&self.0.address, &format!("GET /healthz{query}"));
        (code, body["status"].as_str().unwrap().to_owned())
    }

    fn readyz(&self) -> (u16, Value) {
        call(&self.0.address, "GET /readyz")
    }

    /// Waits until the server is `status`, `unwell` is all that is not up, and that is so.
    async fn is(&self, status: &str, unwell: &[(&str, &str)]) -> Value {
        let answer = within(PATIENCE, async || {
            let (code, answer) = self.readyz();
            let parts = answer["dependencies"].as_object().unwrap();
            let of = parts.iter().map(|(name, part)| (&**name, part["status"].as_str().unwrap()));
            let found: Vec<_> = of.filter(|(_, status)| *status != "up").collect();
            let ready = matches!(status, "up" | "degraded");
            if answer["status"] == status && found == unwell && (code == 200) == ready {
                Ok(answer)
            } else {
                Err(format!("{code} {answer}"))
            }
        });
        let answer = answer.await;
        // It is alive whatever it lacks.
        assert_eq!(self.healthz(""), (200, SERVING.to_owned()));
        let ready = matches!(status, "up" | "degraded");
        let (code, word) = if ready { (200, SERVING) } else { (503, NOT_SERVING) };
        for service in ["all", "kas"] {
            let query = format!("?service={service}");
            assert_eq!(self.healthz(&query), (code, word.to_owned()), "{service}");
        }
        answer
    }
}

fn detail(answer: &Value, name: &str) -> String {
    answer["dependencies"][name]["detail"].as_str().unwrap().to_owned()
}

/// Adds a key that needs no token.
fn basic_key(setup: &mut Setup) -> String {
    let public = PrivateKeyParts::from_pem(golden::PRIVATE_KEY).unwrap().public_key().to_pem();
    let wrapped = wrap_private_key(&RootKey::from_hex(ROOT).unwrap(), golden::PRIVATE_KEY);
    setup.root_key("root1", ROOT);
    setup.write("b1.pem", &public);
    setup.write("b1.b64", wrapped.unwrap());
    setup.key(json!({
        "kid": "b1", "algorithm": "rsa:2048", "public_key_file": "b1.pem",
        "wrapped_key_file": "b1.b64", "wrapping_key": "root1",
    }));
    public
}

/// A configuration with a key in a token.
fn in_token() -> (Setup, TestToken) {
    let fixture = SoftHsm::fresh();
    provision::generate(&token::open(&fixture), "r1", Algorithm::Rsa2048).unwrap();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    (setup, fixture)
}

/// Takes the token away until this is dropped.
struct Gone {
    here: PathBuf,
    away: PathBuf,
}

impl Gone {
    fn new(fixture: &TestToken) -> Self {
        let (here, away) = (fixture.dir().join("tokens"), fixture.dir().join("away"));
        fs::rename(&here, &away).unwrap();
        fs::create_dir(&here).unwrap();
        Self { here, away }
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        fs::remove_dir(&self.here).unwrap();
        fs::rename(&self.away, &self.here).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_only_token_is_down_until_it_is_back() {
    let (setup, fixture) = in_token();
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    for round in 0..2 {
        let gone = Gone::new(&fixture);
        let answer = asked.is("down", &[("key-managers", "down")]).await;
        let detail = detail(&answer, "key-managers");
        assert_eq!(detail, "opentdf.io/hsm#softhsm cannot be used", "round {round}");
        let text = answer.to_string();
        for inside in [fixture.dir().to_str().unwrap(), "1234", "C_", "CKR_"] {
            assert!(!text.contains(inside), "`{inside}` is told to everybody: {text}");
        }
        drop(gone);
        asked.is("up", &[]).await;
    }
    let log = server.log();
    let told = log.lines().filter(|line| line.contains("cannot be used"));
    assert_eq!(told.count(), 2, "once each time: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_of_several_leaves_the_others_in_service() {
    let (mut setup, fixture) = in_token();
    let pem = basic_key(&mut setup);
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    let gone = Gone::new(&fixture);
    let answer = asked.is("degraded", &[("key-managers", "degraded")]).await;
    assert_eq!(detail(&answer, "key-managers"), "opentdf.io/hsm#softhsm cannot be used");
    assert_eq!(asked.healthz("?service=key-managers"), (200, SERVING.to_owned()));
    let kas = server.connect("alice").await;
    assert!(kas.try_key(&SessionKey::rsa(), "b1", &pem).await.is_ok(), "it is in service");
    drop(gone);
    asked.is("up", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_degrades_until_keys_are_too_old() {
    let mut postgres = Postgres::start();
    let mut setup = Setup::new();
    setup.registry(&postgres.url());
    setup.root_key("root1", ROOT);
    setup.config["key_cache"] = json!({ "stale_limit_seconds": 30 });
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    postgres.stop();
    let answer = asked.is("degraded", &[("database", "degraded")]).await;
    assert!(detail(&answer, "database").starts_with("cannot be reached; keys"), "{answer}");
    let answer = asked.is("down", &[("database", "down")]).await;
    assert_eq!(detail(&answer, "database"), "cannot be reached");
    let text = answer.to_string();
    assert!(!text.contains("postgres:") && !text.contains("127.0.0.1"), "{text}");
    assert_eq!(asked.healthz("?service=database"), (503, NOT_SERVING.to_owned()));
    assert_eq!(asked.healthz("?service=key-managers"), (200, SERVING.to_owned()));
    assert_eq!(asked.healthz("?service=nobody"), (503, "UNKNOWN".to_owned()));
    postgres.start_again();
    asked.is("up", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_gone_degrades_until_its_keys_are_too_old() {
    let mut issuer = TestIssuer::start().await;
    let mut setup = Setup::new();
    basic_key(&mut setup);
    setup.config["auth"] = json!({
        "mode": "oidc", "issuer": issuer.issuer_url(), "audience": AUDIENCE,
        "key_refresh_seconds": 1, "key_stale_limit_seconds": 30,
    });
    let server = setup.serve();
    let asked = Asked(&server);
    // Nobody has called yet: it fetches keys by itself.
    asked.is("up", &[]).await;
    issuer.stop().await;
    let answer = asked.is("degraded", &[("issuers", "degraded")]).await;
    assert!(detail(&answer, "issuers").contains(issuer.issuer_url()), "{answer}");
    asked.is("down", &[("issuers", "down")]).await;
    issuer.start_again().await;
    asked.is("up", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_only_old_are_fetched_and_no_reason_to_worry() {
    let issuer = TestIssuer::start().await;
    let mut setup = Setup::new();
    basic_key(&mut setup);
    setup.config["auth"] = json!({
        "mode": "oidc", "issuer": issuer.issuer_url(), "audience": AUDIENCE,
        "key_refresh_seconds": 1,
    });
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    let (start, fetched) = (Instant::now(), issuer.fetches().jwks);
    while start.elapsed() < Duration::from_secs(12) {
        let (code, answer) = asked.readyz();
        assert_eq!((code, &answer["status"]), (200, &json!("up")), "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(issuer.fetches().jwks > fetched, "nobody looked at them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_does_not_decide_is_down_and_its_return_is_seen_without_a_caller() {
    let mut stand_in = StandIn::start().await;
    let mut setup = Setup::new();
    let pem = basic_key(&mut setup);
    setup.config["decisions"] = json!({ "mode": "platform", "timeout_ms": 1000 });
    setup.config["platform"] = json!({ "endpoint": stand_in.url() });
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    let reader = Reader::new(server.url(), server.token("alice"));
    let client = SessionKey::rsa();
    let policy = policy(&["https://acme.example/attr/a/value/permit"]);
    let read = async || {
        let wrapped = vec![kao("b1", &pem, &random_dek(), &policy)];
        let mut told = reader.read(&client, &[(&policy, wrapped)]).await?;
        Ok::<_, Status>(told.remove(0))
    };
    assert!(read().await.unwrap().result.is_ok());
    stand_in.take();

    stand_in.stop();
    for _ in 0..6 {
        // What the caller is told is not the matter here.
        let _ = read().await;
    }
    let answer = asked.is("down", &[("decisions", "down")]).await;
    assert!(!answer.to_string().contains(&stand_in.url()), "{answer}");
    stand_in.start_again().await;
    asked.is("up", &[]).await;
    let looked = stand_in.take();
    assert!(!looked.is_empty() && looked.len() <= 3, "{}", looked.len());
    assert!(looked.iter().all(|asked| asked.token == "no-token"), "in nobody's name");
    assert!(read().await.unwrap().result.is_ok());

    // One that says no is well.
    stand_in.set_fault(Fault::Status(Code::PermissionDenied));
    for _ in 0..6 {
        let _ = read().await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    asked.is("up", &[]).await;
}

/// A directory with a `kasbah` that lives on when a file may not grow, which is the end of others.
fn outlives_full_files() -> TempDir {
    let wrapper = TempDir::new().unwrap();
    let real = std::env::var("KASBAH_BIN");
    let real = real.unwrap_or_else(|_| built("kasbah").display().to_string());
    let script = wrapper.path().join("kasbah");
    fs::write(&script, format!("#!/bin/sh\ntrap '' XFSZ\nexec '{real}' \"$@\"\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    set_env("KASBAH_BIN", script.to_str().unwrap());
    wrapper
}

/// How long files of the server may get.
fn limit_files(server: &Server, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let mut command = Command::new("prlimit");
    assert!(command.args(["--pid", &server.pid().to_string(), &limit]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_cannot_grow_is_down_while_it_refuses() {
    let _wrapper = outlives_full_files();
    let mut setup = Setup::new();
    let pem = basic_key(&mut setup);
    setup.config["audit"] = json!({ "file": "audit.log" });
    let server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    let (reader, client) = (Reader::new(server.url(), server.token("alice")), SessionKey::rsa());
    let read = async || {
        let wrapped = vec![kao("b1", &pem, &random_dek(), POLICY)];
        reader.read(&client, &[(POLICY, wrapped)]).await.unwrap().remove(0).result
    };
    read().await.unwrap();
    limit_files(&server, "1");
    assert!(read().await.is_err(), "nothing is released");
    asked.is("down", &[("audit", "down")]).await;
    // Somebody has to try again, so it comes back into service.
    asked.is("degraded", &[("audit", "degraded")]).await;
    limit_files(&server, "unlimited");
    within(PATIENCE, async || read().await).await;
    asked.is("up", &[]).await;
}

async fn check(server: &Server, service: &str) -> Result<ServingStatus, Code> {
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_first() {
    let mut setup = Setup::new();
    basic_key(&mut setup);
    setup.config["server"]["drain_delay_seconds"] = 600.into();
    let mut server = setup.serve();
    let asked = Asked(&server);
    asked.is("up", &[]).await;
    for (service, answer) in [
        ("", Ok(ServingStatus::Serving)),
        ("kas.AccessService", Ok(ServingStatus::Serving)),
        ("audit", Ok(ServingStatus::Serving)),
        ("nobody", Err(Code::NotFound)),
    ] {
        assert_eq!(check(&server, service).await, answer, "{service}");
    }
    // As an SDK asks, by Connect.
    let connect = call(&server.address, "POST /grpc.health.v1.Health/Check\n{}");
    assert_eq!(connect, (200, json!({ "status": SERVING })));

    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: "kas.AccessService".to_owned() };
    let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    server.terminate();
    let next = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap();
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap(), None);
    asked.is("draining", &[]).await;
    assert_eq!(check(&server, "").await, Ok(ServingStatus::Serving), "it is alive");
    assert_eq!(check(&server, "kas.AccessService").await, Ok(ServingStatus::NotServing));
    let url = server.url();
    assert_eq!(healthcheck(&["--url", &url]).0, 0);
    assert_eq!(healthcheck(&["--url", &url, "--ready"]), (1, "draining\n".to_owned()));

    // Asked again, it does not wait any longer.
    let begun = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), 0, "{}", server.log());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(healthcheck(&["--url", &url]).0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_does_not_hold_up_a_server_that_stops() {
    let mut setup = Setup::new();
    basic_key(&mut setup);
    let mut server = setup.serve();
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let request = HealthCheckRequest::default();
    let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    server.terminate();
    assert_eq!(server.wait(), 0);
    assert!(!server.log().contains("still under way"), "{}", server.log());
}

/// Exit code and standard output of `kasbah healthcheck`.
fn healthcheck(arguments: &[&str]) -> (i32, String) {
    let output = kasbah().arg("healthcheck").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_ends_as_the_server_is() {
    let (mut setup, fixture) = in_token();
    setup.config["server"]["listen"] = setup.address.replace("127.0.0.1", "0.0.0.0").into();
    setup.config["server"]["plaintext"] = true.into();
    let file = setup.file();
    let server = setup.serve();
    Asked(&server).is("up", &[]).await;
    let (url, file) = (server.url(), file.to_str().unwrap());
    for arguments in [["--url", &url], ["--config", file]] {
        let ready = |more: &[&str]| healthcheck(&[&arguments[..], more].concat());
        assert_eq!(ready(&[]), (0, "serving\n".to_owned()), "{arguments:?}");
        assert_eq!(ready(&["--ready"]), (0, "up\n".to_owned()), "{arguments:?}");
    }
    assert_eq!(healthcheck(&["--url", &format!("{url}/"), "--ready"]).0, 0);
    let (code, said) = healthcheck(&["--url", &url, "--ready", "--output", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["ok"], &said["answer"]["status"]), (0, &json!(true), &json!("up")));

    let gone = Gone::new(&fixture);
    Asked(&server).is("down", &[("key-managers", "down")]).await;
    let down = "down; key-managers is down: opentdf.io/hsm#softhsm cannot be used\n";
    assert_eq!(healthcheck(&["--config", file, "--ready"]), (1, down.to_owned()));
    assert_eq!(healthcheck(&["--config", file]), (0, "serving\n".to_owned()));
    let (code, said) = healthcheck(&["--config", file, "--ready", "--output", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["ok"]), (1, &json!(false)));
    drop(gone);

    let setup = server.kill();
    assert_eq!(healthcheck(&["--config", setup.file().to_str().unwrap()]), (3, String::new()));
    assert_eq!(healthcheck(&["--url", &url]).0, 3);
    for wrong in [&["--url", "localhost"][..], &["--url", "ftp://a"], &[], &["--config", "none"]] {
        assert_eq!(healthcheck(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn somebody_else_is_not_a_server_that_is_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
            let (mut stream, mut request) = (stream, [0; 1024]);
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        }
    });
    assert_eq!(healthcheck(&["--url", &url]), (1, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_of_a_configuration_trusts_its_certificate_and_no_other() {
    let certificate = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["kas.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let ((pem, key), (other, other_key)) = (certificate(), certificate());
    let mut setup = Setup::new();
    basic_key(&mut setup);
    setup.write("server.pem", &pem);
    setup.write("server.key", &key);
    setup.config["secrets"]["tls"] = json!({ "file": "server.key" });
    setup.config["server"]["tls"] =
        json!({ "certificate_file": "server.pem", "private_key": "tls" });
    let file = setup.file();
    let text = fs::read_to_string(&file).unwrap();
    let server = setup.serve();
    let file = file.to_str().unwrap();
    assert_eq!(healthcheck(&["--config", file]), (0, "serving\n".to_owned()));
    let (dir, url) = (server.dir().to_owned(), server.url().replace("http:", "https:"));
    // Nobody vouches for it, and its name is another one.
    assert_eq!(healthcheck(&["--url", &url]).0, 3);
    let ca_file = dir.join("server.pem");
    let named = ["--url", &url, "--ca-file", ca_file.to_str().unwrap()];
    assert_eq!(healthcheck(&named).0, 3);

    // The same address by a configuration with another certificate.
    for (name, content) in [("other.pem", &other), ("other.key", &other_key)] {
        fs::write(dir.join(name), content).unwrap();
    }
    fs::write(dir.join("other.yaml"), text.replace("\"server.", "\"other.")).unwrap();
    assert_eq!(healthcheck(&["--config", dir.join("other.yaml").to_str().unwrap()]).0, 3);
}
