use std::time::Duration;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRules {
    /// Most keys kept; as many unknown kids are kept beside them.
    pub capacity: usize,
    /// How long an answer counts as current when the source has no revision.
    pub ttl: Duration,
    /// How long an unknown kid stays unknown, unless the revision changes first.
    pub negative_ttl: Duration,
    /// How long a key that was current once is served while the source is down.
    pub stale_limit: Duration,
    /// Time between two looks at the revision. What was last seen counts for four of these.
    pub poll: Duration,
}

impl Default for CacheRules {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            ttl: Duration::from_secs(5),
            negative_ttl: Duration::from_secs(2),
            stale_limit: Duration::from_mins(10),
            poll: Duration::from_millis(250),
        }
    }
}

/// What the cache did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers given without asking the source, unknown kids included.
    pub hits: u64,
    /// Answers for which nothing current was at hand.
    pub misses: u64,
    /// Answers that may have been out of date because the source was down.
    pub stale_served: u64,
    /// Calls of the source that failed.
    pub source_errors: u64,
    /// Keys kept now.
    pub entries: usize,
    /// Time since the source last answered; `None` before it first did.
    pub last_contact: Option<Duration>,
}
