//! A server with an `OpenID` provider: where its keys come from, what happens when it fails, and
//! what several nodes have in common.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failing test")]

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{PrivateKeyParts, envelope::RootKey};
use kasbah_system_tests::{
    admin::{Admin, RSA_2048},
    client::random_dek,
    dev::Dev,
    issuer::AUDIENCE,
    oidc::{Asker, Holder, Secret, TokenClient, challenge},
    poll::within,
    server::{Server, Setup},
};
use kasbah_testkit::{
    golden,
    oidc::{Fault, Settings, SigningAlgorithm, TestIssuer, TokenType},
    postgres::Postgres,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

const KID: &str = "k1";
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
/// For what happens by itself, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(45);

/// The PEM of the only key, and its private half wrapped by the root key.
fn key() -> (String, String) {
    let public = PrivateKeyParts::from_pem(golden::PRIVATE_KEY).unwrap().public_key();
    let root = RootKey::from_hex(ROOT).unwrap();
    (public.to_pem(), wrap_private_key(&root, golden::PRIVATE_KEY).unwrap())
}

/// A configuration with the key in its keyring.
fn keyring(auth: Value) -> Setup {
    let (public, wrapped) = key();
    let mut setup = Setup::new();
    setup.write("root", ROOT);
    setup.write("key.pem", public);
    setup.write("key.b64", wrapped);
    setup.config["secrets"]["root1"] = json!({ "file": "root" });
    setup.key(json!({
        "kid": KID, "algorithm": "rsa:2048", "public_key_file": "key.pem",
        "wrapped_key_file": "key.b64", "wrapping_key": "root1",
    }));
    setup.config["auth"] = auth;
    setup
}

/// Settings for the tokens of `issuer`, whose keys are old after a second.
fn auth(issuer: &TestIssuer) -> Value {
    json!({
        "mode": "oidc", "issuer": issuer.issuer_url(), "audience": AUDIENCE,
        "key_refresh_seconds": 1,
    })
}

fn asker(server: &Server) -> Asker {
    Asker::at(server.url(), KID, &key().0)
}

/// Another token each time, so that no answer is remembered.
fn token(issuer: &TestIssuer) -> String {
    issuer.token(&json!({ "jti": hex::encode(random_dek()) }))
}

fn bound(issuer: &TestIssuer, holder: &Holder) -> String {
    issuer.token(&json!({ "cnf": { "jkt": holder.thumbprint() } }))
}

/// Whether the connection ended before anybody answered; which code that gets depends on how far
/// the handshake had come.
fn is_cut_off(status: &Status) -> bool {
    std::error::Error::source(status)
        .is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>)
}

fn assert_unavailable(status: &Status) {
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "authentication unavailable")
    );
}

fn assert_refused(answer: Result<(), Status>, what: &str) {
    let status = answer.expect_err(what);
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "unauthenticated"),
        "{what}"
    );
}

