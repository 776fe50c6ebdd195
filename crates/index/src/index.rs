use std::{
    error::Error as StdError,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kasbah_telemetry::instruments;
use kasbah_trust::{Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyIndex, Result};
use tokio::time::{self, Instant};

use crate::{
    CacheRules, KeySource, Stats,
    cache::{Cache, Keys, Lookup, Old, is_within},
    failure::Failure,
    flight::{Flight, Flights},
};

/// A cached view of a [`KeySource`].
///
/// With a source that has revisions, what was read is current for as long as the revision is the
/// same and was seen within the last four [`CacheRules::poll`]; [`CachedIndex::watch`] sees to
/// that, so that requests do not wait. With any other source it is current for
/// [`CacheRules::ttl`]. An answer that is current takes no I/O and no lock that is held across it.
///
/// What is not current is read again, once however many ask, in a task of its own: a request that
/// is cancelled takes nothing from the others. Requests wait until their deadline, or half a
/// second where there is an older answer. While the source is down the older answer is served, for
/// [`CacheRules::stale_limit`] after it was last known to be current; a key for which there is none
/// is `Unavailable`, never `NotFound`.
///
/// Must be used on a Tokio runtime with time enabled.
#[derive(Debug)]
pub struct CachedIndex(Arc<Shared>);

/// What the calls under way share with the index.
#[derive(Debug)]
struct Shared {
    source: Arc<dyn KeySource>,
    rules: CacheRules,
    cache: RwLock<Cache>,
    outage: Mutex<Outage>,
    revisions: Arc<Flights<(), ()>>,
    finds: Arc<Flights<KeyId, Option<Arc<KeyDetails>>>>,
    lists: Arc<Flights<(), Keys>>,
    hits: AtomicU64,
    misses: AtomicU64,
    stale_served: AtomicU64,
    source_errors: AtomicU64,
}

/// How the source fails.
#[derive(Debug, Default)]
struct Outage {
    /// When the last look at the revision failed, if it did: the next one has to wait.
    revision: Option<(Instant, Failure)>,
    /// A failure was logged and nothing was answered since.
    down: bool,
    logged: Option<Instant>,
}

impl Outage {
    /// Logs the first failure, and again now and then: one key that fails beside others that do
    /// not is no reason to fill the log.
    fn note_failure(&mut self, failure: &Failure) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_PAUSE) {
            self.logged = Some(Instant::now());
            self.down = true;
            let error = failure as &dyn StdError;
            tracing::warn!(error, "the key source fails; what is known is served for a while");
        }
    }

    fn note_answer(&mut self) {
        if mem::take(&mut self.down) {
            tracing::info!("the key source answers again");
        }
    }
}

impl CachedIndex {
    /// An empty cache over `source`.
    pub fn new(source: Arc<dyn KeySource>, rules: CacheRules) -> Arc<Self> {
        Arc::new(Self(Arc::new(Shared {
            source,
            rules,
            cache: RwLock::new(Cache::new(rules, Instant::now())),
            outage: Mutex::default(),
            revisions: Flights::new(),
            finds: Flights::new(),
            lists: Flights::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale_served: AtomicU64::new(0),
            source_errors: AtomicU64::new(0),
        })))
    }

    /// Looks at the revision every [`CacheRules::poll`]. Never returns; somebody must run it, or
    /// requests look themselves.
    pub async fn watch(&self) {
        loop {
            if let Ok(flight) = self.0.look_at_revision() {
                // A failure is logged and counted where it happened.
                let _ = flight.outcome().await;
            }
            time::sleep(self.0.rules.poll).await;
        }
    }

    /// Told by whoever knows (a notification, a local write) that everything cached may have
    /// changed, and that the revision is now `revision`. A source without revisions ignores the
    /// number.
    pub fn changed(&self, revision: u64) {
        self.0.cache_mut().changed(revision, Instant::now());
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            hits: count(&self.0.hits),
            misses: count(&self.0.misses),
            stale_served: count(&self.0.stale_served),
            source_errors: count(&self.0.source_errors),
            entries: self.0.cache().len(),
            last_contact: self.0.cache().contact().map(|at| at.elapsed()),
        }
    }
}

