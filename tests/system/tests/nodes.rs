//! Two servers with one database and one token: what one writes the other serves within a second.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kasbah_proto::{
    kasbah::admin::v1::{GenerateKeyRequest, set_key_state_request::Target},
    policy::{
        KasKey, KeyMode, KeyStatus,
        kasregistry::{
            CreateKeyRequest, GetBaseKeyRequest, ListKeysRequest, list_keys_request::KasFilter,
        },
        keymanagement::{ListProviderConfigsRequest, UpdateProviderConfigRequest},
    },
};
use kasbah_system_tests::{
    admin::{Admin, RSA_2048, id_of, pem_of},
    client::{Kas, SessionKey},
    poll::within,
    server::{Server, Setup},
};
use kasbah_testkit::{
    postgres::Postgres,
    tokens::{SoftHsm, TestToken},
};
use serde_json::Value;
use tonic::{Code, Status};

const MANAGER: &str = "opentdf.io/hsm";
/// How long after an acknowledgement the other node may still answer as before.
const PROMISE: Duration = Duration::from_secs(1);
/// For what nobody promised a time.
const PATIENCE: Duration = Duration::from_secs(15);

/// Two servers that have used the token, so that no answer waits for a login.
struct Nodes {
    a: Node,
    b: Node,
    client: SessionKey,
    /// UUID of the provider configuration.
    provider: String,
    /// Its settings.
    settings: Value,
    kas_id: String,
    /// A key of it.
    first: KasKey,
    postgres: Postgres,
    token: TestToken,
}

struct Node {
    server: Server,
    admin: Admin,
    kas: Kas,
}

impl Node {
    async fn start(setup: Setup) -> Self {
        let server = setup.serve();
        let (admin, kas) = (server.admin(), server.connect("alice").await);
        Self { server, admin, kas }
    }
}

impl Nodes {
    async fn start(custody: &str) -> Self {
        let (postgres, token) = (Postgres::start(), SoftHsm::fresh());
        let (setup, settings) = node(&postgres, &token, custody);
        let a = Node::start(setup).await;
        let b = Node::start(node(&postgres, &token, custody).0).await;
        let kas_id = a.admin.create_kas().await;
        let provider = a.admin.create_provider("main", MANAGER, &settings.to_string()).await;
        let provider = provider.unwrap();
        let first = a.admin.generate(&provider, "first", RSA_2048, KeyMode::Remote, "").await;
        let (first, client) = (first.unwrap(), SessionKey::rsa());
        for kas in [&a.kas, &b.kas] {
            within(PATIENCE, async || kas.try_key(&client, "first", &pem_of(&first)).await).await;
        }
        Self { a, b, client, provider, settings, kas_id, first, postgres, token }
    }

    async fn rewrap(&self, node: &Node, key: &KasKey) -> Result<String, String> {
        node.kas.try_key(&self.client, kid_of(key), &pem_of(key)).await
    }

    async fn generate(&self, node: &Node, kid: &str, rotates: &str) -> Result<KasKey, Status> {
        node.admin.generate(&self.provider, kid, RSA_2048, KeyMode::Remote, rotates).await
    }

    async fn generate_legacy(&self, node: &Node, kid: &str) -> Result<KasKey, Status> {
        let message = GenerateKeyRequest {
            key_id: kid.to_owned(),
            key_algorithm: RSA_2048,
            key_mode: KeyMode::Remote as i32,
            provider_config_id: self.provider.clone(),
            legacy: true,
            ..Default::default()
        };
        let made = node.admin.admin().generate_key(node.admin.request(message)).await?;
        Ok(made.into_inner().kas_key.unwrap())
    }

