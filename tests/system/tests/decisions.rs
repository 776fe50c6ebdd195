//! Who may read: entitlements of this node and of a registry, and the decisions of a platform.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_proto::{
    kasbah::admin::v1::{GetEntitlementsRequest, SetEntitlementsRequest},
    policy::KeyMode,
};
use kasbah_system_tests::{
    admin::{ADMIN, Admin, RSA_2048, pem_of},
    client::{POLICY, SessionKey, kao, random_dek},
    decisions::{Asked, Fault, Reader, StandIn, Told, WATERMARK, context, policy},
    issuer::ISSUER,
    poll::within,
    recorder::Recorder,
    server::{Server, Setup, kasbah},
    token,
};
use kasbah_testkit::{
    oidc::TestIssuer,
    postgres::Postgres,
    tokens::{SoftHsm, TestToken},
};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);
const RED: &str = "https://acme.example/attr/team/value/red";
const BLUE: &str = "https://acme.example/attr/team/value/blue";
const SECRET: &str = "https://acme.example/attr/level/value/secret";
const PUBLIC: &str = "https://acme.example/attr/level/value/public";
const SEALED: &str = "https://acme.example/attr/seal/value/one";
const ABROAD: &str = "https://acme.example/attr/place/value/abroad";
const NOBODYS: &str = "https://acme.example/attr/nobody/value/defined";

const ENTITLEMENTS: &str = r#"
attributes:
  - fqn: https://acme.example/attr/team
    rule: any_of
    values:
      - value: red
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: and
                    conditions:
                      - { selector: ".realm_access.roles[]", operator: in, values: [red-team] }
      - value: blue
        subject_mappings: []
  - fqn: https://acme.example/attr/level
    rule: hierarchy
    values:
      - value: secret
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: or
                    conditions:
                      - { selector: ".clearance", operator: in, values: [secret] }
      - value: public
  - fqn: https://acme.example/attr/seal
    rule: all_of
    values:
      - value: one
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: and
                    conditions:
                      - { selector: ".realm_access.roles[]", operator: in, values: [red-team] }
  - fqn: https://acme.example/attr/place
    rule: all_of
    values:
      - value: abroad
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: and
                    conditions:
                      - { selector: ".country", operator: not_in, values: [nowhere] }
obligations:
  - fqn: https://acme.example/obl/drm
    values:
      - value: watermark
        triggers:
          - { action: read, attribute_value: "https://acme.example/attr/seal/value/one" }
"#;

/// A key in a token whose custody is `require-sealed`, and who wants it.
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

    /// A configuration with the key and these decisions.
    fn setup(&self, decisions: Value) -> Setup {
        let mut setup = Setup::new();
        setup.hsm("softhsm", &self.token, "require-sealed");
        setup.key(json!({
            "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
        }));
        setup.config["decisions"] = decisions;
        setup
    }

    /// The same, with entitlements in a file.
    fn local(&self, more: &Value) -> Setup {
        let mut decisions = json!({ "mode": "local", "file": "entitlements.yaml" });
        decisions.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let setup = self.setup(decisions);
        setup.write("entitlements.yaml", ENTITLEMENTS);
        setup
    }

    /// A configuration with a platform that decides.
    fn asking(&self, stand_in: &StandIn, timeout_ms: u64) -> Setup {
        let mut setup = self.setup(json!({ "mode": "platform", "timeout_ms": timeout_ms }));
        setup.config["platform"] = json!({ "endpoint": stand_in.url() });
        setup
    }

    /// A data key and its key access object.
    fn wrapped(&self, policy: &str) -> (Vec<u8>, Value) {
        let dek = random_dek();
        let kao = kao("r1", &self.pem, &dek, policy);
        (dek, kao)
    }

    /// Asks for one data key under a policy with these attribute values.
    async fn read(&self, reader: &Reader, fqns: &[&str]) -> Told {
        let policy = policy(fqns);
        let (dek, kao) = self.wrapped(&policy);
        let told = reader.read(&self.client, &[(&policy, vec![kao])]).await;
        let told = told.unwrap().remove(0);
        if let Ok(released) = &told.result {
            assert_eq!(released, &dek);
        }
        told
    }

    /// Asks for one data key each of several policies, in one request.
    async fn read_all(&self, reader: &Reader, policies: &[&[&str]]) -> Vec<Told> {
        let policies: Vec<_> = policies.iter().map(|fqns| policy(fqns)).collect();
        let (deks, asked): (Vec<_>, Vec<_>) = policies
            .iter()
            .map(|policy| {
                let (dek, kao) = self.wrapped(policy);
                (dek, (policy.as_str(), vec![kao]))
            })
            .unzip();
        let told = reader.read(&self.client, &asked).await.unwrap();
        assert_eq!(told.len(), deks.len());
        for (told, dek) in told.iter().zip(&deks) {
            assert!(told.result.as_ref().is_ok_and(|key| key == dek) || told.result.is_err());
        }
        told
    }
}

