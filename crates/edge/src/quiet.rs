//! Whether anything happens on a connection.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::EdgeLimits;

pin_project_lite::pin_project! {
    /// The body of an answer; its request is under way until it is sent.
    pub(crate) struct Held {
        #[pin]
        body: Body,
        busy: Busy,
    }
}

impl Held {
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, busy }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

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