    /// Registers a public key.
    async fn register(&self, node: &Node, kid: &str) -> Result<KasKey, Status> {
        let public_key_ctx = self.first.key.as_ref().and_then(|key| key.public_key_ctx.clone());
        let message = CreateKeyRequest {
            kas_id: self.kas_id.clone(),
            key_id: kid.to_owned(),
            key_algorithm: RSA_2048,
            key_mode: KeyMode::PublicKeyOnly as i32,
            public_key_ctx,
            ..Default::default()
        };
        let made = node.admin.registry().create_key(node.admin.request(message)).await?;
        Ok(made.into_inner().kas_key.unwrap())
    }

    /// The kids and states of all keys, which both nodes must agree on, sorted.
    async fn keys(&self) -> Vec<(String, KeyStatus)> {
        let of = async |node: &Node| {
            let kas_filter = Some(KasFilter::KasId(self.kas_id.clone()));
            let message = ListKeysRequest { kas_filter, ..Default::default() };
            let keys = node.admin.registry().list_keys(node.admin.request(message)).await.unwrap();
            let keys = keys.into_inner().kas_keys;
            let mut keys: Vec<_> =
                keys.iter().map(|key| (kid_of(key).to_owned(), status_of(key))).collect();
            keys.sort_unstable();
            keys
        };
        let keys = of(&self.a).await;
        assert_eq!(keys, of(&self.b).await);
        keys
    }

    /// Registry and token agree, as a third node sees it. A SoftHSM that writes while another
    /// process does can overlook what that wrote, so these two would not do.
    async fn assert_nothing_half_done(&self) {
        let third = Node::start(node(&self.postgres, &self.token, "prefer-sealed").0).await;
        let findings = third.admin.reconcile(false).await;
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(psql(&self.postgres, "SELECT count(*) FROM key_intent"), "0");
    }
}

/// A server with a provider's settings for the token.
fn node(postgres: &Postgres, token: &TestToken, custody: &str) -> (Setup, Value) {
    let mut setup = Setup::new();
    setup.registry(&postgres.url());
    let settings = setup.token("softhsm", token, custody);
    (setup, settings)
}

fn kid_of(key: &KasKey) -> &str {
    &key.key.as_ref().unwrap().key_id
}

fn status_of(key: &KasKey) -> KeyStatus {
    key.key.as_ref().unwrap().key_status()
}

