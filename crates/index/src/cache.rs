use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kasbah_trust::{KeyDetails, KeyId};
use tokio::time::Instant;

use crate::{CacheRules, epoch::Epoch};

/// All keys of a source, in its order.
pub(crate) type Keys = Arc<[Arc<KeyDetails>]>;

/// What was read, and what is known of its age. No I/O, no waiting; the time comes from the caller.
#[derive(Debug)]
pub(crate) struct Cache {
    rules: CacheRules,
    epoch: Arc<Epoch>,
    /// Whether the source has revisions; `None` before it was asked.
    tells: Option<bool>,
    keys: HashMap<KeyId, Entry<Arc<KeyDetails>>>,
    absent: HashMap<KeyId, Entry<()>>,
    list: Option<Entry<Keys>>,
    /// When the source last answered.
    contact: Option<Instant>,
}

/// Something read from the source.
#[derive(Debug)]
struct Entry<T> {
    value: T,
    epoch: Arc<Epoch>,
    /// When reading began: what changed later may be missing.
    read: Instant,
    /// Whether anybody asked for it since the last eviction.
    used: AtomicBool,
    /// When reading it again last failed.
    failed: Option<Instant>,
}

/// What the cache has of something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    /// Current.
    Fresh(T),
    /// Was current once.
    Old(Old<T>),
    /// Never read, or too long ago to matter.
    Nothing,
}

/// Something that was current once, lately enough to be served while the source is down.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Old<T> {
    pub(crate) value: T,
    /// Whether the source is better not asked for it just now.
    pub(crate) hold_off: bool,
}

/// Of which epoch what is about to be read will be, and when reading began.
#[derive(Debug)]
pub(crate) struct Reading {
    epoch: Arc<Epoch>,
    began: Instant,
}

impl Cache {
    pub(crate) fn new(rules: CacheRules, now: Instant) -> Self {
        Self {
            rules,
            epoch: Arc::new(Epoch::new(None, now)),
            tells: None,
            keys: HashMap::new(),
            absent: HashMap::new(),
            list: None,
            contact: None,
        }
    }

    /// The key of `kid`; `Fresh(None)` when there is none.
    pub(crate) fn key(&self, kid: &KeyId, now: Instant) -> Lookup<Option<Arc<KeyDetails>>> {
        if let Some(entry) = self.keys.get(kid) {
            return self.look(entry, now, |key| Some(Arc::clone(key)));
        }
        match self.absent.get(kid) {
            Some(entry) if self.is_absence(entry, now) => Lookup::Fresh(None),
            _ => Lookup::Nothing,
        }
    }

    /// All keys.
    pub(crate) fn list(&self, now: Instant) -> Lookup<Keys> {
        self.list.as_ref().map_or(Lookup::Nothing, |entry| self.look(entry, now, Arc::clone))
    }

    /// Number of keys kept.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the revision has to be looked at before anything is read.
    pub(crate) fn is_revision_due(&self, now: Instant) -> bool {
        match self.tells {
            Some(true) => !self.is_revision_recent(now),
            Some(false) => false,
            None => true,
        }
    }

    /// The source said at `now` or later that its revision is `revision`. Whether that is a change.
    pub(crate) fn saw_revision(&mut self, revision: Option<u64>, now: Instant) -> bool {
        self.tells = Some(revision.is_some());
        if revision.is_none() {
            return false;
        }
        if revision == self.epoch.revision() {
            self.epoch.saw(now);
            return false;
        }
        self.begin_epoch(revision, now);
        true
    }

    /// Somebody says that everything may have changed, to `revision`.
    pub(crate) fn changed(&mut self, revision: u64, now: Instant) {
        match self.tells {
            Some(true) if self.epoch.revision() == Some(revision) => {}
            Some(false) => self.begin_epoch(None, now),
            _ => self.begin_epoch(Some(revision), now),
        }
    }

    pub(crate) fn begin_reading(&self, now: Instant) -> Reading {
        Reading { epoch: Arc::clone(&self.epoch), began: now }
    }

