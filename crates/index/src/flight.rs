use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use kasbah_trust::Error;
use tokio::sync::oneshot;

use crate::failure::Failure;

/// Calls of the source that are under way, at most one per key.
///
/// Each is a task of its own, so it ends whoever stops waiting for it.
#[derive(Debug)]
pub(crate) struct Flights<K, V> {
    under_way: Mutex<HashMap<K, Flight<V>>>,
}

/// A call under way.
#[derive(Debug, Clone)]
pub(crate) struct Flight<V> {
    outcome: Shared<BoxFuture<'static, Result<V, Failure>>>,
    /// Whether somebody who had something older to show stopped waiting for it.
    slow: Arc<AtomicBool>,
}

impl<V: Clone> Flight<V> {
    pub(crate) async fn outcome(self) -> Result<V, Failure> {
        self.outcome.await
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_slow(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: Mutex::default() })
    }

    /// The call under way for `key`, or else `call`, started now; `Busy` when too many are.
    pub(crate) fn join<F>(self: &Arc<Self>, key: &K, call: F) -> Result<Flight<V>, Failure>
    where
        F: Future<Output = Result<V, Failure>> + Send + 'static,
    {
        let (report, outcome) = oneshot::channel();
        let outcome = outcome
            .map(|report| report.unwrap_or_else(|_| Err(Error::internal(ABANDONED).into())))
            .boxed()
            .shared();
        let flight = Flight { outcome, slow: Arc::default() };
        {
            let mut under_way = self.under_way();
            if let Some(flight) = under_way.get(key) {
                return Ok(flight.clone());
            }
            if under_way.len() >= MOST {
                return Err(Error::Busy.into());
            }
            under_way.insert(key.clone(), flight.clone());
        }
        // Not under the lock: a runtime that shuts down drops the task at once.
        let landing = Landing { flights: Arc::clone(self), key: key.clone() };
        tokio::spawn(async move {
            let outcome = call.await;
            drop(landing);
            // Nobody may be waiting any more; what came of it is in the cache.
            let _ = report.send(outcome);
        });
        Ok(flight)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a call off the list when it ends, by a panic too.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let under_way = &self.flights.under_way;
        under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Most calls under way: keys of a KAS are few, so more than this is a flood of invented kids.
const MOST: usize = 256;

const ABANDONED: &str = "the call of the key source panicked, or the process is shutting down";
