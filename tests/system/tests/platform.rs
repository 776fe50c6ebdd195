//! A server that finds its keys on a platform: another server, with a registry.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_proto::{
    kasbah::admin::v1::{GenerateKeyRequest, set_key_state_request::Target},
    policy::{KasKey, KeyMode},
};
use kasbah_system_tests::{
    admin::{ADMIN, RSA_2048, id_of, pem_of},
    client::{Kas, POLICY, SessionKey, kao, random_dek},
    poll::within,
    server::{Server, Setup},
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const MANAGER: &str = "opentdf.io/hsm";
const CLIENT: &str = "kasbah";
const SECRET: &str = "correct-horse-battery-staple";
/// How long an answer counts, and how long an old one does while the platform is away.
const TTL: Duration = Duration::from_secs(1);
const STALE_LIMIT: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(15);

/// A double of the token endpoint of an identity provider: it knows one client and has one token.
struct IdentityProvider {
    address: String,
    granted: Arc<AtomicUsize>,
}

impl IdentityProvider {
    async fn start(token: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let granted = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&granted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, token.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, granted }
    }
}

/// Answers one request and ends the connection.
async fn answer(mut stream: TcpStream, token: String, granted: Arc<AtomicUsize>) {
    let request = read_request(&mut stream).await;
    let credentials = BASE64_STANDARD.encode(format!("{CLIENT}:{SECRET}"));
    let is_client = request.lines().any(|line| {
        line.split_once(": ").is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("authorization") && value == format!("Basic {credentials}")
        })
    });
    let asks = request.starts_with("POST /token ") && request.contains("client_credentials");
    let (status, body) = if is_client && asks {
        granted.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300 });
        ("200 OK", body)
    } else {
        ("401 Unauthorized", json!({ "error": "invalid_client" }))
    };
    let body = body.to_string();
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(response.as_bytes()).await;
}

/// Head and body of an HTTP/1.1 request.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.unwrap_or_default();
        request.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            assert!(length > 0, "the request ends in its head: {request}");
            continue;
        };
        let wanted = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        if length == 0 || body.len() >= wanted.unwrap_or_default() {
            return request;
        }
    }
}

/// A platform with keys in a token, and a server that has the token too.
struct Platform {
    server: Server,
    keys: Vec<KasKey>,
    identity: IdentityProvider,
    token: TestToken,
    client: SessionKey,
}

impl Platform {
    /// One of the keys, and only that, is a legacy key: the first.
    async fn start(keys: usize) -> Self {
        let token = SoftHsm::fresh();
        let mut setup = Setup::new();
        setup.registry("sqlite:registry.db");
        let settings = setup.token("softhsm", &token, "prefer-sealed").to_string();
        let server = setup.serve();
        let admin = server.admin();
        admin.create_kas().await;
        let provider = admin.create_provider("main", MANAGER, &settings).await.unwrap();
        let mut made = Vec::new();
        for number in 1..=keys {
            let message = GenerateKeyRequest {
                key_id: format!("k{number}"),
                key_algorithm: RSA_2048,
                key_mode: KeyMode::Remote as i32,
                provider_config_id: provider.clone(),
                legacy: number == 1,
                ..Default::default()
            };
            let key = admin.admin().generate_key(admin.request(message)).await.unwrap();
            made.push(key.into_inner().kas_key.unwrap());
        }
        let identity = IdentityProvider::start(server.token(ADMIN)).await;
        Self { server, keys: made, identity, token, client: SessionKey::rsa() }
    }

    /// The configuration of a server with this platform.
    fn setup(&self, secret: &str) -> Setup {
        let mut setup = Setup::new();
        setup.token("softhsm", &self.token, "prefer-sealed");
        setup.write("client", secret);
        setup.config["secrets"]["client"] = json!({ "file": "client" });
        setup.config["kas"]["key_index"] = "platform".into();
        setup.config["platform"] = json!({
            "endpoint": self.server.url(),
            "token_endpoint": format!("http://{}/token", self.identity.address),
            "client_id": CLIENT,
            "client_secret": "client",
            "page_size": 2,
        });
        setup.config["key_cache"] = json!({
            "ttl_seconds": TTL.as_secs(), "stale_limit_seconds": STALE_LIMIT.as_secs(),
        });
        setup
    }

    async fn rewrap(&self, kas: &Kas, key: &KasKey) -> Result<String, String> {
        kas.try_key(&self.client, kid_of(key), &pem_of(key)).await
    }
}

