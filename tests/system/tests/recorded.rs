//! What crosses PKCS#11, by the word of a recording module.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{collections::BTreeSet, sync::Arc};

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, ObjectClass},
};
use cryptoki_sys::{CKA_VALUE, CKM_RSA_PKCS_OAEP, CKM_SHA256_HMAC};
use kasbah_crypto::{Algorithm, Curve, Dek, PolicyBinding, PrivateKey, PublicKey, WrappedDek};
use kasbah_pkcs11::{
    HsmFactory,
    module::Module,
    provision,
    token::{PinSource, Token, public_key},
};
use kasbah_system_tests::recorder::{Call, Recorder};
use kasbah_testkit::tokens::{Kryoptic, OpenCryptoki, SoftHsm, TestToken};
use kasbah_trust::{
    CustodyLevel, CustodyPolicy, Deadline, Error, KeyDetails, KeyId, KeyManager, KeyManagerFactory,
    KeyMode, KeyStatus, PrivateKeyRef, ProviderConfig, RewrapRequest, RewrappedKey, SecretSource,
};

const POLICY: &str = "cmVjb3JkZWQ=";
const P256: Algorithm = Algorithm::Ec(Curve::P256);

/// A token behind the recorder.
struct Rig {
    fixture: TestToken,
    recorder: Recorder,
}

impl Rig {
    fn new(fixture: TestToken) -> Self {
        let recorder = Recorder::around(fixture.module_path());
        Self { fixture, recorder }
    }

    fn token(&self) -> Arc<Token> {
        let module = Module::load("module", &Recorder::module()).unwrap();
        let source = SecretSource::File(self.fixture.pin_file());
        let pin = PinSource { name: "pin".into(), source };
        let slot = (self.fixture.module_path() == OpenCryptoki::module()).then_some(3);
        Token::open(&module, self.fixture.label(), slot, pin).unwrap()
    }

    async fn manager(&self, custody: &str) -> Result<Arc<dyn KeyManager>, Error> {
        let factory = HsmFactory::new(
            [("recorder".to_owned(), Recorder::module())].into(),
            [("pin".to_owned(), SecretSource::File(self.fixture.pin_file()))].into(),
            CustodyPolicy::Transient,
        );
        let slot = if self.fixture.module_path() == OpenCryptoki::module() { "3" } else { "null" };
        let config_json = format!(
            r#"{{"module":"recorder","token":"{}","pin":"pin","custody":"{custody}","slot":{slot}}}"#,
            self.fixture.label()
        );
        let (name, manager) = ("test".into(), kasbah_pkcs11::MANAGER.into());
        factory.create(&ProviderConfig { name, manager, config_json, version: 1 }).await
    }

    fn generate(&self, algorithm: Algorithm) -> KeyDetails {
        let entry = provision::generate(&self.token(), "k1", algorithm).unwrap();
        details(algorithm, entry.public_key.unwrap())
    }

    /// An RSA key that may also decrypt, as `pkcs11-tool` makes them.
    fn generate_weak(&self) -> KeyDetails {
        let token = self.token();
        let session = token.open_rw_session().unwrap();
        let label = || Attribute::Label(b"k1".to_vec());
        let public = [
            Attribute::Token(true),
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
            Attribute::Wrap(true),
            label(),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Decrypt(true),
            Attribute::Unwrap(true),
            label(),
        ];
        let (public, _) =
            session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
        details(Algorithm::Rsa2048, public_key(&session, public).unwrap().unwrap())
    }
}

fn details(algorithm: Algorithm, public_key: PublicKey) -> KeyDetails {
    KeyDetails {
        kas_uri: "https://kas.example".into(),
        kid: KeyId::from("k1"),
        algorithm,
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key,
        private_key: PrivateKeyRef { key_id: Some("pkcs11:object=k1".into()), wrapped_key: None },
        provider: None,
    }
}

fn soon() -> Deadline {
    Deadline::after(std::time::Duration::from_secs(20))
}

/// One data key on its way, and everything that must not be seen.
struct Sample {
    dek: Vec<u8>,
    wrapped: WrappedDek,
    binding: PolicyBinding,
    mac: Vec<u8>,
}

impl Sample {
    fn new(key: &KeyDetails) -> Self {
        let dek = Dek::generate().unwrap();
        let wrapped = key.public_key.wrap(&dek).unwrap();
        let mac = kasbah_system_tests::client::mac(dek.expose_secret(), POLICY);
        let binding = PolicyBinding::from(<[u8; 32]>::try_from(mac.as_slice()).unwrap());
        Self { dek: dek.expose_secret().to_vec(), wrapped, binding, mac }
    }