/// What the database answers to a superuser.
fn psql(postgres: &Postgres, statement: &str) -> String {
    let output = Command::new("psql")
        .args(["--host=127.0.0.1", "--username=postgres", "--dbname=kasbah"])
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"])
        .args([&format!("--port={}", postgres.port()), "--command", statement])
        .output()
        .unwrap_or_else(|error| panic!("psql: {error}; apt-get install postgresql-client"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{statement}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Fails until `answer` is a refusal that says `why`.
fn refused(answer: Result<String, String>, why: &str) -> Result<(), String> {
    match answer {
        Err(text) if text.contains(why) => Ok(()),
        other => Err(format!("{other:?} does not say {why}")),
    }
}

/// Of two attempts at one thing one succeeded, and the other was told so; what came of the first.
fn one_of<T: std::fmt::Debug>(outcomes: (Result<T, Status>, Result<T, Status>)) -> T {
    let ((Ok(made), Err(refused)) | (Err(refused), Ok(made))) = outcomes else {
        panic!("not one of two: {outcomes:?}")
    };
    let codes = [Code::AlreadyExists, Code::FailedPrecondition];
    assert!(codes.contains(&refused.code()), "{refused:?}");
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_node_follows_within_a_second() {
    let nodes = Nodes::start("prefer-sealed").await;
    let (a, b) = (&nodes.a, &nodes.b);

    let old = nodes.generate(a, "old", "").await.unwrap();
    within(PROMISE, async || nodes.rewrap(b, &old).await).await;

    let new = nodes.generate(b, "new", &id_of(&old)).await.unwrap();
    let pem = within(PROMISE, async || match a.admin.public_key("rsa:2048").await {
        Ok((kid, pem)) if kid == "new" => Ok(pem),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(pem, pem_of(&new));
    assert!(nodes.rewrap(a, &old).await.is_ok(), "a rotated key goes on decrypting");

    a.admin.set_state(&id_of(&old), Target::Disabled).await.unwrap();
    within(PROMISE, async || refused(nodes.rewrap(b, &old).await, "disabled")).await;
    a.admin.set_state(&id_of(&old), Target::Enabled).await.unwrap();
    within(PROMISE, async || nodes.rewrap(b, &old).await).await;
    b.admin.set_state(&id_of(&old), Target::Compromised).await.unwrap();
    within(PROMISE, async || refused(nodes.rewrap(a, &old).await, "compromised")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_node_builds_a_changed_manager_anew() {
    let nodes = Nodes::start("transient").await;
    let (a, b) = (&nodes.a, &nodes.b);
    assert_eq!(nodes.rewrap(b, &nodes.first).await.unwrap(), "transient");
    for custody in ["prefer-sealed", "transient"] {
        let mut settings = nodes.settings.clone();
        settings["custody"] = custody.into();
        let message = UpdateProviderConfigRequest {
            id: nodes.provider.clone(),
            config_json: settings.to_string().into_bytes(),
            ..Default::default()
        };
        let updated = a.admin.providers().update_provider_config(a.admin.request(message)).await;
        updated.unwrap();
        let expected = if custody == "transient" { "transient" } else { "sealed" };
        within(PROMISE, async || match nodes.rewrap(b, &nodes.first).await {
            Ok(custody) if custody == expected => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_its_node() {
    let nodes = Nodes::start("prefer-sealed").await;
    let last = nodes.generate(&nodes.a, "last", "").await.unwrap();
    let Nodes { a, b, client, .. } = nodes;
    let setup = a.server.kill();
    within(PROMISE, async || b.kas.try_key(&client, "last", &pem_of(&last)).await).await;

    let a = Node::start(setup).await;
    assert_eq!(a.admin.key("last").await.unwrap(), last);
    assert!(a.kas.try_key(&client, "last", &pem_of(&last)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_a_node_is_killed() {
    let Nodes { a, b, settings, postgres, token, .. } = Nodes::start("prefer-sealed").await;
    let acknowledged = Arc::<AtomicUsize>::default();
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (admin, settings) = (b.admin.clone(), settings.to_string());
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut names = Vec::new();
                loop {
                    let name = format!("w{writer}-{}", names.len());
                    match admin.create_provider(&name, MANAGER, &settings).await {
                        Ok(_) => names.push(name),
                        Err(error) => return (names, error),
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    within(PATIENCE, async || match acknowledged.load(Ordering::Relaxed) {
        30.. => Ok(()),
        few => Err(few),
    })
    .await;
    drop(b.server.kill());
    let mut names = vec!["main".to_owned()];
    for writer in writers {
        let (written, end) = writer.await.unwrap();
        assert!([Code::Unavailable, Code::Unknown].contains(&end.code()), "{end:?}");
        names.extend(written);
    }
    let request = a.admin.request(ListProviderConfigsRequest::default());
    let listed = a.admin.providers().list_provider_configs(request).await.unwrap().into_inner();
    let total = listed.provider_configs.len();
    for name in &names {
        let is_there = listed.provider_configs.iter().any(|provider| provider.name == *name);
        assert!(is_there, "{name} was acknowledged and lost, of {total}");
    }
    assert!(total <= names.len() + 3, "{total} are there; one per writer was not acknowledged");
    assert!(a.admin.create_provider("after", MANAGER, &settings.to_string()).await.is_ok());
    drop((postgres, token));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_rotations_happens() {
    let nodes = Nodes::start("prefer-sealed").await;
    let mut active = nodes.first.clone();
    let mut expected = Vec::new();
    for round in 0..3 {
        let (of_a, of_b) = (format!("a{round}"), format!("b{round}"));
        let id = id_of(&active);
        let made = one_of(tokio::join!(
            nodes.generate(&nodes.a, &of_a, &id),
            nodes.generate(&nodes.b, &of_b, &id)
        ));
        expected.push((kid_of(&active).to_owned(), KeyStatus::Rotated));
        active = made;
    }
    expected.push((kid_of(&active).to_owned(), KeyStatus::Active));
    expected.sort_unstable();
    assert_eq!(nodes.keys().await, expected);
    nodes.assert_nothing_half_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_keys_of_a_kid_is_made() {
    let nodes = Nodes::start("prefer-sealed").await;
    for kid in ["k1", "k2", "k3"] {
        let made = one_of(tokio::join!(
            nodes.generate(&nodes.a, kid, ""),
            nodes.generate(&nodes.b, kid, "")
        ));
        for node in [&nodes.a, &nodes.b] {
            within(PROMISE, async || nodes.rewrap(node, &made).await).await;
        }
        let registered = format!("{kid}-registered");
        one_of(tokio::join!(
            nodes.register(&nodes.a, &registered),
            nodes.register(&nodes.b, &registered)
        ));
    }
    assert_eq!(nodes.keys().await.len(), 7);
    nodes.assert_nothing_half_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_legacy_keys_is_made() {
    let nodes = Nodes::start("prefer-sealed").await;
    let made = one_of(tokio::join!(
        nodes.generate_legacy(&nodes.a, "l1"),
        nodes.generate_legacy(&nodes.b, "l2")
    ));
    assert!(made.key.as_ref().unwrap().legacy);
    let refused = nodes.generate_legacy(&nodes.b, "l3").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(nodes.keys().await.len(), 2);
    nodes.assert_nothing_half_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_base_key() {
    let nodes = Nodes::start("prefer-sealed").await;
    let second = nodes.generate(&nodes.b, "second", "").await.unwrap();
    let (first, second) = (id_of(&nodes.first), id_of(&second));
    for _ in 0..10 {
        let (a, b) = tokio::join!(nodes.a.admin.set_base(&first), nodes.b.admin.set_base(&second));
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
        assert_eq!(psql(&nodes.postgres, "SELECT count(*) FROM base_key"), "1");
        let of = async |node: &Node| {
            let request = node.admin.request(GetBaseKeyRequest {});
            let base = node.admin.registry().get_base_key(request).await.unwrap();
            base.into_inner().base_key.unwrap()
        };
        assert_eq!(of(&nodes.a).await, of(&nodes.b).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_carries_a_change_when_notifications_are_lost() {
    const LISTENERS: &str = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let nodes = Nodes::start("prefer-sealed").await;
    let count = || psql(&nodes.postgres, &format!("SELECT count(*) {LISTENERS}"));
    assert_eq!(count(), "2", "each node listens");
    // Nobody can connect again, so each node needs enough connections as it is.
    for node in [&nodes.a, &nodes.b] {
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let admin = node.admin.clone();
                tokio::spawn(async move { admin.states().await })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    }
    psql(&nodes.postgres, "ALTER ROLE kasbah NOLOGIN");
    psql(&nodes.postgres, &format!("SELECT pg_terminate_backend(pid) {LISTENERS}"));
    for round in 0..3 {
        let (from, to) = if round % 2 == 0 { (&nodes.a, &nodes.b) } else { (&nodes.b, &nodes.a) };
        let id = id_of(&nodes.first);
        from.admin.set_state(&id, Target::Disabled).await.unwrap();
        let answer = async || refused(nodes.rewrap(to, &nodes.first).await, "disabled");
        within(PROMISE, answer).await;
        from.admin.set_state(&id, Target::Enabled).await.unwrap();
        within(PROMISE, async || nodes.rewrap(to, &nodes.first).await).await;
    }
    assert_eq!(count(), "0", "nobody was listening");
    psql(&nodes.postgres, "ALTER ROLE kasbah LOGIN");
    within(PATIENCE, async || match count() {
        both if both == "2" => Ok(()),
        other => Err(other),
    })
    .await;
}
