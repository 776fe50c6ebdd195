//! What crosses PKCS#11, by the word of a recording module.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, UnparsedPublicKey};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, ObjectClass},
    types::AuthPin,
};
use cryptoki_sys::{
    CKA_CLASS, CKA_MODULUS, CKA_VALUE, CKM_ECDH1_DERIVE, CKM_HKDF_DERIVE, CKM_RSA_PKCS_OAEP,
    CKM_SHA256_HMAC, CKO_PUBLIC_KEY, CKR_ATTRIBUTE_TYPE_INVALID, CKR_DEVICE_ERROR,
    CKR_FUNCTION_FAILED,
};
use kasbah_crypto::{
    Algorithm, Curve, Dek, PolicyBinding, PrivateKey, PrivateKeyParts, PublicKey, WrappedDek,
    ec::{EcPublicKey, WrapKey},
};
use kasbah_pkcs11::{
    HsmFactory,
    module::Module,
    provision,
    token::{PinSource, Token, public_key},
};
use kasbah_system_tests::recorder::{Call, Recorder};
use kasbah_testkit::tokens::{Kryoptic, OpenCryptoki, PIN, SoftHsm, TestToken};
use kasbah_trust::{
    Custody, CustodyLevel, CustodyPolicy, Deadline, Error, KeyDetails, KeyId, KeyManager,
    KeyManagerFactory, KeyMode, KeyStatus, PrivateKeyRef, ProviderConfig, RewrapRequest,
    SecretSource,
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
        details("k1", algorithm, entry.public_key.unwrap())
    }

    /// A key whose private numbers are known, so that they can be searched for.
    fn import(&self, algorithm: Algorithm) -> (KeyDetails, Vec<Secret>) {
        let parts = PrivateKeyParts::generate(algorithm).unwrap();
        provision::import(&self.token(), "k2", &parts.to_pem().unwrap()).unwrap();
        let secrets = match &parts {
            PrivateKeyParts::Ec { scalar, .. } => vec![("private key", scalar.to_vec())],
            PrivateKeyParts::Rsa(key) => vec![
                ("private exponent", key.private_exponent.to_vec()),
                ("first prime", key.prime1.to_vec()),
                ("second prime", key.prime2.to_vec()),
            ],
        };
        (details("k2", algorithm, parts.public_key()), secrets)
    }

    /// Calls after a mark, once nothing is left behind: the key of an EC response goes on its
    /// worker, a moment after the answer.
    async fn settled(&self, mark: u64) -> Vec<Call> {
        for _ in 0..40 {
            let calls = self.recorder.since(mark);
            if left_behind(&calls).is_empty() {
                return calls;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("objects left behind: {:?}", left_behind(&self.recorder.since(mark)));
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
        details("k1", Algorithm::Rsa2048, public_key(&session, public).unwrap().unwrap())
    }
}

fn details(kid: &str, algorithm: Algorithm, public_key: PublicKey) -> KeyDetails {
    KeyDetails {
        kas_uri: "https://kas.example".into(),
        kid: KeyId::from(kid),
        algorithm,
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key,
        private_key: PrivateKeyRef {
            key_id: Some(format!("pkcs11:object={kid}")),
            wrapped_key: None,
        },
        provider: None,
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// What it is, and its bytes, which must not cross.
type Secret = (&'static str, Vec<u8>);

/// ECDH on the host, to know what the token must keep to itself.
fn agree(private: &agreement::PrivateKey, peer: &EcPublicKey) -> Vec<u8> {
    let peer = UnparsedPublicKey::new(private.algorithm(), peer.point());
    agreement::agree(private, peer, "no agreement", |secret| Ok(secret.to_vec())).unwrap()
}

fn ecdh(curve: Curve) -> &'static agreement::Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    }
}

fn derived(shared: &[u8]) -> Vec<u8> {
    WrapKey::derive(shared).unwrap().to_dek().unwrap().expose_secret().to_vec()
}

/// One data key on its way, and everything that must not be seen.
struct Sample {
    dek: Vec<u8>,
    wrapped: WrappedDek,
    binding: PolicyBinding,
    mac: Vec<u8>,
    secrets: Vec<Secret>,
}

impl Sample {
    fn new(key: &KeyDetails) -> Self {
        let dek = Dek::generate().unwrap();
        let mac = kasbah_system_tests::client::mac(dek.expose_secret(), POLICY);
        let binding = PolicyBinding::from(<[u8; 32]>::try_from(mac.as_slice()).unwrap());
        let mut secrets = vec![("data key", dek.expose_secret().to_vec())];
        let wrapped = match &key.public_key {
            PublicKey::Rsa(_) => key.public_key.wrap(&dek).unwrap(),
            PublicKey::Ec(public) => {
                let curve = public.curve();
                let ephemeral = agreement::PrivateKey::generate(ecdh(curve)).unwrap();
                let shared = agree(&ephemeral, public);
                let blob = WrapKey::derive(&shared).unwrap().seal(&dek).unwrap();
                secrets.push(("key of the request", derived(&shared)));
                secrets.push(("shared secret of the request", shared));
                let point = ephemeral.compute_public_key().unwrap();
                let ephemeral = EcPublicKey::from_sec1(curve, point.as_ref()).unwrap();
                WrappedDek::Ec { blob, ephemeral }
            }
        };
        Self { dek: dek.expose_secret().to_vec(), wrapped, binding, mac, secrets }
    }

    /// Rewraps and opens; what it must keep secret grows by what the response is made of.
    async fn rewrap(
        &mut self,
        manager: &dyn KeyManager,
        key: &KeyDetails,
        client: &Client,
    ) -> Result<Custody, Error> {
        let recipient = manager.open_recipient(&client.key.public_key(), soon()).await?;
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
                let shared = agree(client.agreement.as_ref().unwrap(), &ephemeral);
                self.secrets.push(("key of the response", derived(&shared)));
                self.secrets.push(("shared secret of the response", shared));
                WrappedDek::Ec { blob: answer.wrapped.clone(), ephemeral }
            }
            _ => WrappedDek::Rsa(answer.wrapped.clone()),
        };
        let opened = client.key.unwrap_dek(&wrapped).unwrap();
        assert!(opened.expose_secret() == self.dek, "another data key");
        Ok(answer.custody)
    }
}

/// A client whose private key is known.
struct Client {
    key: PrivateKey,
    agreement: Option<agreement::PrivateKey>,
}

impl Client {
    fn new(algorithm: Algorithm) -> Self {
        let parts = PrivateKeyParts::generate(algorithm).unwrap();
        let agreement = match &parts {
            PrivateKeyParts::Ec { scalar, public } => {
                let curve = ecdh(public.curve());
                Some(agreement::PrivateKey::from_private_key(curve, scalar).unwrap())
            }
            PrivateKeyParts::Rsa(_) => None,
        };
        Self { key: PrivateKey::from_pem(&parts.to_pem().unwrap()).unwrap(), agreement }
    }
}

/// Handles that a call made.
fn made(call: &Call) -> Vec<u64> {
    let makes = [
        "C_CopyObject",
        "C_CreateObject",
        "C_DeriveKey",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_UnwrapKey",
    ];
    if makes.iter().any(|function| call.is(function)) {
        let names = ["object", "public_key", "private_key"];
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

/// The first secret that crossed, and in which call.
fn crossed<'a>(calls: &'a [Call], secrets: &[Secret]) -> Option<(&'static str, &'a Call)> {
    calls.iter().find_map(|call| {
        let secret = secrets.iter().find(|(_, bytes)| call.holds(bytes))?;
        Some((secret.0, call))
    })
}

/// Whether a `C_WrapKey` is under a key that only the client can undo. Under a key that the host
/// knows, the data key would leave in two steps.
fn is_for_client(calls: &[Call], wrap: &Call, client: &PublicKey) -> bool {
    let maker = |call: &Call, name| {
        let handle = call.number(name).unwrap();
        calls.iter().rfind(|made_by| made_by.seq < call.seq && made(made_by).contains(&handle))
    };
    let Some(wrapping) = maker(wrap, "wrapping") else { return false };
    match client {
        PublicKey::Rsa(key) => {
            let attribute = |kind| wrapping.attribute("template", kind);
            wrapping.is("C_CreateObject")
                && attribute(CKA_CLASS) == Some(&hex::encode(CKO_PUBLIC_KEY.to_ne_bytes()))
                && attribute(CKA_MODULUS) == Some(&hex::encode(key.modulus()))
        }
        PublicKey::Ec(key) => {
            let Some(shared) = maker(wrapping, "base") else { return false };
            let mechanism = |call: &Call| call.details["mechanism"]["type"].clone();
            let peer = shared.details["mechanism"]["parameter"]["public"].as_str();
            mechanism(wrapping) == CKM_HKDF_DERIVE
                && mechanism(shared) == CKM_ECDH1_DERIVE
                && peer.is_some_and(|peer| peer.ends_with(&hex::encode(key.point())))
        }
    }
}

/// What every sealed rewrap to this client shows.
fn assert_sealed(calls: &[Call], sample: &Sample, client: &PublicKey) {
    for call in calls {
        assert!(!call.function.starts_with("C_Decrypt"), "{call:?}");
        let read = call.attribute("values", CKA_VALUE);
        assert!(read.is_none(), "a value was read: {call:?}");
        assert!(call.attribute("template", CKA_VALUE).is_none(), "a value was written: {call:?}");
    }
    if let Some((secret, call)) = crossed(calls, &sample.secrets) {
        panic!("the {secret} crossed: {call:?}");
    }
    // What the token computed under the data key, by the handle it computed it with.
    let (mut signing, mut checked) = (BTreeMap::new(), BTreeSet::<u64>::new());
    let mut wraps = 0;
    for call in calls {
        if call.is("C_SignInit") {
            assert_eq!(call.details["mechanism"]["type"], CKM_SHA256_HMAC);
            signing.insert(call.number("session"), call.number("key").unwrap());
        } else if call.is("C_Sign") && call.bytes("out").is_some_and(|out| out == sample.mac) {
            checked.extend(signing.get(&call.number("session")));
        } else if call.is("C_WrapKey") {
            wraps += 1;
            let key = call.number("key").unwrap();
            assert!(checked.contains(&key), "wrapped before its binding was checked: {call:?}");
            assert!(is_for_client(calls, call, client), "wrapped for somebody else: {call:?}");
        } else if call.is("C_DestroyObject") {
            checked.remove(&call.number("object").unwrap());
        }
    }
    assert!(wraps > 0, "nothing was wrapped, so nothing was proven");
}

/// Rewraps to RSA and EC clients where sealed is required; the record must show no secret.
async fn prove_sealed(rig: &Rig, key: &KeyDetails, known: Vec<Secret>, clients: &[Algorithm]) {
    let start = rig.recorder.mark();
    let manager = rig.manager("require-sealed").await.unwrap();
    manager.probe(key, soon()).await.unwrap();
    let mut secrets = known;
    for algorithm in clients {
        let client = Client::new(*algorithm);
        // An EC client's first response also tests the token with throw-away keys.
        let mut first = Sample::new(key);
        first.rewrap(&*manager, key, &client).await.unwrap();
        secrets.append(&mut first.secrets);
        rig.settled(start).await;

        let mark = rig.recorder.mark();
        let mut sample = Sample::new(key);
        let custody = sample.rewrap(&*manager, key, &client).await.unwrap();
        assert_eq!(custody.level, CustodyLevel::Sealed);
        assert_eq!(custody.enforced_by_key, key.algorithm.is_rsa());
        let calls = rig.settled(mark).await;
        assert_sealed(&calls, &sample, &client.key.public_key());
        secrets.append(&mut sample.secrets);

        damaged_leaves_nothing(rig, &*manager, key, &client).await;
    }
    manager.close().await;
    let calls = rig.settled(start).await;
    if let Some((secret, call)) = crossed(&calls, &secrets) {
        panic!("the {secret} crossed: {call:?}");
    }
}

async fn damaged_leaves_nothing(
    rig: &Rig,
    manager: &dyn KeyManager,
    key: &KeyDetails,
    client: &Client,
) {
    let mark = rig.recorder.mark();
    let mut binding = Sample::new(key);
    binding.binding = PolicyBinding::from([7; 32]);
    let mut ciphertext = Sample::new(key);
    let (WrappedDek::Rsa(bytes) | WrappedDek::Ec { blob: bytes, .. }) = &mut ciphertext.wrapped;
    *bytes.last_mut().unwrap() ^= 1;
    for mut sample in [binding, ciphertext] {
        let outcome = sample.rewrap(manager, key, client).await;
        assert!(matches!(outcome, Err(Error::Decrypt)), "{outcome:?}");
        assert!(crossed(&rig.recorder.since(mark), &sample.secrets).is_none());
    }
    let calls = rig.settled(mark).await;
    let wrapped = calls.iter().filter(|call| call.is("C_WrapKey")).count();
    assert_eq!(wrapped, 0, "something was wrapped under a wrong binding");
}

/// With a key made in the token, then with one whose private numbers are known.
async fn both_keys_are_sealed(fixture: TestToken, algorithm: Algorithm, clients: &[Algorithm]) {
    let rig = Rig::new(fixture);
    prove_sealed(&rig, &rig.generate(algorithm), Vec::new(), clients).await;
    let (key, known) = rig.import(algorithm);
    prove_sealed(&rig, &key, known, clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_on_softhsm_is_sealed() {
    let clients = [Algorithm::Rsa2048, Algorithm::Rsa4096];
    both_keys_are_sealed(SoftHsm::fresh(), Algorithm::Rsa2048, &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_on_kryoptic_is_sealed() {
    let clients = [Algorithm::Rsa2048, P256, Algorithm::Ec(Curve::P521)];
    both_keys_are_sealed(Kryoptic::fresh(), Algorithm::Rsa2048, &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ec_on_kryoptic_is_sealed() {
    let clients = [Algorithm::Rsa2048, P256, Algorithm::Ec(Curve::P384)];
    both_keys_are_sealed(Kryoptic::fresh(), P256, &clients).await;
}

/// Rewraps where sealed is not required: the record finds what crosses, so that the proofs above
/// can fail.
async fn transient(rig: &Rig, key: &KeyDetails, custody: &str) -> (Vec<Call>, Sample, Client) {
    let manager = rig.manager(custody).await.unwrap();
    manager.probe(key, soon()).await.unwrap();
    let mark = rig.recorder.mark();
    let (mut sample, client) = (Sample::new(key), Client::new(Algorithm::Rsa2048));
    let custody = sample.rewrap(&*manager, key, &client).await.unwrap();
    assert_eq!(custody.level, CustodyLevel::Transient);
    (rig.settled(mark).await, sample, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_rsa_shows_the_data_key() {
    let rig = Rig::new(SoftHsm::fresh());
    let (calls, sample, _) = transient(&rig, &rig.generate_weak(), "transient").await;
    let (secret, call) = crossed(&calls, &sample.secrets).unwrap();
    assert_eq!((secret, call.function.as_str()), ("data key", "C_Decrypt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_ec_shows_the_shared_secret() {
    let rig = Rig::new(SoftHsm::fresh());
    let (calls, sample, _) = transient(&rig, &rig.generate(P256), "prefer-sealed").await;
    let (secret, call) = crossed(&calls, &sample.secrets).unwrap();
    assert_eq!(secret, "shared secret of the request");
    assert!(call.is("C_GetAttributeValue") && call.attribute("values", CKA_VALUE).is_some());
}

/// A key that forbids decryption: the data key leaves under a key that the host knows. No call
/// holds it in clear, yet it is not sealed.
#[tokio::test(flavor = "multi_thread")]
async fn transient_hardened_rsa_shows_a_wrap_for_the_host() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(Algorithm::Rsa2048);
    let (calls, sample, client) = transient(&rig, &key, "transient").await;
    assert!(crossed(&calls, &sample.secrets).is_none());
    let client = client.key.public_key();
    let wraps: Vec<_> = calls.iter().filter(|call| call.is("C_WrapKey")).collect();
    assert!(!wraps.is_empty(), "the data key left in another way");
    assert!(wraps.iter().all(|wrap| !is_for_client(&calls, wrap, &client)));
}

/// A device that answers `code` to `function` from one call on, after some good rewraps: what the
/// manager says then.
async fn fails_later(rig: &Rig, function: &str, code: u64, from: u64) -> Vec<Error> {
    rig.recorder.fault(function, code, from);
    let key = rig.generate(Algorithm::Rsa2048);
    let manager = rig.manager("require-sealed").await.unwrap();
    let client = Client::new(Algorithm::Rsa2048);
    Sample::new(&key).rewrap(&*manager, &key, &client).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..from {
        errors.extend(Sample::new(&key).rewrap(&*manager, &key, &client).await.err());
        if errors.len() == 3 {
            break;
        }
    }
    manager.close().await;
    let injected: Vec<_> = rig.recorder.calls().into_iter().filter(|call| call.injected).collect();
    assert!(injected.iter().all(|call| call.function == function && call.rv == code));
    assert!(!injected.is_empty() && !errors.is_empty(), "no fault was injected");
    errors
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_error_never_looks_like_tampering() {
    let rig = Rig::new(SoftHsm::fresh());
    for error in fails_later(&rig, "C_UnwrapKey", CKR_DEVICE_ERROR, 100).await {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mac_nothing_is_wrapped() {
    let rig = Rig::new(SoftHsm::fresh());
    for error in fails_later(&rig, "C_Sign", CKR_FUNCTION_FAILED, 100).await {
        assert!(matches!(error, Error::Internal(_) | Error::Unavailable(_)), "{error:?}");
    }
    assert_nothing_wrapped_after_fault(&rig);
}

/// A sealed data key is one that the token says it is, every time: the self-test of the key was
/// good here.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_read_back_nothing_is_wrapped() {
    let rig = Rig::new(SoftHsm::fresh());
    let code = CKR_ATTRIBUTE_TYPE_INVALID;
    for error in fails_later(&rig, "C_GetAttributeValue", code, 400).await {
        assert!(matches!(error, Error::NotPermitted(_)), "{error:?}");
    }
    assert_nothing_wrapped_after_fault(&rig);
}

fn assert_nothing_wrapped_after_fault(rig: &Rig) {
    let calls = rig.recorder.calls();
    let fault = calls.iter().position(|call| call.injected).unwrap();
    assert!(!calls[fault..].iter().any(|call| call.is("C_WrapKey")));
    // Other than the key pair itself.
    let key_pair = calls.iter().find(|call| call.is("C_GenerateKeyPair")).unwrap();
    let live = left_behind(&calls);
    assert_eq!(live, made(key_pair).into_iter().collect(), "an unproven data key stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_not_written_down() {
    let rig = Rig::new(SoftHsm::fresh());
    let pin = AuthPin::from(Box::<str>::from(PIN));
    rig.token().open_rw_session().unwrap().set_pin(&pin, &pin).unwrap();
    let calls = rig.recorder.calls();
    for function in ["C_Login", "C_SetPIN"] {
        let call = calls.iter().find(|call| call.is(function)).unwrap();
        assert_eq!(call.details["pin"], "***");
    }
    let text = rig.recorder.text();
    assert!(!text.contains(PIN) && !text.contains(&hex::encode(PIN)), "{text}");
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
    assert!(!calls.iter().any(|call| call.is("C_WrapKey")), "it was used nevertheless");
    rig.settled(mark).await;

    let client = Client::new(Algorithm::Rsa2048);
    let outcome = Sample::new(&key).rewrap(&*manager, &key, &client).await;
    assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
    let private = Attribute::Class(ObjectClass::PRIVATE_KEY);
    assert_eq!(rig.token().open_session().unwrap().find_objects(&[private]).unwrap().len(), 1);
}