#[async_trait]
impl KeyIndex for CachedIndex {
    async fn find_by_id(&self, kid: &KeyId, deadline: Deadline) -> Result<Arc<KeyDetails>> {
        let unknown = || Error::NotFound(kid.clone());
        if !is_plausible(kid) {
            return Err(unknown());
        }
        let shared = &self.0;
        let found = shared.cache().key(kid, Instant::now());
        let key = match shared.hit(found) {
            Ok(key) => key,
            Err(old) => {
                let failed = |now| shared.cache_mut().key_failed(kid, now);
                shared.wait(old, || shared.find(kid), failed, deadline).await?
            }
        };
        key.ok_or_else(unknown)
    }

    async fn list(&self, filter: KeyFilter, deadline: Deadline) -> Result<Vec<Arc<KeyDetails>>> {
        let shared = &self.0;
        let found = shared.cache().list(Instant::now());
        let keys = match shared.hit(found) {
            Ok(keys) => keys,
            Err(old) => {
                let failed = |now| shared.cache_mut().list_failed(now);
                shared.wait(old, || shared.list(), failed, deadline).await?
            }
        };
        let passes = |key: &&Arc<KeyDetails>| {
            filter.algorithm.is_none_or(|wanted| key.algorithm == wanted)
                && filter.legacy.is_none_or(|wanted| key.legacy == wanted)
        };
        Ok(keys.iter().filter(passes).cloned().collect())
    }
}

