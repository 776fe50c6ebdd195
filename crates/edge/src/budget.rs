//! How many bytes of bodies all calls together may hold.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::Semaphore;

/// What one call took of the budget; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Semaphore>,
    taken: AtomicUsize,
    refused: AtomicBool,
}

impl Share {
    pub(crate) fn of(budget: &Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            taken: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// Whether there was too little left.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).ok().map(|bytes| self.budget.try_acquire_many(bytes));
        let Some(Ok(permit)) = permits else {
            self.refused.store(true, Ordering::Relaxed);
            return false;
        };
        permit.forget();
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.add_permits(*self.taken.get_mut());
    }
}

pin_project_lite::pin_project! {
    /// A body whose bytes count.
    pub(crate) struct Counted {
        #[pin]
        body: Body,
        share: Arc<Share>,
    }
}

impl Counted {
    pub(crate) fn new(body: Body, share: Arc<Share>) -> Self {
        Self { body, share }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !this.share.take(data.len())
        {
            return Poll::Ready(Some(Err(axum::Error::new("too many bytes of bodies"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
