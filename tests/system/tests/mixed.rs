//! One response over several managers: every data key right, every custody honest.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Algorithm, Curve, PrivateKeyParts, envelope::RootKey};
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{POLICY, SessionKey, body, kao, random_dek, results},
    server::Setup,
    token,
};
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use serde_json::{Value, json};

const P256: Algorithm = Algorithm::Ec(Curve::P256);
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

/// A key the client wraps for.
struct Key {
    kid: &'static str,
    pem: String,
    /// Custody of a response to an RSA client.
    alone: &'static str,
}

fn generate(fixture: &TestToken, kid: &'static str, algorithm: Algorithm) -> Key {
    let token = token::open(fixture);
    let entry = provision::generate(&token, kid, algorithm).unwrap();
    Key { kid, pem: entry.public_key.unwrap().to_pem(), alone: "sealed" }
}

fn token_key(setup: &mut Setup, key: &Key, algorithm: Algorithm, provider: &str) {
    setup.key(json!({
        "kid": key.kid, "algorithm": algorithm.as_str(), "provider": provider,
        "key": format!("pkcs11:object={}", key.kid),
    }));
}

fn basic_key(setup: &mut Setup, kid: &'static str, algorithm: Algorithm) -> Key {
    let parts = PrivateKeyParts::generate(algorithm).unwrap();
    let (private, pem) = (parts.to_pem().unwrap(), parts.public_key().to_pem());
    let wrapped = wrap_private_key(&RootKey::from_hex(ROOT).unwrap(), &private).unwrap();
    setup.write(&format!("{kid}.pem"), &pem);
    setup.write(&format!("{kid}.b64"), wrapped);
    setup.key(json!({
        "kid": kid, "algorithm": algorithm.as_str(), "public_key_file": format!("{kid}.pem"),
        "wrapped_key_file": format!("{kid}.b64"), "wrapping_key": "root1",
    }));
    Key { kid, pem, alone: "transient" }
}

/// RSA on SoftHSM, EC on Kryoptic, both kinds of basic key.
fn setup(custody: &str) -> (Setup, Vec<Key>, [TestToken; 2]) {
    let (softhsm, kryoptic) = (SoftHsm::fresh(), Kryoptic::fresh());
    let keys = [
        (generate(&softhsm, "rsa-softhsm", Algorithm::Rsa2048), Algorithm::Rsa2048, "softhsm"),
        (generate(&kryoptic, "ec-kryoptic", P256), P256, "kryoptic"),
    ];
    let mut setup = Setup::new();
    setup.write("root", ROOT);
    setup.config["secrets"]["root1"] = json!({ "file": "root" });
    setup.hsm("softhsm", &softhsm, custody);
    setup.hsm("kryoptic", &kryoptic, custody);
    let mut all = Vec::new();
    for (key, algorithm, provider) in keys {
        token_key(&mut setup, &key, algorithm, provider);
        all.push(key);
    }
    all.push(basic_key(&mut setup, "rsa-basic", Algorithm::Rsa2048));
    all.push(basic_key(&mut setup, "ec-basic", P256));
    (setup, all, [softhsm, kryoptic])
}

/// A key access object and its data key for each key, twice around.
fn objects(keys: &[Key]) -> (Vec<Vec<u8>>, Vec<Value>) {
    let wrap = |key: &Key| {
        let dek = random_dek();
        let kao = kao(key.kid, &key.pem, &dek, POLICY);
        (dek, kao)
    };
    keys.iter().chain(keys).map(wrap).unzip()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_data_key_is_right_and_every_custody_honest() {
    let (setup, keys, _tokens) = setup("prefer-sealed");
    let server = setup.serve();
    let kas = server.connect("alice").await;
    for (client, shared) in [(SessionKey::rsa(), false), (SessionKey::ec(), true)] {
        let (deks, kaos) = objects(&keys);
        let response = kas.rewrap(&body(&client, POLICY, &kaos)).await.unwrap();
        assert_eq!(response.session_public_key.is_empty(), !shared, "one session key or none");
        let answers = results(&client, &response);
        assert_eq!(answers.len(), deks.len());
        for ((answer, dek), key) in answers.iter().zip(&deks).zip(keys.iter().chain(&keys)) {
            let answer = answer.as_ref().unwrap();
            assert_eq!(&answer.dek, dek, "{}", key.kid);
            // The one ephemeral key of a mixed response to an EC client is in host memory.
            let expected = if shared { "transient" } else { key.alone };
            assert_eq!(answer.custody, expected, "{} to an EC client: {shared}", key.kid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_manager_alone_holds_the_session_key_in_its_token() {
    let (setup, keys, _tokens) = setup("prefer-sealed");
    let server = setup.serve();
    let kas = server.connect("alice").await;
    let key = &keys[1];
    let (deks, kaos): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let dek = random_dek();
            let kao = kao(key.kid, &key.pem, &dek, POLICY);
            (dek, kao)
        })
        .unzip();
    let client = SessionKey::ec();
    let response = kas.rewrap(&body(&client, POLICY, &kaos)).await.unwrap();
    for (answer, dek) in results(&client, &response).iter().zip(&deks) {
        let answer = answer.as_ref().unwrap();
        assert_eq!((&answer.dek, answer.custody.as_str()), (dek, "sealed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_requires_sealed_fails_alone_when_managers_mix() {
    let (setup, keys, _tokens) = setup("require-sealed");
    let server = setup.serve();
    let kas = server.connect("alice").await;
    let client = SessionKey::ec();
    let (deks, kaos) = objects(&keys);
    let response = kas.rewrap(&body(&client, POLICY, &kaos)).await.unwrap();
    let answers = results(&client, &response);
    for ((answer, dek), key) in answers.iter().zip(&deks).zip(keys.iter().chain(&keys)) {
        match answer {
            Ok(answer) => {
                assert_eq!(key.alone, "transient", "{} answered below its custody", key.kid);
                assert_eq!(&answer.dek, dek);
            }
            Err(error) => {
                assert_eq!(key.alone, "sealed", "{}: {error}", key.kid);
                assert!(error.contains("sealed custody required"), "{error}");
                assert!(!error.contains("bad request"), "{error}");
            }
        }
    }
    let rsa = SessionKey::rsa();
    let response = kas.rewrap(&body(&rsa, POLICY, &kaos)).await.unwrap();
    for ((answer, dek), key) in
        results(&rsa, &response).iter().zip(&deks).zip(keys.iter().chain(&keys))
    {
        let answer = answer.as_ref().unwrap();
        assert_eq!((&answer.dek, answer.custody.as_str()), (dek, key.alone), "{}", key.kid);
    }
}
