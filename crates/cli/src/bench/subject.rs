//! What is rewrapped.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use kasbah_basic::{BasicFactory, RootKeys, wrap_private_key};
use kasbah_crypto::{PrivateKey, PrivateKeyParts, binding, envelope::RootKey};
use kasbah_pkcs11::{HsmFactory, uri::KeyUri};
use kasbah_trust::{
    Algorithm, CustodyLevel, CustodyPolicy, Deadline, Dek, KeyDetails, KeyManager,
    KeyManagerFactory, KeyMode, KeyStatus, PolicyBinding, PrivateKeyRef, ProviderConfig, PublicKey,
    Recipient, RewrapRequest, WrappedDek,
};
use serde_json::json;

use super::Sample;
use crate::{
    config::TokenSettings,
    exit::{Exit, Failure, OrExit},
    throw_away::random_hex,
};

/// Long enough for any token; a benchmark has no impatient client.
const TIMEOUT: Duration = Duration::from_secs(30);
/// As long as a policy with one attribute.
const POLICY_LEN: usize = 256;
/// Alias of the root key.
const ROOT: &str = "root";

/// A request that is made again and again.
pub(crate) struct Subject {
    key: KeyDetails,
    wrapped: WrappedDek,
    policy: String,
    binding: PolicyBinding,
    recipient: Recipient,
    custody: OnceLock<CustodyLevel>,
}

impl Subject {
    /// For the RSA key that `uri` names in a token.
    pub(crate) fn in_token(uri: &KeyUri, public_key: PublicKey) -> anyhow::Result<Self> {
        let private_key = PrivateKeyRef { key_id: Some(uri.to_string()), wrapped_key: None };
        Self::new(public_key, KeyMode::Remote, private_key)
    }

    fn new(
        public_key: PublicKey,
        mode: KeyMode,
        private_key: PrivateKeyRef,
    ) -> anyhow::Result<Self> {
        let algorithm = public_key.algorithm().ok_or_else(|| anyhow!("the key is no KAS key"))?;
        let dek = Dek::generate()?;
        let policy = "A".repeat(POLICY_LEN);
        let client = PrivateKey::generate(Algorithm::Rsa2048)?.public_key();
        Ok(Self {
            wrapped: public_key.wrap(&dek)?,
            binding: PolicyBinding::from(*binding::compute(&dek, &policy)),
            policy,
            recipient: Recipient::in_host(&client)?,
            key: KeyDetails {
                kas_uri: "http://localhost".into(),
                kid: "bench".into(),
                algorithm,
                mode,
                status: KeyStatus::Active,
                legacy: false,
                public_key,
                private_key,
                provider: None,
            },
            custody: OnceLock::new(),
        })
    }

    /// The key answers are encrypted to.
    pub(crate) fn client(&self) -> PublicKey {
        self.recipient.client_key()
    }

    /// The custody reached, once something was rewrapped.
    pub(crate) fn custody(&self) -> &'static str {
        self.custody.get().map_or("unknown", |custody| custody.as_str())
    }

    /// Rewraps until the time is over and returns how long each took.
    pub(crate) async fn repeat(
        &self,
        manager: &dyn KeyManager,
        until: Instant,
    ) -> kasbah_trust::Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let started = Instant::now();
            let request = RewrapRequest {
                key: &self.key,
                wrapped: &self.wrapped,
                policy: &self.policy,
                binding: &self.binding,
                recipient: &self.recipient,
                deadline: Deadline::after(TIMEOUT),
            };
            let rewrapped = manager.rewrap(request).await?;
            latencies.push(started.elapsed());
            self.custody.get_or_init(|| rewrapped.custody.level);
        }
        Ok(latencies)
    }
}

/// The manager of a token, with this number of workers.
pub(crate) fn hsm(
    settings: &TokenSettings,
    workers: usize,
) -> Result<Arc<dyn KeyManager>, Failure> {
    let modules = BTreeMap::from([(settings.module_name.clone(), settings.module.clone())]);
    let secrets = BTreeMap::from([(settings.pin_name.clone(), settings.pin.clone())]);
    let config = json!({
        "module": settings.module_name,
        "token": settings.token,
        "slot": settings.slot,
        "pin": settings.pin_name,
        "custody": CustodyPolicy::PreferSealed.as_str(),
        "workers": workers,
    });
    let factory = HsmFactory::new(modules, secrets, CustodyPolicy::Transient);
    Ok(Arc::new(factory.start(&config.to_string())?))
}

/// The basic manager and the bare private key.
pub(crate) struct Software {
    pub(crate) manager: Arc<dyn KeyManager>,
    pub(crate) subject: Arc<Subject>,
    private_key: PrivateKey,
}

impl Software {
    /// With a fresh RSA key.
    pub(crate) async fn make() -> Result<Self, Failure> {
        let (factory, subject, private_key) = Self::parts().or_exit(Exit::NotFine)?;
        let config = ProviderConfig {
            name: String::new(),
            manager: kasbah_basic::MANAGER.into(),
            config_json: "{}".into(),
            version: 0,
        };
        let manager = factory.create(&config).await.or_exit(Exit::NotFine)?;
        Ok(Self { manager, subject: Arc::new(subject), private_key })
    }

    fn parts() -> anyhow::Result<(BasicFactory, Subject, PrivateKey)> {
        let parts = PrivateKeyParts::generate(Algorithm::Rsa2048)?;
        let root = random_hex::<32>().map_err(|_| anyhow!("the system's random source failed"))?;
        let root = RootKey::from_hex(&root)?;
        let pem = parts.to_pem()?;
        let wrapped_key = wrap_private_key(&root, &pem)?;
        let keys = RootKeys::new(ROOT.into(), BTreeMap::from([(ROOT.into(), root)]))?;
        let private_key =
            PrivateKeyRef { key_id: Some(ROOT.into()), wrapped_key: Some(wrapped_key) };
        let subject = Subject::new(parts.public_key(), KeyMode::ConfigRootKey, private_key)?;
        Ok((BasicFactory::new(keys), subject, PrivateKey::from_pem(&pem)?))
    }

    /// Decrypts on some threads for a while.
    pub(crate) fn decrypt(&self, threads: usize, slice: Duration) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let until = started + slice;
        let latencies = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| self.decrypt_until(until))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(Sample::new(latencies.concat(), started.elapsed()))
    }

    fn decrypt_until(&self, until: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let started = Instant::now();
            self.private_key.unwrap_dek(&self.subject.wrapped)?;
            latencies.push(started.elapsed());
        }
        Ok(latencies)
    }
}
