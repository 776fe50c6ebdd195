use std::{fmt, sync::Arc};

use kasbah_trust::{Deadline, Error, PublicKey};

use crate::{Caller, edge::Fault, policy::Policy};

/// Evidence that a caller may have one data key of one policy re-encrypted to one recipient.
///
/// Only the decision code makes one. It cannot be cloned, and the function that calls the key
/// manager takes it by value and finds the policy text in it, so neither can a data key be
/// rewrapped without a decision nor under a policy that was not decided on.
pub struct AccessGranted {
    policy: Arc<str>,
    subject: String,
    recipient: [u8; 32],
    expires: Deadline,
}

impl AccessGranted {
    /// The policy as base64 text, exactly as sent.
    pub(crate) fn policy(&self) -> &str {
        &self.policy
    }

    /// Checks that it was granted for this recipient and still holds.
    ///
    /// # Errors
    /// `Internal` for another recipient, `Unavailable` when it has expired.
    pub(crate) fn check(&self, recipient: &PublicKey) -> Result<(), Error> {
        if self.recipient != recipient.fingerprint() {
            return Err(Error::internal("access was granted for another recipient"));
        }
        if self.expires.has_passed() {
            return Err(Error::unavailable("access expired before the key manager was reached"));
        }
        Ok(())
    }
}

impl fmt::Debug for AccessGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessGranted").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Decides on one key access object; what it grants holds until `expires`.
///
/// A policy without attributes is open to every authenticated caller. One with attributes needs
/// a decision service, and there is none.
pub(crate) fn decide(
    policy: &Policy,
    caller: &Caller,
    recipient: &PublicKey,
    expires: Deadline,
) -> Result<AccessGranted, Fault> {
    if !policy.attributes.is_empty() {
        return Err(Fault::FORBIDDEN_NO_DECISION_SERVICE);
    }
    Ok(AccessGranted {
        policy: Arc::clone(&policy.text),
        subject: caller.subject.clone(),
        recipient: recipient.fingerprint(),
        expires,
    })
}
