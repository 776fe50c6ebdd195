//! The suite that every key manager must pass.
//!
//! It stands on the contract of [`KeyManager`] and on nothing else: the test of a manager makes a
//! [`Subject`] and calls [`all`] on a multi-threaded Tokio runtime. A failed expectation panics
//! with the name of the case and of the key.

#![expect(clippy::expect_used, reason = "a panic is a failing test")]

mod cases;
mod clients;

use std::sync::Arc;

pub use self::clients::Clients;
use crate::{Custody, KeyDetails, KeyManager, Recipient};

/// A manager and what is known of it.
pub struct Subject {
    /// The manager; the suite closes it at its end.
    pub manager: Arc<dyn KeyManager>,
    /// Keys that it holds, at least one of each algorithm it serves. Two of one algorithm let one
    /// be tried with what was wrapped for the other.
    pub keys: Vec<KeyDetails>,
    /// A key that it does not hold.
    pub absent: KeyDetails,
    /// The custody it must report when it rewraps from this key to this recipient; `None` where
    /// that is not known beforehand.
    pub custody: fn(&KeyDetails, &Recipient) -> Option<Custody>,
    /// Whether it implements [`KeyManager::derive`] for EC keys; otherwise that must be
    /// `Unsupported`.
    pub derives: bool,
}

/// Runs every case.
///
/// # Panics
/// When the manager breaks the contract.
pub async fn all(subject: &Subject) {
    assert!(!subject.keys.is_empty(), "the subject has no keys, so nothing would be tested");
    cases::ready(subject).await;
    for key in &subject.keys {
        cases::round_trips(subject, key).await;
        cases::policies(subject, key).await;
        cases::unwrapped(subject, key).await;
        cases::derived(subject, key).await;
        cases::probed(subject, key).await;
        cases::tampered(subject, key).await;
        cases::malformed(subject, key).await;
        cases::wrong_form(subject, key).await;
        cases::wrong_key(subject, key).await;
        cases::wrong_recipient(subject, key).await;
        cases::public_key_only(subject, key).await;
        cases::late(subject, key).await;
        cases::cancelled(subject, key).await;
    }
    cases::shared_recipient(subject).await;
    cases::absent(subject).await;
    cases::concurrent(subject).await;
    cases::closed(subject).await;
}
