//! The audit log of a server: what is in it, what is not, and that no key leaves without it.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_proto::{
    kas::key_access_rewrap_result::Result::KasWrappedKey,
    kasbah::admin::v1::{SetEntitlementsRequest, set_key_state_request::Target},
    policy::KeyMode,
};
use kasbah_system_tests::{
    admin::{ADMIN, Admin, RSA_2048, id_of},
    client::{POLICY, SessionKey, kao, random_dek},
    decisions::{POLICY_ID, Reader, body, policy},
    issuer::ISSUER,
    poll::within,
    server::{Server, Setup, built, kasbah},
    token,
};
use kasbah_testkit::tokens::{PIN, SoftHsm, TestToken, set_env};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);
const RED: &str = "https://acme.example/attr/team/value/red";
const UNAVAILABLE: &str =
    "unavailable: internal error\nrpc error: code = Unavailable desc = audit log unavailable";

/// A key in a token, and a node with an audit log whose checkpoints are signed.
struct Rig {
    token: TestToken,
    pem: String,
    client: SessionKey,
}

impl Rig {
    fn new() -> Self {
        let token = SoftHsm::fresh();
        let opened = token::open(&token);
        let entry = provision::generate(&opened, "r1", Algorithm::Rsa2048).unwrap();
        Self { token, pem: entry.public_key.unwrap().to_pem(), client: SessionKey::rsa() }
    }

    fn setup(&self, more: &Value) -> Setup {
        let mut setup = Setup::new();
        setup.hsm("softhsm", &self.token, "require-sealed");
        setup.key(json!({
            "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
        }));
        audited(&mut setup, more);
        setup
    }

    /// A key access object of a fresh data key; the data key too.
    fn wrapped(&self, policy: &str) -> (Vec<u8>, Value) {
        let dek = random_dek();
        let kao = kao("r1", &self.pem, &dek, policy);
        (dek, kao)
    }

    /// Asks for a fresh data key; its binding, by which its event is known.
    async fn rewrap(&self, reader: &Reader) -> Result<String, String> {
        let (dek, kao) = self.wrapped(POLICY);
        let told = reader.read(&self.client, &[(POLICY, vec![kao.clone()])]).await;
        let told = told.map_err(|status| status.to_string())?.remove(0);
        assert_eq!(told.result?, dek);
        Ok(kao["policyBinding"]["hash"].as_str().unwrap().to_owned())
    }
}

/// Adds a log with a key that `kasbah audit key` makes, and a second place for its checkpoints.
fn audited(setup: &mut Setup, more: &Value) {
    let key = setup.dir().join("audit-key.pem");
    let made = kasbah().args(["audit", "key", "--out"]).arg(&key).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let public = String::from_utf8(made.stdout).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
    setup.write("audit-key.pub", public);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    setup.config["secrets"]["audit"] = json!({ "file": "audit-key.pem" });
    setup.config["audit"] = json!({
        "file": "audit.log", "node": "kas-1", "signing_key": "audit",
        "checkpoint_file": "checkpoints", "checkpoint_events": 5, "checkpoint_seconds": 3600,
    });
    let all = setup.config["audit"].as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
}

/// All files of the log, the oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_earlier =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("audit.log.");
    let mut files: Vec<_> = names.filter(is_earlier).collect();
    files.sort();
    files.push(dir.join("audit.log"));
    files
}

/// The lines of the log so far, whole ones only.
fn lines(dir: &Path) -> Vec<String> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default();
        whole.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    files(dir).into_iter().flat_map(read).collect()
}

/// The events so far, without what the log tells of itself.
fn events(dir: &Path) -> Vec<Value> {
    let parsed = lines(dir).into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    parsed.filter(|event| event["namespace"] != "audit").collect()
}

/// Bindings of the keys whose events say success.
fn succeeded(dir: &Path) -> HashMap<String, usize> {
    let mut count = HashMap::new();
    for event in events(dir).iter().filter(|event| kasbah_of(event)["outcome"] == "success") {
        let binding = event["audit"]["eventMetaData"]["policyBinding"].as_str().unwrap();
        *count.entry(binding.to_owned()).or_default() += 1;
    }
    count
}

