use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A span of time in which the source is not known to have changed.
///
/// A new one begins with every other revision, smaller ones included (a restored database). What
/// was read during one that has ended is not current any more, even should its number come back.
#[derive(Debug)]
pub(crate) struct Epoch {
    revision: Option<u64>,
    began: Instant,
    /// When the revision was last seen, in nanoseconds after `began`.
    seen: AtomicU64,
}

impl Epoch {
    /// One that begins with `revision`, as seen at `now`.
    pub(crate) fn new(revision: Option<u64>, now: Instant) -> Self {
        Self { revision, began: now, seen: AtomicU64::new(0) }
    }

    pub(crate) fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// The revision was still this at `now`.
    pub(crate) fn saw(&self, now: Instant) {
        let after = now.saturating_duration_since(self.began).as_nanos();
        self.seen.fetch_max(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When the revision was last seen; `None` without one.
    pub(crate) fn seen(&self) -> Option<Instant> {
        let after = Duration::from_nanos(self.seen.load(Ordering::Relaxed));
        self.revision.map(|_| self.began + after)
    }
}
