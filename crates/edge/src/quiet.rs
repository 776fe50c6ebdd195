//! Whether anything happens on a connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::EdgeLimits;

/// What happens on one connection.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests under way.
    open: usize,
    /// Whether there was a request at all.
    had_request: bool,
    /// When the last one ended, or the connection began.
    since: Instant,
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { open: 0, had_request: false, since: Instant::now() })))
    }

    /// A request begins, and ends when the value is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        state.open += 1;
        state.had_request = true;
        drop(state);
        Busy(Arc::clone(self))
    }

    /// Completes when the connection was quiet for longer than it may be.
    pub(crate) async fn too_quiet(&self, limits: &EdgeLimits) {
        self.quiet(
            |had_request| {
                if had_request { limits.idle_timeout } else { limits.first_request_timeout }
            },
        )
        .await;
    }

    /// Completes when the connection was quiet for so long.
    pub(crate) async fn quiet_for(&self, time: Duration) {
        self.quiet(|_| time).await;
    }

    async fn quiet(&self, allowed: impl Fn(bool) -> Duration) {
        loop {
            let now = Instant::now();
            let until = {
                let state = self.state();
                let since = if state.open > 0 { now } else { state.since };
                since + allowed(state.had_request)
            };
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.since = Instant::now();
    }
}