impl Shared {
    /// What can be served at once; else what could be served if the source is down.
    fn hit<T>(&self, found: Lookup<T>) -> Result<T, Option<Old<T>>> {
        match found {
            Lookup::Fresh(value) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                instruments().cache_lookup(CACHE, true);
                Ok(value)
            }
            Lookup::Old(old) => Err(Some(old)),
            Lookup::Nothing => Err(None),
        }
    }

    /// What `call` yields, or `old` where that may be served instead.
    async fn wait<T: Clone>(
        &self,
        old: Option<Old<T>>,
        call: impl FnOnce() -> Result<Flight<T>, Failure>,
        failed: impl FnOnce(Instant),
        deadline: Deadline,
    ) -> Result<T> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        instruments().cache_lookup(CACHE, false);
        if old.as_ref().is_some_and(|old| old.hold_off) || deadline.has_passed() {
            return self.fall_back(old, late());
        }
        let flight = match call() {
            Ok(flight) => flight,
            Err(failure) => return self.fall_back(old, failure.into_error()),
        };
        if old.is_some() && flight.is_slow() {
            return self.fall_back(old, late());
        }
        let patience = old.as_ref().map_or(Duration::MAX, |_| PATIENCE);
        let outcome = time::timeout(deadline.remaining().min(patience), flight.clone().outcome());
        match outcome.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) if failure.is_outage() => {
                failed(Instant::now());
                self.fall_back(old, failure.into_error())
            }
            Ok(Err(failure)) => Err(failure.into_error()),
            Err(_) => {
                if old.is_some() {
                    flight.mark_slow();
                }
                self.fall_back(old, late())
            }
        }
    }

    fn fall_back<T>(&self, old: Option<Old<T>>, error: Error) -> Result<T> {
        match old {
            Some(old) => {
                self.stale_served.fetch_add(1, Ordering::Relaxed);
                instruments().stale_served(CACHE);
                Ok(old.value)
            }
            None => Err(error),
        }
    }

    fn find(self: &Arc<Self>, kid: &KeyId) -> Result<Flight<Option<Arc<KeyDetails>>>, Failure> {
        let (shared, wanted) = (Arc::clone(self), kid.clone());
        self.finds.join(kid, async move {
            shared.catch_up().await?;
            let reading = {
                let (cache, now) = (shared.cache(), Instant::now());
                // Read by another call meanwhile, or still of the same revision.
                if let Lookup::Fresh(key) = cache.key(&wanted, now) {
                    return Ok(key);
                }
                cache.begin_reading(now)
            };
            let key = shared.ask(shared.source.find(&wanted), LIMIT).await?.map(Arc::new);
            shared.answered().put_key(&wanted, key.clone(), &reading);
            Ok(key)
        })
    }

    fn list(self: &Arc<Self>) -> Result<Flight<Keys>, Failure> {
        let shared = Arc::clone(self);
        self.lists.join(&(), async move {
            shared.catch_up().await?;
            let reading = {
                let (cache, now) = (shared.cache(), Instant::now());
                if let Lookup::Fresh(keys) = cache.list(now) {
                    return Ok(keys);
                }
                cache.begin_reading(now)
            };
            let listed = shared.ask(shared.source.list(), LIST_LIMIT).await?;
            let keys: Keys = listed.into_iter().map(Arc::new).collect();
            shared.answered().put_list(Arc::clone(&keys), &reading);
            Ok(keys)
        })
    }

    /// Makes sure that the revision was seen lately, if the source has any.
    async fn catch_up(self: &Arc<Self>) -> Result<(), Failure> {
        let now = Instant::now();
        if !self.cache().is_revision_due(now) {
            return Ok(());
        }
        let failed = self.outage().revision.clone();
        if let Some((_, failure)) = failed.filter(|(at, _)| is_within(self.rules.poll, *at, now)) {
            return Err(failure);
        }
        self.look_at_revision()?.outcome().await
    }

    fn look_at_revision(self: &Arc<Self>) -> Result<Flight<()>, Failure> {
        let shared = Arc::clone(self);
        self.revisions.join(&(), async move {
            let began = Instant::now();
            let seen = shared.ask(shared.source.revision(), LIMIT).await;
            let failure = seen.as_ref().err().cloned();
            shared.outage().revision = failure.map(|failure| (Instant::now(), failure));
            let seen = seen?;
            // A source without revisions need not have asked anybody to say so.
            let mut cache = if seen.is_some() { shared.answered() } else { shared.cache_mut() };
            if cache.saw_revision(seen, began) {
                tracing::debug!(revision = seen, "keys changed; each is read again when asked for");
            }
            Ok(())
        })
    }

    /// What the source answers, in time; counted and logged.
    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T>>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let answer = time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()));
        match answer {
            Ok(value) => Ok(value),
            Err(error) => {
                self.source_errors.fetch_add(1, Ordering::Relaxed);
                let failure = Failure::from(error);
                if failure.is_outage() {
                    self.outage().note_failure(&failure);
                }
                Err(failure)
            }
        }
    }

    /// The source answered something that only it can know.
    fn answered(&self) -> RwLockWriteGuard<'_, Cache> {
        self.outage().note_answer();
        let mut cache = self.cache_mut();
        cache.answered(Instant::now());
        cache
    }

    fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_mut(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether any source can have such a key: a kid has 1 to 36 characters.
fn is_plausible(kid: &KeyId) -> bool {
    let text = kid.as_str();
    !text.is_empty() && (text.len() <= KID_CHARS || text.chars().count() <= KID_CHARS)
}

fn late() -> Error {
    Error::unavailable("the key source did not answer in time")
}

const KID_CHARS: usize = 36;

/// Its name in metrics.
const CACHE: &str = "keys";

/// How long a request that has something older to show waits for what is current.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the source may take for a key or its revision; sources have shorter limits of their
/// own.
const LIMIT: Duration = Duration::from_secs(10);

/// How long it may take for all keys, page by page.
const LIST_LIMIT: Duration = Duration::from_mins(1);

const LOG_PAUSE: Duration = Duration::from_secs(30);
