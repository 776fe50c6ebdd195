//! What `kasbah hsm init|generate|import|list|public` do to real tokens.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{fs, process::Command, sync::Arc};

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass},
    types::AuthPin,
};
use kasbah_crypto::PrivateKeyParts;
use kasbah_pkcs11::{
    error::Error,
    module::Module,
    provision::{self, KeyEntry},
    template,
    token::{self, PinSource, Token},
    uri::KeyUri,
};
use kasbah_testkit::tokens::{Kryoptic, LABEL, PIN, SO_PIN, SoftHsm, TestToken};
use kasbah_trust::{Algorithm, Curve, PublicKey, SecretSource};

const GOLDEN: &str = include_str!("../../testkit/data/golden-r1.pem");

macro_rules! on_both_modules {
    ($($name:ident)*) => {
        mod softhsm {
            $(#[test] fn $name() { super::$name(&super::SoftHsm::fresh()); })*
        }
        mod kryoptic {
            $(#[test] fn $name() { super::$name(&super::Kryoptic::fresh()); })*
        }
    };
}

on_both_modules! {
    generated_keys_are_hardened
    generated_keys_were_never_outside
    imported_keys_are_hardened
    the_golden_key_is_imported
    a_taken_label_is_refused
    a_taken_key_is_refused
    what_is_no_kas_key_is_refused
    an_unusable_kid_is_refused
    weak_keys_are_listed_with_what_they_lack
    a_private_key_alone_is_listed
    pkcs11_tool_sees_the_same_keys
    the_public_key_is_found_by_label_and_id
    a_changed_pin_opens_the_token_from_then_on
    an_unfit_pin_changes_nothing
}

fn generated_keys_are_hardened(fixture: &TestToken) {
    let token = open(fixture);
    for algorithm in Algorithm::ALL {
        let kid = algorithm.as_str();
        let entry = provision::generate(&token, kid, algorithm).unwrap();
        assert_eq!(entry.label, kid);
        assert_eq!(entry.id.len(), 16);
        assert_eq!(entry.algorithm, Some(algorithm));
        assert_eq!(entry.gaps, [""; 0], "{kid}");
        assert_pair_shares_names(&token, &entry);
    }
    assert_eq!(provision::list(&token).unwrap().len(), Algorithm::ALL.len());
}

fn generated_keys_were_never_outside(fixture: &TestToken) {
    let token = open(fixture);
    let session = token.open_session().unwrap();
    for algorithm in [Algorithm::Rsa2048, Algorithm::Ec(Curve::P256)] {
        provision::generate(&token, algorithm.as_str(), algorithm).unwrap();
        let uri = KeyUri::for_label(algorithm.as_str());
        let key = token::find_key(&session, LABEL, &uri).unwrap();
        let kinds =
            [AttributeType::Local, AttributeType::AlwaysSensitive, AttributeType::NeverExtractable];
        assert_eq!(
            session.get_attributes(key.private, &kinds).unwrap(),
            [
                Attribute::Local(true),
                Attribute::AlwaysSensitive(true),
                Attribute::NeverExtractable(true)
            ]
        );
    }
}

fn imported_keys_are_hardened(fixture: &TestToken) {
    let token = open(fixture);
    for algorithm in Algorithm::ALL {
        let key = PrivateKeyParts::generate(algorithm).unwrap();
        let kid = algorithm.as_str();
        let entry = provision::import(&token, kid, &key.to_pem().unwrap()).unwrap();
        assert_eq!(entry.label, kid);
        assert_eq!(entry.id, key.public_key().fingerprint()[..16]);
        assert_eq!(entry.algorithm, Some(algorithm));
        assert_eq!(entry.gaps, [""; 0], "{kid}");
        assert_eq!(entry.public_key, Some(key.public_key()));
        assert_pair_shares_names(&token, &entry);
        assert_secret_is_unreadable(&token, kid);
    }
}

fn the_golden_key_is_imported(fixture: &TestToken) {
    let token = open(fixture);
    let entry = provision::import(&token, "golden-r1", GOLDEN).unwrap();
    let expected = PrivateKeyParts::from_pem(GOLDEN).unwrap().public_key();
    assert_eq!(entry.public_key, Some(expected.clone()));
    assert_eq!(entry.algorithm, Some(Algorithm::Rsa2048));
    assert_eq!(entry.id, expected.fingerprint()[..16]);
    assert_secret_is_unreadable(&token, "golden-r1");
}

fn a_taken_label_is_refused(fixture: &TestToken) {
    let token = open(fixture);
    provision::generate(&token, "r1", Algorithm::Ec(Curve::P256)).unwrap();
    let again = provision::generate(&token, "r1", Algorithm::Rsa2048).unwrap_err();
    assert!(matches!(again, Error::Exists(_)), "{again:?}");
    assert!(again.to_string().contains("already has key r1"), "{again}");
    let import = provision::import(&token, "r1", GOLDEN).unwrap_err();
    assert!(matches!(import, Error::Exists(_)), "{import:?}");
    assert_eq!(provision::list(&token).unwrap().len(), 1);
}

fn a_taken_key_is_refused(fixture: &TestToken) {
    let token = open(fixture);
    provision::import(&token, "one", GOLDEN).unwrap();
    let again = provision::import(&token, "two", GOLDEN).unwrap_err();
    assert!(matches!(again, Error::Exists(_)), "{again:?}");
    assert!(again.to_string().contains("already has key one"), "{again}");
    assert_eq!(count(&token, ObjectClass::PUBLIC_KEY), 1);
}

fn what_is_no_kas_key_is_refused(fixture: &TestToken) {
    let token = open(fixture);
    let public = PrivateKeyParts::from_pem(GOLDEN).unwrap().public_key().to_pem();
    let cut = &GOLDEN[..GOLDEN.len() / 2];
    let damaged = GOLDEN.replacen("AQIBAA", "AQIBAQ", 1).replacen("MII", "MIJ", 1);
    for text in ["", "r1", &public, cut, &damaged] {
        let error = provision::import(&token, "r1", text).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
    assert_eq!(count(&token, ObjectClass::PRIVATE_KEY), 0);
}

fn an_unusable_kid_is_refused(fixture: &TestToken) {
    let token = open(fixture);
    for kid in ["", "a\nb", "a\0", &"k".repeat(129)] {
        let error = provision::generate(&token, kid, Algorithm::Ec(Curve::P256)).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(matches!(provision::import(&token, kid, GOLDEN), Err(Error::Config(_))));
    }
}

fn weak_keys_are_listed_with_what_they_lack(fixture: &TestToken) {
    let token = open(fixture);
    provision::generate(&token, "strong", Algorithm::Rsa2048).unwrap();
    let session = token.open_rw_session().unwrap();
    let names =
        [Attribute::Token(true), Attribute::Label(b"weak".to_vec()), Attribute::Id(vec![1])];
    let mut public = names.to_vec();
    public.push(Attribute::ModulusBits(2048.into()));
    let mut private = names.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        Attribute::Decrypt(true),
    ]);
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
    let [strong, weak] = &provision::list(&token).unwrap()[..] else { panic!("two keys") };
    assert_eq!((strong.label.as_str(), &strong.gaps[..]), ("strong", &[][..]));
    assert_eq!(weak.label, "weak");
    for gap in [
        "DECRYPT=false",
        "MODIFIABLE=false",
        "COPYABLE=false",
        "ALLOWED_MECHANISMS={RSA_PKCS_OAEP}",
    ] {
        assert!(weak.gaps.contains(&gap), "{gap} is missing in {:?}", weak.gaps);
    }
    for line in ["SENSITIVE=true", "EXTRACTABLE=false", "UNWRAP=true", "TOKEN=true"] {
        assert!(!weak.gaps.contains(&line), "{line} is no gap");
    }
}

fn a_private_key_alone_is_listed(fixture: &TestToken) {
    let token = open(fixture);
    provision::generate(&token, "e1", Algorithm::Ec(Curve::P256)).unwrap();
    let session = token.open_rw_session().unwrap();
    let public = session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap();
    session.destroy_object(public[0]).unwrap();
    let [key] = &provision::list(&token).unwrap()[..] else { panic!("one key") };
    assert_eq!((key.label.as_str(), &key.public_key, key.algorithm), ("e1", &None, None));
    let error = provision::public(&token, &KeyUri::for_label("e1")).unwrap_err();
    assert!(error.to_string().contains("0 public keys belong to it"), "{error}");
}

fn pkcs11_tool_sees_the_same_keys(fixture: &TestToken) {
    let token = open(fixture);
    let generated = provision::generate(&token, "made", Algorithm::Rsa2048).unwrap();
    let imported = provision::import(&token, "brought", GOLDEN).unwrap();
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(fixture.module_path())
        .args(["--token-label", LABEL, "--login", "--pin", PIN, "--list-objects"])
        .envs(fixture.env())
        .output()
        .unwrap_or_else(|error| panic!("pkcs11-tool ({error}): apt-get install opensc"));
    let text = String::from_utf8_lossy(&output.stdout);
    for key in [generated, imported] {
        let id = hex::encode(&key.id);
        // Kryoptic keeps no MODULUS_BITS of an imported public key, so the size is not compared.
        for class in ["Private Key Object; RSA", "Public Key Object; RSA"] {
            let found = text.lines().collect::<Vec<_>>().windows(3).any(|lines| {
                lines[0].starts_with(class)
                    && lines[1].trim_end().ends_with(&key.label)
                    && lines[2].contains(&id)
            });
            assert!(found, "{class} {} {id} is not in:\n{text}", key.label);
        }
    }
}

fn the_public_key_is_found_by_label_and_id(fixture: &TestToken) {
    let token = open(fixture);
    let key = provision::import(&token, "golden-r1", GOLDEN).unwrap();
    let uri = key.uri().unwrap();
    let by_id = uri.to_string().replace("object=golden-r1;", "");
    for uri in [
        "pkcs11:object=golden-r1".to_owned(),
        uri.to_string(),
        by_id.clone(),
        format!("{by_id};token=kas;type=private"),
    ] {
        assert_eq!(provision::public(&token, &uri.parse().unwrap()).ok(), key.public_key, "{uri}");
    }
    let other = format!("{by_id};object=other");
    assert!(matches!(provision::public(&token, &other.parse().unwrap()), Err(Error::Key(_))));
}

#[test]
fn a_token_is_initialised() {
    let fixture = SoftHsm::fresh();
    let module = Module::load("--module", fixture.module_path()).unwrap();
    provision::init_token(&module, "prod", &secret(SO_PIN), &secret("0123456789")).unwrap();
    let pin_file = fixture.dir().join("prod-pin");
    fs::write(&pin_file, "0123456789").unwrap();
    let pin = PinSource { name: "pin2".into(), source: SecretSource::File(pin_file) };
    let token = Token::open(&module, "prod", None, pin).unwrap();
    provision::generate(&token, "r1", Algorithm::Rsa2048).unwrap();
    assert!(provision::list(&open(&fixture)).unwrap().is_empty());
}

#[test]
fn a_token_that_cannot_be_made_is_refused() {
    let fixture = SoftHsm::fresh();
    let module = Module::load("--module", fixture.module_path()).unwrap();
    let init = |label: &str, pin: &str| {
        provision::init_token(&module, label, &secret(SO_PIN), &secret(pin)).unwrap_err()
    };
    assert!(matches!(init(LABEL, PIN), Error::Exists(_)));
    assert!(matches!(init("", PIN), Error::Config(_)));
    assert!(matches!(init(&"t".repeat(33), PIN), Error::Config(_)));
    assert!(matches!(init("prod ", PIN), Error::Config(_)));
    assert!(matches!(init("pr\nod", PIN), Error::Config(_)));
    assert!(matches!(init("prod", "1"), Error::Config(_)));
    assert!(matches!(init("prod", &"1".repeat(300)), Error::Config(_)));
    assert!(init("prod", "1").to_string().contains("the user PIN must have"));
    // Nothing was initialised on the way.
    assert_eq!(module.context().get_slots_with_initialized_token().unwrap().len(), 1);
}

#[test]
fn kryoptic_has_no_second_token() {
    let fixture = Kryoptic::fresh();
    let module = Module::load("--module", fixture.module_path()).unwrap();
    let error = provision::init_token(&module, "prod", &secret(SO_PIN), &secret(PIN)).unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error:?}");
}

