//! What a holder of the PIN may try on a KAS key, and what the hardened template stops.
//!
//! Every attack runs on a key that only has `DECRYPT=false`, where it must succeed if the module
//! allows it at all (so the test is able to fail), and on keys made by `generate` and `import`,
//! where it must fail.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::sync::Arc;

use aws_lc_rs::{
    encoding::AsDer,
    key_wrap::{AES_256, AesKek, KeyWrap},
    rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::CKA_UNWRAP_TEMPLATE;
use kasbah_pkcs11::{
    module::Module,
    provision,
    template::{self, DekTemplate, Secrecy},
    token::{self, PinSource, Token, TokenSession},
    uri::KeyUri,
};
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use kasbah_trust::{Algorithm, Curve, PublicKey, SecretSource};

const DEK: [u8; 32] = *b"the data key of somebody else...";
const KNOWN_KEY: [u8; 32] = *b"a wrapping key of the attacker's";
const IMPORTED: &str = include_str!("../../testkit/data/golden-r1.pem");

/// A key under attack, and a data key wrapped for it.
struct Victim<'a> {
    session: &'a TokenSession,
    public: ObjectHandle,
    private: ObjectHandle,
    wrapped: Vec<u8>,
}

/// Whether the attacker has what he wanted.
type Attack = fn(&Victim<'_>) -> bool;

macro_rules! attacks {
    ($($name:ident: softhsm $softhsm:literal, kryoptic $kryoptic:literal;)*) => {
        /// The second column of each line: whether it works on a key with `DECRYPT=false` only.
        mod softhsm {
            $(#[test] fn $name() { super::check(&super::SoftHsm::fresh(), super::$name, $softhsm); })*
        }
        mod kryoptic {
            $(#[test] fn $name() { super::check(&super::Kryoptic::fresh(), super::$name, $kryoptic); })*
        }
    };
}

attacks! {
    sign_returns_the_oaep_block: softhsm true, kryoptic false;
    switch_decrypt_on: softhsm true, kryoptic true;
    copy_with_decrypt: softhsm true, kryoptic true;
    unwrap_into_a_readable_object: softhsm true, kryoptic true;
    unwrap_into_a_token_object: softhsm true, kryoptic true;
    inject_a_known_wrapping_key: softhsm true, kryoptic true;
}

fn check(fixture: &TestToken, attack: Attack, works_on_weak_key: bool) {
    let token = open(fixture);
    let session = token.open_rw_session().unwrap();

    let weak = weak_key(&session);
    assert_eq!(attack(&weak), works_on_weak_key, "on a key with DECRYPT=false only");

    provision::generate(&token, "generated", Algorithm::Rsa2048).unwrap();
    assert!(!attack(&Victim::new(&session, &token, "generated")), "on a generated key");

    provision::import(&token, "imported", IMPORTED).unwrap();
    assert!(!attack(&Victim::new(&session, &token, "imported")), "on an imported key");
}

fn sign_returns_the_oaep_block(victim: &Victim<'_>) -> bool {
    let Ok(block) = victim.session.sign(&Mechanism::RsaX509, victim.private, &victim.wrapped)
    else {
        return false;
    };
    // The block that encrypts to the ciphertext is the padded data key.
    victim.session.encrypt(&Mechanism::RsaX509, victim.public, &block).unwrap() == victim.wrapped
}

fn switch_decrypt_on(victim: &Victim<'_>) -> bool {
    let _ = victim.session.update_attributes(victim.private, &[Attribute::Decrypt(true)]);
    victim.decrypts_with(victim.private)
}

fn copy_with_decrypt(victim: &Victim<'_>) -> bool {
    let wishes: [&[Attribute]; 3] = [
        &[Attribute::Decrypt(true), Attribute::Token(false)],
        &[Attribute::Decrypt(true)],
        &[Attribute::Token(false), Attribute::Modifiable(true)],
    ];
    wishes.into_iter().any(|wish| {
        victim.session.copy_object(victim.private, wish).is_ok_and(|copy| {
            let _ = victim.session.update_attributes(copy, &[Attribute::Decrypt(true)]);
            victim.decrypts_with(copy)
        })
    })
}

fn unwrap_into_a_readable_object(victim: &Victim<'_>) -> bool {
    victim.overwrite_unwrap_template();
    unwraps(&[Attribute::Sensitive(false), Attribute::Extractable(true)]).into_iter().any(
        |template| {
            victim.unwrap(&victim.wrapped, &template).is_some_and(|secret| {
                let values =
                    victim.session.get_attributes(secret, &[AttributeType::Value]).unwrap();
                values == [Attribute::Value(DEK.to_vec())]
            })
        },
    )
}

fn unwrap_into_a_token_object(victim: &Victim<'_>) -> bool {
    victim.overwrite_unwrap_template();
    unwraps(&[Attribute::Token(true)]).into_iter().any(|template| {
        victim.unwrap(&victim.wrapped, &template).is_some_and(|secret| {
            let kept = victim.session.get_attributes(secret, &[AttributeType::Token]).unwrap();
            kept == [Attribute::Token(true)]
        })
    })
}

fn inject_a_known_wrapping_key(victim: &Victim<'_>) -> bool {
    victim.overwrite_unwrap_template();
    let injected = victim.encrypt(&KNOWN_KEY);
    let dek = victim.unwrap_dek();
    unwraps(&[Attribute::Wrap(true), Attribute::KeyType(KeyType::AES)]).into_iter().any(
        |template| {
            victim.unwrap(&injected, &template).is_some_and(|wrapping| {
                victim
                    .session
                    .wrap_key(&Mechanism::AesKeyWrap, wrapping, dek)
                    .is_ok_and(|blob| opens(&blob))
            })
        },
    )
}

/// No attribute can stop this one: a client's key is by nature an untrusted wrapping key. It is
/// what SECURITY.md says a holder of the PIN can do.
fn wrap_to_a_key_of_ones_own(victim: &Victim<'_>) -> bool {
    let own = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(&own.public_key());
    let PublicKey::Rsa(public) = PublicKey::from_spki_der(spki.unwrap().as_ref()).unwrap() else {
        panic!("an RSA key")
    };
    let public = victim.session.create_object(&template::client_rsa(&public)).unwrap();
    let dek = victim.unwrap_dek();
    let Ok(blob) = victim.session.wrap_key(&oaep(), public, dek) else { return false };
    let own = OaepPrivateDecryptingKey::new(own).unwrap();
    let mut out = vec![0; own.min_output_size()];
    own.decrypt(&OAEP_SHA1_MGF1SHA1, &blob, &mut out, None).unwrap() == DEK
}

#[test]
fn softhsm_cannot_stop_wrapping_to_a_key_of_ones_own() {
    cannot_be_stopped(&SoftHsm::fresh());
}

#[test]
fn kryoptic_cannot_stop_wrapping_to_a_key_of_ones_own() {
    cannot_be_stopped(&Kryoptic::fresh());
}

fn cannot_be_stopped(fixture: &TestToken) {
    let token = open(fixture);
    let session = token.open_rw_session().unwrap();
    provision::generate(&token, "generated", Algorithm::Rsa2048).unwrap();
    assert!(wrap_to_a_key_of_ones_own(&Victim::new(&session, &token, "generated")));
    provision::import(&token, "imported", IMPORTED).unwrap();
    assert!(wrap_to_a_key_of_ones_own(&Victim::new(&session, &token, "imported")));
}

#[test]
fn softhsm_cannot_keep_an_ec_secret_from_being_readable() {
    ec_secrets_are_readable(&SoftHsm::fresh());
}

#[test]
fn kryoptic_cannot_keep_an_ec_secret_from_being_readable() {
    ec_secrets_are_readable(&Kryoptic::fresh());
}

/// Why custody of an EC key is never reported as enforced by the key.
fn ec_secrets_are_readable(fixture: &TestToken) {
    let token = open(fixture);
    let session = token.open_session().unwrap();
    provision::generate(&token, "e1", Algorithm::Ec(Curve::P256)).unwrap();
    let key = token::find_key(&session, token.label(), &KeyUri::for_label("e1")).unwrap();
    assert!(template::hardened_gaps(&session, key.private).unwrap().is_empty());
    let PublicKey::Ec(peer) = &key.public_key else { panic!("an EC key") };
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer.point()));
    for (secrecy, length) in [(Secrecy::Readable, Some(32)), (Secrecy::Sensitive, None)] {
        let template = template::ecdh_secret(secrecy);
        let secret = session.derive_key(&mechanism, key.private, &template).unwrap();
        let values = session.get_attributes(secret, &[AttributeType::Value]).unwrap();
        let found = values.first().map(|value| match value {
            Attribute::Value(bytes) => bytes.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, length, "{secrecy:?}");
    }
}

#[test]
fn softhsm_refuses_the_forbidden_unwraps() {
    forbidden_unwraps_are_refused(&SoftHsm::fresh());
}

#[test]
fn kryoptic_refuses_the_forbidden_unwraps() {
    forbidden_unwraps_are_refused(&Kryoptic::fresh());
}

fn forbidden_unwraps_are_refused(fixture: &TestToken) {
    let token = open(fixture);
    let session = token.open_rw_session().unwrap();
    provision::generate(&token, "generated", Algorithm::Rsa2048).unwrap();
    let hardened = Victim::new(&session, &token, "generated");
    hardened.unwrap_dek();
    let weak = weak_key(&session);
    for (what, template) in template::forbidden_unwraps() {
        assert!(hardened.unwrap(&hardened.wrapped, &template).is_none(), "{what}");
        assert!(weak.unwrap(&weak.wrapped, &template).is_some(), "{what} on a weak key");
    }
}

impl<'a> Victim<'a> {
    fn new(session: &'a TokenSession, token: &Token, kid: &str) -> Self {
        let uri = KeyUri::for_label(kid);
        let private = token::find_key(session, token.label(), &uri).unwrap().private;
        let filter = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Label(kid.into())];
        let [public] = session.find_objects(&filter).unwrap()[..] else { panic!("one public key") };
        Self::of(session, public, private)
    }

    fn of(session: &'a TokenSession, public: ObjectHandle, private: ObjectHandle) -> Self {
        let mut victim = Self { session, public, private, wrapped: Vec::new() };
        victim.wrapped = victim.encrypt(&DEK);
        victim
    }

    fn encrypt(&self, secret: &[u8]) -> Vec<u8> {
        self.session.encrypt(&oaep(), self.public, secret).unwrap()
    }

    fn decrypts_with(&self, key: ObjectHandle) -> bool {
        self.session.decrypt(&oaep(), key, &self.wrapped).is_ok_and(|dek| dek == DEK)
    }

    fn unwrap(&self, wrapped: &[u8], template: &[Attribute]) -> Option<ObjectHandle> {
        self.session.unwrap_key(&oaep(), self.private, wrapped, template).ok()
    }

    /// The unwrap that a KAS does, which must work on every key.
    fn unwrap_dek(&self) -> ObjectHandle {
        self.unwrap(&self.wrapped, &DekTemplate::WithoutLength.attributes()).unwrap()
    }

    /// Kryoptic lets the template of a modifiable key be replaced.
    fn overwrite_unwrap_template(&self) {
        let nothing = (AttributeType::VendorDefined(CKA_UNWRAP_TEMPLATE), Vec::new());
        let _ = self.session.update_attributes(self.private, &[Attribute::VendorDefined(nothing)]);
    }
}

/// A key with `DECRYPT=false` and the module's defaults for the rest.
fn weak_key(session: &TokenSession) -> Victim<'_> {
    let public = [
        Attribute::Token(true),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        Attribute::Decrypt(false),
    ];
    let (public, private) =
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
    Victim::of(session, public, private)
}

