//! The life of keys, from the first provider configuration to the last deletion, through calls
//! alone.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{fs, process::Output};

use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Algorithm, Curve, PrivateKeyParts, envelope::RootKey};
use kasbah_pkcs11::provision;
use kasbah_proto::{
    kasbah::admin::v1::{ListProviderHealthRequest, WrapKeysAgainRequest, finding::Kind},
    policy::{
        KeyMode, KeyStatus, keymanagement::DeleteProviderConfigRequest,
        r#unsafe::UnsafeDeleteKasKeyRequest,
    },
};
use kasbah_system_tests::{
    admin::{Admin, EC_P256, RSA_2048, id_of, pem_of},
    client::{Kas, POLICY, SessionKey, kao, random_dek},
    server::{Server, Setup, kasbah},
    token,
};
use kasbah_testkit::{
    postgres::Postgres,
    tokens::{Kryoptic, SoftHsm, TestToken},
};
use serde_json::json;
use tonic::{Code, Status};

const HSM: &str = "opentdf.io/hsm";
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const OTHER_ROOT: &str = "ff2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3eff";

/// A server with a registry and a token, and what its provider configuration says.
fn start(token: &TestToken, database: &str) -> (Server, Admin, String) {
    let mut setup = Setup::new();
    setup.registry(database);
    setup.root_key("root1", ROOT);
    setup.root_key("root2", OTHER_ROOT);
    let settings = setup.token("t", token, "prefer-sealed").to_string();
    let server = setup.serve();
    let admin = server.admin();
    (server, admin, settings)
}

/// A key wrapped by a root key: PEM of its public half, and what is stored.
fn wrapped_key(algorithm: Algorithm) -> (String, String) {
    let key = PrivateKeyParts::generate(algorithm).unwrap();
    let root = RootKey::from_hex(ROOT).unwrap();
    let wrapped = wrap_private_key(&root, &key.to_pem().unwrap()).unwrap();
    (key.public_key().to_pem(), wrapped)
}

async fn opens(kas: &Kas, kid: &str, pem: &str) -> Result<String, String> {
    kas.try_key(&SessionKey::rsa(), kid, pem).await
}

async fn delete_provider(admin: &Admin, id: &str) -> Result<(), Status> {
    let message = DeleteProviderConfigRequest { id: id.to_owned() };
    admin.providers().delete_provider_config(admin.request(message)).await.map(drop)
}

async fn delete_key(admin: &Admin, kid: &str) -> Result<(), Status> {
    let key = admin.key(kid).await?;
    let message = UnsafeDeleteKasKeyRequest {
        id: id_of(&key),
        kid: kid.to_owned(),
        kas_uri: admin.kas_uri.clone(),
    };
    admin.unsafe_keys().unsafe_delete_kas_key(admin.request(message)).await.map(drop)
}

async fn the_whole_life(database: &str) {
    let token = SoftHsm::fresh();
    let (server, admin, settings) = start(&token, database);
    let kas = server.connect("alice").await;
    let kas_id = admin.create_kas().await;
    let provider = admin.create_provider("Main", HSM, &settings).await.unwrap();
    let g1 = admin.generate(&provider, "g1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    admin.set_base(&id_of(&g1)).await.unwrap();
    let (kid, pem) = admin.public_key("rsa:2048").await.unwrap();
    assert_eq!((&*kid, &pem), ("g1", &pem_of(&g1)));

    // A TDF of today, opened before and after the rotation.
    let dek = random_dek();
    let old_tdf = kao("g1", &pem, &dek, POLICY);
    let client = SessionKey::rsa();
    let opened = kas.rewrap_one(&client, POLICY, &old_tdf).await.unwrap();
    assert_eq!((&opened.dek, &*opened.custody), (&dek, "sealed"));
    let g2 = admin.generate(&provider, "g2", RSA_2048, KeyMode::Remote, &id_of(&g1)).await;
    let g2 = g2.unwrap();
    let old = admin.key("g1").await.unwrap();
    assert_eq!(old.key.unwrap().key_status, KeyStatus::Rotated as i32);
    assert_eq!(kas.rewrap_one(&client, POLICY, &old_tdf).await.unwrap().dek, dek);
    let (kid, pem) = admin.public_key("rsa:2048").await.unwrap();
    assert_eq!((&*kid, &pem), ("g2", &pem_of(&g2)), "new TDFs use the new key");
    assert_eq!(opens(&kas, "g2", &pem).await.unwrap(), "sealed");
    assert!(admin.reconcile(false).await.is_empty());
    let again = admin.generate(&provider, "g2", RSA_2048, KeyMode::Remote, "").await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);

    let in_use = delete_provider(&admin, &provider).await.unwrap_err();
    assert_eq!(
        (in_use.code(), in_use.message()),
        (Code::InvalidArgument, "resource relation invalid")
    );
    let base = delete_key(&admin, "g2").await.unwrap_err();
    assert_eq!((base.code(), base.message()), (Code::InvalidArgument, "resource relation invalid"));
    let (pem, wrapped) = wrapped_key(Algorithm::Ec(Curve::P256));
    let b1 = admin.create_wrapped(&kas_id, "b1", EC_P256, &pem, ("root1", &wrapped)).await;
    admin.set_base(&id_of(&b1.unwrap())).await.unwrap();
    for kid in ["g1", "g2"] {
        delete_key(&admin, kid).await.unwrap();
    }
    delete_provider(&admin, &provider).await.unwrap();
    let gone = delete_provider(&admin, &provider).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let refused = kas.rewrap_one(&client, POLICY, &old_tdf).await.unwrap_err();
    assert!(refused.contains("bad request"), "its key is not known any more: {refused}");
    assert_eq!(opens(&kas, "b1", &pem).await.unwrap(), "transient");
}