fn a_changed_pin_opens_the_token_from_then_on(fixture: &TestToken) {
    let token = open(fixture);
    provision::generate(&token, "before", Algorithm::Rsa2048).unwrap();
    let held = token.open_session().unwrap();
    let new = "0123456789";
    provision::change_pin(&token, &secret(new)).unwrap();
    // Sessions and the login of this process go on.
    token::find_key(&held, LABEL, &KeyUri::for_label("before")).unwrap();
    provision::generate(&token, "after", Algorithm::Rsa2048).unwrap();
    assert_eq!(provision::list(&token).unwrap().len(), 2);
    for (pin, opens) in [(new, true), (PIN, false)] {
        // Another process, whose login is its own.
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(fixture.module_path())
            .args(["--token-label", LABEL, "--login", "--pin", pin, "--list-objects"])
            .envs(fixture.env())
            .output()
            .unwrap_or_else(|error| panic!("pkcs11-tool ({error}): apt-get install opensc"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.contains("Private Key Object"), opens, "{text}");
        let refused = String::from_utf8_lossy(&output.stderr).contains("CKR_PIN_INCORRECT");
        assert_eq!(refused, !opens, "{text}");
    }
}

fn an_unfit_pin_changes_nothing(fixture: &TestToken) {
    let token = open(fixture);
    let error = provision::change_pin(&token, &secret(PIN)).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("is the old one")), "{error:?}");
    let empty = provision::change_pin(&token, &secret("")).unwrap_err();
    assert!(matches!(empty, Error::Config(_)), "{empty:?}");
    let limits = token.module().context().get_token_info(token.slot().unwrap()).unwrap();
    let (least, most) = (limits.min_pin_length(), limits.max_pin_length());
    let mut unfit = vec!["1".repeat(least.saturating_sub(1))];
    unfit.extend((most != 0).then(|| "1".repeat(most + 1)));
    for pin in unfit {
        let error = provision::change_pin(&token, &secret(&pin)).unwrap_err();
        let Error::Config(text) = &error else { panic!("{error:?}") };
        assert!(text.contains("the new PIN must have"), "{text}");
    }
    // The old one still is the one to change.
    provision::change_pin(&token, &secret("0123456789")).unwrap();
}

