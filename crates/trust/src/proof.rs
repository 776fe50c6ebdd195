//! Evidence that the private key behind a public key is ours.
//!
//! Whoever may write the database could put a public key of their own there, and every data key
//! wrapped with it would be theirs. So none is handed out before a random data key wrapped with it
//! came back through its manager.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    Algorithm, Custody, Deadline, Designation, Error, KeyDetails, KeyFilter, KeyId, KeyMode,
    KeyService, KeyStatus, Result,
};

/// Keys whose proof is remembered; one more, and all are proven again.
const MAX_PROOFS: usize = 4096;
/// How long a failure is remembered, so that asking for public keys does not load the device.
const FAILURE_AGE: Duration = Duration::from_secs(2);

/// What has been proven.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    known: Mutex<HashMap<Claim, Proof>>,
    /// One proof at a time and manager: it is work for the device that nobody paid for.
    turns: Mutex<HashMap<Designation, Arc<tokio::sync::Mutex<()>>>>,
}

/// All that a proof depends on; when any of it changes the proof is void.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Claim {
    kas_uri: String,
    kid: String,
    public_key: [u8; 32],
    private_key: (Option<String>, Option<String>),
    provider: Option<(String, String, u64)>,
}

#[derive(Debug, Clone)]
enum Proof {
    Holds(Custody),
    Failed { at: Instant, reason: Reason },
}

/// An error to be told again.
#[derive(Debug, Clone)]
enum Reason {
    Decrypt,
    NotFound(KeyId),
    NotPermitted(&'static str),
    Unsupported(&'static str),
    /// Of this side, in words.
    Other(Arc<str>),
}

impl Reason {
    fn of(error: &Error) -> Self {
        match error {
            Error::Decrypt => Self::Decrypt,
            Error::NotFound(kid) => Self::NotFound(kid.clone()),
            Error::NotPermitted(text) => Self::NotPermitted(text),
            Error::Unsupported(text) => Self::Unsupported(text),
            Error::Busy | Error::Exists(_) => Self::Other(error.to_string().into()),
            Error::Internal(source) | Error::Unavailable(source) => {
                Self::Other(source.to_string().into())
            }
        }
    }

    fn error(&self) -> Error {
        match self {
            Self::Decrypt => Error::Decrypt,
            Self::NotFound(kid) => Error::NotFound(kid.clone()),
            Self::NotPermitted(text) => Error::NotPermitted(text),
            Self::Unsupported(text) => Error::Unsupported(text),
            Self::Other(text) => Error::unavailable(format!("a moment ago: {text}")),
        }
    }
}

impl Claim {
    fn of(key: &KeyDetails) -> Self {
        let private = &key.private_key;
        let provider = key.provider.as_deref();
        Self {
            kas_uri: key.kas_uri.to_string(),
            kid: key.kid.to_string(),
            public_key: key.public_key.fingerprint(),
            private_key: (private.key_id.clone(), private.wrapped_key.clone()),
            provider: provider.map(|p| (p.manager.clone(), p.name.clone(), p.version)),
        }
    }
}

impl Proofs {
    fn find(&self, claim: &Claim) -> Option<Result<Custody>> {
        match self.known().get(claim)? {
            Proof::Holds(custody) => Some(Ok(*custody)),
            Proof::Failed { at, .. } if at.elapsed() > FAILURE_AGE => None,
            Proof::Failed { reason, .. } => Some(Err(reason.error())),
        }
    }

    fn turn(&self, manager: &Designation) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(manager.clone()).or_default())
    }

    fn keep(&self, claim: Claim, proof: Proof) {
        let mut known = self.known();
        if known.len() >= MAX_PROOFS {
            known.clear();
        }
        known.insert(claim, proof);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Claim, Proof>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyService {
    /// Proves once that the private part of `key` is usable and belongs to its public part;
    /// returns the custody reached.
    ///
    /// # Errors
    /// `Decrypt` when they do not belong together; `NotPermitted` for a key that is out of use;
    /// otherwise as [`crate::KeyManager::probe`].
    pub async fn prove(&self, key: &KeyDetails, deadline: Deadline) -> Result<Custody> {
        let manager = self.manager_for(key).await?;
        let claim = Claim::of(key);
        let proofs = self.proofs();
        if let Some(known) = proofs.find(&claim) {
            return known;
        }
        let turn = proofs.turn(manager.designation());
        let _turn = turn.lock().await;
        if let Some(known) = proofs.find(&claim) {
            return known;
        }
        let outcome = manager.probe(key, deadline).await;
        let proof = match &outcome {
            Ok(custody) => {
                tracing::info!(
                    kid = %key.kid,
                    algorithm = %key.algorithm,
                    manager = %manager.designation().manager,
                    custody = %custody.level,
                    enforced_by_key = custody.enforced_by_key,
                    boundary = custody.boundary.as_str(),
                    legacy = key.legacy,
                    "key is ready"
                );
                Proof::Holds(*custody)
            }
            Err(error) => Proof::Failed { at: Instant::now(), reason: Reason::of(error) },
        };
        proofs.keep(claim, proof);
        outcome
    }

    /// The key that clients should wrap with: the first that is active, not legacy, and proven.
    /// `None` when there is none.
    ///
    /// # Errors
    /// `Unavailable` when the index cannot be asked, or the only such keys cannot be proven now.
    pub async fn key_to_hand_out(
        &self,
        algorithm: Algorithm,
        deadline: Deadline,
    ) -> Result<Option<Arc<KeyDetails>>> {
        self.first_proven(KeyFilter { algorithm: Some(algorithm), legacy: Some(false) }, deadline)
            .await
    }

    /// The key that clients should wrap with that name no key in what they wrap: the first legacy
    /// key that is active and proven. `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::key_to_hand_out`].
    pub async fn legacy_key_to_hand_out(
        &self,
        deadline: Deadline,
    ) -> Result<Option<Arc<KeyDetails>>> {
        let algorithm = Some(Algorithm::Rsa2048);
        self.first_proven(KeyFilter { algorithm, legacy: Some(true) }, deadline).await
    }

    async fn first_proven(
        &self,
        filter: KeyFilter,
        deadline: Deadline,
    ) -> Result<Option<Arc<KeyDetails>>> {
        let mut unproven = None;
        for key in self.index().list(filter, deadline).await? {
            if key.status != KeyStatus::Active || key.mode == KeyMode::PublicKeyOnly {
                continue;
            }
            match self.prove(&key, deadline).await {
                Ok(_) => return Ok(Some(key)),
                Err(error) => {
                    tracing::warn!(
                        kid = %key.kid,
                        error = &error as &dyn std::error::Error,
                        "public key is not handed out: its private key is not proven"
                    );
                    unproven = unproven.or(Some(error));
                }
            }
        }
        match unproven {
            Some(error) => Err(Error::unavailable(error)),
            None => Ok(None),
        }
    }
}
