//! TDFs of a released SDK, opened through `kasbah serve`.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::fs;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{PrivateKeyParts, envelope::RootKey};
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{Kas, SessionKey, body_v1},
    server::{Server, Setup},
    token,
};
use kasbah_testkit::{
    golden::{self, Golden},
    tdf,
    tokens::{SoftHsm, TestToken},
};
use serde_json::{Value, json};

const BAD_REQUEST: &str =
    "invalid_argument: request error\nrpc error: code = InvalidArgument desc = bad request";

/// A server whose golden key is in a SoftHSM token.
fn in_token(fixture: &TestToken) -> Server {
    provision::import(&token::open(fixture), golden::KID, golden::PRIVATE_KEY).unwrap();
    let mut setup = Setup::new();
    setup.hsm("softhsm", fixture, "require-sealed");
    let uri = format!("pkcs11:object={}", golden::KID);
    let key = json!({
        "kid": golden::KID, "algorithm": "rsa:2048", "provider": "softhsm", "key": uri,
    });
    setup.key(key);
    setup.serve()
}

/// A server whose golden key is wrapped by a root key.
fn in_database() -> Server {
    let root = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
    let public = PrivateKeyParts::from_pem(golden::PRIVATE_KEY).unwrap().public_key();
    let wrapped = wrap_private_key(&RootKey::from_hex(root).unwrap(), golden::PRIVATE_KEY).unwrap();
    let mut setup = Setup::new();
    setup.write("root", root);
    setup.write("golden.pem", public.to_pem());
    setup.write("golden.b64", wrapped);
    setup.config["secrets"]["root1"] = json!({ "file": "root" });
    setup.key(json!({
        "kid": golden::KID, "algorithm": "rsa:2048", "public_key_file": "golden.pem",
        "wrapped_key_file": "golden.b64", "wrapping_key": "root1",
    }));
    setup.serve()
}

/// Everything that must hold of a server with the golden key.
async fn opens_and_guards(server: &Server, custody: &str, manager: &str) {
    let kas = server.connect("alice").await;
    for golden in golden::all() {
        for client in [SessionKey::rsa(), SessionKey::ec()] {
            let sealed = matches!(client, SessionKey::Rsa(_)) && custody == "sealed";
            let answer = kas.rewrap_one(&client, &golden.policy, &golden.kao).await;
            if custody == "sealed" && !sealed {
                // SoftHSM has no HKDF, so an EC client's answer cannot be sealed.
                let error = answer.unwrap_err();
                assert!(error.contains("FailedPrecondition"), "{error}");
                assert!(error.contains("sealed custody required"), "{error}");
                continue;
            }
            let answer = answer.unwrap();
            assert_eq!(answer.dek, golden.dek, "{}", golden.name);
            assert_eq!(answer.custody, custody, "{}", golden.name);
            let payload = tdf::payload(golden.tdf, &answer.dek);
            assert_eq!(payload.len() as u64, golden.plain_len);
            assert_eq!(hex::encode(digest(&SHA256, &payload)), golden.plain_sha256);
        }
        version_1(&kas, &golden).await;
        one_flipped_bit(&kas, &golden).await;
    }
    let events = server.audit();
    let opened: Vec<_> =
        events.iter().filter(|event| event["action"]["result"] == "success").collect();
    assert!(opened.len() >= 4, "{}", server.log());
    for event in opened {
        let kasbah = &event["eventMetaData"]["kasbah"];
        assert_eq!(kasbah["custody"], custody, "{event}");
        assert_eq!(kasbah["manager"], manager, "{event}");
        assert_eq!(event["eventMetaData"]["keyID"], golden::KID);
        assert_eq!(event["actor"]["id"], "alice");
    }
}

async fn version_1(kas: &Kas, golden: &Golden) {
    let client = SessionKey::rsa();
    let response = kas.rewrap(&body_v1(&client, &golden.policy, &golden.kao)).await.unwrap();
    #[expect(deprecated, reason = "version 1 clients read nothing else")]
    let wrapped = response.entity_wrapped_key;
    assert_eq!(client.open(&wrapped, "").unwrap(), golden.dek, "{}", golden.name);
}

async fn one_flipped_bit(kas: &Kas, golden: &Golden) {
    let client = SessionKey::rsa();
    let mut wrapped = golden.kao.clone();
    flip(&mut wrapped["wrappedKey"], 200);
    let mut binding = golden.kao.clone();
    flip(&mut binding["policyBinding"]["hash"], 20);
    for (what, kao) in [("wrappedKey", wrapped), ("binding", binding)] {
        let error = kas.rewrap_one(&client, &golden.policy, &kao).await.unwrap_err();
        assert_eq!(error, BAD_REQUEST, "{what}");
    }
    // Another UUID: still a policy, but not the one that was bound.
    let text = String::from_utf8(BASE64_STANDARD.decode(&golden.policy).unwrap()).unwrap();
    let changed = text.replacen('4', "5", 1);
    assert_ne!(changed, text);
    let changed = BASE64_STANDARD.encode(changed);
    let error = kas.rewrap_one(&client, &changed, &golden.kao).await.unwrap_err();
    assert_eq!(error, BAD_REQUEST, "policy");
}

/// Flips the lowest bit of one byte under the base64.
fn flip(text: &mut Value, position: usize) {
    let mut bytes = BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap();
    bytes[position] ^= 1;
    *text = BASE64_STANDARD.encode(bytes).into();
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_tdfs_open_with_the_key_in_a_token() {
    let fixture = SoftHsm::fresh();
    let server = in_token(&fixture);
    opens_and_guards(&server, "sealed", "opentdf.io/hsm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_tdfs_open_with_a_basic_key() {
    opens_and_guards(&in_database(), "transient", "opentdf.io/basic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_nothing_opens_and_nothing_looks_tampered() {
    let fixture = SoftHsm::fresh();
    let server = in_token(&fixture);
    let kas = server.connect("alice").await;
    let [golden, _] = golden::all();
    let client = SessionKey::rsa();
    kas.rewrap_one(&client, &golden.policy, &golden.kao).await.unwrap();

    let session = token::open(&fixture);
    let session = session.open_rw_session().unwrap();
    let label = cryptoki::object::Attribute::Label(golden::KID.into());
    for object in session.find_objects(&[label]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    for _ in 0..4 {
        let error = kas.rewrap_one(&client, &golden.policy, &golden.kao).await.unwrap_err();
        assert!(!error.contains("bad request"), "{error}");
        assert!(error.contains("desc = key manager unavailable"), "{error}");
    }
    assert!(fs::exists(fixture.dir()).unwrap(), "the token itself was there all the time");
}
