//! A registry whose PostgreSQL is not there.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::time::{Duration, Instant};

use kasbah_proto::policy::KeyMode;
use kasbah_system_tests::{
    admin::{Admin, RSA_2048, pem_of},
    client::{Kas, SessionKey},
    poll::within,
    server::{Server, Setup},
};
use kasbah_testkit::{
    postgres::Postgres,
    tokens::{SoftHsm, TestToken},
};
use serde_json::json;
use tonic::Code;

const MANAGER: &str = "opentdf.io/hsm";
/// For a server to notice that the database is back.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server with a key that has been used.
struct Served {
    server: Server,
    admin: Admin,
    kas: Kas,
    client: SessionKey,
    pem: String,
    provider: String,
    settings: String,
    postgres: Postgres,
    _token: TestToken,
}

impl Served {
    async fn start(configure: impl FnOnce(&mut Setup)) -> Self {
        let (postgres, token) = (Postgres::start(), SoftHsm::fresh());
        let mut setup = Setup::new();
        setup.registry(&postgres.url());
        let settings = setup.token("softhsm", &token, "prefer-sealed").to_string();
        configure(&mut setup);
        let server = setup.serve();
        let (admin, kas) = (server.admin(), server.connect("alice").await);
        admin.create_kas().await;
        let provider = admin.create_provider("main", MANAGER, &settings).await.unwrap();
        let key = admin.generate(&provider, "r1", RSA_2048, KeyMode::Remote, "").await;
        let (pem, client) = (pem_of(&key.unwrap()), SessionKey::rsa());
        let served =
            Self { server, admin, kas, client, pem, provider, settings, postgres, _token: token };
        within(PATIENCE, async || served.rewrap("r1").await).await;
        served
    }

    async fn rewrap(&self, kid: &str) -> Result<String, String> {
        self.kas.try_key(&self.client, kid, &self.pem).await
    }

    /// Everything works, a kid nobody knows included.
    async fn assert_well(&self, new: &str) {
        within(PATIENCE, async || self.admin.key("r1").await).await;
        within(PATIENCE, async || self.rewrap("r1").await).await;
        let provider = self.admin.create_provider(new, MANAGER, &self.settings).await;
        provider.unwrap();
        let made = self.admin.generate(&self.provider, new, RSA_2048, KeyMode::Remote, "").await;
        let pem = pem_of(&made.unwrap());
        within(PATIENCE, async || self.kas.try_key(&self.client, new, &pem).await).await;
        let unknown = self.rewrap("nobody").await.unwrap_err();
        assert!(unknown.contains("bad request"), "{unknown}");
    }
}

/// Whether it says that something here is not there, and nothing that a client takes for tampering.
fn is_unavailable(refusal: &str) -> bool {
    refusal.starts_with("unavailable: ") && !refusal.contains("bad request")
}

#[test]
fn no_database_no_start() {
    let mut postgres = Postgres::start();
    let mut setup = Setup::new();
    setup.registry(&postgres.url());
    setup.write("password", "correct horse battery staple\n");
    setup.config["secrets"]["database"] = json!({ "file": "password" });
    setup.config["registry"]["password"] = "database".into();
    postgres.stop();
    let (code, said) = setup.fails(&[]);
    assert_eq!(code, 3, "{said}");
    let address = format!("127.0.0.1:{}", postgres.port());
    for part in ["registry.database", &address, "start"] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    for part in ["horse", "%63%6F%72", "panicked"] {
        assert!(!said.contains(part), "`{part}` is in: {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    postgres.start_again();
    let mut server = setup.serve();
    server.terminate();
    assert_eq!(server.wait(), 0, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_outlive_the_database() {
    let mut served = Served::start(|_| {}).await;
    served.postgres.stop();
    let start = Instant::now();
    let (provider, key, unknown) = tokio::join!(
        served.admin.create_provider("other", MANAGER, &served.settings),
        served.admin.key("r1"),
        served.rewrap("nobody"),
    );
    assert_eq!(provider.unwrap_err().code(), Code::Unavailable);
    assert_eq!(key.unwrap_err().code(), Code::Unavailable);
    let unknown = unknown.unwrap_err();
    assert!(is_unavailable(&unknown), "{unknown}");
    while start.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        assert_eq!(served.rewrap("r1").await.unwrap(), "sealed");
        let took = asked.elapsed();
        assert!(took < Duration::from_millis(1500), "a known key waited {took:?} for the database");
    }
    served.postgres.start_again();
    served.assert_well("later").await;
    assert!(served.server.log().contains("the key source answers again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_are_forgotten_past_the_limit() {
    let limit = Duration::from_secs(2);
    let configure = |setup: &mut Setup| {
        setup.config["key_cache"] = json!({ "stale_limit_seconds": limit.as_secs() });
    };
    let mut served = Served::start(configure).await;
    served.postgres.stop();
    let stopped = Instant::now();
    assert!(served.rewrap("r1").await.is_ok(), "the limit is not reached");
    let refusal = within(PATIENCE, async || match served.rewrap("r1").await {
        Err(refusal) => Ok(refusal),
        Ok(_) => Err("it still rewraps"),
    })
    .await;
    // It counts from the last time the database was heard of, a moment before it stopped.
    assert!(stopped.elapsed() >= limit / 2, "forgotten after {:?}", stopped.elapsed());
    assert!(is_unavailable(&refusal), "{refusal}");
    let (known, unknown) = tokio::join!(served.rewrap("r1"), served.rewrap("nobody"));
    for refusal in [known.unwrap_err(), unknown.unwrap_err()] {
        assert!(is_unavailable(&refusal), "{refusal}");
    }
    served.postgres.start_again();
    served.assert_well("later").await;
}
