//! Proofs of possession that any node has seen (RFC 9449, section 11.1), in the database.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use kasbah_auth::{Clock, ReplayError, ReplayStore, Seen, system_clock};
use sha2::{Digest, Sha256};

use crate::{Database, error::Result};

const CAPACITY: u64 = 1_000_000;
const PER_KEY: u64 = 10_000;
/// How long an answer may take, unless said otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How far behind this clock another node's may be, in seconds: it accepts proofs for so much
/// longer.
const CLOCK_MARGIN: u64 = 60;
/// How often a node clears up, in seconds.
const SWEEP_INTERVAL: u64 = 10;
/// How many proofs it forgets at a time.
const BATCH: u64 = 500;

/// Remembers proofs of possession for all nodes of a database, for a minute longer than asked to:
/// so much may their clocks differ.
///
/// Rows of their own, written by one statement each: the registry's revision and the row that its
/// writers queue for have no part in it. The quota of a key is exceeded by at most as many proofs as
/// are under way at once; the capacity by what other nodes have added within ten seconds.
pub struct DatabaseReplay {
    database: Database,
    capacity: u64,
    per_key: u64,
    clock: Clock,
    timeout: Duration,
    /// How many proofs there are, as counted last, with those added here since.
    known: AtomicU64,
    /// When to clear up next.
    next_sweep: AtomicU64,
}

impl DatabaseReplay {
    /// For 1 000 000 proofs, at most 10 000 of one key.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            capacity: CAPACITY,
            per_key: PER_KEY,
            clock: system_clock(),
            timeout: TIMEOUT,
            known: AtomicU64::new(0),
            next_sweep: AtomicU64::new(0),
        }
    }

    /// For `capacity` proofs, of which at most `per_key` of one key.
    #[must_use]
    pub fn with_limits(self, capacity: u64, per_key: u64) -> Self {
        Self { capacity, per_key, ..self }
    }

    /// Tells the time by `clock`.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Answers [`ReplayError::Unreachable`] after `timeout` instead of a second.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    async fn look(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError> {
        let now = (self.clock)();
        let (signer, proof) = (hash(&[jkt]), hash(&[jkt, jti]));
        self.sweep_if_due(now).await.map_err(unreachable)?;
        let is_full = self.known.load(Ordering::Relaxed) >= self.capacity;
        if !is_full && self.insert(&proof, &signer, until, now).await.map_err(unreachable)? {
            self.known.fetch_add(1, Ordering::Relaxed);
            return Ok(Seen::First);
        }
        match self.contains(&proof).await.map_err(unreachable)? {
            true => Ok(Seen::Again),
            false if is_full => Err(ReplayError::Full),
            false => Err(ReplayError::Quota),
        }
    }

    /// Whether the proof is new, and there was room for it.
    async fn insert(&self, proof: &[u8], signer: &[u8], until: u64, now: u64) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO seen_proof (proof, signer, expires) SELECT $1, $2, $3 \
             WHERE (SELECT COUNT(*) FROM seen_proof WHERE signer = $2 AND expires >= $4) < $5 \
             ON CONFLICT (proof) DO NOTHING",
        )
        .bind(proof.to_vec())
        .bind(signer.to_vec())
        .bind(signed(until))
        .bind(signed(now))
        .bind(signed(self.per_key))
        .execute(self.database.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn contains(&self, proof: &[u8]) -> Result<bool> {
        let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM seen_proof WHERE proof = $1")
            .bind(proof.to_vec())
            .fetch_one(self.database.pool())
            .await?;
        Ok(found > 0)
    }

    /// Forgets some of what has expired, once in a while; while more is left, the next call goes on.
    async fn sweep_if_due(&self, now: u64) -> Result<()> {
        let next = now.saturating_add(SWEEP_INTERVAL);
        let is_due = |due| (due <= now).then_some(next);
        if self.next_sweep.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due).is_err() {
            return Ok(());
        }
        let done = sqlx::query(
            "DELETE FROM seen_proof WHERE proof IN \
             (SELECT proof FROM seen_proof WHERE expires < $1 ORDER BY expires LIMIT $2)",
        )
        .bind(expired_before(now))
        .bind(signed(BATCH))
        .execute(self.database.pool())
        .await?;
        if done.rows_affected() >= BATCH {
            self.next_sweep.store(now, Ordering::Relaxed);
        }
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM seen_proof")
            .fetch_one(self.database.pool())
            .await?;
        self.known.store(count.unsigned_abs(), Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl ReplayStore for DatabaseReplay {
    async fn remember(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError> {
        let answer = tokio::time::timeout(self.timeout, self.look(jkt, jti, until)).await;
        answer.unwrap_or_else(|_| {
            tracing::warn!("the database is too slow to look up a proof of possession");
            Err(ReplayError::Unreachable)
        })
    }
}

impl fmt::Debug for DatabaseReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseReplay")
            .field("database", &self.database)
            .field("capacity", &self.capacity)
            .field("per_key", &self.per_key)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "so that `map_err` takes it")]
fn unreachable(error: crate::Error) -> ReplayError {
    let error = &error as &dyn std::error::Error;
    tracing::warn!(error, "a proof of possession cannot be looked up");
    ReplayError::Unreachable
}

/// No node accepts a proof any more that has expired before this.
fn expired_before(now: u64) -> i64 {
    signed(now.saturating_sub(CLOCK_MARGIN))
}

/// As databases have numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// SHA-256 of texts, each after its length.
fn hash(texts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.len().to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().into()
}