    /// The source answered at `now`.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.contact = Some(now);
    }

    /// When the source last answered.
    pub(crate) fn contact(&self) -> Option<Instant> {
        self.contact
    }

    /// Keeps what the source said of `kid`.
    pub(crate) fn put_key(&mut self, kid: &KeyId, key: Option<Arc<KeyDetails>>, of: &Reading) {
        if self.has_later(kid, of) {
            return;
        }
        if let Some(key) = key {
            self.absent.remove(kid);
            self.make_room(kid);
            self.keys.insert(kid.clone(), Entry::new(key, of));
        } else {
            self.keys.remove(kid);
            self.put_absent(kid, of);
        }
    }

    /// Keeps the whole list, and each of its keys as far as there is room.
    pub(crate) fn put_list(&mut self, keys: Keys, of: &Reading) {
        for key in keys.iter().take(self.rules.capacity) {
            let kid = &key.kid;
            let has_room = self.keys.len() < self.rules.capacity || self.keys.contains_key(kid);
            if has_room && !self.has_later(kid, of) {
                self.absent.remove(kid);
                self.keys.insert(kid.clone(), Entry::new(Arc::clone(key), of));
            }
        }
        self.list = Some(Entry::new(keys, of));
    }

    /// Reading the key of `kid` failed at `now`.
    pub(crate) fn key_failed(&mut self, kid: &KeyId, now: Instant) {
        if let Some(entry) = self.keys.get_mut(kid) {
            entry.failed = Some(now);
        }
    }

    /// Reading the list failed at `now`.
    pub(crate) fn list_failed(&mut self, now: Instant) {
        if let Some(entry) = &mut self.list {
            entry.failed = Some(now);
        }
    }

    fn begin_epoch(&mut self, revision: Option<u64>, now: Instant) {
        self.epoch = Arc::new(Epoch::new(revision, now));
    }

    fn look<T, U>(&self, entry: &Entry<T>, now: Instant, value: fn(&T) -> U) -> Lookup<U> {
        // Loading first keeps a popular key's cache line shared.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        if self.is_fresh(entry, now) {
            return Lookup::Fresh(value(&entry.value));
        }
        if !is_within(self.rules.stale_limit, entry.last_known_good(), now) {
            return Lookup::Nothing;
        }
        let hold_off = entry.failed.is_some_and(|failed| {
            is_within(BACK_OFF, failed, now) && self.contact.is_none_or(|at| at <= failed)
        });
        Lookup::Old(Old { value: value(&entry.value), hold_off })
    }

    fn is_fresh<T>(&self, entry: &Entry<T>, now: Instant) -> bool {
        Arc::ptr_eq(&entry.epoch, &self.epoch)
            && match self.tells {
                Some(true) => self.is_revision_recent(now),
                Some(false) => is_within(self.rules.ttl, entry.read, now),
                None => false,
            }
    }

    fn is_absence(&self, entry: &Entry<()>, now: Instant) -> bool {
        Arc::ptr_eq(&entry.epoch, &self.epoch)
            && is_within(self.rules.negative_ttl, entry.read, now)
    }

    fn is_revision_recent(&self, now: Instant) -> bool {
        let limit = self.rules.poll.saturating_mul(POLLS);
        self.epoch.seen().is_some_and(|seen| is_within(limit, seen, now))
    }

    /// Whether what is known of `kid` was read after `of` began: a find and a list may overlap.
    fn has_later(&self, kid: &KeyId, of: &Reading) -> bool {
        let key = self.keys.get(kid).map(|entry| entry.read);
        let absence = self.absent.get(kid).map(|entry| entry.read);
        key.max(absence).is_some_and(|read| read > of.began)
    }

    /// Room for `kid`. When there is none, keys that nobody asked for since the last time go; if
    /// that is not half of them, any others go too until it is.
    fn make_room(&mut self, kid: &KeyId) {
        let capacity = self.rules.capacity;
        if self.keys.len() < capacity || self.keys.contains_key(kid) {
            return;
        }
        self.keys.retain(|_, entry| entry.used.swap(false, Ordering::Relaxed));
        let mut room = capacity / 2;
        self.keys.retain(|_, _| {
            let keep = room > 0;
            room = room.saturating_sub(1);
            keep
        });
    }

    /// Unknown kids are anybody's to invent, so they have a room of their own.
    fn put_absent(&mut self, kid: &KeyId, of: &Reading) {
        if self.absent.len() >= self.rules.capacity {
            self.absent.clear();
        }
        self.absent.insert(kid.clone(), Entry::new((), of));
    }
}

impl<T> Entry<T> {
    fn new(value: T, of: &Reading) -> Self {
        let (epoch, read) = (Arc::clone(&of.epoch), of.began);
        Self { value, epoch, read, used: AtomicBool::new(false), failed: None }
    }

    /// The last moment at which the source is known to have said the same.
    fn last_known_good(&self) -> Instant {
        self.epoch.seen().map_or(self.read, |seen| seen.max(self.read))
    }
}

pub(crate) fn is_within(limit: Duration, since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < limit
}

/// How many polls a revision counts for: a few may come late before anybody has to wait for one.
const POLLS: u32 = 4;

/// How long reading something again waits after it failed, unless the source answers meanwhile:
/// while it is down few requests find out the slow way.
const BACK_OFF: Duration = Duration::from_secs(1);