    async fn rewrap(
        &self,
        manager: &dyn KeyManager,
        key: &KeyDetails,
        client: &PrivateKey,
    ) -> Result<RewrappedKey, Error> {
        let recipient = manager.open_recipient(&client.public_key(), soon()).await?;
        let request = RewrapRequest {
            key,
            wrapped: &self.wrapped,
            policy: POLICY,
            binding: &self.binding,
            recipient: &recipient,
            deadline: soon(),
        };
        let answer = manager.rewrap(request).await?;
        let wrapped = match recipient.session_public_key().map(|pem| PublicKey::from_pem(&pem)) {
            Some(Ok(PublicKey::Ec(ephemeral))) => {
                WrappedDek::Ec { blob: answer.wrapped.clone(), ephemeral }
            }
            _ => WrappedDek::Rsa(answer.wrapped.clone()),
        };
        let opened = client.unwrap_dek(&wrapped).unwrap();
        assert!(opened.expose_secret() == self.dek, "another data key");
        Ok(answer)
    }
}

/// Handles that a call made, if they are session objects.
fn made(call: &Call) -> Vec<u64> {
    let names = ["object", "public_key", "private_key"];
    let makes =
        ["C_UnwrapKey", "C_DeriveKey", "C_CreateObject", "C_GenerateKeyPair", "C_GenerateKey"];
    if makes.iter().any(|function| call.is(function)) {
        names.iter().filter_map(|name| call.number(name)).collect()
    } else {
        Vec::new()
    }
}

/// Objects that were made and not destroyed.
fn left_behind(calls: &[Call]) -> BTreeSet<u64> {
    let mut live = BTreeSet::new();
    for call in calls {
        live.extend(made(call));
        if call.is("C_DestroyObject") {
            live.remove(&call.number("object").unwrap());
        }
    }
    live
}

fn assert_sealed(calls: &[Call], sample: &Sample) {
    for call in calls {
        assert_ne!(call.function, "C_Decrypt", "{call:?}");
        assert!(!call.holds(&sample.dek), "the data key crossed: {call:?}");
        if call.is("C_GetAttributeValue") {
            let values = call.details["values"].as_array().unwrap();
            let read = values.iter().find(|pair| pair[0] == CKA_VALUE);
            assert!(read.is_none_or(|pair| pair[1].is_null()), "a value was read: {call:?}");
        }
    }
    // What the token computed under the data key, by the handle it computed it with.
    let mut checked = BTreeSet::new();
    let mut signing = None;
    let mut wraps = 0;
    for call in calls {
        if call.is("C_SignInit") {
            assert_eq!(call.details["mechanism"]["type"], CKM_SHA256_HMAC);
            signing = call.number("key");
        } else if call.is("C_Sign") && call.bytes("out").is_some_and(|out| out == sample.mac) {
            checked.extend(signing);
        } else if call.is("C_WrapKey") {
            wraps += 1;
            let key = call.number("key").unwrap();
            assert!(checked.contains(&key), "wrapped before its binding was checked: {call:?}");
        } else if call.is("C_DestroyObject") {
            checked.remove(&call.number("object").unwrap());
        }
    }
    assert!(wraps > 0, "nothing was wrapped, so nothing was proven");
}

/// Rewraps with this custody to RSA and EC clients; the record must show no secret.
async fn prove_sealed(rig: &Rig, key: &KeyDetails, clients: &[Algorithm]) {
    let manager = rig.manager("require-sealed").await.unwrap();
    manager.probe(key, soon()).await.unwrap();
    for algorithm in clients {
        let client = PrivateKey::generate(*algorithm).unwrap();
        // An EC client's first response also tests the token with throw-away keys.
        Sample::new(key).rewrap(&*manager, key, &client).await.unwrap();
        let mark = rig.recorder.mark();
        let sample = Sample::new(key);
        let answer = sample.rewrap(&*manager, key, &client).await.unwrap();
        assert_eq!(answer.custody.level, CustodyLevel::Sealed);
        assert_eq!(answer.custody.enforced_by_key, key.algorithm.is_rsa());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let calls = rig.recorder.since(mark);
        assert_sealed(&calls, &sample);
        assert!(left_behind(&calls).is_empty(), "{algorithm}: {:?}", left_behind(&calls));
    }
    damaged_leaves_nothing(rig, &*manager, key).await;
    manager.close().await;
}

