//! Session objects that do not outlive their use.

use std::cell::Cell;

use cryptoki::{object::ObjectHandle, session::Session};

/// A session and the objects that were made on it.
///
/// Not `Sync`, like the session itself: what is made on a worker is destroyed on that worker.
#[derive(Debug)]
pub(crate) struct Ledger<'s> {
    pub(crate) session: &'s Session,
    live: Cell<usize>,
    stained: Cell<bool>,
}

/// A session object, destroyed on drop. Owns its handle: some modules give the number of a
/// destroyed object to the next one, so a kept copy may come to mean another tenant's data key.
#[derive(Debug)]
pub(crate) struct Object<'l> {
    ledger: &'l Ledger<'l>,
    handle: ObjectHandle,
}

impl<'s> Ledger<'s> {
    pub(crate) fn new(session: &'s Session) -> Self {
        Self { session, live: Cell::new(0), stained: Cell::new(false) }
    }

    /// Takes charge of an object just made.
    pub(crate) fn own(&self, handle: ObjectHandle) -> Object<'_> {
        self.live.set(self.live.get() + 1);
        Object { ledger: self, handle }
    }

    /// Objects that are still there.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    /// Whether the token refused to destroy an object. Only closing the session gets rid of it.
    pub(crate) fn is_stained(&self) -> bool {
        self.stained.get()
    }
}

impl Object<'_> {
    pub(crate) fn handle(&self) -> ObjectHandle {
        self.handle
    }

    /// Leaves the object in the session; whoever takes the handle destroys it.
    pub(crate) fn keep(self) -> ObjectHandle {
        let handle = self.handle;
        self.ledger.live.set(self.ledger.live.get() - 1);
        std::mem::forget(self);
        handle
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        self.ledger.live.set(self.ledger.live.get() - 1);
        if let Err(error) = self.ledger.session.destroy_object(self.handle) {
            tracing::warn!(%error, "a session object could not be destroyed; closing its session");
            self.ledger.stained.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(Object<'static>: Clone, Send, Sync);
}