/// Templates that ask for `wishes`: on top of what the key demands, in the places it demands them
/// and at the end, and on their own.
fn unwraps(wishes: &[Attribute]) -> Vec<Vec<Attribute>> {
    let is_wish = |line: &Attribute| {
        wishes.iter().find(|wish| wish.attribute_type() == line.attribute_type()).cloned()
    };
    let demanded = DekTemplate::WithoutLength.attributes();
    let replaced: Vec<_> =
        demanded.iter().map(|line| is_wish(line).unwrap_or_else(|| line.clone())).collect();
    let appended = demanded.into_iter().chain(wishes.to_vec()).collect();
    let mut bare = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
    ];
    bare.retain(|line| is_wish(line).is_none());
    bare.extend(wishes.to_vec());
    vec![replaced, appended, bare]
}

fn opens(blob: &[u8]) -> bool {
    let kek = AesKek::new(&AES_256, &KNOWN_KEY).unwrap();
    let mut out = [0; 40];
    kek.unwrap(blob, &mut out).is_ok_and(|dek| *dek == DEK)
}

fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    ))
}

fn open(fixture: &TestToken) -> Arc<Token> {
    let module = Module::load("modules.test.path", fixture.module_path()).unwrap();
    let pin = PinSource { name: "pin1".into(), source: SecretSource::File(fixture.pin_file()) };
    Token::open(&module, fixture.label(), None, pin).unwrap()
}
