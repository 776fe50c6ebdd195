//! Which wrapped private keys are open on a session.
//!
//! Each session opens what it needs for itself. That costs an object per worker and key, and saves
//! all that sharing would need: a key is destroyed by the thread that uses it, never under another
//! one's hands, and goes with its session, when the login or the token does.

use std::collections::HashMap;

use cryptoki::object::ObjectHandle;

use crate::wrapped::Tools;

/// The keys open on one session, and what opened them. Whoever takes a handle out of it destroys
/// the object.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    keys: HashMap<u64, Entry>,
    tools: HashMap<String, Tools>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    handle: ObjectHandle,
    used: u64,
}

impl Opened {
    /// The key of this serial, if it is open.
    pub(crate) fn get(&mut self, serial: u64) -> Option<ObjectHandle> {
        self.uses += 1;
        let entry = self.keys.get_mut(&serial)?;
        entry.used = self.uses;
        Some(entry.handle)
    }

    /// Takes charge of a key that was just opened.
    pub(crate) fn insert(&mut self, serial: u64, handle: ObjectHandle) {
        self.uses += 1;
        self.keys.insert(serial, Entry { handle, used: self.uses });
    }

    /// Gives up the key that was not used for longest.
    pub(crate) fn take_oldest(&mut self) -> Option<ObjectHandle> {
        let (&serial, _) = self.keys.iter().min_by_key(|(_, entry)| entry.used)?;
        self.keys.remove(&serial).map(|entry| entry.handle)
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// What opens keys under the wrapping key of this label, once it was found good.
    pub(crate) fn tools(&self, label: &str) -> Option<Tools> {
        self.tools.get(label).copied()
    }

    pub(crate) fn set_tools(&mut self, label: &str, tools: Tools) {
        self.tools.insert(label.to_owned(), tools);
    }

    /// Forgets what opens keys: a handle turned out to be stale.
    pub(crate) fn forget_tools(&mut self) {
        self.tools.clear();
    }
}
