//! Which proofs of possession were seen (RFC 9449, section 11.1).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::{Clock, system_clock};

const CAPACITY: usize = 100_000;
const PER_KEY: usize = 10_000;

/// Remembers proofs of possession until they expire.
///
/// What every implementation guarantees:
/// - Of any number of calls with the same `jkt` and `jti`, at once or one after the other and
///   wherever the store is shared, exactly one gets [`Seen::First`] before `until` has passed.
/// - The same `jti` under two `jkt` is two proofs; no two pairs are ever taken for one another.
/// - Nothing is forgotten before its `until` has passed, also not to make room. Who cannot remember
///   one more says so with an error, and has then not remembered it.
/// - One `jkt` cannot take all the room: it has a quota.
/// - It answers in bounded time; what does not answer is [`ReplayError::Unreachable`].
#[async_trait]
pub trait ReplayStore: fmt::Debug + Send + Sync + 'static {
    /// Remembers the proof `jti` of the key `jkt` up to and including `until`, in seconds since
    /// 1970. `jkt` is an RFC 7638 thumbprint, `jti` any text of 1 to 256 bytes.
    ///
    /// # Errors
    /// When it cannot be remembered, or nobody knows whether it was seen.
    async fn remember(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError>;
}

/// Whether a proof was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was not.
    First,
    /// It was.
    Again,
}

/// Why a proof was not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is no room for any proof.
    #[error("there is no room to remember one more proof")]
    Full,
    /// There is no room for one more proof of this key.
    #[error("there is no room to remember one more proof of this key")]
    Quota,
    /// The store does not answer.
    #[error("the store of proofs does not answer")]
    Unreachable,
}

/// Remembers in memory, for one server by itself: others do not know what it has seen.
pub struct MemoryReplay {
    capacity: usize,
    per_key: usize,
    clock: Clock,
    proofs: Mutex<Proofs>,
}

type Hash = [u8; 32];

#[derive(Default)]
struct Proofs {
    seen: HashSet<Hash>,
    /// What expires when, with the key that it counts for.
    expiring: BTreeMap<u64, Vec<(Hash, Hash)>>,
    /// Proofs by key; never 0.
    counts: HashMap<Hash, usize>,
}

impl MemoryReplay {
    /// For `capacity` proofs, of which at most `per_key` of one key.
    pub fn new(capacity: usize, per_key: usize) -> Self {
        Self { capacity, per_key, clock: system_clock(), proofs: Mutex::default() }
    }

    /// Tells the time by `clock`.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    fn remember_now(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError> {
        let (key, proof) = (hash(&[jkt]), hash(&[jkt, jti]));
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.forget_before((self.clock)());
        if proofs.seen.contains(&proof) {
            return Ok(Seen::Again);
        }
        if proofs.counts.get(&key).copied().unwrap_or(0) >= self.per_key {
            return Err(ReplayError::Quota);
        }
        if proofs.seen.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        proofs.insert(key, proof, until);
        Ok(Seen::First)
    }
}

impl Default for MemoryReplay {
    /// For 100 000 proofs, at most 10 000 of one key.
    fn default() -> Self {
        Self::new(CAPACITY, PER_KEY)
    }
}

#[async_trait]
impl ReplayStore for MemoryReplay {
    async fn remember(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError> {
        self.remember_now(jkt, jti, until)
    }
}

impl fmt::Debug for MemoryReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryReplay")
            .field("capacity", &self.capacity)
            .field("per_key", &self.per_key)
            .finish_non_exhaustive()
    }
}

impl Proofs {
    fn insert(&mut self, key: Hash, proof: Hash, until: u64) {
        self.seen.insert(proof);
        self.expiring.entry(until).or_default().push((key, proof));
        *self.counts.entry(key).or_default() += 1;
    }

    fn forget_before(&mut self, now: u64) {
        while let Some(bucket) = self.expiring.first_entry().filter(|first| *first.key() < now) {
            for (key, proof) in bucket.remove() {
                self.seen.remove(&proof);
                self.discount(key);
            }
        }
    }

    fn discount(&mut self, key: Hash) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }
}