/// Both halves carry label and id of the entry, and the public object holds the entry's key.
fn assert_pair_shares_names(token: &Token, entry: &KeyEntry) {
    let session = token.open_session().unwrap();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let filter = [
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Label(entry.label.clone().into()),
            Attribute::Id(entry.id.clone()),
        ];
        let [object] = session.find_objects(&filter).unwrap()[..] else { panic!("one {class}") };
        if class == ObjectClass::PUBLIC_KEY {
            assert_eq!(token::public_key(&session, object).unwrap(), entry.public_key);
        }
    }
    let uri = KeyUri::for_label(&*entry.label);
    let key = token::find_key(&session, token.label(), &uri).unwrap();
    assert_eq!(Some(key.public_key), entry.public_key);
    assert!(template::hardened_gaps(&session, key.private).unwrap().is_empty());
}

fn assert_secret_is_unreadable(token: &Token, kid: &str) {
    let session = token.open_session().unwrap();
    let uri = KeyUri::for_label(kid);
    let key = token::find_key(&session, token.label(), &uri).unwrap();
    let secrets = match key.public_key {
        PublicKey::Rsa(_) => vec![AttributeType::PrivateExponent, AttributeType::Prime1],
        PublicKey::Ec(_) => vec![AttributeType::Value],
    };
    assert_eq!(session.get_attributes(key.private, &secrets).unwrap(), []);
}

fn count(token: &Token, class: ObjectClass) -> usize {
    let filter = [Attribute::Class(class), Attribute::Token(true)];
    token.open_session().unwrap().find_objects(&filter).unwrap().len()
}

fn secret(text: &str) -> AuthPin {
    AuthPin::from(Box::<str>::from(text))
}

fn open(fixture: &TestToken) -> Arc<Token> {
    let module = Module::load("modules.test.path", fixture.module_path()).unwrap();
    let pin = PinSource { name: "pin1".into(), source: SecretSource::File(fixture.pin_file()) };
    Token::open(&module, fixture.label(), None, pin).unwrap()
}