/// A connection of `subject` with further claims.
fn reader(server: &Server, subject: &str, claims: &Value) -> Reader {
    Reader::new(server.url(), server.token_with(subject, claims))
}

fn red() -> Value {
    json!({ "realm_access": { "roles": ["red-team"] } })
}

/// The outcomes of events, in the order of words: events of one request come as they are done.
fn outcomes(events: &[Value]) -> Vec<&str> {
    let mut outcomes: Vec<_> =
        events.iter().map(|event| kasbah_of(event)["outcome"].as_str().unwrap()).collect();
    outcomes.sort_unstable();
    outcomes
}

/// The event of a key access object, which has a binding of its own.
fn event_of<'a>(events: &'a [Value], kao: &Value) -> &'a Value {
    let binding = &kao["policyBinding"]["hash"];
    let mut found =
        events.iter().filter(|event| event["eventMetaData"]["policyBinding"] == *binding);
    let event = found.next().unwrap();
    assert!(found.next().is_none(), "it has one event");
    event
}

fn kasbah_of(event: &Value) -> &Value {
    &event["eventMetaData"]["kasbah"]
}

/// Until `attempt` is permitted.
async fn permitted(rig: &Rig, reader: &Reader, fqns: &[&str]) {
    within(PATIENCE, async || rig.read(reader, fqns).await.result).await;
}

