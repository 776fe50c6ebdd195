//! From a grant to a re-encrypted data key: finds the key and calls its manager.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use kasbah_auth::Proof;
use kasbah_trust::{
    Algorithm, Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyService, Lease, PolicyBinding,
    PublicKey, Recipient, Result, RewrapRequest, RewrappedKey, WrappedDek,
};
use tokio::time::timeout_at;
use tracing::{Span, instrument};

use crate::{
    AccessGranted, AuditOutcome, MinProof,
    check::Checked,
    edge::{Fault, report},
};

/// A key that may open a data key, with its manager.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) key: Arc<KeyDetails>,
    pub(crate) lease: Lease,
}

/// A data key that was granted, with the keys to try on it.
#[derive(Debug)]
pub(crate) struct Resolved {
    granted: AccessGranted,
    wrapped: WrappedDek,
    binding: PolicyBinding,
    /// In the order to try; never empty.
    pub(crate) candidates: Vec<Candidate>,
    /// Why the first of the legacy keys that could not be tried was not.
    untried: Option<Fault>,
}

/// A data key that was re-encrypted.
#[derive(Debug)]
pub(crate) struct Redeemed {
    pub(crate) rewrapped: RewrappedKey,
    /// The candidate that fitted.
    pub(crate) used: Candidate,
}

/// Finds the keys of granted data keys for one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) service: &'a KeyService,
    /// How well the caller must prove to be the owner of the token, for which key.
    pub(crate) min_proof: &'a MinProof,
    /// How well the caller does.
    pub(crate) proof: Proof,
    pub(crate) deadline: Deadline,
    /// How many legacy keys may be tried.
    pub(crate) legacy_limit: usize,
}

impl Keys<'_> {
    /// The legacy keys, in the order to try them.
    pub(crate) async fn legacy(&self) -> Result<Vec<Arc<KeyDetails>>, Fault> {
        let filter = KeyFilter { algorithm: Some(Algorithm::Rsa2048), legacy: Some(true) };
        let listing = self.service.index().list(filter, self.deadline);
        let mut keys = guard(self.deadline, listing).await.map_err(|error| report(&error))?;
        keys.truncate(self.legacy_limit);
        if keys.is_empty() { Err(Fault::NO_LEGACY_KEYS) } else { Ok(keys) }
    }

    /// Finds the key, or takes the legacy keys when none is named, and their managers.
    pub(crate) async fn resolve(
        &self,
        checked: Checked,
        granted: AccessGranted,
        legacy: &Result<Vec<Arc<KeyDetails>>, Fault>,
    ) -> Result<Resolved, Fault> {
        let keys = match &checked.kid {
            Some(kid) => vec![self.find(kid, &checked.wrapped).await?],
            None => legacy.clone()?,
        };
        let mut candidates = Vec::with_capacity(keys.len());
        let mut untried = None;
        for key in keys {
            match self.candidate(key).await {
                Ok(candidate) => candidates.push(candidate),
                Err(fault) => untried = untried.or(Some(fault)),
            }
        }
        match untried {
            Some(fault) if candidates.is_empty() => Err(fault),
            untried => Ok(Resolved {
                granted,
                wrapped: checked.wrapped,
                binding: checked.binding,
                candidates,
                untried,
            }),
        }
    }

    async fn candidate(&self, key: Arc<KeyDetails>) -> Result<Candidate, Fault> {
        let needed = self.min_proof.of(&key);
        if self.proof < needed {
            return Err(Fault::proof_required(needed));
        }
        let leasing = guard(self.deadline, self.service.manager_for(&key));
        let lease = leasing.await.map_err(|error| report(&error))?;
        Ok(Candidate { key, lease })
    }

    async fn find(&self, kid: &KeyId, wrapped: &WrappedDek) -> Result<Arc<KeyDetails>, Fault> {
        let found = guard(self.deadline, self.service.index().find_by_id(kid, self.deadline));
        let key = found.await.map_err(|error| report(&error))?;
        if fits(wrapped, key.algorithm) { Ok(key) } else { Err(Fault::BAD_REQUEST) }
    }
}

fn fits(wrapped: &WrappedDek, algorithm: Algorithm) -> bool {
    match wrapped {
        WrappedDek::Rsa(_) => algorithm.is_rsa(),
        WrappedDek::Ec { ephemeral, .. } => algorithm == Algorithm::Ec(ephemeral.curve()),
    }
}

/// Opens the client's key for the whole response: an EC key in the device of the one manager that
/// answers all of it, if there is one; else in host memory.
pub(crate) async fn open_recipient(
    client: &PublicKey,
    sole_manager: Option<&Lease>,
    deadline: Deadline,
) -> Result<Recipient, Fault> {
    let opened = match (client, sole_manager) {
        (PublicKey::Ec(_), Some(lease)) => {
            guard(deadline, lease.open_recipient(client, deadline)).await
        }
        _ => return in_host(client),
    };
    opened.map_err(|error| report(&error))
}

/// A client's key, opened in host memory.
pub(crate) fn in_host(client: &PublicKey) -> Result<Recipient, Fault> {
    Recipient::in_host(client).map_err(|error| report(&error))
}

/// Has the data key re-encrypted, by the first candidate that can; spends the grant.
///
/// A candidate that cannot decrypt says nothing about the next. When none can, a candidate that
/// could not be asked matters more than one that refused: the key may have been there.
#[instrument(name = "redeem", skip_all, fields(kid, manager, outcome))]
pub(crate) async fn redeem(
    resolved: Resolved,
    recipient: &Recipient,
    deadline: Deadline,
) -> Result<Redeemed, Fault> {
    let redeemed = redeem_by_first(resolved, recipient, deadline).await;
    let outcome = redeemed.as_ref().map_or_else(|fault| fault.outcome, |_| AuditOutcome::Success);
    Span::current().record("outcome", outcome.as_str());
    redeemed
}

async fn redeem_by_first(
    resolved: Resolved,
    recipient: &Recipient,
    deadline: Deadline,
) -> Result<Redeemed, Fault> {
    let Resolved { granted, wrapped, binding, candidates, mut untried } = resolved;
    granted.check(&recipient.client_key()).map_err(|error| report(&error))?;
    for used in candidates {
        let manager = &*used.lease.designation().manager;
        Span::current().record("kid", used.key.kid.as_str()).record("manager", manager);
        let request = RewrapRequest {
            key: &used.key,
            wrapped: &wrapped,
            policy: granted.policy(),
            binding: &binding,
            recipient,
            deadline,
        };
        match guard(deadline, used.lease.rewrap(request)).await {
            Ok(rewrapped) => return Ok(Redeemed { rewrapped, used }),
            Err(Error::Decrypt) => {}
            // The index knows the key, so its absence is our trouble and not a caller's mistake.
            Err(Error::NotFound(kid)) => {
                let gone = Error::unavailable(format!("key {kid} is not where its record says"));
                untried = untried.or(Some(report(&gone)));
            }
            Err(error) => untried = untried.or(Some(report(&error))),
        }
    }
    Err(untried.unwrap_or(Fault::BAD_REQUEST))
}

/// Waits until the deadline and no longer; a panic in there is an error of ours, not the end of
/// the request.
async fn guard<T>(deadline: Deadline, work: impl Future<Output = Result<T>>) -> Result<T> {
    let work = AssertUnwindSafe(work).catch_unwind();
    match timeout_at(deadline.instant().into(), work).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::internal("a key manager or the key index panicked")),
        Err(_) => Err(Error::unavailable("no answer before the deadline")),
    }
}