/// Waits until the log has `text`, from byte `from` on.
async fn logged(server: &Server, from: usize, text: &str) {
    within(PATIENCE, async || {
        let log = server.log();
        if log[from..].contains(text) { Ok(()) } else { Err(format!("no `{text}` in {log}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_once_before_anybody_calls() {
    let issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["key_refresh_seconds"] = 900.into();
    let server = keyring(settings).serve();
    let asker = asker(&server);
    // What needs no token, and what is no token, is answered without asking again.
    Admin::new(server.url(), "x", AUDIENCE).public_key("rsa:2048").await.unwrap();
    assert_refused(asker.bearer("not-a-token").await, "no token");
    let stranger = issuer.token(&json!({ "iss": "https://somebody.example" }));
    assert_refused(asker.bearer(&stranger).await, "another issuer");
    within(PATIENCE, async || match issuer.fetches().jwks {
        0 => Err("nobody asked"),
        _ => Ok(()),
    })
    .await;
    for _ in 0..20 {
        asker.bearer(&token(&issuer)).await.unwrap();
    }
    let fetches = issuer.fetches();
    assert_eq!((fetches.discovery, fetches.jwks), (1, 1), "asked once for all");
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_issuer() {
    let mut issuer = TestIssuer::start().await;
    issuer.stop().await;
    let server = keyring(auth(&issuer)).serve();
    let asker = asker(&server);
    let good = token(&issuer);
    for _ in 0..3 {
        assert_unavailable(&asker.bearer(&good).await.unwrap_err());
    }
    logged(&server, 0, "the issuer cannot be reached").await;
    issuer.start_again().await;
    within(PATIENCE, async || asker.bearer(&good).await).await;
    logged(&server, 0, "the issuer's keys can be fetched again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_outlive_the_issuer_until_the_limit() {
    let limit = Duration::from_secs(6);
    let mut issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["key_stale_limit_seconds"] = limit.as_secs().into();
    // The keys cannot be older than this.
    let begun = Instant::now();
    let server = keyring(settings).serve();
    let asker = asker(&server);
    let remembered = token(&issuer);
    asker.bearer(&remembered).await.unwrap();
    issuer.stop().await;
    let (worked, refusal) = until_refused(&asker, &issuer, &remembered).await;
    assert!(begun.elapsed() >= limit, "given up after {:?}", begun.elapsed());
    assert!(worked > 0, "no token worked while the issuer was down");
    assert_unavailable(&refusal);
    for _ in 0..3 {
        let forged = format!("{}x", token(&issuer));
        for token in [&remembered, &token(&issuer), &forged] {
            assert_unavailable(&asker.bearer(token).await.unwrap_err());
        }
    }
    issuer.start_again().await;
    within(PATIENCE, async || asker.bearer(&remembered).await).await;
    asker.bearer(&token(&issuer)).await.unwrap();
}

/// How often a remembered and a fresh token worked, and how that ended.
async fn until_refused(asker: &Asker, issuer: &TestIssuer, remembered: &str) -> (usize, Status) {
    let start = Instant::now();
    let mut worked = 0;
    loop {
        for token in [remembered, &token(issuer)] {
            match asker.bearer(token).await {
                Ok(()) => worked += 1,
                Err(status) => return (worked, status),
            }
        }
        assert!(start.elapsed() < PATIENCE, "it still rewraps");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_a_restart() {
    let issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["key_refresh_seconds"] = 900.into();
    let server = keyring(settings).serve();
    let asker = asker(&server);
    let first = token(&issuer);
    asker.bearer(&first).await.unwrap();
    issuer.rotate();
    // Nothing is due, so it is the unknown key that has them asked for.
    let second = token(&issuer);
    asker.bearer(&second).await.unwrap();
    asker.bearer(&first).await.unwrap();
    assert_eq!(issuer.fetches().jwks, 2);

    // Two rotations later the first key is gone, and with it the token that was remembered. The
    // next look for an unknown key may be ten seconds away.
    issuer.rotate();
    issuer.rotate();
    let last = token(&issuer);
    within(PATIENCE, async || asker.bearer(&last).await).await;
    assert_refused(asker.bearer(&first).await, "a key that was taken away");
    assert_refused(asker.bearer(&second).await, "a key that was taken away");
    asker.bearer(&last).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_known_is_looked_for() {
    let mut issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["key_refresh_seconds"] = 900.into();
    let server = keyring(settings).serve();
    let asker = asker(&server);
    let good = token(&issuer);
    asker.bearer(&good).await.unwrap();

    // Who sends tokens of keys that nobody has does not get the issuer asked each time.
    let forger = TestIssuer::start().await;
    let start = Instant::now();
    for _ in 0..40 {
        forger.rotate();
        let forged = forger.token(&json!({ "iss": issuer.issuer_url() }));
        assert_refused(asker.bearer(&forged).await, "a key of somebody else");
    }
    let most = 2 + start.elapsed().as_secs() / 10;
    let asked = issuer.fetches().jwks as u64;
    assert!((2..=most).contains(&asked), "asked {asked} times in {:?}", start.elapsed());
    asker.bearer(&good).await.unwrap();

    issuer.rotate();
    let new = token(&issuer);
    issuer.stop().await;
    // For as long as a look for a key is not due again, it is just not known.
    let status = within(PATIENCE, async || match asker.bearer(&new).await.unwrap_err() {
        status if status.code() == Code::Unavailable => Ok(status),
        other => Err(other),
    })
    .await;
    assert_unavailable(&status);
    assert_unavailable(&asker.bearer(&new).await.unwrap_err());
    asker.bearer(&good).await.unwrap();
    issuer.start_again().await;
    within(PATIENCE, async || asker.bearer(&new).await).await;
}

/// Every fault of an issuer, and what the log says of it. One after another has another reason.
const FAULTS: [(Fault, &str); 6] = [
    (Fault::ServerError, "the issuer did not answer with 200"),
    (Fault::GarbageJwks, "the issuer's JWKS is not a JSON Web Key Set"),
    (Fault::Redirect, "the issuer did not answer with 200"),
    (Fault::OversizedJwks, "the issuer cannot be reached, or its answer cannot be read"),
    (Fault::OtherIssuer, "the issuer's discovery document names another issuer"),
    (Fault::Slow(Duration::from_hours(1)), "the issuer did not answer in time"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_an_issuer_lets_anybody_in() {
    let issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["fetch_timeout_seconds"] = 2.into();
    // Keys are fetched when the server starts.
    issuer.set_fault(FAULTS[0].0);
    let server = keyring(settings).serve();
    let asker = asker(&server);
    let mut from = 0;
    for (fault, reason) in FAULTS {
        issuer.set_fault(fault);
        within(PATIENCE, async || {
            assert_unavailable(&asker.bearer(&token(&issuer)).await.unwrap_err());
            let log = server.log();
            if log[from..].contains(reason) { Ok(()) } else { Err(format!("{fault:?}: {log}")) }
        })
        .await;
        from = server.log().len();
    }
    issuer.set_fault(None);
    within(PATIENCE, async || asker.bearer(&token(&issuer)).await).await;
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_an_issuer_takes_known_keys_away() {
    let issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["fetch_timeout_seconds"] = 2.into();
    let server = keyring(settings).serve();
    let asker = asker(&server);
    asker.bearer(&token(&issuer)).await.unwrap();
    for (fault, reason) in FAULTS {
        let from = server.log().len();
        issuer.set_fault(fault);
        within(PATIENCE, async || {
            asker.bearer(&token(&issuer)).await.unwrap();
            let log = server.log();
            if log[from..].contains(reason) { Ok(()) } else { Err(format!("{fault:?}: {log}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_issuer_slows_nobody_down_whose_key_is_known() {
    let (slow, other) = (TestIssuer::start().await, TestIssuer::start().await);
    let timeout = Duration::from_mins(1);
    let server = keyring(json!({
        "mode": "oidc", "key_refresh_seconds": 1, "fetch_timeout_seconds": timeout.as_secs(),
        "issuers": [
            { "issuer": slow.issuer_url(), "audience": AUDIENCE },
            { "issuer": other.issuer_url(), "audience": AUDIENCE },
        ],
    }))
    .serve();
    let asker = asker(&server);
    asker.bearer(&token(&slow)).await.unwrap();
    slow.set_fault(Fault::Slow(Duration::from_hours(1)));
    let before = slow.fetches().discovery;
    within(PATIENCE, async || {
        asker.bearer(&token(&slow)).await.unwrap();
        if slow.fetches().discovery > before { Ok(()) } else { Err("it is not asked") }
    })
    .await;
    // From here on one question waits for a minute, and nothing else with it.
    let start = Instant::now();
    for _ in 0..20 {
        asker.bearer(&token(&slow)).await.unwrap();
        asker.bearer(&token(&other)).await.unwrap();
    }
    assert!(start.elapsed() < timeout / 2, "40 calls took {:?}", start.elapsed());
    assert_eq!(slow.fetches().discovery, before + 1, "one question at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_issuer_has_its_own_keys_and_audience() {
    const OTHER: &str = "urn:example:partner";
    let mut staff = TestIssuer::start().await;
    let as_others_do = |settings: &mut Settings| {
        (settings.algorithm, settings.token_type) = (SigningAlgorithm::Es256, TokenType::Jwt);
    };
    let partner = TestIssuer::with(as_others_do).await;
    let stranger = TestIssuer::start().await;
    let server = keyring(json!({
        "mode": "oidc", "key_stale_limit_seconds": 3, "key_refresh_seconds": 1,
        "issuers": [
            { "issuer": staff.issuer_url(), "audience": AUDIENCE },
            { "issuer": partner.issuer_url(), "audience": OTHER, "algorithms": ["ES256"] },
        ],
    }))
    .serve();
    let asker = asker(&server);
    let for_partner = || partner.token(&json!({ "aud": [OTHER, "urn:example:else"] }));
    asker.bearer(&token(&staff)).await.unwrap();
    asker.bearer(&for_partner()).await.unwrap();
    for (what, token) in [
        ("the audience of the other issuer", staff.token(&json!({ "aud": OTHER }))),
        ("the audience of the first", partner.token(&json!({}))),
        ("no audience", partner.token(&json!({ "aud": null }))),
        (
            "a key of the other issuer",
            staff.token(&json!({ "iss": partner.issuer_url(), "aud": OTHER })),
        ),
        (
            "a key of the other issuer for all",
            partner.token(&json!({ "iss": staff.issuer_url(), "aud": [AUDIENCE, OTHER] })),
        ),
        ("no issuer", staff.token(&json!({ "iss": null }))),
        ("an issuer that is not configured", token(&stranger)),
        ("too old", staff.token(&json!({ "exp": 1_700_000_000 }))),
    ] {
        assert_refused(asker.bearer(&token).await, what);
    }
    assert_eq!(stranger.fetches().discovery, 0, "only those that are configured are asked");

    staff.stop().await;
    let status = within(PATIENCE, async || {
        asker.bearer(&for_partner()).await.unwrap();
        asker.bearer(&token(&staff)).await.err().ok_or("it still rewraps")
    })
    .await;
    assert_unavailable(&status);
    asker.bearer(&for_partner()).await.unwrap();
    staff.start_again().await;
    within(PATIENCE, async || asker.bearer(&token(&staff)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_gives_no_roles_makes_no_administrators() {
    let (staff, partner) = (TestIssuer::start().await, TestIssuer::start().await);
    let mut setup = Setup::new();
    setup.registry("sqlite:registry.db");
    setup.config["auth"] = json!({ "mode": "oidc", "issuers": [
        { "issuer": staff.issuer_url(), "audience": AUDIENCE, "gives_roles": true },
        { "issuer": partner.issuer_url(), "audience": AUDIENCE, "gives_roles": false },
    ]});
    let server = setup.serve();
    let claims = json!({ "realm_access": { "roles": ["opentdf-admin", "opentdf-standard"] } });
    let make = async |issuer: &TestIssuer, name: &str| {
        let admin = Admin::new(server.url(), &issuer.token(&claims), AUDIENCE);
        admin.create_provider(name, "opentdf.io/basic", "{}").await.map(drop)
    };
    make(&staff, "staff").await.unwrap();
    let denied = make(&partner, "partner").await.unwrap_err();
    assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "permission denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_for_one_call_to_this_server() {
    let issuer = TestIssuer::start().await;
    let mut settings = auth(&issuer);
    settings["min_proof"] = json!({ "keys": { KID: "dpop" } });
    let server = keyring(settings).serve();
    let asker = asker(&server);
    for holder in [Holder::ec(), Holder::rsa()] {
        let token = bound(&issuer, &holder);
        asker.proven(&token, &holder).await.unwrap();
        let changed = |name: &str, value: Value| {
            let mut claims = holder.rewrap_claims(&token);
            claims[name] = value;
            holder.proof(&claims)
        };
        let thief = Holder::ec();
        let good = holder.rewrap_proof(&token);
        for (what, proof) in [
            ("another method", changed("htm", "GET".into())),
            (
                "another server",
                changed("htu", "http://elsewhere.example/kas.AccessService/Rewrap".into()),
            ),
            ("another call", changed("htu", format!("{AUDIENCE}/kas.AccessService/Else").into())),
            ("another token", changed("ath", "x".into())),
            ("too old", changed("iat", 1_700_000_000.into())),
            ("another key", thief.rewrap_proof(&token)),
            ("no JWS", "e30.e30.e30".to_owned()),
        ] {
            let answer = asker.with_proof(&token, &proof, &holder).await.map(drop);
            let status = answer.as_ref().expect_err(what);
            assert_eq!(challenge(status).0, Some("DPoP error=\"invalid_dpop_proof\""), "{what}");
            assert_refused(answer, what);
        }
        let without = asker.send(&format!("DPoP {token}"), &[], &holder).await.map(drop);
        assert_refused(without, "no proof");
        let other = holder.rewrap_proof(&token);
        let two = asker.send(&format!("DPoP {token}"), &[&good, &other], &holder).await.map(drop);
        assert_refused(two, "two proofs");
        // Where the data key is to be sent has to be signed by the same key.
        let status = asker.with_proof(&token, &good, &thief).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let again = asker.with_proof(&token, &good, &holder).await.map(drop);
        assert_refused(again, "a proof that was used, whatever came of the call");
        let log = server.log();
        assert!(!log.contains(&token) && !log.contains(&good), "neither is logged");
    }
    // The server takes a plain token; the key does not.
    let plain = token(&issuer);
    let refused = asker.send(&format!("Bearer {plain}"), &[], &Holder::ec()).await.unwrap();
    let refused = refused.custody.unwrap_err();
    assert!(refused.contains("this key needs a token bound to a key"), "{refused}");
}

/// A node of a registry with the key in it.
fn node(postgres: &Postgres, issuer: &TestIssuer, replay: &str) -> Server {
    let mut setup = Setup::new();
    setup.registry(&postgres.url());
    setup.root_key("root1", ROOT);
    setup.config["auth"] = auth(issuer);
    setup.config["auth"]["dpop"] = json!({ "replay": replay });
    setup.serve()
}

/// Two nodes with one key, which both have used.
async fn nodes(postgres: &Postgres, issuer: &TestIssuer, replay: &str) -> [(Server, Asker); 2] {
    let nodes = [node(postgres, issuer, replay), node(postgres, issuer, replay)];
    let token = issuer.token(&json!({ "realm_access": { "roles": ["opentdf-admin"] } }));
    let admin = Admin::new(nodes[0].url(), &token, AUDIENCE);
    let kas = admin.create_kas().await;
    let (public, wrapped) = key();
    admin.create_wrapped(&kas, KID, RSA_2048, &public, ("root1", &wrapped)).await.unwrap();
    let nodes = nodes.map(|server| {
        let asker = asker(&server);
        (server, asker)
    });
    for (_, asker) in &nodes {
        let plain = format!("Bearer {token}");
        within(PATIENCE, async || {
            let opened = asker.send(&plain, &[], &Holder::ec()).await.map_err(|it| it.to_string());
            opened?.custody
        })
        .await;
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_one_node_has_seen_is_good_at_no_other() {
    let (issuer, mut postgres) = (TestIssuer::start().await, Postgres::start());
    let [(_first, a), (second, b)] = nodes(&postgres, &issuer, "database").await;
    let holder = Holder::ec();
    let token = bound(&issuer, &holder);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let proof = holder.rewrap_proof(&token);
        one.with_proof(&token, &proof, &holder).await.unwrap();
        for node in [other, one, other] {
            let again = node.with_proof(&token, &proof, &holder).await.map(drop);
            assert_refused(again, "a proof that was used");
        }
        other.proven(&token, &holder).await.unwrap();
    }
    logged(&second, 0, "the proof was used before").await;

    // Of two that come at the same time one is let in.
    for _ in 0..10 {
        let proof = holder.rewrap_proof(&token);
        let (at_a, at_b) = tokio::join!(
            a.with_proof(&token, &proof, &holder),
            b.with_proof(&token, &proof, &holder),
        );
        assert!(at_a.is_ok() != at_b.is_ok(), "{at_a:?} {at_b:?}");
    }

    // Nobody knows what was used before.
    postgres.stop();
    assert_unavailable(&a.proven(&token, &holder).await.unwrap_err());
    assert_unavailable(&b.proven(&token, &holder).await.unwrap_err());
    postgres.start_again();
    within(PATIENCE, async || a.proven(&token, &holder).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_share_nothing_each_take_a_proof_once() {
    let (issuer, postgres) = (TestIssuer::start().await, Postgres::start());
    let [(_first, a), (_second, b)] = nodes(&postgres, &issuer, "node").await;
    let holder = Holder::ec();
    let token = bound(&issuer, &holder);
    let proof = holder.rewrap_proof(&token);
    for node in [&a, &b] {
        node.with_proof(&token, &proof, &holder).await.unwrap();
        let again = node.with_proof(&token, &proof, &holder).await.map(drop);
        assert_refused(again, "a proof that was used");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_one_secret_know_each_others_nonces() {
    let issuer = TestIssuer::start().await;
    let serve = |secret: Option<&str>| {
        let mut settings = auth(&issuer);
        settings["dpop"] = json!({ "require_nonce": true, "nonce_seconds": 3600 });
        if secret.is_some() {
            settings["dpop"]["nonce_secret"] = "nonces".into();
        }
        let mut setup = keyring(settings);
        if let Some(secret) = secret {
            setup.write("nonces", secret);
            setup.config["secrets"]["nonces"] = json!({ "file": "nonces" });
        }
        setup.serve()
    };
    let secret = "0123456789abcdef0123456789abcdef";
    let servers = [Some(secret), Some(secret), None].map(serve);
    let [a, b, alone] = servers.each_ref().map(asker);
    let holder = Holder::ec();
    let token = bound(&issuer, &holder);
    let with_nonce = |nonce: &str| {
        let mut claims = holder.rewrap_claims(&token);
        claims["nonce"] = nonce.into();
        holder.proof(&claims)
    };
    let needs_nonce = async |node: &Asker, proof: &str| {
        let status = node.with_proof(&token, proof, &holder).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let (challenge, nonce) = challenge(&status);
        assert_eq!(challenge, Some("DPoP error=\"use_dpop_nonce\""));
        nonce.unwrap().to_owned()
    };
    let nonce = needs_nonce(&a, &holder.rewrap_proof(&token)).await;
    for node in [&a, &b] {
        // A proof that was refused for its nonce alone is not used up, and neither is a nonce.
        for _ in 0..2 {
            let next = node.with_proof(&token, &with_nonce(&nonce), &holder).await.unwrap();
            b.with_proof(&token, &with_nonce(&next.unwrap()), &holder).await.unwrap();
        }
    }
    let own = needs_nonce(&alone, &with_nonce(&nonce)).await;
    alone.with_proof(&token, &with_nonce(&own), &holder).await.unwrap();
    needs_nonce(&a, &with_nonce(&own)).await;
    needs_nonce(&b, &with_nonce("made-up")).await;
    // A token without a key has nothing to prove.
    a.bearer(&issuer.token(&json!({}))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throw_away_server_has_an_issuer_of_bound_tokens() {
    let dev = Dev::start();
    let client = TokenClient {
        endpoint: format!("{}/protocol/openid-connect/token", dev.told("issuer")),
        id: dev.told("client_id").to_owned(),
        secret: dev.told("client_secret").to_owned(),
    };
    let asker =
        Asker::at(dev.url().to_owned(), "r1", dev.ready["keys"][0]["public_key"].as_str().unwrap());
    for (secret, holder) in [(Secret::Basic, Holder::ec()), (Secret::Form, Holder::rsa())] {
        let token = client.token(secret, Some(&holder)).await;
        let mut claims = holder.rewrap_claims(&token);
        claims["htu"] = format!("{}/kas.AccessService/Rewrap", dev.url()).into();
        let proof = holder.proof(&claims);
        asker.with_proof(&token, &proof, &holder).await.unwrap();
        let again = asker.with_proof(&token, &proof, &holder).await.map(drop);
        assert_refused(again, "a proof that was used");
        assert_refused(asker.bearer(&token).await, "no proof");
        asker.bearer(&client.token(secret, None).await).await.unwrap();
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate, and what tokens call it.
struct Certified {
    pem: String,
    key: String,
    thumbprint: String,
}

fn certified(by: &Authority, purpose: ExtendedKeyUsagePurpose) -> Certified {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![purpose];
    let certificate = params.signed_by(&key, by).unwrap();
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, certificate.der()));
    Certified { pem: certificate.pem(), key: key.serialize_pem(), thumbprint }
}

/// A server with TLS, and a way to connect to it.
fn with_tls(
    issuer: &TestIssuer,
    ours: &Authority,
    client_certificates: &str,
) -> (Server, impl Fn(Option<&Certified>) -> Asker) {
    let own = certified(ours, ExtendedKeyUsagePurpose::ServerAuth);
    let mut settings = auth(issuer);
    settings["min_proof"] = json!({ "keys": { KID: "mtls" } });
    let mut setup = keyring(settings);
    setup.write("server.pem", &own.pem);
    setup.write("server.key", &own.key);
    setup.write("ca.pem", ours.pem());
    setup.config["secrets"]["tls"] = json!({ "file": "server.key" });
    setup.config["server"]["tls"] = json!({
        "certificate_file": "server.pem", "private_key": "tls", "client_ca_file": "ca.pem",
        "client_certificates": client_certificates,
    });
    let server = setup.serve();
    let port = server.address.rsplit_once(':').unwrap().1.to_owned();
    let ca = ours.pem();
    let connect = move |identity: Option<&Certified>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca));
        if let Some(identity) = identity {
            tls = tls.identity(Identity::from_pem(&identity.pem, &identity.key));
        }
        let channel = Channel::from_shared(format!("https://localhost:{port}")).unwrap();
        Asker::new(channel.tls_config(tls).unwrap().connect_lazy(), KID, &key().0)
    };
    (server, connect)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_certificate_is_good_on_its_connections() {
    let issuer = TestIssuer::start().await;
    let (ours, theirs) = (authority(), authority());
    let (server, connect) = with_tls(&issuer, &ours, "optional");
    let [alice, bob] = [(); 2].map(|()| certified(&ours, ExtendedKeyUsagePurpose::ClientAuth));
    let token = |who: &Certified| issuer.token(&json!({ "cnf": { "x5t#S256": who.thumbprint } }));

    connect(Some(&alice)).bearer(&token(&alice)).await.unwrap();
    assert_eq!(server.audit()[0]["eventMetaData"]["kasbah"]["proof"], "mtls");
    assert_refused(connect(None).bearer(&token(&alice)).await, "no certificate");
    assert_refused(connect(Some(&bob)).bearer(&token(&alice)).await, "another certificate");
    // One that only somebody else vouches for does not get as far as a token.
    let mallory = certified(&theirs, ExtendedKeyUsagePurpose::ClientAuth);
    let status = connect(Some(&mallory)).bearer(&token(&mallory)).await.unwrap_err();
    assert!(is_cut_off(&status), "{status}");

    // A token that is bound to nothing is let in, but not to this key; and neither is one that is
    // bound to a key of another kind, nor one that comes with somebody's certificate.
    let holder = Holder::ec();
    let plain = issuer.token(&json!({}));
    let by_key = bound(&issuer, &holder);
    let proof = holder.rewrap_proof(&by_key);
    for (authorization, proofs) in
        [(format!("Bearer {plain}"), &[][..]), (format!("DPoP {by_key}"), &[proof.as_str()])]
    {
        let opened = connect(Some(&alice)).send(&authorization, proofs, &holder).await.unwrap();
        let refused = opened.custody.unwrap_err();
        assert!(refused.contains("bound to a client certificate"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_be_required_of_everybody() {
    let (issuer, ours) = (TestIssuer::start().await, authority());
    let (_server, connect) = with_tls(&issuer, &ours, "required");
    let alice = certified(&ours, ExtendedKeyUsagePurpose::ClientAuth);
    let token = issuer.token(&json!({ "cnf": { "x5t#S256": alice.thumbprint } }));
    connect(Some(&alice)).bearer(&token).await.unwrap();
    let status = connect(None).bearer(&token).await.unwrap_err();
    assert!(is_cut_off(&status), "{status}");
    connect(Some(&alice)).bearer(&token).await.unwrap();
}