#[tokio::test]
async fn the_whole_life_on_sqlite() {
    the_whole_life("sqlite:registry.db").await;
}

#[tokio::test]
async fn the_whole_life_on_postgres() {
    the_whole_life(&Postgres::start().url()).await;
}

/// Keys outside of the token, wrapped by a key in it; they serve a server that is started anew.
async fn keys_wrapped_by_the_token_serve(token: TestToken) {
    let (server, admin, settings) = start(&token, "sqlite:registry.db");
    admin.create_kas().await;
    let provider = admin.create_provider("main", HSM, &settings).await.unwrap();
    let mut keys = Vec::new();
    for (kid, algorithm) in [("w1", RSA_2048), ("w2", EC_P256), ("w3", RSA_2048)] {
        let mode = KeyMode::ProviderRootKey;
        let key = admin.generate(&provider, kid, algorithm, mode, "").await.unwrap();
        let context = key.key.as_ref().unwrap().private_key_ctx.clone().unwrap();
        assert!(!context.wrapped_key.is_empty());
        keys.push((kid, pem_of(&key)));
    }
    let kas = server.connect("alice").await;
    let check = async |kas: &Kas| {
        for (kid, pem) in &keys {
            let custody = opens(kas, kid, pem).await.unwrap();
            let expected = if *kid == "w2" { &["sealed", "transient"][..] } else { &["sealed"] };
            assert!(expected.contains(&&*custody), "{kid}: {custody}");
        }
    };
    check(&kas).await;
    let states = admin.states().await;
    assert!(states.iter().all(|state| state.state == "ready"), "{states:?}");
    assert!(states.iter().all(|state| !state.custody.as_ref().unwrap().enforced_by_key));
    assert!(admin.reconcile(false).await.is_empty(), "they are not in the token");
    let server = server.kill().serve();
    check(&server.connect("alice").await).await;

    // Whoever may write the database swaps what is stored of two keys.
    let database = server.dir().join("registry.db");
    let swap = "UPDATE kas_key SET wrapped_key = (SELECT wrapped_key FROM kas_key WHERE kid='w3'), \
                kid = 'w1' WHERE kid = 'w1'; UPDATE registry_state SET revision = revision + 1;";
    sqlite(&database, swap);
    let server = server.kill().serve();
    let kas = server.connect("alice").await;
    let refused = opens(&kas, "w1", &keys[0].1).await.unwrap_err();
    assert!(refused.starts_with("unavailable"), "{refused}");
    assert_eq!(opens(&kas, "w3", &keys[2].1).await.unwrap(), "sealed");
}

