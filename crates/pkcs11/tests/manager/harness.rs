//! A manager on a fresh token, and requests for it.

use std::{sync::Arc, time::Duration};

use kasbah_crypto::{Dek, PolicyBinding, PrivateKey, PublicKey, WrappedDek, binding};
use kasbah_pkcs11::{
    HsmFactory, HsmManager,
    module::Module,
    provision,
    token::{PinSource, Token},
};
use kasbah_testkit::tokens::TestToken;
use kasbah_trust::{
    Algorithm, CustodyPolicy, Deadline, KeyDetails, KeyId, KeyManager, KeyMode, KeyStatus,
    PrivateKeyRef, Recipient, Result, RewrapRequest, RewrappedKey, SecretSource,
};

pub(crate) const POLICY: &str = "eyJ1dWlkIjoiNjJjNzZjNjgtZDczZC00NjI4LThjY2MtNGMxZTE4MTE4YzIyIn0=";

/// Settings beside module, token and PIN, as JSON members.
pub(crate) const PREFER: &str = r#""custody":"prefer-sealed""#;
pub(crate) const REQUIRE: &str = r#""custody":"require-sealed""#;
pub(crate) const TRANSIENT: &str = r#""custody":"transient""#;

/// Makes a test per module of each of these functions of a [`Rig`].
macro_rules! on_both_modules {
    ($($name:ident)*) => {
        mod softhsm {
            use kasbah_testkit::tokens::SoftHsm;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Rig::new(SoftHsm::fresh())).await; })*
        }
        mod kryoptic {
            use kasbah_testkit::tokens::Kryoptic;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Rig::new(Kryoptic::fresh())).await; })*
        }
    };
}
pub(crate) use on_both_modules;

/// A token with a factory that knows it.
pub(crate) struct Rig {
    pub(crate) fixture: TestToken,
    factory: HsmFactory,
}

impl Rig {
    pub(crate) fn new(fixture: TestToken) -> Self {
        let module = ("test".to_owned(), fixture.module_path().to_owned());
        let pin = ("pin1".to_owned(), SecretSource::File(fixture.pin_file()));
        let factory = HsmFactory::new([module].into(), [pin].into(), CustodyPolicy::Transient);
        Self { fixture, factory }
    }

    /// The token as the manager has it.
    pub(crate) fn token(&self) -> Arc<Token> {
        self.token_in(None)
    }

    pub(crate) fn token_in(&self, slot: Option<u64>) -> Arc<Token> {
        let module = Module::load("modules.test.path", self.fixture.module_path()).unwrap();
        let source = SecretSource::File(self.fixture.pin_file());
        let pin = PinSource { name: "pin1".into(), source };
        Token::open(&module, self.fixture.label(), slot, pin).unwrap()
    }

    pub(crate) fn manager(&self, more: &str) -> HsmManager {
        let json = format!(
            r#"{{"module":"test","token":"{}","pin":"pin1",{more}}}"#,
            self.fixture.label()
        );
        self.factory.start(&json).unwrap()
    }

    /// A hardened key made in the token.
    pub(crate) fn generate(&self, algorithm: Algorithm) -> KeyDetails {
        let kid = algorithm.as_str().replace(':', "-");
        self.generate_as(&kid, algorithm)
    }

    pub(crate) fn generate_as(&self, kid: &str, algorithm: Algorithm) -> KeyDetails {
        let entry = provision::generate(&self.token(), kid, algorithm).unwrap();
        details(kid, algorithm, entry.public_key.unwrap())
    }
}

pub(crate) fn details(kid: &str, algorithm: Algorithm, public_key: PublicKey) -> KeyDetails {
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

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A client with a private key of its own.
pub(crate) struct Client {
    private: PrivateKey,
}

impl Client {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self { private: PrivateKey::generate(algorithm).unwrap() }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.private.public_key()
    }

    pub(crate) fn in_host(&self) -> Recipient {
        Recipient::in_host(&self.public()).unwrap()
    }

    pub(crate) async fn opened_by(&self, manager: &HsmManager) -> Recipient {
        manager.open_recipient(&self.public(), soon()).await.unwrap()
    }

    pub(crate) fn opens(&self, recipient: &Recipient, answer: &RewrappedKey) -> Dek {
        let wrapped = match recipient.session_public_key() {
            None => WrappedDek::Rsa(answer.wrapped.clone()),
            Some(pem) => {
                let PublicKey::Ec(ephemeral) = PublicKey::from_pem(&pem).unwrap() else {
                    panic!("an RSA session key")
                };
                WrappedDek::Ec { blob: answer.wrapped.clone(), ephemeral }
            }
        };
        self.private.unwrap_dek(&wrapped).unwrap()
    }
}

/// What a client sends.
pub(crate) struct Sample {
    pub(crate) dek: Dek,
    pub(crate) wrapped: WrappedDek,
    pub(crate) binding: PolicyBinding,
}

impl Sample {
    pub(crate) fn new(key: &KeyDetails) -> Self {
        Self::of(key, Dek::generate().unwrap())
    }

    pub(crate) fn of(key: &KeyDetails, dek: Dek) -> Self {
        let wrapped = key.public_key.wrap(&dek).unwrap();
        let binding = PolicyBinding::from(*binding::compute(&dek, POLICY));
        Self { dek, wrapped, binding }
    }

    /// The same with one bit of the ciphertext flipped, where it stays below the modulus.
    pub(crate) fn damaged(key: &KeyDetails) -> Self {
        let mut sample = Self::new(key);
        let (WrappedDek::Rsa(bytes) | WrappedDek::Ec { blob: bytes, .. }) = &mut sample.wrapped;
        *bytes.last_mut().unwrap() ^= 1;
        sample
    }

    pub(crate) async fn rewrap(
        &self,
        manager: &HsmManager,
        key: &KeyDetails,
        recipient: &Recipient,
    ) -> Result<RewrappedKey> {
        self.rewrap_by(manager, key, recipient, soon()).await
    }

    pub(crate) async fn rewrap_by(
        &self,
        manager: &HsmManager,
        key: &KeyDetails,
        recipient: &Recipient,
        deadline: Deadline,
    ) -> Result<RewrappedKey> {
        let request = RewrapRequest {
            key,
            wrapped: &self.wrapped,
            policy: POLICY,
            binding: &self.binding,
            recipient,
            deadline,
        };
        manager.rewrap(request).await
    }
}
