//! A key manager that counts what it is asked and whose keys say by their kid what it answers, and
//! a key index that is down: doubles, because no real one can be told to.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kasbah_kas::KasBuilder;
use kasbah_trust::{
    Algorithm, Boundary, Custody, CustodyLevel, Deadline, EcPublicKey, Error, Health, KeyDetails,
    KeyFilter, KeyId, KeyIndex, KeyManager, KeyManagerFactory, KeyMode, ProtectedKey,
    ProviderConfig, PublicKey, Recipient, Result, RewrapRequest, RewrappedKey, WrappedDek,
};

use crate::harness::key;

pub(crate) const SCRIPTED: &str = "scripted";

/// A scripted key under the provider configuration `provider`.
pub(crate) fn scripted_key(kid: &str, algorithm: Algorithm, provider: &str) -> KeyDetails {
    let provider = ProviderConfig {
        name: provider.into(),
        manager: SCRIPTED.into(),
        config_json: "{}".into(),
        version: 1,
    };
    KeyDetails { mode: KeyMode::Remote, provider: Some(Arc::new(provider)), ..key(kid, algorithm) }
}

/// Registers scripted managers beside the basic one.
pub(crate) fn scripted(record: &Arc<Record>) -> impl FnOnce(KasBuilder) -> KasBuilder + use<> {
    let factory = Arc::new(ScriptedFactory(Arc::clone(record)));
    move |builder| builder.key_manager(SCRIPTED, &Algorithm::ALL, factory)
}

/// What managers of one factory did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) rewraps: AtomicUsize,
    pub(crate) running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    pub(crate) opened: AtomicUsize,
    pub(crate) closed: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct ScriptedFactory(pub(crate) Arc<Record>);

#[async_trait]
impl KeyManagerFactory for ScriptedFactory {
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        if config.name == "down" {
            return Err(Error::unavailable("the device is not plugged in"));
        }
        Ok(Arc::new(Scripted(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct Scripted(Arc<Record>);

#[async_trait]
impl KeyManager for Scripted {
    fn name(&self) -> &'static str {
        SCRIPTED
    }

    async fn decrypt(
        &self,
        _: &KeyDetails,
        _: &WrappedDek,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::Unsupported("a scripted manager only rewraps"))
    }

    async fn derive(
        &self,
        _: &KeyDetails,
        _: &EcPublicKey,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::Unsupported("a scripted manager only rewraps"))
    }

    async fn open_recipient(&self, client: &PublicKey, _: Deadline) -> Result<Recipient> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        Recipient::in_host(client)
    }

    async fn rewrap(&self, request: RewrapRequest<'_>) -> Result<RewrappedKey> {
        self.0.rewraps.fetch_add(1, Ordering::SeqCst);
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_running.fetch_max(running, Ordering::SeqCst);
        let result = play(request.key.kid.as_str()).await;
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        result
    }

    async fn health(&self) -> Health {
        Health::Ready
    }

    async fn close(&self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

async fn play(kid: &str) -> Result<RewrappedKey> {
    match kid {
        "decrypt" => Err(Error::Decrypt),
        "panic" => panic!("this manager panics on purpose"),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(rewrapped(kid))
        }
        "stuck" => future::pending().await,
        "unavailable" => Err(Error::unavailable("a secret address")),
        _ => Ok(rewrapped(kid)),
    }
}

/// The kid stands for the data key.
fn rewrapped(kid: &str) -> RewrappedKey {
    let custody = Custody {
        level: CustodyLevel::Sealed,
        enforced_by_key: true,
        boundary: Boundary::Hardware,
    };
    RewrappedKey { wrapped: kid.as_bytes().to_vec(), custody }
}

#[derive(Debug)]
pub(crate) struct BrokenIndex;

#[async_trait]
impl KeyIndex for BrokenIndex {
    async fn find_by_id(&self, _: &KeyId, _: Deadline) -> Result<Arc<KeyDetails>> {
        Err(Error::unavailable("the database is down"))
    }

    async fn list(&self, _: KeyFilter, _: Deadline) -> Result<Vec<Arc<KeyDetails>>> {
        Err(Error::unavailable("the database is down"))
    }
}