#[tokio::test]
async fn keys_wrapped_by_softhsm_serve() {
    keys_wrapped_by_the_token_serve(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn keys_wrapped_by_kryoptic_serve() {
    keys_wrapped_by_the_token_serve(Kryoptic::fresh()).await;
}

/// Changes a database as somebody does who may write it.
fn sqlite(database: &std::path::Path, statements: &str) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                  c.executescript(sys.argv[2]); c.commit()";
    let output = std::process::Command::new("python3")
        .args(["-c", script, database.to_str().unwrap(), statements])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_swapped_public_key_is_not_handed_out() {
    let token = SoftHsm::fresh();
    let (server, admin, settings) = start(&token, "sqlite:registry.db");
    admin.create_kas().await;
    let provider = admin.create_provider("main", HSM, &settings).await.unwrap();
    let g1 = admin.generate(&provider, "g1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    assert_eq!(admin.public_key("rsa:2048").await.unwrap().0, "g1");
    let (thief, _) = wrapped_key(Algorithm::Rsa2048);
    let swap = format!(
        "UPDATE kas_key SET public_pem = '{thief}'; \
         UPDATE registry_state SET revision = revision + 1;"
    );
    sqlite(&server.dir().join("registry.db"), &swap);
    let mut told = Ok((String::new(), pem_of(&g1)));
    for _ in 0..40 {
        told = admin.public_key("rsa:2048").await;
        if told.is_err() {
            break;
        }
        assert_eq!(told.as_ref().unwrap().1, pem_of(&g1), "never the thief's");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
    let findings = admin.reconcile(false).await;
    assert_eq!(findings[0].kind, Kind::PublicKeyDiffers as i32, "{findings:?}");
    // A second, honest key is handed out beside it.
    admin.generate(&provider, "g2", RSA_2048, KeyMode::Remote, "").await.unwrap();
    assert_eq!(admin.public_key("rsa:2048").await.unwrap().0, "g2");
}

#[tokio::test]
async fn a_key_of_somebody_else_in_the_token_stays_theirs() {
    let fixture = SoftHsm::fresh();
    let (_server, admin, settings) = start(&fixture, "sqlite:registry.db");
    admin.create_kas().await;
    let provider = admin.create_provider("main", HSM, &settings).await.unwrap();
    let token = token::open(&fixture);
    let theirs = provision::generate(&token, "g1", Algorithm::Rsa2048).unwrap();
    let refused = admin.generate(&provider, "g1", RSA_2048, KeyMode::Remote, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("not registered"), "{}", refused.message());
    for repair in [false, true] {
        let findings = admin.reconcile(repair).await;
        let [found] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((found.kind, &*found.kid), (Kind::NotRegistered as i32, "g1"));
        assert!(!found.repaired);
    }
    let still = provision::list(&token).unwrap().remove(0);
    assert_eq!(still.public_key, theirs.public_key);
}

#[tokio::test]
async fn settings_name_what_the_node_has_and_nothing_else() {
    let token = SoftHsm::fresh();
    let (_server, admin, settings) = start(&token, "sqlite:registry.db");
    let good: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let with = |setting: &str, value: &str| {
        let mut settings = good.clone();
        settings[setting] = json!(value);
        settings.to_string()
    };
    for (settings, text) in [
        (with("module", "/usr/lib/softhsm/libsofthsm2.so"), "module must be the name of an entry"),
        (with("module", "../evil.so"), "module must be the name of an entry"),
        (with("pin", "/etc/passwd"), "pin must be the name of an entry"),
        (with("pin", "$(id)"), "pin must be the name of an entry"),
        (with("custody", "none"), "custody:"),
        (with("extra", "x"), "unknown field `extra`"),
    ] {
        let refused = admin.create_provider("main", HSM, &settings).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{settings}");
        assert!(refused.message().contains(text), "{settings}: {}", refused.message());
    }
    admin.create_provider("main", HSM, &settings).await.unwrap();
    // A root key would count as a wrong PIN, and tokens lock.
    admin.create_kas().await;
    let borrowed = admin.create_provider("other", HSM, &with("pin", "root1")).await.unwrap();
    let refused = admin.generate(&borrowed, "g1", RSA_2048, KeyMode::Remote, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let message = ListProviderHealthRequest {};
    let health = admin.admin().list_provider_health(admin.request(message)).await.unwrap();
    let health = health.into_inner().providers;
    let other = health.iter().find(|state| !state.ready).unwrap();
    assert!(other.detail.contains("that nothing else uses"), "{}", other.detail);
    assert!(health.iter().any(|state| state.ready), "{health:?}");
}

/// Runs a command on the files of a server that does not run.
fn run(setup: &Setup, arguments: &[&str]) -> Output {
    let (noun, verb) = arguments.split_at(2);
    kasbah().args(noun).arg("--config").arg(setup.file()).args(verb).output().unwrap()
}

fn text(output: &Output) -> String {
    let all = [&*output.stdout, &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_copy_is_restored_only_if_every_key_answers() {
    let token = SoftHsm::fresh();
    let (server, admin, settings) = start(&token, "sqlite:registry.db");
    let kas_id = admin.create_kas().await;
    let provider = admin.create_provider("main", HSM, &settings).await.unwrap();
    admin.generate(&provider, "g1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    let copy = server.dir().join("copy.db");
    let copy = copy.to_str().unwrap();
    // While the server runs.
    let config = server.dir().join("kasbah.yaml");
    let backup = kasbah()
        .args(["db", "backup", "--config", config.to_str().unwrap(), "--to", copy])
        .output()
        .unwrap();
    assert!(backup.status.success(), "{}", text(&backup));
    let (pem, wrapped) = wrapped_key(Algorithm::Ec(Curve::P256));
    admin.create_wrapped(&kas_id, "late", EC_P256, &pem, ("root1", &wrapped)).await.unwrap();

    let setup = server.kill();
    let bad = setup.dir().join("bad.db");
    fs::copy(copy, &bad).unwrap();
    sqlite(&bad, &format!("UPDATE kas_key SET public_pem = '{pem}', algorithm = 3"));
    let refused = run(&setup, &["db", "restore", "--from", bad.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("g1"), "{}", text(&refused));
    let check = run(&setup, &["db", "check"]);
    assert!(check.status.success(), "nothing was changed: {}", text(&check));
    assert!(text(&check).contains("late"));

    let restored = run(&setup, &["db", "restore", "--from", copy]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(setup.dir().join("registry.db.before-restore").exists());
    let server = setup.serve();
    let admin = server.admin();
    assert_eq!(admin.key("late").await.unwrap_err().code(), Code::NotFound);
    let g1 = admin.key("g1").await.unwrap();
    opens(&server.connect("alice").await, "g1", &pem_of(&g1)).await.unwrap();
}

#[tokio::test]
async fn a_root_key_is_rotated_while_it_serves() {
    let token = SoftHsm::fresh();
    let (server, admin, _) = start(&token, "sqlite:registry.db");
    let kas_id = admin.create_kas().await;
    let (pem, wrapped) = wrapped_key(Algorithm::Rsa2048);
    admin.create_wrapped(&kas_id, "b1", RSA_2048, &pem, ("root1", &wrapped)).await.unwrap();
    let kas = server.connect("alice").await;
    opens(&kas, "b1", &pem).await.unwrap();
    let message = WrapKeysAgainRequest { from: "root1".into(), to: "root2".into() };
    let done = admin.admin().wrap_keys_again(admin.request(message)).await.unwrap();
    assert_eq!(done.into_inner().key_ids, ["b1"]);
    opens(&kas, "b1", &pem).await.unwrap();
    // The old root key is not needed any more.
    let mut setup = server.kill();
    setup.config["root_keys"] = json!(["root2"]);
    setup.config["secrets"].as_object_mut().unwrap().remove("root1");
    let server = setup.serve();
    opens(&server.connect("alice").await, "b1", &pem).await.unwrap();
}

#[tokio::test]
async fn a_private_key_is_wrapped_where_the_administrator_is() {
    let token = SoftHsm::fresh();
    let (server, admin, _) = start(&token, "sqlite:registry.db");
    admin.create_kas().await;
    let key = PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap();
    let file = |name: &str, content: &str| {
        let path = server.dir().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pem = key.public_key().to_pem();
    let private = file("private.pem", &key.to_pem().unwrap());
    let public = file("public.pem", &pem);
    let root = file("the-root", &format!("{ROOT}\n"));
    let import = |kid: &str, more: &[&str]| {
        kasbah()
            .env("KASBAH_URL", server.url())
            .env("KASBAH_TOKEN", server.token("admin"))
            .args(["keys", "import", "--kid", kid, "--algorithm", "rsa:2048"])
            .args(["--public-key-file", &public, "--private-key-file", &private])
            .args(more)
            .output()
            .unwrap()
    };
    let wrapped = ["--wrapping-key-id", "root1", "--root-key-file", &root];
    let done = import("i1", &wrapped);
    assert!(done.status.success(), "{}", text(&done));
    opens(&server.connect("alice").await, "i1", &pem).await.unwrap();
    let other = file("other-root", OTHER_ROOT);
    let refused = import("i2", &["--wrapping-key-id", "root1", "--root-key-file", &other]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("does not open"), "{}", text(&refused));
    let remote = import("i3", &[&wrapped[..], &["--mode", "remote"]].concat());
    assert_eq!(remote.status.code(), Some(2), "{}", text(&remote));
    assert!(text(&remote).contains("for mode local"), "{}", text(&remote));
}

#[tokio::test]
async fn who_is_no_administrator_makes_nothing() {
    let token = SoftHsm::fresh();
    let mut setup = Setup::new();
    setup.registry("sqlite:registry.db");
    let settings = setup.token("t", &token, "prefer-sealed").to_string();
    let server = setup.serve();
    for claims in [
        json!({}),
        json!({ "preferred_username": "opentdf-admin" }),
        json!({ "preferred_username": "role:admin", "realm_access": { "roles": ["role:admin"] } }),
        json!({ "realm_access": { "roles": ["opentdf-standard"] } }),
    ] {
        let token = server.token_with("alice", &claims);
        let alice = Admin::new(server.url(), &token, &server.admin().kas_uri);
        let denied = alice.create_provider("main", HSM, &settings).await.unwrap_err();
        let expected = (Code::PermissionDenied, "permission denied");
        assert_eq!((denied.code(), denied.message()), expected, "{claims}");
    }
}