async fn damaged_leaves_nothing(rig: &Rig, manager: &dyn KeyManager, key: &KeyDetails) {
    let client = PrivateKey::generate(Algorithm::Rsa2048).unwrap();
    let mark = rig.recorder.mark();
    let mut binding = Sample::new(key);
    binding.binding = PolicyBinding::from([7; 32]);
    let mut ciphertext = Sample::new(key);
    let (WrappedDek::Rsa(bytes) | WrappedDek::Ec { blob: bytes, .. }) = &mut ciphertext.wrapped;
    *bytes.last_mut().unwrap() ^= 1;
    for sample in [binding, ciphertext] {
        let outcome = sample.rewrap(manager, key, &client).await;
        assert!(matches!(outcome, Err(Error::Decrypt)), "{outcome:?}");
    }
    let calls = rig.recorder.since(mark);
    assert!(left_behind(&calls).is_empty(), "{:?}", left_behind(&calls));
    let wrapped = calls.iter().filter(|call| call.is("C_WrapKey")).count();
    assert_eq!(wrapped, 0, "something was wrapped under a wrong binding");
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_on_softhsm_is_sealed() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(Algorithm::Rsa2048);
    prove_sealed(&rig, &key, &[Algorithm::Rsa2048, Algorithm::Rsa4096]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_on_kryoptic_is_sealed() {
    let rig = Rig::new(Kryoptic::fresh());
    let key = rig.generate(Algorithm::Rsa2048);
    prove_sealed(&rig, &key, &[Algorithm::Rsa2048, P256, Algorithm::Ec(Curve::P521)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ec_on_kryoptic_is_sealed() {
    let rig = Rig::new(Kryoptic::fresh());
    let key = rig.generate(P256);
    prove_sealed(&rig, &key, &[Algorithm::Rsa2048, P256, Algorithm::Ec(Curve::P384)]).await;
}

/// The record finds a data key that crosses, so the tests above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn transient_rsa_shows_the_data_key() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate_weak();
    let manager = rig.manager("transient").await.unwrap();
    let client = PrivateKey::generate(Algorithm::Rsa2048).unwrap();
    let sample = Sample::new(&key);
    let answer = sample.rewrap(&*manager, &key, &client).await.unwrap();
    assert_eq!(answer.custody.level, CustodyLevel::Transient);
    let calls = rig.recorder.calls();
    let shown = calls.iter().any(|call| call.is("C_Decrypt") && call.holds(&sample.dek));
    assert!(shown, "the data key did not cross");
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_ec_shows_the_shared_secret() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(P256);
    let manager = rig.manager("prefer-sealed").await.unwrap();
    let client = PrivateKey::generate(Algorithm::Rsa2048).unwrap();
    manager.probe(&key, soon()).await.unwrap();
    let mark = rig.recorder.mark();
    let sample = Sample::new(&key);
    let answer = sample.rewrap(&*manager, &key, &client).await.unwrap();
    assert_eq!(answer.custody.level, CustodyLevel::Transient);
    let WrappedDek::Ec { blob, .. } = &sample.wrapped else { panic!("an EC key wraps the EC way") };
    let opened = rig.recorder.since(mark).iter().any(|call| {
        let values = call.details["values"].as_array().cloned().unwrap_or_default();
        values.iter().filter(|pair| call.rv == 0 && pair[0] == CKA_VALUE).any(|pair| {
            let secret = pair[1].as_str().map(|text| hex_bytes(text)).unwrap_or_default();
            kasbah_crypto::ec::WrapKey::derive(&secret)
                .and_then(|key| key.open(blob))
                .is_ok_and(|dek| dek.expose_secret() == sample.dek)
        })
    });
    assert!(opened, "no shared secret that opens the data key crossed");
}

fn hex_bytes(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// openCryptoki unwraps into a readable object and reports success: the read-back finds out.
#[tokio::test(flavor = "multi_thread")]
async fn opencryptoki_is_refused_by_the_read_back() {
    let rig = Rig::new(OpenCryptoki::fresh());
    let key = rig.generate_weak();
    let manager = rig.manager("require-sealed").await.unwrap();
    let mark = rig.recorder.mark();
    let outcome = manager.probe(&key, soon()).await;
    let Err(Error::NotPermitted(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("readable"), "{reason}");
    let calls = rig.recorder.since(mark);
    let unwrapped = calls.iter().find(|call| {
        call.is("C_UnwrapKey") && call.details["mechanism"]["type"] == CKM_RSA_PKCS_OAEP
    });
    let unwrapped = unwrapped.expect("a successful C_UnwrapKey");
    let object = unwrapped.number("object");
    let read_back = calls.iter().any(|call| {
        call.seq > unwrapped.seq
            && call.is("C_GetAttributeValue")
            && call.number("object") == object
    });
    assert!(read_back, "the refusal did not come from reading back");

    let client = PrivateKey::generate(Algorithm::Rsa2048).unwrap();
    let outcome = Sample::new(&key).rewrap(&*manager, &key, &client).await;
    assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
    let private = Attribute::Class(ObjectClass::PRIVATE_KEY);
    assert_eq!(rig.token().open_session().unwrap().find_objects(&[private]).unwrap().len(), 1);
}
