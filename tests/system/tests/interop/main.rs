//! Clients of OpenTDF that nobody here wrote, as they come, against `kasbah dev`: what they encrypt
//! is wrapped for a key in its token, what they decrypt went through it, and what somebody changed
//! they cannot open. What each of them is, and what it cannot do, is in `tests/interop`.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]
#![expect(clippy::expect_used, reason = "a panic is a failing test")]

mod docs;
mod files;
mod java;
mod page;
mod sdk;
mod tdf;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{SessionKey, random_dek},
    dev::Dev,
    server::{Server, Setup},
    token,
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use kasbah_trust::Algorithm;
use serde_json::{Value, json};

use crate::{
    java::Java,
    page::Origin,
    sdk::{Sdk, finished},
    tdf::{access, break_binding, changed, policy},
};

const PLAINTEXT: &[u8] = b"Not even the server sees this.\n";
/// Kids of the keys in the token of `kasbah dev`.
const RSA: &str = "r1";
const EC: &str = "e1";
/// Kid of the key for those who name none.
const LEGACY: &str = "old";
/// SoftHSM can take an RSA-wrapped key and wrap it for an RSA client inside, and neither for EC.
const SEALED: &str = "sealed";
const TRANSIENT: &str = "transient";

/// Decrypts, which must bring back the plaintext through this key of the token.
fn opens(dev: &Dev, sdk: Sdk, file: &Path, options: &[&str], kid: &str, custody: &str) {
    let before = dev.events().len();
    let opened = sdk.decrypt(dev, file, options);
    let opened =
        opened.unwrap_or_else(|error| panic!("{sdk:?} {options:?}: {error}\n{}", dev.log()));
    assert_eq!(opened, PLAINTEXT, "{sdk:?} {options:?}");
    let events = dev.events_after(before);
    assert_eq!(events.len(), 1, "{sdk:?} {options:?}: {events:?}");
    went_through(&events[0], kid, custody);
}

/// Whether an audit event says that a key of the token gave the data key away.
fn went_through(event: &Value, kid: &str, custody: &str) {
    let (data, kasbah) = (&event["eventMetaData"], &event["eventMetaData"]["kasbah"]);
    assert_eq!(event["action"]["result"], "success", "{event}");
    assert_eq!(data["keyID"], kid, "{event}");
    assert_eq!(kasbah["manager"], "opentdf.io/hsm", "{event}");
    assert_eq!(kasbah["provider"], "main", "{event}");
    assert_eq!(kasbah["custody"], custody, "{event}");
}

/// Encrypts for a key of the token, which the manifest must name.
fn wraps(dev: &Dev, sdk: Sdk, name: &str, options: &[&str], kid: &str) -> std::path::PathBuf {
    let file = sdk.encrypt(dev, name, PLAINTEXT, options);
    let file = file.unwrap_or_else(|error| panic!("{sdk:?} {options:?}: {error}\n{}", dev.log()));
    let written = fs::read(&file).unwrap();
    assert!(!written.windows(PLAINTEXT.len()).any(|part| part == PLAINTEXT), "{sdk:?}");
    let access = access(&file);
    assert_eq!(access["kid"], kid, "{sdk:?} {options:?}");
    let kind = if kid == EC { "ec-wrapped" } else { "wrapped" };
    assert_eq!(access["type"], kind, "{sdk:?} {options:?}");
    file
}

/// Decrypts what must not open, after the server said no; what the SDK said.
fn refused(dev: &Dev, sdk: Sdk, file: &Path, options: &[&str]) -> String {
    let before = dev.events().len();
    let error = sdk.decrypt(dev, file, options).expect_err("it must not open");
    let events = dev.events_after(before);
    assert!(events.iter().all(|event| event["action"]["result"] != "success"), "{events:?}");
    error
}

/// Decrypts with a binding that was changed.
fn guards(dev: &Dev, sdk: Sdk, file: &Path, options: &[&str]) -> String {
    let broken = changed(file, |information| break_binding(&mut information["keyAccess"][0]));
    tampered(dev, sdk, &broken, options)
}

/// Decrypts what the server must know not to be as it was.
fn tampered(dev: &Dev, sdk: Sdk, file: &Path, options: &[&str]) -> String {
    let error = refused(dev, sdk, file, options);
    let last = dev.events().pop().unwrap();
    let outcome = &last["eventMetaData"]["kasbah"]["outcome"];
    assert_eq!(outcome, "tampered", "{sdk:?} {options:?}: {last}");
    error
}

#[test]
fn go_wraps_with_rsa_and_ec_and_opens_with_either() {
    let dev = Dev::start();
    for (algorithm, kid) in [("rsa:2048", RSA), ("ec:secp256r1", EC)] {
        let file = wraps(&dev, Sdk::Go, kid, &["-alg", algorithm], kid);
        for session in ["rsa:2048", "rsa:4096", "ec:secp256r1", "ec:secp384r1", "ec:secp521r1"] {
            let is_sealed = kid == RSA && session.starts_with("rsa");
            let custody = if is_sealed { SEALED } else { TRANSIENT };
            opens(&dev, Sdk::Go, &file, &["-session", session], kid, custody);
            let last = dev.events().pop().unwrap();
            assert_eq!(last["eventMetaData"]["kasbah"]["proof"], "dpop", "{last}");
        }
        let error = guards(&dev, Sdk::Go, &file, &[]);
        assert!(error.contains("tamper"), "{error}");
        // The SDK has these, this version has not.
        let error = refused(&dev, Sdk::Go, &file, &["-session", "mlkem:768"]);
        assert!(error.contains("clientPublicKey parse failure"), "{error}");
    }
}

