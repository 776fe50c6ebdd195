//! Telling a bad ciphertext from a dead device.
//!
//! Modules answer both alike, so after a failed unwrap the same session unwraps a ciphertext that is
//! known to be good, under the same key. If that works, the caller's was bad; if not, the token is
//! down. Every failed unwrap takes this one path whatever its code was, so that codes that differ
//! between kinds of damage are no oracle.
//!
//! Canaries of a key are [`INTERVAL`] apart, or a stranger who sends garbage would double the load
//! of the token. Failures in between wait, without holding a worker, for the next one on their
//! session; what starts after a failure decides it, and one canary decides all that wait. A genuine
//! unwrap under the key on that session serves as well. The wait is the price of a bad ciphertext:
//! neither is tampering reported as an outage, nor an outage as tampering.

use std::{
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use kasbah_crypto::{CryptoError, Dek, PublicKey, WrappedDek};

use crate::module::lock;

/// Least time between canaries of one key.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// The canary of one key, shared by all sessions.
#[derive(Debug, Default)]
pub(crate) struct Canary {
    wrapped: OnceLock<WrappedDek>,
    last: Mutex<Option<Instant>>,
}

impl Canary {
    /// A sound ciphertext for `key`. What is in it nobody knows.
    pub(crate) fn wrapped(&self, key: &PublicKey) -> Result<&WrappedDek, CryptoError> {
        if let Some(wrapped) = self.wrapped.get() {
            return Ok(wrapped);
        }
        let wrapped = key.wrap(&Dek::generate()?)?;
        Ok(self.wrapped.get_or_init(|| wrapped))
    }

    /// Books the next free moment, `now` at the earliest, for a canary.
    pub(crate) fn book(&self, now: Instant) -> Instant {
        let mut last = lock(&self.last);
        let at = last.map_or(now, |last| now.max(last + INTERVAL));
        *last = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_keep_their_distance() {
        let (canary, now) = (Canary::default(), Instant::now());
        let booked: Vec<_> = (0..3).map(|_| canary.book(now) - now).collect();
        assert_eq!(booked, [Duration::ZERO, INTERVAL, 2 * INTERVAL]);
        let later = now + Duration::from_secs(1);
        assert_eq!(canary.book(later), later);
    }
}