fn kasbah_of(event: &Value) -> &Value {
    &event["audit"]["eventMetaData"]["kasbah"]
}

/// `kasbah audit verify` of all files against all that there is.
fn verify(dir: &Path, more: &[&str]) -> Output {
    let mut command = kasbah();
    command.args(["audit", "verify", "--output", "json", "--public-key"]);
    command.arg(dir.join("audit-key.pub")).arg("--checkpoints").arg(dir.join("checkpoints"));
    command.args(more).args(files(dir)).output().unwrap()
}

/// The report of a log that is whole.
fn whole(dir: &Path, more: &[&str]) -> Value {
    let output = verify(dir, more);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["problem"]), (&json!(true), &Value::Null));
    report
}

fn text(output: &Output) -> String {
    let all = [&*output.stdout, &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes).as_ref())
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn stop(mut server: Server) -> Setup {
    server.terminate();
    assert_eq!(server.wait(), 0, "{}", server.log());
    server.kill()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_leaves_one_event_and_no_secret() {
    let rig = Rig::new();
    let server = rig.setup(&json!({})).serve();
    let dir = server.dir().to_owned();
    let token = server.token("alice");
    let alice = Reader::new(server.url(), token.clone());
    let attributed = policy(&[RED]);
    let mut secrets = Vec::new();
    let mut fresh = |policy: &str| {
        let (dek, kao) = rig.wrapped(policy);
        secrets.push(BASE64_STANDARD.encode(&dek));
        secrets.push(hex::encode(&dek));
        secrets.push(kao["wrappedKey"].as_str().unwrap().to_owned());
        kao
    };
    let mut tampered = fresh(POLICY);
    tampered["policyBinding"] = fresh(POLICY)["policyBinding"].clone();
    let mut unbound = fresh(POLICY);
    unbound.as_object_mut().unwrap().remove("policyBinding");
    let mut unknown = fresh(POLICY);
    unknown["kid"] = "nobody".into();
    let cases = [
        ("success", POLICY, fresh(POLICY)),
        ("denied", attributed.as_str(), fresh(&attributed)),
        ("tampered", POLICY, tampered),
        ("malformed", POLICY, unbound),
        ("not-found", POLICY, unknown),
    ];
    let mut released = Vec::new();
    for (index, (outcome, policy, kao)) in cases.iter().enumerate() {
        let request = body(&rig.client, &[(policy, vec![kao.clone()])]);
        let response = alice.rewrap(&request).await.unwrap();
        let result = response.responses[0].results[0].result.clone().unwrap();
        assert_eq!(matches!(result, KasWrappedKey(_)), *outcome == "success", "{outcome}");
        if let KasWrappedKey(wrapped) = result {
            released.push(BASE64_STANDARD.encode(wrapped));
        }
        // A failure is answered without waiting for its event.
        let events = within(PATIENCE, async || match events(&dir) {
            events if events.len() > index => Ok(events),
            events => Err(format!("{outcome}: {} events", events.len())),
        })
        .await;
        assert_eq!(events.len(), index + 1, "one event for each: {outcome}");
        check_shape(&events[index]);
        let audit = &events[index]["audit"];
        assert_eq!(audit["object"]["id"], POLICY_ID);
        let attributes = if *outcome == "denied" { json!([RED]) } else { json!([]) };
        assert_eq!(audit["object"]["attributes"]["attrs"], attributes, "{outcome}");
        assert_eq!(audit["actor"]["id"], "alice");
        let result = if *outcome == "success" { "success" } else { "error" };
        assert_eq!(audit["action"], json!({ "type": "rewrap", "result": result }), "{outcome}");
        let binding = kao["policyBinding"]["hash"].as_str().unwrap_or_default();
        assert_eq!(audit["eventMetaData"]["policyBinding"], binding, "{outcome}");
        assert_eq!(audit["eventMetaData"]["keyID"], kao["kid"], "{outcome}");
        let kasbah = kasbah_of(&events[index]);
        assert_eq!(kasbah["outcome"], *outcome);
        let who = ["issuer", "client", "proof"].map(|name| kasbah[name].as_str().unwrap());
        assert_eq!(who, [ISSUER, "tests", "bearer"]);
        assert_eq!(kasbah["token_sha256"], sha256(token.as_bytes()));
        let used = ["success", "tampered"].contains(outcome);
        let (manager, provider) = (&kasbah["manager"], &kasbah["provider"]);
        let expected =
            if used { (json!("opentdf.io/hsm"), json!("softhsm")) } else { Default::default() };
        assert_eq!((manager, provider), (&expected.0, &expected.1), "{outcome}");
        let custody = if *outcome == "success" { json!("sealed") } else { Value::Null };
        assert_eq!(kasbah["custody"], custody, "{outcome}");
    }

    // A request that does not come to a key access object leaves one too, one that is not let in none.
    let refused = alice.rewrap(&json!({ "clientPublicKey": "junk" })).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let stranger = Reader::new(server.url(), format!("{token}x"));
    let refused = stranger.rewrap(&body(&rig.client, &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let three: Vec<_> = (0..3).map(|_| fresh(POLICY)).collect();
    let told = alice.read(&rig.client, &[(POLICY, three)]).await.unwrap();
    assert!(told.iter().all(|told| told.status == "permit"), "{told:?}");
    let all = events(&dir);
    let outcomes: Vec<_> = all[5..].iter().map(|event| &kasbah_of(event)["outcome"]).collect();
    assert_eq!(outcomes, ["malformed", "success", "success", "success"]);
    assert_eq!(all[5]["audit"]["object"]["id"], "00000000-0000-0000-0000-000000000000");
    let whole_request: BTreeSet<_> =
        all[6..].iter().map(|event| event["audit"]["requestID"].as_str().unwrap()).collect();
    assert_eq!(whole_request.len(), 1, "events of one request belong together");

    chained(&dir);
    let log = server.log();
    // Its directory goes with it.
    let setup = stop(server);
    let kept = ["audit.log", "checkpoints"].map(|name| fs::read_to_string(dir.join(name)));
    let texts = [log, kept.into_iter().map(Result::unwrap).collect()];
    secrets.extend(token.split('.').map(str::to_owned));
    secrets.extend(released);
    secrets.push(PIN.to_owned());
    for secret in &secrets {
        assert!(!texts.iter().any(|text| text.contains(secret)), "a secret was written: {secret}");
    }
    drop(setup);
}

/// Every key of OpenTDF's shape, and ours in their place.
fn check_shape(event: &Value) {
    assert_eq!(keys(event), ["audit", "level", "msg", "namespace", "time"]);
    let told = [&event["level"], &event["msg"], &event["namespace"]];
    assert_eq!(told, ["AUDIT", "rewrap", "kas"]);
    let audit = &event["audit"];
    assert_eq!(
        keys(audit),
        [
            "action",
            "actor",
            "clientInfo",
            "eventMetaData",
            "object",
            "original",
            "requestID",
            "timestamp",
            "updated",
        ]
    );
    assert_eq!(keys(&audit["object"]), ["attributes", "id", "name", "type"]);
    assert_eq!(keys(&audit["object"]["attributes"]), ["assertions", "attrs", "permissions"]);
    assert_eq!(audit["object"]["type"], "key_object");
    assert_eq!(keys(&audit["clientInfo"]), ["platform", "requestIP", "userAgent"]);
    assert_eq!(audit["clientInfo"]["requestIP"], "127.0.0.1");
    let metadata = &audit["eventMetaData"];
    assert_eq!(keys(metadata), ["algorithm", "kasbah", "keyID", "policyBinding", "tdfFormat"]);
    assert_eq!(
        keys(&metadata["kasbah"]),
        [
            "boundary",
            "chain",
            "client",
            "custody",
            "enforced_by_key",
            "issuer",
            "latency_us",
            "manager",
            "outcome",
            "proof",
            "provider",
            "required_obligations",
            "token_sha256",
        ]
    );
    assert_eq!(keys(&metadata["kasbah"]["chain"]), ["node", "previous", "sequence"]);
}

/// Each line carries a number and the hash of the line before it.
fn chained(dir: &Path) {
    let lines = lines(dir);
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, event) in parsed.iter().enumerate() {
        let chain = &kasbah_of(event)["chain"];
        assert_eq!((&chain["node"], &chain["sequence"]), (&json!("kas-1"), &json!(index + 1)));
        if let Some(before) = index.checked_sub(1) {
            assert_eq!(chain["previous"], sha256(lines[before].as_bytes()), "line {}", index + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_verified_and_goes_on_after_a_restart() {
    let rig = Rig::new();
    let server = rig.setup(&json!({})).serve();
    let dir = server.dir().to_owned();
    let alice = Reader::new(server.url(), server.token("alice"));
    for _ in 0..7 {
        rig.rewrap(&alice).await.unwrap();
    }
    // While the server runs, and after.
    assert!(whole(&dir, &[])["signed_checkpoints"].as_u64().unwrap() >= 1);
    let setup = stop(server);
    let before = whole(&dir, &["--require-signed-end"]);
    assert_eq!(before["unvouched"], 0);
    let server = setup.serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    for _ in 0..3 {
        rig.rewrap(&alice).await.unwrap();
    }
    let setup = stop(server);
    let after = whole(&dir, &["--require-signed-end"]);
    assert_eq!(after["first"], 1);
    assert!(after["last"].as_u64() > before["last"].as_u64(), "{before} {after}");
    assert!(after["exported_checkpoints"].as_u64() > before["exported_checkpoints"].as_u64());
    assert_eq!(events(&dir).len(), 10);
    chained(&dir);

    // One word of one line.
    let log = dir.join("audit.log");
    let good = fs::read_to_string(&log).unwrap();
    let edit = |number: usize, from: &str, to: &str| {
        let edited = good.lines().enumerate().map(|(index, line)| {
            let line = if index + 1 == number { line.replace(from, to) } else { line.to_owned() };
            line + "\n"
        });
        let edited: String = edited.collect();
        assert_ne!(edited, good);
        fs::write(&log, edited).unwrap();
    };
    let assert_broken = |line: Option<usize>, what: &str| {
        let output = verify(&dir, &[]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["problem"]["line"], json!(line), "{what}: {report}");
    };
    edit(3, "\"alice\"", "\"mallory\"");
    assert_broken(Some(3), "another actor");
    edit(7, "\"outcome\":\"success\"", "\"outcome\":\"denied\"");
    assert_broken(Some(7), "another outcome");
    // The end is gone: the second place knows, and so does the server.
    let kept: Vec<_> = good.lines().take(8).collect();
    fs::write(&log, kept.join("\n") + "\n").unwrap();
    assert_broken(None, "cut off");
    let (code, said) = setup.fails(&[]);
    assert!(code == 2 && said.contains("cut off"), "{code}: {said}");
    fs::write(&log, &good).unwrap();
    whole(&dir, &["--require-signed-end"]);
    // Another key vouches for nothing.
    let other = dir.join("other.pem");
    let made = kasbah().args(["audit", "key", "--out"]).arg(&other).output().unwrap();
    fs::write(dir.join("audit-key.pub"), made.stdout).unwrap();
    assert_eq!(verify(&dir, &[]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_administrators_are_in_the_log() {
    let token = SoftHsm::fresh();
    let mut setup = Setup::new();
    setup.registry("sqlite:registry.db");
    let settings = setup.token("softhsm", &token, "require-sealed").to_string();
    setup.config["decisions"] = json!({ "mode": "local", "from": "registry" });
    audited(&mut setup, &json!({}));
    let server = setup.serve();
    let dir = server.dir().to_owned();
    let access_token = server.token(ADMIN);
    let admin = Admin::new(server.url(), &access_token, "http://localhost:8080");
    let kas = admin.create_kas().await;
    let provider = admin.create_provider("main", "opentdf.io/hsm", &settings).await.unwrap();
    let key = admin.generate(&provider, "k1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    let again = admin.generate(&provider, "k1", RSA_2048, KeyMode::Remote, "").await;
    assert_eq!(again.unwrap_err().code(), Code::AlreadyExists);
    let document = "attributes: []\n";
    let set = async |admin: &Admin, document: &str| {
        let message =
            SetEntitlementsRequest { document: document.to_owned(), expected_revision: None };
        admin.admin().set_entitlements(admin.request(message)).await
    };
    set(&admin, document).await.unwrap();
    set(&admin, "attributes: 7\n").await.unwrap_err();
    admin.set_state(&id_of(&key), Target::Disabled).await.unwrap();
    let mallory = Admin::new(server.url(), &server.token("mallory"), &admin.kas_uri);
    assert_eq!(set(&mallory, document).await.unwrap_err().code(), Code::PermissionDenied);
    let setup = stop(server);

    let events = events(&dir);
    let told: Vec<_> = events
        .iter()
        .filter(|event| event["audit"]["action"]["type"] != "read")
        .map(|event| {
            let audit = &event["audit"];
            let of = |value: &Value| value.as_str().unwrap().to_owned();
            let action = &audit["action"];
            (of(&audit["object"]["type"]), of(&action["type"]), of(&action["result"]))
        })
        .collect();
    let expected = [
        ("kas_registry", "create", "success"),
        ("key_management_provider_config", "create", "success"),
        ("kas_registry_keys", "create", "success"),
        ("kas_registry_keys", "create", "error"),
        ("entitlements", "update", "success"),
        ("entitlements", "update", "error"),
        ("kas_registry_keys", "update", "success"),
    ];
    let expected = expected
        .map(|(object, action, result)| (object.to_owned(), action.to_owned(), result.to_owned()));
    assert_eq!(told, expected);
    for event in &events {
        assert_eq!((&event["msg"], &event["namespace"]), (&json!("policy crud"), &json!("policy")));
        assert_eq!(event["audit"]["actor"]["id"], ADMIN);
        assert_eq!(kasbah_of(event)["token_sha256"], sha256(access_token.as_bytes()));
    }
    let by = |object: &str| -> &Value {
        let found = events.iter().find(|event| event["audit"]["object"]["type"] == object);
        &found.unwrap()["audit"]
    };
    assert_eq!(by("kas_registry")["object"]["id"], kas);
    assert_eq!(by("kas_registry_keys")["object"]["id"], id_of(&key));
    assert_eq!(by("entitlements")["updated"]["sha256"], sha256(document.as_bytes()));
    let log = fs::read_to_string(dir.join("audit.log")).unwrap();
    for secret in access_token.split('.').chain([PIN, "attributes: "]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert_eq!(whole(&dir, &["--require-signed-end"])["unvouched"], 0);
    drop(setup);
}

/// Kills a server in the middle of many rewraps: whatever was answered with a key is in the log.
async fn a_killed_server_has_recorded_what_it_released(durability: &str) {
    const ENOUGH: usize = 150;
    let rig = Arc::new(Rig::new());
    let mut setup = rig.setup(&json!({ "durability": durability, "checkpoint_events": 50 }));
    let released: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for round in 1..=2 {
        let server = setup.serve();
        let answered = Arc::<AtomicUsize>::default();
        let load: Vec<_> = (0..12)
            .map(|_| {
                let (rig, released) = (Arc::clone(&rig), Arc::clone(&released));
                let answered = Arc::clone(&answered);
                let alice = Reader::new(server.url(), server.token("alice"));
                tokio::spawn(async move {
                    while let Ok(binding) = rig.rewrap(&alice).await {
                        released.lock().unwrap().insert(binding);
                        answered.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        within(Duration::from_mins(2), async || match answered.load(Relaxed) {
            count if count >= ENOUGH => Ok(()),
            count => Err(format!("{count} answers")),
        })
        .await;
        setup = server.kill();
        for task in load {
            task.await.unwrap();
        }
        let (events, released) = (succeeded(setup.dir()), released.lock().unwrap().clone());
        assert!(released.len() >= round * ENOUGH);
        let lost: Vec<_> = released.iter().filter(|id| !events.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{durability}: {} of {} lost", lost.len(), released.len());
        assert!(events.values().all(|count| *count == 1), "no event twice");
    }
    let server = setup.serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    rig.rewrap(&alice).await.unwrap();
    let setup = stop(server);
    let report = whole(setup.dir(), &["--require-signed-end"]);
    assert_eq!(report["lines"].as_u64().unwrap(), lines(setup.dir()).len() as u64);
    assert!(report["exported_checkpoints"].as_u64().unwrap() >= 3, "{report}");
    chained(setup.dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_recorded_what_it_released_when_written() {
    a_killed_server_has_recorded_what_it_released("written").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_recorded_what_it_released_when_synced() {
    a_killed_server_has_recorded_what_it_released("synced").await;
}

/// Has servers live on when a file may not grow: by default that is their end.
fn outlive_full_files() -> TempDir {
    let wrapper = TempDir::new().unwrap();
    let real =
        std::env::var("KASBAH_BIN").unwrap_or_else(|_| built("kasbah").display().to_string());
    let script = wrapper.path().join("kasbah");
    fs::write(&script, format!("#!/bin/sh\ntrap '' XFSZ\nexec '{real}' \"$@\"\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    set_env("KASBAH_BIN", script.to_str().unwrap());
    wrapper
}

/// How long files of a process may get.
fn limit_files(server: &Server, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit")
        .args(["--pid", &server.pid().to_string(), &limit])
        .status()
        .unwrap();
    assert!(status.success(), "{limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_while_the_log_cannot_grow() {
    let _wrapper = outlive_full_files();
    let rig = Rig::new();
    let server = rig.setup(&json!({})).serve();
    let dir = server.dir().to_owned();
    let alice = Reader::new(server.url(), server.token("alice"));
    let mut released = Vec::new();
    for _ in 0..3 {
        released.push(rig.rewrap(&alice).await.unwrap());
    }
    // Room for a part of a line: the rest of it must not stay.
    let length = fs::metadata(dir.join("audit.log")).unwrap().len();
    limit_files(&server, &(length + 100).to_string());
    for attempt in 0..5 {
        assert_eq!(rig.rewrap(&alice).await.unwrap_err(), UNAVAILABLE, "attempt {attempt}");
    }
    let many: Vec<_> = (0..4).map(|_| rig.wrapped(POLICY).1).collect();
    let told = alice.read(&rig.client, &[(POLICY, many)]).await.unwrap();
    assert!(told.iter().all(|told| told.result.as_ref().unwrap_err() == UNAVAILABLE), "{told:?}");
    // What is no key is answered as ever.
    let attributed = policy(&[RED]);
    let denied = vec![rig.wrapped(&attributed).1];
    let told = alice.read(&rig.client, &[(&attributed, denied)]).await.unwrap();
    assert!(told[0].refusal().starts_with("forbidden"), "{told:?}");
    assert!(server.log().contains("the audit log cannot be written"), "{}", server.log());
    // It goes on trying.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(rig.rewrap(&alice).await.unwrap_err(), UNAVAILABLE);

    limit_files(&server, "unlimited");
    released.push(within(PATIENCE, async || rig.rewrap(&alice).await).await);
    for _ in 0..3 {
        released.push(rig.rewrap(&alice).await.unwrap());
    }
    let kept = succeeded(&dir);
    assert!(released.iter().all(|binding| kept.get(binding) == Some(&1)), "{kept:?}");
    assert_eq!(kept.len(), released.len(), "nothing of what was refused was kept");
    let told: Vec<Value> = lines(&dir)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["msg"] == "audit recovery")
        .collect();
    let [told] = &told[..] else { panic!("the log says once what happened to it: {told:?}") };
    let lost = kasbah_of(told)["recovery"]["lost"].as_u64().unwrap();
    assert!(lost >= 10, "{told}");
    stop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_recovered_is_whole() {
    let _wrapper = outlive_full_files();
    let rig = Rig::new();
    let server = rig.setup(&json!({ "checkpoint_events": 2 })).serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    // At every length, in the middle of lines and of checkpoints.
    for step in [1, 40, 900, 1300] {
        rig.rewrap(&alice).await.unwrap();
        let length = fs::metadata(server.dir().join("audit.log")).unwrap().len();
        limit_files(&server, &(length + step).to_string());
        let refused = within(PATIENCE, async || match rig.rewrap(&alice).await {
            Err(refused) => Ok(refused),
            Ok(_) => Err("there is still room"),
        })
        .await;
        assert_eq!(refused, UNAVAILABLE);
        limit_files(&server, "unlimited");
        within(PATIENCE, async || rig.rewrap(&alice).await).await;
    }
    let setup = stop(server);
    let report = whole(setup.dir(), &["--require-signed-end"]);
    assert!(report["exported_checkpoints"].as_u64().unwrap() >= 4, "{report}");
    chained(setup.dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_rotated_and_verified_in_pieces() {
    let rig = Arc::new(Rig::new());
    let server = rig.setup(&json!({ "rotate_bytes": 4000 })).serve();
    let dir = server.dir().to_owned();
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (rig, alice) = (Arc::clone(&rig), Reader::new(server.url(), server.token("alice")));
            tokio::spawn(async move {
                let mut released = Vec::new();
                for _ in 0..10 {
                    released.push(rig.rewrap(&alice).await.unwrap());
                }
                released
            })
        })
        .collect();
    let mut released = Vec::new();
    for task in load {
        released.extend(task.await.unwrap());
    }
    let setup = stop(server);
    let files = files(&dir);
    assert!(files.len() >= 5, "{files:?}");
    let kept = succeeded(&dir);
    assert!(released.iter().all(|binding| kept.get(binding) == Some(&1)));
    assert_eq!(kept.len(), 40);
    let report = whole(&dir, &["--require-signed-end"]);
    assert_eq!((&report["first"], &report["lines"]), (&json!(1), &report["last"]));
    chained(&dir);
    // One file that is missing in the middle.
    fs::rename(&files[2], dir.join("elsewhere")).unwrap();
    assert_eq!(verify(&dir, &[]).status.code(), Some(1));
    fs::rename(dir.join("elsewhere"), &files[2]).unwrap();
    drop(setup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_one_writer() {
    let rig = Rig::new();
    let first = rig.setup(&json!({})).serve();
    let file = first.dir().join("audit.log");
    let alice = Reader::new(first.url(), first.token("alice"));
    rig.rewrap(&alice).await.unwrap();
    let mut second = rig.setup(&json!({ "file": file }));
    second.config["audit"]["checkpoint_file"] = json!(second.dir().join("checkpoints"));
    let (code, said) = second.fails(&[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is being written by another process"), "{said}");
    assert!(said.contains("audit.log"), "{said}");
    // The first has not noticed.
    rig.rewrap(&alice).await.unwrap();
    let dir = first.dir().to_owned();
    assert_eq!(events(&dir).len(), 2);
    whole(&dir, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_node_is_not_continued() {
    let rig = Rig::new();
    let server = rig.setup(&json!({})).serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    rig.rewrap(&alice).await.unwrap();
    let mut setup = stop(server);
    setup.config["audit"]["node"] = "kas-2".into();
    let (code, said) = setup.fails(&[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("kas-1") && said.contains("kas-2"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_looked_at_beside_the_server_that_writes_the_log() {
    let mut setup = Setup::new();
    setup.registry("sqlite:registry.db");
    audited(&mut setup, &json!({}));
    let config = setup.file();
    let server = setup.serve();
    server.admin().create_kas().await;
    let log = server.dir().join("audit.log");
    let before = fs::read(&log).unwrap();
    let check = kasbah().args(["db", "check", "--config"]).arg(&config).output().unwrap();
    assert!(check.status.success(), "{}", text(&check));
    assert_eq!(fs::read(&log).unwrap(), before, "who only looks writes nothing");
}
