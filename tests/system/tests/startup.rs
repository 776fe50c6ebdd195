//! A server that cannot do what its configuration says does not start, and says why once.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use cryptoki::{mechanism::Mechanism, object::Attribute};
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_system_tests::{server::Setup, token};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use serde_json::json;

/// A sound configuration with one RSA key in a token.
fn sound() -> (Setup, TestToken) {
    let fixture = SoftHsm::fresh();
    provision::generate(&token::open(&fixture), "r1", Algorithm::Rsa2048).unwrap();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    (setup, fixture)
}

/// It does not start: it ends with this code and one message that says all of this.
fn refused(setup: &Setup, code: i32, says: &[&str]) {
    let (ended, text) = setup.fails(&[]);
    assert_eq!(ended, code, "{text}");
    for part in says {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains("12345678"), "a PIN was printed: {text}");
    let messages = text.lines().filter(|line| line.starts_with("kasbah: ")).count();
    assert_eq!(messages, 1, "one message says all: {text}");
}

#[test]
fn a_sound_configuration_starts() {
    let (setup, _fixture) = sound();
    let mut server = setup.serve();
    server.terminate();
    assert_eq!(server.wait(), 0);
}

#[test]
fn wrong_pin() {
    let (mut setup, fixture) = sound();
    setup.write("wrong", "87654320\n");
    setup.config["secrets"]["softhsm"] = json!({ "file": "wrong" });
    // SoftHSM counts failures; the token must survive as many starts as it allows.
    for _ in 0..3 {
        refused(&setup, 2, &["refused PIN softhsm", "wrong", "not tried again"]);
    }
    let info = token::open(&fixture);
    assert!(info.login().is_ok(), "the right PIN still opens the token");
}

#[test]
fn missing_module() {
    let (mut setup, _fixture) = sound();
    setup.config["modules"]["softhsm"]["path"] = "/nowhere/libsofthsm2.so".into();
    refused(&setup, 2, &["modules.softhsm.path", "/nowhere/libsofthsm2.so", "install"]);
}

#[test]
fn missing_token() {
    let (mut setup, _fixture) = sound();
    setup.config["providers"][0]["config"]["token"] = "other".into();
    refused(&setup, 2, &["token other", "tokens found: kas", "kasbah hsm init"]);
}

#[test]
fn missing_key() {
    let (mut setup, _fixture) = sound();
    setup.config["keyring"][0]["key"] = "pkcs11:object=r2".into();
    refused(&setup, 2, &["pkcs11:object=r2", "keys found: r1", "kasbah hsm generate"]);
}

#[test]
fn ambiguous_key() {
    let (setup, fixture) = sound();
    let token = token::open(&fixture);
    let session = token.open_rw_session().unwrap();
    let label = || Attribute::Label(b"r1".to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        label(),
    ];
    let private = [Attribute::Token(true), Attribute::Private(true), label()];
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
    refused(&setup, 2, &["2 private keys", "name one by its id", "kasbah hsm list"]);
}

#[test]
fn a_key_below_its_custody() {
    let fixture = SoftHsm::fresh();
    provision::generate(&token::open(&fixture), "e1", "ec:secp256r1".parse().unwrap()).unwrap();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "e1", "algorithm": "ec:secp256r1", "provider": "softhsm", "key": "pkcs11:object=e1",
    }));
    refused(&setup, 2, &["e1", "sealed custody required"]);
}

#[test]
fn another_key_than_the_one_pinned() {
    let (mut setup, _fixture) = sound();
    setup.write("other.pem", {
        let other = kasbah_crypto::PrivateKey::generate(Algorithm::Rsa2048).unwrap();
        other.public_key().to_pem()
    });
    setup.config["keyring"][0]["public_key_file"] = "other.pem".into();
    refused(&setup, 2, &["r1", "public key"]);
}

#[test]
fn unknown_settings() {
    let (mut setup, _fixture) = sound();
    let sound = setup.config.clone();
    setup.config["server"]["lisen"] = "127.0.0.1:1".into();
    refused(&setup, 2, &["server", "lisen"]);
    setup.config = sound;
    setup.config["providers"][0]["config"]["pin-value"] = "12345678".into();
    refused(&setup, 2, &["providers[0].config", "pin-value"]);
}

#[test]
fn dev_tokens_are_for_loopback() {
    let (mut setup, _fixture) = sound();
    setup.config["auth"] = json!({ "mode": "dev" });
    setup.config["server"]["listen"] = "0.0.0.0:0".into();
    setup.config["server"]["plaintext"] = true.into();
    refused(&setup, 2, &["auth.mode", "loopback"]);
}