#[test]
fn go_finds_the_key_by_itself() {
    let dev = Dev::start();
    let base = wraps(&dev, Sdk::Go, "base", &[], RSA);
    opens(&dev, Sdk::Go, &base, &[], RSA, SEALED);

    let [may, may_not] =
        ["may", "may-not"].map(|value| format!("https://acme.example/attr/interop/value/{value}"));
    let entitlements = dev.dir().join("entitlements.yaml");
    fs::write(&entitlements, ENTITLEMENTS).unwrap();
    dev.administer(&["entitlements", "set", entitlements.to_str().unwrap()]);
    known(&dev, &may);
    let file = wraps(&dev, Sdk::Go, "may", &["-attribute", &may], EC);
    opens(&dev, Sdk::Go, &file, &[], EC, TRANSIENT);
    let last = dev.events().pop().unwrap();
    assert_eq!(last["object"]["attributes"]["attrs"], json!([may]));
    guards(&dev, Sdk::Go, &file, &[]);

    let file = wraps(&dev, Sdk::Go, "may-not", &["-attribute", &may_not], EC);
    let error = refused(&dev, Sdk::Go, &file, &[]);
    assert!(error.contains("permission_denied"), "{error}");
    // Nor with the policy of something that it may open.
    let open = changed(&file, |information| information["policy"] = policy(&base));
    tampered(&dev, Sdk::Go, &open, &[]);
}

const ENTITLEMENTS: &str = r#"
namespaces:
  - { name: acme.example, keys: [e1] }
attributes:
  - fqn: https://acme.example/attr/interop
    rule: any_of
    values:
      - value: may
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: and
                    conditions:
                      - { selector: ".realm_access.roles[]", operator: in, values: [opentdf-standard] }
      - value: may-not
"#;