/// SHA-256 of texts, each after its length.
fn hash(texts: &[&str]) -> Hash {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.len().to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc, Barrier,
            atomic::{AtomicU64, Ordering},
        },
        thread,
    };

    use super::*;

    fn at(time: &Arc<AtomicU64>, capacity: usize, per_key: usize) -> MemoryReplay {
        let time = Arc::clone(time);
        MemoryReplay::new(capacity, per_key)
            .with_clock(Arc::new(move || time.load(Ordering::Relaxed)))
    }

    fn fixed(capacity: usize, per_key: usize) -> MemoryReplay {
        at(&Arc::new(AtomicU64::new(0)), capacity, per_key)
    }

    #[test]
    fn a_proof_is_one_of_a_key() {
        let replay = fixed(10, 10);
        assert_eq!(replay.remember_now("a", "1", 9), Ok(Seen::First));
        assert_eq!(replay.remember_now("a", "1", 9), Ok(Seen::Again));
        assert_eq!(replay.remember_now("b", "1", 9), Ok(Seen::First));
        assert_eq!(replay.remember_now("a", "2", 9), Ok(Seen::First));
        assert_eq!(replay.remember_now("", "a1", 9), Ok(Seen::First));
        assert_eq!(replay.remember_now("a1", "", 9), Ok(Seen::First));
    }

    #[test]
    fn what_is_seen_again_is_kept_no_longer() {
        let time = Arc::new(AtomicU64::new(0));
        let replay = at(&time, 10, 10);
        assert_eq!(replay.remember_now("a", "1", 10), Ok(Seen::First));
        assert_eq!(replay.remember_now("a", "1", 20), Ok(Seen::Again));
        time.store(10, Ordering::Relaxed);
        assert_eq!(replay.remember_now("a", "1", 20), Ok(Seen::Again));
        time.store(11, Ordering::Relaxed);
        assert_eq!(replay.remember_now("a", "1", 20), Ok(Seen::First));
    }

    #[test]
    fn room_comes_back_when_something_expires_and_not_before() {
        let time = Arc::new(AtomicU64::new(0));
        let replay = at(&time, 2, 2);
        for (jti, until) in [("late", 30), ("soon", 10)] {
            assert_eq!(replay.remember_now("a", jti, until), Ok(Seen::First));
        }
        assert_eq!(replay.remember_now("b", "new", 40), Err(ReplayError::Full));
        time.store(10, Ordering::Relaxed);
        assert_eq!(replay.remember_now("b", "new", 40), Err(ReplayError::Full));
        assert_eq!(replay.remember_now("a", "soon", 40), Ok(Seen::Again));
        time.store(11, Ordering::Relaxed);
        assert_eq!(replay.remember_now("b", "new", 40), Ok(Seen::First));
        assert_eq!(replay.remember_now("a", "late", 40), Ok(Seen::Again));
        assert_eq!(replay.remember_now("b", "newer", 40), Err(ReplayError::Full));
    }

    #[test]
    fn one_key_has_a_quota() {
        let time = Arc::new(AtomicU64::new(0));
        let replay = at(&time, 10, 2);
        for jti in ["1", "2"] {
            assert_eq!(replay.remember_now("a", jti, 10), Ok(Seen::First));
        }
        assert_eq!(replay.remember_now("a", "3", 10), Err(ReplayError::Quota));
        assert_eq!(replay.remember_now("a", "1", 10), Ok(Seen::Again));
        assert_eq!(replay.remember_now("b", "3", 10), Ok(Seen::First));
        time.store(11, Ordering::Relaxed);
        assert_eq!(replay.remember_now("a", "3", 20), Ok(Seen::First));
    }

    #[test]
    fn nothing_is_left_of_what_expired() {
        let time = Arc::new(AtomicU64::new(0));
        let replay = at(&time, 1000, 1000);
        for jti in 0..1000_u64 {
            replay.remember_now(&(jti % 7).to_string(), &jti.to_string(), jti % 13).unwrap();
        }
        time.store(13, Ordering::Relaxed);
        replay.remember_now("last", "one", 20).unwrap();
        let proofs = replay.proofs.lock().unwrap();
        assert_eq!((proofs.seen.len(), proofs.counts.len(), proofs.expiring.len()), (1, 1, 1));
    }

    #[test]
    fn of_many_at_once_one_is_the_first() {
        const THREADS: usize = 8;
        for round in 0..50 {
            let (replay, start) = (fixed(100, 100), Barrier::new(THREADS));
            let jti = round.to_string();
            let first = thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            replay.remember_now("a", &jti, 9)
                        })
                    })
                    .collect();
                let seen = threads.into_iter().map(|thread| thread.join().unwrap());
                seen.filter(|seen| *seen == Ok(Seen::First)).count()
            });
            assert_eq!(first, 1);
        }
    }
}