fn kid_of(key: &KasKey) -> &str {
    &key.key.as_ref().unwrap().key_id
}

fn assert_unavailable(refusal: &str) {
    assert!(refusal.starts_with("unavailable: "), "{refusal}");
    assert!(!refusal.contains("bad request"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_every_page_is_served() {
    let platform = Platform::start(7).await;
    let server = platform.setup(SECRET).serve();
    let kas = server.connect("alice").await;

    let (kid, pem) = server.admin().public_key("rsa:2048").await.unwrap();
    let known: HashSet<_> = platform.keys.iter().map(|key| (kid_of(key), pem_of(key))).collect();
    assert!(known.contains(&(kid.as_str(), pem)), "{kid}");
    let handed_out = platform.server.admin().public_key("rsa:2048").await.unwrap().0;
    assert_eq!(kid, handed_out, "both hand out the same key");

    // The legacy key is the oldest, so it is alone on the last of four pages.
    let dek = random_dek();
    let mut nameless = kao("k1", &pem_of(&platform.keys[0]), &dek, POLICY);
    nameless.as_object_mut().unwrap().remove("kid");
    let answer = kas.rewrap_one(&platform.client, POLICY, &nameless).await.unwrap();
    assert_eq!((answer.dek, answer.custody.as_str()), (dek, "sealed"));

    for key in &platform.keys {
        assert_eq!(platform.rewrap(&kas, key).await.unwrap(), "sealed", "{}", kid_of(key));
    }
    let pem = pem_of(&platform.keys[0]);
    let unknown = kas.try_key(&platform.client, "nobody", &pem).await.unwrap_err();
    assert!(unknown.contains("bad request"), "the platform says that there is none: {unknown}");
    assert_eq!(platform.identity.granted.load(Ordering::Relaxed), 1, "one token serves all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_the_platform_counts_once_the_answer_is_old() {
    let platform = Platform::start(1).await;
    let server = platform.setup(SECRET).serve();
    let (kas, key) = (server.connect("alice").await, &platform.keys[0]);
    assert!(platform.rewrap(&kas, key).await.is_ok());
    platform.server.admin().set_state(&id_of(key), Target::Disabled).await.unwrap();
    within(TTL + Duration::from_millis(500), async || match platform.rewrap(&kas, key).await {
        Err(refusal) if refusal.contains("disabled") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_outlive_the_platform_for_a_while() {
    let platform = Platform::start(1).await;
    let server = platform.setup(SECRET).serve();
    let kas = server.connect("alice").await;
    let known = platform.keys[0].clone();
    assert!(platform.rewrap(&kas, &known).await.is_ok());

    let stopped = Instant::now();
    let Platform { server: on_platform, client, token: _token, .. } = platform;
    let setup = on_platform.kill();
    let rewrap = async |key: &KasKey| kas.try_key(&client, kid_of(key), &pem_of(key)).await;
    let unknown = async || kas.try_key(&client, "nobody", &pem_of(&known)).await.unwrap_err();
    assert_unavailable(&unknown().await);
    // Each may wait half a second for the platform before it takes what it knows.
    while stopped.elapsed() + Duration::from_millis(1500) < STALE_LIMIT {
        assert_eq!(rewrap(&known).await.unwrap(), "sealed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refusal = within(PATIENCE, async || match rewrap(&known).await {
        Err(refusal) => Ok(refusal),
        Ok(_) => Err("it still rewraps"),
    })
    .await;
    assert_unavailable(&refusal);
    assert!(stopped.elapsed() < STALE_LIMIT + Duration::from_secs(3), "{:?}", stopped.elapsed());

    let _on_platform = setup.serve();
    within(PATIENCE, async || rewrap(&known).await).await;
    let refusal = unknown().await;
    assert!(refusal.contains("bad request"), "the platform says that there is none: {refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_serves_nothing_and_tells_no_secret() {
    let platform = Platform::start(1).await;
    let wrong = "wrong-horse-battery-staple";
    let server = platform.setup(wrong).serve();
    let kas = server.connect("alice").await;
    assert_unavailable(&platform.rewrap(&kas, &platform.keys[0]).await.unwrap_err());
    assert!(server.admin().public_key("rsa:2048").await.is_err());
    let log = server.log();
    assert!(log.contains("invalid_client"), "{log}");
    assert!(!log.contains(wrong), "{log}");
    assert_eq!(platform.identity.granted.load(Ordering::Relaxed), 0);
}
