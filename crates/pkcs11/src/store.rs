//! Making, listing and destroying keys for the control plane.
//!
//! One piece of work at a time and token, on a thread and a session of its own: generating a key
//! takes seconds on some devices, and must not keep a worker from serving. A worker is asked first
//! whether the token is there, and gets it back if it was lost; afterwards the token is looked at
//! again, because one that has vanished answers a search as one without keys does.

use std::sync::Arc;

use async_trait::async_trait;
use cryptoki::error::{Error as Cryptoki, RvError};
use kasbah_trust::{
    Algorithm, Deadline, Error, KeyDetails, KeyId, KeyMode, KeyStore, NewKey, PrivateKeyRef,
    Result, StoredKey,
};
use tokio::time::timeout_at;

use crate::{
    error::{Error as TokenError, ErrorClass},
    job::Job,
    kek,
    manager::{CLOSED, HsmManager},
    provision::{self, KeyEntry, StoredPair},
    recovery::Device,
    uri::KeyUri,
    wrapped,
};

const BAD_KID: &str = "a kid has 1 to 128 printable bytes";
const SEVERAL: &str = "the token has several private keys of this name, and it is not clear which \
                       to destroy";
const CANNOT_MAKE: &str = "the token cannot make such a key with the hardened template";
const NOT_HERE: &str = "opentdf.io/hsm makes keys of mode REMOTE and PROVIDER_ROOT_KEY";
const NO_KWP: &str = "the token cannot wrap private keys: it has no AES key wrap with padding";
const KEEPS: &str = "a key of opentdf.io/hsm keeps its wrapping key";

impl HsmManager {
    /// Does `work` with the token, and sees that the token was there all the while.
    async fn store<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Device) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<Result<T, TokenError>> {
        self.ask(Job::Check, deadline).await?;
        let late = || Error::unavailable("the token did not answer before the deadline");
        let turn = Arc::clone(&self.storing).acquire_owned();
        let turn = timeout_at(deadline.instant().into(), turn).await.map_err(|_| late())?;
        let turn = turn.map_err(|_| Error::unavailable(CLOSED))?;
        let device = Arc::clone(&self.device);
        let generation = device.generation();
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _alone = device.token.making();
            // Without a login no private key is seen, and none would seem to be there.
            let outcome = device.token.restore_login().and_then(|()| work(&device));
            device.check().map(|()| outcome).map_err(|why| {
                device.lose(generation, &why);
                Error::unavailable(why)
            })
        });
        match timeout_at(deadline.instant().into(), work).await {
            Ok(joined) => joined.map_err(Error::internal)?,
            Err(_) => Err(late()),
        }
    }
}

#[async_trait]
impl KeyStore for HsmManager {
    async fn generate(
        &self,
        kid: &KeyId,
        algorithm: Algorithm,
        mode: KeyMode,
        deadline: Deadline,
    ) -> Result<NewKey> {
        provision::check_kid(kid.as_str()).map_err(|_| Error::NotPermitted(BAD_KID))?;
        let name = kid.clone();
        let made = match mode {
            KeyMode::Remote => {
                self.store(deadline, move |device| remote(device, &name, algorithm)).await?
            }
            KeyMode::ProviderRootKey => {
                let kwp = self.device.abilities.kwp.ok_or(Error::Unsupported(NO_KWP))?;
                let work = move |device: &Device| {
                    wrapped::generate(&device.token, kwp, name.as_str(), algorithm)
                };
                self.store(deadline, work).await?
            }
            KeyMode::ConfigRootKey | KeyMode::PublicKeyOnly => {
                return Err(Error::Unsupported(NOT_HERE));
            }
        };
        made.map_err(|error| not_made(kid, error))
    }

    async fn holds(&self, kid: &KeyId, deadline: Deadline) -> Result<bool> {
        let name = kid.clone();
        let work = move |device: &Device| provision::holds(&device.token, name.as_str());
        self.store(deadline, work).await?.map_err(Error::unavailable)
    }

    async fn inventory(&self, deadline: Deadline) -> Result<Vec<StoredKey>> {
        let pairs = self.store(deadline, |device| provision::inventory(&device.token)).await?;
        Ok(pairs.map_err(Error::unavailable)?.into_iter().map(stored).collect())
    }

    async fn destroy(&self, kid: &KeyId, deadline: Deadline) -> Result<()> {
        provision::check_kid(kid.as_str()).map_err(|_| Error::NotFound(kid.clone()))?;
        let name = kid.clone();
        let work = move |device: &Device| provision::destroy(&device.token, name.as_str());
        match self.store(deadline, work).await? {
            Ok(0) => Err(Error::NotFound(kid.clone())),
            Ok(_) => Ok(()),
            Err(TokenError::Key(text)) => {
                tracing::error!(%kid, "{text}");
                Err(Error::NotPermitted(SEVERAL))
            }
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    async fn wrap_again(&self, _: &KeyDetails, _: &str, _: Deadline) -> Result<PrivateKeyRef> {
        Err(Error::Unsupported(KEEPS))
    }
}

fn remote(device: &Device, kid: &KeyId, algorithm: Algorithm) -> Result<NewKey, TokenError> {
    let entry = provision::generate(&device.token, kid.as_str(), algorithm)?;
    let key_id = entry.uri().map(|uri| uri.to_string());
    let public_key = entry
        .public_key
        .ok_or_else(|| TokenError::Key(format!("key {kid} was made without a public half")))?;
    Ok(NewKey { public_key, private_key: PrivateKeyRef { key_id, wrapped_key: None } })
}

fn stored(pair: StoredPair) -> StoredKey {
    let StoredPair { entry, has_private_key, has_public_key } = pair;
    let key_id = entry.uri().filter(|_| has_private_key).map(|uri: KeyUri| uri.to_string());
    let KeyEntry { label, algorithm, public_key, .. } = entry;
    StoredKey {
        kid: KeyId::from(label.as_str()),
        algorithm,
        public_key: public_key.filter(|_| has_public_key),
        has_private_key,
        key_id,
    }
}

fn not_made(kid: &KeyId, error: TokenError) -> Error {
    match error {
        TokenError::Exists(text) => {
            tracing::info!(%kid, "{text}");
            Error::Exists(kid.clone())
        }
        TokenError::Call(what, Cryptoki::Pkcs11(code, call)) if is_inability(code) => {
            tracing::error!(%kid, %code, %call, "{what}: not possible on this token");
            Error::Unsupported(CANNOT_MAKE)
        }
        TokenError::Config(text) => {
            tracing::error!(%kid, "{text}");
            Error::NotPermitted(kek::WEAK)
        }
        error if error.class() == Some(ErrorClass::Internal) => Error::internal(error),
        error => Error::unavailable(error),
    }
}

/// Codes by which a module says that it has no such keys.
fn is_inability(code: RvError) -> bool {
    use RvError as E;
    matches!(
        code,
        E::AttributeTypeInvalid
            | E::AttributeValueInvalid
            | E::CurveNotSupported
            | E::FunctionNotSupported
            | E::KeySizeRange
            | E::MechanismInvalid
            | E::MechanismParamInvalid
            | E::TemplateInconsistent
            | E::TokenWriteProtected
    )
}
