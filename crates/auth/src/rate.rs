use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    num::{NonZeroU32, NonZeroUsize},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, direct::NotKeyed},
};
use lru::LruCache;
use tokio::time::Instant;

/// Callers that are remembered.
const CALLERS: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// How often each caller may call: so many times in a row (`burst`), and on average so many times a
/// second (the generic cell rate algorithm).
///
/// Remembers 65 536 callers, a few MiB. Of more, the one that has not called for longest is
/// forgotten, and begins anew; nobody is refused because others are many.
pub struct RateLimit {
    quota: Quota,
    clock: SinceStart,
    /// Names of callers are of any length, so a keyed hash stands for each. Two that share one, which
    /// nobody can bring about, share their calls.
    hasher: RandomState,
    callers: Mutex<LruCache<u64, Calls>>,
}

type Calls = RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Nanos>>;

impl RateLimit {
    /// Up to `per_second` calls a second of each caller, and up to `burst` at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::remembering(CALLERS, per_second, burst)
    }

    fn remembering(callers: NonZeroUsize, per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        // The map grows with what is in it.
        let mut empty = LruCache::unbounded();
        empty.resize(callers);
        Self {
            quota: Quota::per_second(per_second).allow_burst(burst),
            clock: SinceStart(Instant::now()),
            hasher: RandomState::new(),
            callers: Mutex::new(empty),
        }
    }

    /// Counts a call of the caller that `key` names, by whatever tells callers apart.
    ///
    /// # Errors
    /// The caller has called too often, and may call again after this time. The call does not count.
    pub fn check(&self, key: &str) -> Result<(), Duration> {
        let key = self.hasher.hash_one(key);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let anew = || Calls::direct_with_clock(self.quota, self.clock);
        let calls = callers.get_or_insert(key, anew);
        calls.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("quota", &self.quota).finish_non_exhaustive()
    }
}

/// Time since the limit was made.
#[derive(Debug, Clone, Copy)]
struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn limit(callers: usize, per_second: u32, burst: u32) -> RateLimit {
        let number = |number| NonZeroU32::new(number).unwrap();
        let callers = NonZeroUsize::new(callers).unwrap();
        RateLimit::remembering(callers, number(per_second), number(burst))
    }

    fn admitted(limit: &RateLimit, key: &str, calls: usize) -> usize {
        (0..calls).filter(|_| limit.check(key).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate() {
        let limit = limit(10, 5, 3);
        assert_eq!(admitted(&limit, "a", 10), 3);
        assert_eq!(limit.check("a"), Err(Duration::from_millis(200)));
        advance(Duration::from_millis(199)).await;
        assert_eq!(limit.check("a"), Err(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(admitted(&limit, "a", 10), 1);
        // Refused calls do not push back what is allowed.
        advance(Duration::from_hours(1)).await;
        assert_eq!(admitted(&limit, "a", 10), 3, "no more than a burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn ten_seconds_of_asking_as_often_as_possible_get_the_rate() {
        let limit = limit(10, 20, 5);
        let mut passed = 0;
        for _ in 0..10_000 {
            passed += admitted(&limit, "a", 2);
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(passed, 5 + 199, "the burst, and one each 50 ms after it");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_do_not_feel_each_other() {
        let limit = limit(10, 1, 2);
        assert_eq!(admitted(&limit, "greedy", 1000), 2);
        assert_eq!(admitted(&limit, "modest", 2), 2);
        assert_eq!(admitted(&limit, "", 1000), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_who_calls_on_is_remembered() {
        let limit = limit(100, 1, 1);
        assert!(limit.check("greedy").is_ok());
        for stranger in 0..10_000 {
            assert!(limit.check(&stranger.to_string()).is_ok(), "a newcomer is refused");
            assert!(limit.check("greedy").is_err(), "forgotten while it called");
        }
        assert_eq!(limit.callers.lock().unwrap().len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn threads_together_get_no_more_than_one() {
        let limit = limit(10, 1, 50);
        let count = || admitted(&limit, "a", 100);
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 50);
    }
}