/// Waits for a line of the server's log.
async fn logged(server: &Server, text: &str, times: usize) {
    within(PATIENCE, async || match server.log().matches(text).count() {
        count if count >= times => Ok(()),
        count => Err(format!("`{text}` is {count} times in: {}", server.log())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_decide_on_each_policy_of_a_request() {
    let rig = Rig::new();
    let server = rig.local(&json!({})).serve();
    let mut claims = red();
    claims["clearance"] = "secret".into();
    let alice = reader(&server, "alice", &claims);
    let bob = reader(&server, "bob", &json!({ "clearance": "public" }));
    let policies: [&[&str]; 8] = [
        &[RED],
        &[BLUE],
        &[RED, BLUE],
        &[],
        &[PUBLIC],
        &[SECRET, RED],
        &[NOBODYS],
        // As clients write them: names in any case.
        &["https://ACME.example/attr/Team/value/RED"],
    ];
    let permits =
        |told: &[Told]| -> Vec<bool> { told.iter().map(|told| told.status == "permit").collect() };
    let told = rig.read_all(&alice, &policies).await;
    assert_eq!(permits(&told), [true, false, true, true, true, true, false, true]);
    for told in told.iter().filter(|told| told.status != "permit") {
        assert_eq!(told.refusal(), "forbidden");
        assert_eq!(
            told.result.as_ref().unwrap_err(),
            "permission_denied: request error\nrpc error: code = PermissionDenied desc = forbidden"
        );
    }
    let told = rig.read_all(&bob, &policies).await;
    assert_eq!(permits(&told), [false, false, false, true, false, false, false, false]);

    let events = server.audit();
    assert_eq!(events.len(), 16);
    let mut expected = vec!["denied"; 7];
    expected.push("success");
    assert_eq!(outcomes(&events[8..]), expected);
    for event in &events {
        let kasbah = kasbah_of(event);
        let touched = kasbah["outcome"] == "success";
        assert_eq!(kasbah["manager"], if touched { "opentdf.io/hsm".into() } else { Value::Null });
        assert_eq!(kasbah["custody"], if touched { "sealed".into() } else { Value::Null });
    }
    let attributes = |event: &Value| event["object"]["attributes"]["attrs"] == json!([SECRET, RED]);
    assert_eq!(events.iter().filter(|event| attributes(event)).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_does_not_reach_the_token() {
    let mut rig = Rig::new();
    let recorder = Recorder::around(rig.token.module_path());
    let mut setup = rig.local(&json!({}));
    setup.config["modules"]["softhsm"]["path"] = json!(Recorder::module());
    let server = setup.serve();
    let bob = reader(&server, "bob", &json!({}));
    let touching = |from: usize| -> Vec<String> {
        let calls = recorder.calls().into_iter().skip(from).map(|call| call.function);
        calls.filter(|name| name == "C_UnwrapKey" || name == "C_WrapKey").collect()
    };
    // Everything that is done once is done.
    assert_eq!(rig.read(&bob, &[]).await.status, "permit");
    let mark = recorder.calls().len();
    for fqns in [&[RED][..], &[SEALED], &[NOBODYS]] {
        assert_eq!(rig.read(&bob, fqns).await.refusal(), "forbidden");
    }
    // Tampered with, too.
    let pem = std::mem::replace(&mut rig.pem, SessionKey::rsa().pem());
    assert_eq!(rig.read(&bob, &[RED]).await.refusal(), "forbidden");
    rig.pem = pem;
    assert_eq!(touching(mark), Vec::<String>::new());
    // The record would show it: here the token is asked whether something was tampered with.
    let mut setup = server.kill();
    setup.config["decisions"]["check_binding_after_denial"] = true.into();
    let server = setup.serve();
    let bob = reader(&server, "bob", &json!({}));
    assert_eq!(rig.read(&bob, &[]).await.status, "permit");
    let mark = recorder.calls().len();
    assert_eq!(rig.read(&bob, &[RED]).await.refusal(), "forbidden");
    assert!(!touching(mark).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_obligation_has_to_be_one_that_the_client_can_fulfil() {
    let rig = Rig::new();
    let server = rig.local(&json!({})).serve();
    let alice = reader(&server, "alice", &red());
    let unfulfilled = rig.read(&alice, &[SEALED]).await;
    assert_eq!(unfulfilled.refusal(), "forbidden");
    assert_eq!(unfulfilled.obligations, [WATERMARK]);
    for other in ["https://acme.example/obl/drm/value/other", "https://acme.example/obl/drm"] {
        let told = rig.read(&alice.with_context(&context(&[other])), &[SEALED]).await;
        assert_eq!((told.refusal(), &*told.obligations), ("forbidden", &[WATERMARK.into()][..]));
    }
    let able = alice.with_context(&context(&[WATERMARK]));
    let told = rig.read_all(&able, &[&[SEALED], &[RED], &[]]).await;
    let listed: Vec<_> = told.iter().map(|told| (&*told.status, told.obligations.len())).collect();
    assert_eq!(listed, [("permit", 1), ("permit", 0), ("permit", 0)]);
    assert_eq!(told[0].obligations, [WATERMARK]);
    // Who is not entitled is not told of obligations.
    let bob = reader(&server, "bob", &json!({})).with_context(&context(&[WATERMARK]));
    let told = rig.read(&bob, &[SEALED]).await;
    assert_eq!((told.refusal(), told.obligations.len()), ("forbidden", 0));
    // A header that says nothing is refused, not passed over.
    let policy = policy(&[SEALED]);
    let (_, kao) = rig.wrapped(&policy);
    let garbled = alice.with_context(&BASE64_STANDARD.encode("{\"obligations\":7}"));
    let refused = garbled.read(&rig.client, &[(&policy, vec![kao])]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let events = server.audit();
    assert_eq!(kasbah_of(&events[0])["required_obligations"], json!([WATERMARK]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_over_while_rewraps_go_on() {
    let rig = Arc::new(Rig::new());
    let server = rig.local(&json!({})).serve();
    let (alice, bob) = (reader(&server, "alice", &red()), reader(&server, "bob", &json!({})));
    let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (rig, alice) = (Arc::clone(&rig), alice.clone());
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let told = rig.read_all(&alice, &[&[RED], &[], &[BLUE]]).await;
                    let status: Vec<_> = told.iter().map(|told| &*told.status).collect();
                    assert_eq!(status, ["permit", "permit", "fail"]);
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    assert_eq!(rig.read(&bob, &[PUBLIC]).await.refusal(), "forbidden");

    let file = server.dir().join("entitlements.yaml");
    // Nothing is read without the signal.
    let wider = ENTITLEMENTS.replace(
        "      - value: public\n",
        "      - value: public\n        subject_mappings:\n          - actions: [read]\n            \
         subject_sets:\n              - groups:\n                  - operator: and\n                    \
         conditions:\n                      - { selector: .sub, operator: in, values: [bob] }\n",
    );
    fs::write(&file, &wider).unwrap();
    assert_eq!(rig.read(&bob, &[PUBLIC]).await.refusal(), "forbidden");
    server.hang_up();
    permitted(&rig, &bob, &[PUBLIC]).await;
    assert_eq!(rig.read(&bob, &[SECRET]).await.refusal(), "forbidden");
    logged(&server, "entitlements were read again", 1).await;

    let cut = &wider[..wider.len() / 2];
    let misspelt = wider.replace("rule: any_of", "rule: some_of");
    let broken = ["", "attributes: 7", cut, &misspelt, "attributes: []\nsecrets: []\n"];
    let mut errors = 0;
    for text in broken {
        if text.is_empty() {
            fs::remove_file(&file).unwrap();
        } else {
            fs::write(&file, text).unwrap();
        }
        server.hang_up();
        errors += 1;
        logged(&server, "entitlements stay as they were", errors).await;
        assert_eq!(rig.read(&bob, &[PUBLIC]).await.status, "permit", "{text}");
        assert_eq!(rig.read(&bob, &[RED]).await.refusal(), "forbidden", "{text}");
    }
    // And what was granted can be taken away.
    fs::write(&file, ENTITLEMENTS).unwrap();
    server.hang_up();
    within(PATIENCE, async || match rig.read(&bob, &[PUBLIC]).await.result {
        Err(_) => Ok(()),
        Ok(_) => Err("it is still permitted"),
    })
    .await;
    let before = done.load(Relaxed);
    within(
        PATIENCE,
        async || {
            if done.load(Relaxed) > before + 8 { Ok(()) } else { Err("nothing goes on") }
        },
    )
    .await;
    stop.store(true, Relaxed);
    for task in load {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_stops_the_start() {
    let rig = Rig::new();
    let setup = rig.local(&json!({}));
    setup.write("entitlements.yaml", "attributes:\n  - fqn: no\n    rule: any_of\n");
    let (code, said) = setup.fails(&[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("decisions.file") && said.contains("attributes[0].fqn"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_guards_close_what_a_missing_claim_opens() {
    let rig = Rig::new();
    let server = rig.local(&json!({})).serve();
    let (here, none) = (json!({ "country": "elsewhere" }), json!({}));
    let number = json!({ "country": 7 });
    for claims in [&here, &none, &number] {
        let told = rig.read(&reader(&server, "alice", claims), &[ABROAD]).await;
        assert_eq!(told.status, "permit", "{claims}: guards fail open as OpenTDF has them");
    }
    let out = json!({ "country": "nowhere" });
    let told = rig.read(&reader(&server, "alice", &out), &[ABROAD]).await;
    assert_eq!(told.refusal(), "forbidden");
    assert!(server.log().contains("not_in"), "it is a warning at start: {}", server.log());

    let mut setup = server.kill();
    setup.config["decisions"]["strict_guards"] = true.into();
    let server = setup.serve();
    let told = rig.read(&reader(&server, "alice", &here), &[ABROAD]).await;
    assert_eq!(told.status, "permit");
    for claims in [&none, &out] {
        let told = rig.read(&reader(&server, "alice", claims), &[ABROAD]).await;
        assert_eq!(told.refusal(), "forbidden", "{claims}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_without_attributes_can_be_denied() {
    let rig = Rig::new();
    let server = rig.local(&json!({ "without_attributes": "deny" })).serve();
    let alice = reader(&server, "alice", &red());
    let told = rig.read_all(&alice, &[&[], &[RED], &[BLUE]]).await;
    let refused = "forbidden: policies without attributes are not opened here";
    assert_eq!(told[0].refusal(), refused);
    assert_eq!(told[1].status, "permit");
    assert_eq!(told[2].refusal(), "forbidden");
    assert_eq!(outcomes(&server.audit()), ["denied", "denied", "success"]);
    // Where nobody decides, nobody is let in by attributes.
    let mut setup = server.kill();
    setup.config["decisions"] = json!({ "mode": "deny" });
    let server = setup.serve();
    let alice = reader(&server, "alice", &red());
    let told = rig.read_all(&alice, &[&[], &[RED]]).await;
    assert_eq!(told[0].status, "permit");
    assert!(told[1].refusal().starts_with("forbidden: no decision service"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_is_told_after_a_denial_only_if_asked_for() {
    let rig = Rig::new();
    let mut server = rig.local(&json!({})).serve();
    let denied = policy(&[BLUE]);
    let (_, sound) = rig.wrapped(&denied);
    // Bound to another policy.
    let tampered = || {
        let (_, mut kao) = rig.wrapped(&denied);
        kao["policyBinding"] = rig.wrapped(POLICY).1["policyBinding"].clone();
        kao
    };
    let kaos = [sound, tampered(), tampered()];
    let asked = [(denied.as_str(), kaos[..2].to_vec()), (POLICY, kaos[2..].to_vec())];
    for (check, second) in [(false, "forbidden"), (true, "bad request")] {
        if check {
            let mut setup = server.kill();
            setup.config["decisions"]["check_binding_after_denial"] = true.into();
            server = setup.serve();
        }
        let alice = reader(&server, "alice", &red());
        let told = alice.read(&rig.client, &asked).await.unwrap();
        let texts: Vec<_> = told.iter().map(Told::refusal).collect();
        assert_eq!(texts, ["forbidden", second, "bad request"], "check: {check}");
        let events = server.audit();
        let expected = ["denied", if check { "tampered" } else { "denied" }, "tampered"];
        for ((index, kao), outcome) in kaos.iter().enumerate().zip(expected) {
            let kasbah = kasbah_of(event_of(&events, kao));
            assert_eq!(kasbah["outcome"], outcome, "{index}, check: {check}");
            let is_open = index == 2;
            assert!(check || is_open != kasbah["manager"].is_null(), "{index}: {kasbah}");
        }
    }
}

/// Runs `kasbah entitlements`.
fn entitlements(url: &str, token: &str, arguments: &[&str]) -> Output {
    let mut command = kasbah();
    command.env("KASBAH_URL", url).env("KASBAH_TOKEN", token);
    command.arg("entitlements").args(arguments).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", text(output)))
}

fn text(output: &Output) -> String {
    let all = [&*output.stdout, &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn written(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A server whose keys and entitlements are in a registry.
fn registry(rig: &Rig, database: &str) -> (Setup, String) {
    let mut setup = Setup::new();
    setup.registry(database);
    let settings = setup.token("softhsm", &rig.token, "require-sealed").to_string();
    setup.config["decisions"] = json!({ "mode": "local", "from": "registry" });
    (setup, settings)
}

/// Makes the key that the rig asks for.
async fn make_key(rig: &mut Rig, admin: &Admin, settings: &str) {
    admin.create_kas().await;
    let provider = admin.create_provider("main", "opentdf.io/hsm", settings).await.unwrap();
    let key = admin.generate(&provider, "k1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    rig.pem = pem_of(&key);
}

impl Rig {
    /// As [`Rig::read`], of the key that a registry has.
    async fn read_k1(&self, reader: &Reader, fqns: &[&str]) -> Told {
        let policy = policy(fqns);
        let kao = kao("k1", &self.pem, &random_dek(), &policy);
        reader.read(&self.client, &[(&policy, vec![kao])]).await.unwrap().remove(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entitlements_of_a_registry_are_kept_by_administrators() {
    let mut rig = Rig::new();
    let (setup, settings) = registry(&rig, "sqlite:registry.db");
    let server = setup.serve();
    let (url, admin) = (server.url(), server.token(ADMIN));
    make_key(&mut rig, &server.admin(), &settings).await;
    let good = written(server.dir(), "good.yaml", ENTITLEMENTS);
    let alice = reader(&server, "alice", &red());
    assert_eq!(rig.read_k1(&alice, &[RED]).await.refusal(), "forbidden", "there are none");

    let none = entitlements(&url, &admin, &["get"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    let set =
        entitlements(&url, &admin, &["set", &good, "--expected-revision", "0", "--output", "json"]);
    assert_eq!(set.status.code(), Some(0), "{}", text(&set));
    let revision = json_of(&set)["revision"].as_u64().unwrap();
    assert_eq!(json_of(&set)["warnings"].as_array().unwrap().len(), 1, "{}", text(&set));
    within(PATIENCE, async || rig.read_k1(&alice, &[RED]).await.result).await;
    let got = entitlements(&url, &admin, &["get", "--output", "json"]);
    assert_eq!(json_of(&got), json!({ "revision": revision, "document": ENTITLEMENTS }));

    // Somebody else was faster.
    let late = entitlements(&url, &admin, &["set", &good, "--expected-revision", "0"]);
    assert_eq!(late.status.code(), Some(1), "{}", text(&late));
    assert!(text(&late).contains(&format!("at revision {revision} and not 0")), "{}", text(&late));

    // Bad ones are refused by the server too, and change nothing.
    let bad = written(server.dir(), "bad.yaml", &ENTITLEMENTS.replace("any_of", "some_of"));
    let refused = entitlements(&url, &admin, &["set", &bad]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("attributes[0].rule"), "{}", text(&refused));
    // Nor do those who are no administrators.
    for claims in [json!({ "realm_access": { "roles": ["opentdf-standard"] } }), json!({}), red()] {
        let token = server.token_with("mallory", &claims);
        for arguments in [&["set", &good][..], &["get"]] {
            let refused = entitlements(&url, &token, arguments);
            assert_eq!(refused.status.code(), Some(1), "{claims}: {}", text(&refused));
            assert!(text(&refused).contains("PermissionDenied"), "{claims}: {}", text(&refused));
        }
    }
    let stranger = entitlements(&url, "not-a-token", &["set", &good]);
    assert_eq!(stranger.status.code(), Some(2), "{}", text(&stranger));
    let got = entitlements(&url, &admin, &["get", "--output", "json"]);
    assert_eq!(json_of(&got)["revision"], revision, "nothing has changed");
    assert_eq!(rig.read_k1(&alice, &[RED]).await.status, "permit");

    // Somebody who knows of the last change may make the next.
    let next = ["set", &good, "--expected-revision", &revision.to_string()];
    let set = entitlements(&url, &admin, &[&next[..], &["--output", "json"]].concat());
    assert!(json_of(&set)["revision"].as_u64().unwrap() > revision, "{}", text(&set));
}

#[test]
fn a_document_is_checked_without_a_server() {
    let dir = tempfile::TempDir::new().unwrap();
    let check = |name: &str, document: &str| {
        let file = written(dir.path(), name, document);
        entitlements("http://127.0.0.1:1", "", &["check", &file, "--output", "json"])
    };
    let good = check("good.yaml", ENTITLEMENTS);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    let report = json_of(&good);
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("not_in"), "{report}");
    let bad = check(
        "bad.yaml",
        &ENTITLEMENTS
            .replace("fqn: https://acme.example/attr/team", "fqn: team")
            .replace("fqn: https://acme.example/attr/level", "fqn: level"),
    );
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    let problems = json_of(&bad)["problems"].as_array().unwrap().clone();
    assert!(problems.len() >= 2, "every problem at once: {}", text(&bad));
    let missing = entitlements("", "", &["check", "/nowhere/entitlements.yaml"]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
}

/// Two servers with one database, and a reader of the red team at each.
struct Nodes {
    rig: Rig,
    admin: Admin,
    readers: [(&'static str, Reader); 2],
    postgres: Postgres,
    servers: [Server; 2],
}

impl Nodes {
    async fn start() -> Self {
        let mut rig = Rig::new();
        let postgres = Postgres::start();
        let (setup, settings) = registry(&rig, &postgres.url());
        let servers = [setup.serve(), registry(&rig, &postgres.url()).0.serve()];
        let admin = servers[0].admin();
        make_key(&mut rig, &admin, &settings).await;
        let readers = [("a", &servers[0]), ("b", &servers[1])]
            .map(|(name, server)| (name, reader(server, "alice", &red())));
        let nodes = Self { rig, admin, readers, postgres, servers };
        for (_, reader) in &nodes.readers {
            within(PATIENCE, async || nodes.rig.read_k1(reader, &[]).await.result).await;
            assert_eq!(nodes.rig.read_k1(reader, &[RED]).await.refusal(), "forbidden");
        }
        nodes
    }

    /// At the first node.
    async fn set(&self, document: &str) -> Result<u64, Status> {
        let message =
            SetEntitlementsRequest { document: document.to_owned(), expected_revision: None };
        let set = self.admin.admin().set_entitlements(self.admin.request(message)).await?;
        Ok(set.into_inner().revision)
    }

    /// Until the red team may read, or may not, at both nodes.
    async fn red_may(&self, may: bool, limit: Duration) {
        for (node, reader) in &self.readers {
            within(limit, async || match self.rig.read_k1(reader, &[RED]).await.result {
                result if result.is_ok() == may => Ok(()),
                _ => Err(format!("the change has not come to {node}")),
            })
            .await;
        }
    }
}

/// How long a change may take to every node: several times what is promised.
const SOON: Duration = Duration::from_secs(5);

/// [`ENTITLEMENTS`] without those of the red team.
fn without_red() -> String {
    ENTITLEMENTS.replace("red-team", "other-team")
}

#[tokio::test(flavor = "multi_thread")]
async fn entitlements_are_in_force_on_every_node() {
    let nodes = Nodes::start().await;
    for _ in 0..3 {
        nodes.set(ENTITLEMENTS).await.unwrap();
        nodes.red_may(true, SOON).await;
        for (_, reader) in &nodes.readers {
            assert_eq!(nodes.rig.read_k1(reader, &[BLUE]).await.refusal(), "forbidden");
        }
        nodes.set(&without_red()).await.unwrap();
        nodes.red_may(false, SOON).await;
    }
    nodes.set(ENTITLEMENTS).await.unwrap();
    // Who starts now has them from the start.
    let late = registry(&nodes.rig, &nodes.postgres.url()).0.serve();
    let admin = late.admin();
    let got = admin.admin().get_entitlements(admin.request(GetEntitlementsRequest {})).await;
    assert_eq!(got.unwrap().into_inner().document, ENTITLEMENTS);
    let told = nodes.rig.read_k1(&reader(&late, "alice", &red()), &[RED]).await;
    assert_eq!(told.status, "permit", "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entitlements_outlive_the_database() {
    let mut nodes = Nodes::start().await;
    nodes.set(ENTITLEMENTS).await.unwrap();
    nodes.red_may(true, SOON).await;
    nodes.postgres.stop();
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(4) {
        for (node, reader) in &nodes.readers {
            assert_eq!(nodes.rig.read_k1(reader, &[RED]).await.status, "permit", "{node}");
            assert_eq!(nodes.rig.read_k1(reader, &[BLUE]).await.refusal(), "forbidden", "{node}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = nodes.set("attributes: []\n").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    nodes.red_may(true, SOON).await;
    assert!(nodes.servers.iter().all(|server| !server.log().contains("panicked")));
}

/// A notification that nobody heard is no excuse: what was taken away would stay for ever. Whether one
/// is missed is a matter of moments, hence the attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_while_a_node_was_not_listening_reaches_it() {
    let mut nodes = Nodes::start().await;
    for _ in 0..4 {
        within(PATIENCE, async || nodes.set(ENTITLEMENTS).await).await;
        nodes.red_may(true, PATIENCE).await;
        nodes.postgres.stop();
        nodes.postgres.start_again();
        within(PATIENCE, async || nodes.set(&without_red()).await).await;
        nodes.red_may(false, PATIENCE).await;
    }
}

const PERMIT: &str = "https://acme.example/attr/any/value/permit";
const DENY: &str = "https://acme.example/attr/any/value/deny";
const OBLIGED: &str = "https://acme.example/attr/any/value/obliged";
/// The texts for no decision.
const DOWN: &str = "internal: auth-service-unavailable";
const REFUSED: &str = "forbidden: pdp-denied";
/// Longer than any test waits for a platform on purpose.
const AMPLE: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_decides_by_one_question_for_each_request() {
    let rig = Rig::new();
    let stand_in = StandIn::start().await;
    let server = rig.asking(&stand_in, AMPLE).serve();
    let token = server.token("alice");
    let alice = Reader::new(server.url(), token.clone());
    assert!(stand_in.take().is_empty(), "it is not asked for nothing");

    let told = rig.read(&alice, &[PERMIT, PERMIT]).await;
    assert_eq!((&*told.status, told.obligations.len()), ("permit", 0));
    let [Asked { authorization, token: about, action, resources, fulfillable, .. }] =
        &stand_in.take()[..]
    else {
        panic!("one question")
    };
    assert_eq!((about, &**action, authorization), (&token, "read", &None));
    assert_eq!(resources, &[[PERMIT, PERMIT]]);
    assert!(fulfillable.is_empty());

    let many: Vec<&[&str]> =
        (0..30).map(|index| [&[PERMIT][..], &[DENY, PERMIT], &[OBLIGED], &[]][index % 4]).collect();
    let told = rig.read_all(&alice, &many).await;
    for (index, told) in told.iter().enumerate() {
        match index % 4 {
            0 | 3 => assert_eq!(told.status, "permit", "{index}"),
            1 => assert_eq!((told.refusal(), told.obligations.len()), ("forbidden", 0)),
            _ => {
                assert_eq!(told.refusal(), "forbidden");
                assert_eq!(told.obligations, [WATERMARK]);
            }
        }
    }
    let questions = stand_in.take();
    assert_eq!(questions.len(), 1, "one round trip");
    let asked: Vec<_> = many.iter().filter(|fqns| !fqns.is_empty()).collect();
    assert!(questions[0].resources.iter().eq(asked), "{:?}", questions[0].resources);

    let able = alice.with_context(&context(&[WATERMARK]));
    let told = rig.read(&able, &[OBLIGED]).await;
    assert_eq!((&*told.status, &*told.obligations), ("permit", &[WATERMARK.into()][..]));
    assert_eq!(stand_in.take()[0].fulfillable, [WATERMARK]);

    // Nobody is asked about what has no attributes.
    assert_eq!(rig.read_all(&alice, &[&[], &[]]).await[1].status, "permit");
    assert!(stand_in.take().is_empty());
    for part in token.split('.') {
        assert!(!server.log().contains(part), "a token is in the log");
    }
}

/// No key without a decision, and those that need none beside it.
async fn assert_undecided(rig: &Rig, reader: &Reader, text: &str, why: &str) {
    let told = rig.read_all(reader, &[&[], &[PERMIT], &[DENY], &[]]).await;
    assert_eq!((told[0].status.as_str(), told[3].status.as_str()), ("permit", "permit"), "{why}");
    assert_eq!((told[1].refusal(), told[2].refusal()), (text, text), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_fails_or_lies_opens_nothing() {
    let rig = Rig::new();
    let stand_in = StandIn::start().await;
    let server = rig.asking(&stand_in, AMPLE).serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    let outages = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::Aborted,
        Code::Unavailable,
    ];
    for code in (1..=16).map(Code::from) {
        stand_in.set_fault(Fault::Status(code));
        let text = if outages.contains(&code) { DOWN } else { REFUSED };
        assert_undecided(&rig, &alice, text, &format!("{code:?}")).await;
        let told = rig.read(&alice, &[PERMIT]).await;
        assert_eq!(told.refusal(), text, "{code:?}, one resource");
        // It answers again before it is left alone.
        stand_in.set_fault(None);
        assert_eq!(rig.read(&alice, &[PERMIT]).await.status, "permit", "after {code:?}");
    }
    for fault in [Fault::OtherIds, Fault::Missing, Fault::Twice, Fault::Neither] {
        stand_in.set_fault(fault.clone());
        assert_undecided(&rig, &alice, DOWN, &format!("{fault:?}")).await;
        if !matches!(fault, Fault::Twice) {
            let told = rig.read(&alice, &[PERMIT]).await;
            assert_eq!(told.refusal(), DOWN, "{fault:?}, one resource");
        }
        stand_in.set_fault(None);
        assert_eq!(rig.read(&alice, &[PERMIT]).await.status, "permit", "after {fault:?}");
    }
    let events = server.audit();
    let undecided = events.iter().filter(|event| {
        event["object"]["attributes"]["attrs"] != json!([]) && kasbah_of(event)["custody"].is_null()
    });
    for event in undecided {
        let kasbah = kasbah_of(event);
        assert!(kasbah["manager"].is_null(), "no key was touched: {event}");
        let outcome = kasbah["outcome"].as_str().unwrap();
        assert!(["denied", "unavailable"].contains(&outcome), "{event}");
    }
    assert!(outcomes(&events).contains(&"unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_is_left_alone_until_it_is_back() {
    let rig = Rig::new();
    let mut stand_in = StandIn::start().await;
    let server = rig.asking(&stand_in, 700).serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    within(PATIENCE, async || rig.read(&alice, &[PERMIT]).await.result).await;
    stand_in.stop();
    for attempt in 0..10 {
        assert_undecided(&rig, &alice, DOWN, &format!("down, attempt {attempt}")).await;
    }
    assert!(server.log().contains("no decision is asked of the platform"), "{}", server.log());
    stand_in.start_again().await;
    within(PATIENCE, async || rig.read(&alice, &[PERMIT]).await.result).await;
    assert_eq!(rig.read(&alice, &[DENY]).await.refusal(), "forbidden");

    // Slow is as bad as down, and takes nobody along: after some failures nobody waits.
    stand_in.set_fault(Fault::Slow(Duration::from_secs(30)));
    stand_in.take();
    for attempt in 0..8 {
        assert_undecided(&rig, &alice, DOWN, &format!("slow, attempt {attempt}")).await;
    }
    let asked = stand_in.take().len();
    assert!((1..8).contains(&asked), "it was asked {asked} times");
    stand_in.set_fault(None);
    within(PATIENCE, async || rig.read(&alice, &[PERMIT]).await.result).await;
    assert_eq!(rig.read(&alice, &[DENY]).await.refusal(), "forbidden");
    assert!(server.log().contains("the platform answers again"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_platform() {
    let rig = Rig::new();
    let mut stand_in = StandIn::start().await;
    stand_in.stop();
    let server = rig.asking(&stand_in, AMPLE).serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    assert_undecided(&rig, &alice, DOWN, "down from the start").await;
    stand_in.start_again().await;
    within(PATIENCE, async || rig.read(&alice, &[PERMIT]).await.result).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_at_once() {
    const READERS: usize = 20;
    let rig = Arc::new(Rig::new());
    let stand_in = StandIn::start().await;
    let server = rig.asking(&stand_in, AMPLE).serve();
    // Nobody is answered before all have asked.
    stand_in.set_fault(Fault::Together(Arc::new(Barrier::new(READERS))));
    let reading: Vec<_> = (0..READERS)
        .map(|index| {
            let reader = Reader::new(server.url(), server.token(&format!("reader-{index}")));
            let rig = Arc::clone(&rig);
            let fqn = if index % 2 == 0 { PERMIT } else { DENY };
            tokio::spawn(async move { rig.read(&reader, &[fqn]).await })
        })
        .collect();
    for (index, told) in reading.into_iter().enumerate() {
        let told = told.await.unwrap();
        if index % 2 == 0 {
            assert_eq!(told.status, "permit", "{index}: {told:?}");
        } else {
            assert_eq!(told.refusal(), "forbidden", "{index}");
        }
    }
    assert_eq!(stand_in.most_at_once(), READERS);
    // Each question was about the one who asked.
    let mut tokens: Vec<_> = stand_in.take().into_iter().map(|asked| asked.token).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), READERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_asked_with_a_token_of_the_server() {
    let rig = Rig::new();
    let stand_in = StandIn::start().await;
    let identity = TestIssuer::start().await;
    identity.add_client("kas", "correct-horse", &json!({ "made_for": "kas" }));
    let mut setup = rig.asking(&stand_in, AMPLE);
    setup.write("client", "correct-horse");
    setup.config["secrets"]["client"] = json!({ "file": "client" });
    let endpoint = format!("{}/protocol/openid-connect/token", identity.issuer_url());
    setup.config["platform"]["token_endpoint"] = endpoint.into();
    setup.config["platform"]["client_id"] = "kas".into();
    setup.config["platform"]["client_secret"] = "client".into();
    let server = setup.serve();
    let token = server.token("alice");
    let alice = Reader::new(server.url(), token.clone());
    for _ in 0..3 {
        assert_eq!(rig.read(&alice, &[PERMIT]).await.status, "permit");
    }
    let asked = stand_in.take();
    assert_eq!((asked.len(), identity.fetches().tokens), (3, 1), "one token for many questions");
    for asked in &asked {
        assert_eq!(asked.token, token, "who reads is the caller");
        let bearer = asked.authorization.as_ref().unwrap().strip_prefix("Bearer ").unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(bearer.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["made_for"], "kas", "who asks is the server");
        assert_ne!(claims["iss"], ISSUER);
    }
    // A platform that does not take the token gets another one, and then it is final.
    stand_in.set_fault(Fault::Status(Code::Unauthenticated));
    assert_undecided(&rig, &alice, REFUSED, "unauthenticated").await;
    assert_eq!(identity.fetches().tokens, 2);
    // Without a token nobody is asked.
    let mut setup = server.kill();
    setup.write("client", "wrong-horse");
    setup.config["decisions"]["timeout_ms"] = 5000.into();
    stand_in.set_fault(None);
    stand_in.take();
    let server = setup.serve();
    let alice = Reader::new(server.url(), server.token("alice"));
    assert_undecided(&rig, &alice, DOWN, "no token").await;
    assert!(stand_in.take().is_empty());
    assert!(!server.log().contains("wrong-horse"));
}
