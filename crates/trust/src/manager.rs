use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use kasbah_crypto::{Dek, binding};

use crate::{
    Algorithm, Custody, Deadline, EcPublicKey, Error, KeyDetails, KeyStore, PolicyBinding,
    ProtectedKey, ProviderConfig, PublicKey, Recipient, Result, RewrappedKey, WrappedDek,
};

/// Owner of private keys.
///
/// Contract: calls are concurrent; a call that is cancelled leaks nothing; after `close` every
/// call fails with `Unavailable`; a key the manager does not hold is `NotFound`; everything that
/// may speak of secret material is `Decrypt` and looks the same; an outage is `Unavailable`,
/// overload is `Busy`, and neither is ever `Decrypt`. The suite in `conformance` checks it.
#[async_trait]
pub trait KeyManager: fmt::Debug + Send + Sync + 'static {
    /// The name it was registered under.
    fn name(&self) -> &str;

    /// Unwraps a data key. For what [`KeyManager::rewrap`] does not cover.
    ///
    /// # Errors
    /// As the contract above says; `Unsupported` when the data key could only leave the device in
    /// clear and the custody policy forbids that.
    async fn decrypt(
        &self,
        key: &KeyDetails,
        wrapped: &WrappedDek,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>>;

    /// Agrees on a key with `peer` by ECDH and HKDF (salt SHA-256("TDF"), empty info, 32 bytes).
    ///
    /// # Errors
    /// `Unsupported` for RSA keys and for managers that cannot.
    async fn derive(
        &self,
        key: &KeyDetails,
        peer: &EcPublicKey,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>>;

    /// Opens a client key for one response that this manager alone will answer.
    ///
    /// # Errors
    /// As the contract above says.
    async fn open_recipient(&self, client: &PublicKey, deadline: Deadline) -> Result<Recipient> {
        let _ = deadline;
        Recipient::in_host(client)
    }

    /// Unwraps a data key, checks that it is bound to the policy, and re-encrypts it: one call, so
    /// that a manager can do all three inside its device.
    ///
    /// # Errors
    /// As the contract above says; a wrong binding is `Decrypt`.
    async fn rewrap(&self, request: RewrapRequest<'_>) -> Result<RewrappedKey> {
        self.decrypt(request.key, request.wrapped, request.deadline)
            .await?
            .verify_binding(request.policy, request.binding)
            .await?
            .export(request.recipient)
            .await
    }

    /// Proves that the private key is usable and belongs to `key.public_key`: a random data key
    /// wrapped for it must come back. Returns the custody reached.
    ///
    /// # Errors
    /// `Decrypt` when the keys do not match; otherwise as the contract above says.
    async fn probe(&self, key: &KeyDetails, deadline: Deadline) -> Result<Custody> {
        let policy = "cHJvYmU="; // any base64 text
        let dek = Dek::generate().map_err(Error::internal)?;
        let binding = PolicyBinding::from(*binding::compute(&dek, policy));
        let wrapped = key.public_key.wrap(&dek).map_err(Error::internal)?;
        let recipient = Recipient::in_host(&key.public_key)?;
        let request = RewrapRequest {
            key,
            wrapped: &wrapped,
            policy,
            binding: &binding,
            recipient: &recipient,
            deadline,
        };
        Ok(self.rewrap(request).await?.custody)
    }

    /// What makes and lists keys, for managers that can.
    fn key_store(&self) -> Option<&dyn KeyStore> {
        None
    }

    /// Whether it could serve a request now.
    async fn health(&self) -> Health;

    /// Ends what is under way, releases the device and wipes secrets. Idempotent.
    async fn close(&self);
}

/// One data key to be re-encrypted.
#[derive(Debug, Clone, Copy)]
pub struct RewrapRequest<'a> {
    /// The KAS key it is wrapped for.
    pub key: &'a KeyDetails,
    /// The data key.
    pub wrapped: &'a WrappedDek,
    /// The policy as base64 text, exactly as sent.
    pub policy: &'a str,
    /// The binding the client claims.
    pub binding: &'a PolicyBinding,
    /// Whom to encrypt to.
    pub recipient: &'a Recipient,
    /// When to give up.
    pub deadline: Deadline,
}

/// Readiness of a manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Ready.
    Ready,
    /// Not ready, and why; the text is for operators.
    NotReady(String),
}

/// Makes managers of one kind.
#[async_trait]
pub trait KeyManagerFactory: fmt::Debug + Send + Sync + 'static {
    /// Builds the manager for a provider configuration, or for the default manager (empty name
    /// and `{}`).
    ///
    /// # Errors
    /// `Unavailable` when what it needs is down or misconfigured; the source says what to do.
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>>;
}

/// Factories by name.
#[derive(Debug, Default)]
pub struct KeyManagers {
    by_name: BTreeMap<String, Registration>,
}

#[derive(Debug)]
struct Registration {
    algorithms: Vec<Algorithm>,
    factory: Arc<dyn KeyManagerFactory>,
}

/// A registration that cannot stand.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// The name is empty.
    #[error("a key manager needs a name")]
    EmptyName,
    /// The name is taken.
    #[error("key manager {0} is registered twice; give one of them another name")]
    Duplicate(String),
}

impl KeyManagers {
    /// Registers a kind of manager under `name` with the algorithms it serves.
    ///
    /// # Errors
    /// When the name is empty or taken.
    pub fn register(
        &mut self,
        name: impl Into<String>,
        algorithms: &[Algorithm],
        factory: Arc<dyn KeyManagerFactory>,
    ) -> Result<(), RegistrationError> {
        let name = name.into();
        if name.is_empty() {
            return Err(RegistrationError::EmptyName);
        }
        if self.by_name.contains_key(&name) {
            return Err(RegistrationError::Duplicate(name));
        }
        let registration = Registration { algorithms: algorithms.to_vec(), factory };
        self.by_name.insert(name, registration);
        Ok(())
    }

    /// The factory of this name.
    pub fn factory(&self, name: &str) -> Option<&Arc<dyn KeyManagerFactory>> {
        self.by_name.get(name).map(|registration| &registration.factory)
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The algorithms the managers of this name serve.
    pub fn algorithms(&self, name: &str) -> &[Algorithm] {
        self.by_name.get(name).map_or(&[], |registration| &registration.algorithms)
    }
}