/// Waits until the SDK finds an attribute: what is set is in force within a second.
fn known(dev: &Dev, attribute: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = Sdk::Go.encrypt(dev, "known", b"", &["-attribute", attribute]) {
        assert!(Instant::now() < until, "{error}\n{}", dev.log());
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn python_wraps_and_opens() {
    let dev = Dev::start();
    let file = wraps(&dev, Sdk::Python, "python", &[], RSA);
    opens(&dev, Sdk::Python, &file, &[], RSA, SEALED);
    let error = guards(&dev, Sdk::Python, &file, &[]);
    assert!(error.contains("bad request"), "{error}");
}

#[test]
fn rust_wraps_and_opens() {
    let dev = Dev::start();
    let file = wraps(&dev, Sdk::Rust, "rust", &[], RSA);
    for (how, proof) in [("connect", "bearer"), ("rest", "bearer"), ("bound", "dpop")] {
        opens(&dev, Sdk::Rust, &file, &[how], RSA, SEALED);
        let last = dev.events().pop().unwrap();
        assert_eq!(last["eventMetaData"]["kasbah"]["proof"], proof, "{how}: {last}");
        let error = guards(&dev, Sdk::Rust, &file, &[how]);
        assert!(error.contains("bad request"), "{how}: {error}");
    }
}

#[test]
fn javascript_wraps_and_opens_by_rest() {
    let dev = Dev::start();
    dev.make_legacy_key(LEGACY);
    let file = Sdk::JavaScript.encrypt(&dev, "javascript", PLAINTEXT, &[]).unwrap();
    let access = access(&file);
    assert_eq!((&access["type"], access.get("kid")), (&json!("wrapped"), None));
    assert!(access["policyBinding"].is_string(), "of the first version");
    opens(&dev, Sdk::JavaScript, &file, &[], LEGACY, SEALED);
    let error = guards(&dev, Sdk::JavaScript, &file, &[]);
    assert!(error.contains("status code 400"), "{error}");
}

#[test]
fn they_open_what_others_wrapped() {
    let dev = Dev::start();
    let options = |sdk| if sdk == Sdk::Rust { &["connect"][..] } else { &[] };
    for wrapper in [Sdk::Go, Sdk::Python, Sdk::Rust] {
        let file = wraps(&dev, wrapper, &format!("{wrapper:?}"), &[], RSA);
        for opener in [Sdk::Go, Sdk::Python, Sdk::Rust] {
            if (wrapper, opener) == (Sdk::Rust, Sdk::Python) {
                // It looks for the manifest under another name.
                let error = opener.decrypt(&dev, &file, &[]).unwrap_err();
                assert!(error.contains("no item named '0.manifest.json'"), "{error}");
                continue;
            }
            opens(&dev, opener, &file, options(opener), RSA, SEALED);
        }
    }
    let file = wraps(&dev, Sdk::Go, "ec", &["-alg", "ec:secp256r1"], EC);
    for opener in [Sdk::Python, Sdk::Rust] {
        opens(&dev, opener, &file, options(opener), EC, TRANSIENT);
    }
}

#[tokio::test]
async fn java_wraps_and_opens() {
    let dev = Dev::start();
    let java = Java::connect(&dev).await;
    assert_eq!(java.allowed().await, [dev.url()]);
    for (algorithm, kid) in [("rsa:2048", RSA), ("ec:secp256r1", EC)] {
        let (named, pem) = java.public_key(algorithm).await;
        assert_eq!(named, kid);
        let dek = random_dek();
        let access = java.wrap(kid, &pem, &dek);
        for session in [SessionKey::rsa(), SessionKey::ec()] {
            let before = dev.events().len();
            assert_eq!(java.unwrap(&session, &access).await.unwrap(), dek);
            let events = dev.events_after(before);
            let is_sealed = kid == RSA && matches!(session, SessionKey::Rsa(_));
            went_through(&events[0], kid, if is_sealed { SEALED } else { TRANSIENT });
            assert_eq!(events.len(), 1);
            assert_eq!(events[0]["eventMetaData"]["kasbah"]["proof"], "dpop");

            let mut broken = access.clone();
            break_binding(&mut broken);
            let refusal = java.unwrap(&session, &broken).await.unwrap_err();
            assert_eq!(refusal.code, "invalid_argument");
            assert!(refusal.message.contains("bad request"), "{refusal:?}");
            let last = dev.events_after(before + 1).pop().unwrap();
            assert_eq!(last["eventMetaData"]["kasbah"]["outcome"], "tampered", "{last}");
        }
    }
}

/// A server with a key in a token that pages may call as `cors` says.
fn serve(token: &TestToken, cors: Value) -> Server {
    let mut setup = Setup::new();
    setup.hsm("softhsm", token, "require-sealed");
    setup.key(json!({
        "kid": RSA, "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    setup.config["server"]["cors"] = cors;
    setup.serve()
}

#[test]
fn a_page_of_another_origin_wraps_and_opens() {
    let dev = Dev::start();
    let fixture = SoftHsm::fresh();
    provision::generate(&token::open(&fixture), RSA, Algorithm::Rsa2048).unwrap();
    let origin = Origin::new();
    let named = serve(&fixture, json!({ "origins": [origin.url], "credentials": true }));
    let plain = serve(&fixture, json!({ "origins": [origin.url] }));
    let foreign =
        serve(&fixture, json!({ "origins": ["https://app.example"], "credentials": true }));

    let dev_with = |credentials| {
        json!({
            "kas": dev.url(), "credentials": credentials,
            "clientId": dev.told("client_id"), "clientSecret": dev.told("client_secret"),
        })
    };
    let server_with = |server: &Server, credentials| json!({ "kas": server.url(), "credentials": credentials, "token": server.token("alice") });
    let attempts = [
        (dev_with("omit"), true),
        (server_with(&named, "include"), true),
        (server_with(&named, "omit"), true),
        (server_with(&plain, "omit"), true),
        (dev_with("include"), false),
        (server_with(&plain, "include"), false),
        (server_with(&foreign, "omit"), false),
        (server_with(&foreign, "include"), false),
    ];
    let sent = attempts.iter().map(|(attempt, _)| attempt.clone()).collect();
    let outcomes = origin.outcomes(&sent);
    assert_eq!(outcomes.len(), attempts.len());
    for ((attempt, works), outcome) in attempts.iter().zip(&outcomes) {
        if !works {
            // The browser lets the page see nothing.
            assert_eq!(*outcome, json!({ "error": "TypeError: Failed to fetch" }), "{attempt}");
            continue;
        }
        assert_eq!(outcome["kid"], RSA, "{attempt}: {outcome}");
        assert_eq!(outcome["custody"], SEALED, "{attempt}: {outcome}");
        assert_eq!(outcome["opened"], true, "{attempt}: {outcome}");
        let text = |name: &str| outcome[name].as_str().unwrap_or_default();
        assert!(text("tampered").contains("bad request"), "{attempt}: {outcome}");
        assert!(text("refusal").starts_with("401 unauthenticated"), "{attempt}: {outcome}");
    }
    for event in dev.events() {
        let result = &event["action"]["result"];
        assert!(result != "success" || event["eventMetaData"]["keyID"] == RSA, "{event}");
    }
}

#[test]
fn the_commands_of_the_documentation_work() {
    let dev = Dev::start();
    let script = docs::script(&dev);
    let before = dev.events().len();
    let output = finished(docs::shell(&dev, &script), &[]);
    let output = output.unwrap_or_else(|error| panic!("{script}\n{error}\n{}", dev.log()));
    let said = files::said(&output.stdout);
    assert_eq!(said.matches("hello from").count(), docs::GREETINGS, "{script}\n{said}");
    let opened = dev.events_after(before);
    assert_eq!(opened.len(), docs::GREETINGS, "{said}");
    for event in &opened {
        went_through(event, event["eventMetaData"]["keyID"].as_str().unwrap(), SEALED);
    }
}
