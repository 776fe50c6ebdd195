//! When keys were last used, and how often: what is safe to retire.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sqlx::Row;

use crate::{Registry, error::Result, model::now};

/// Uses since they were last written to the database.
#[derive(Debug, Default)]
pub struct Uses {
    by_kid: Mutex<HashMap<String, Use>>,
}

/// How a key was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// How often.
    pub count: i64,
    /// When last, in microseconds since 1970.
    pub last: i64,
}

impl Uses {
    /// Counts a use of a key. Costs no more than a lock that nobody holds for long.
    pub fn count(&self, kid: &str) {
        let mut by_kid = self.by_kid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if let Some(known) = by_kid.get_mut(kid) {
            known.count += 1;
            known.last = now;
        } else {
            by_kid.insert(kid.to_owned(), Use { count: 1, last: now });
        }
    }

    fn take(&self) -> HashMap<String, Use> {
        std::mem::take(&mut *self.by_kid.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, uses: HashMap<String, Use>) {
        let mut by_kid = self.by_kid.lock().unwrap_or_else(PoisonError::into_inner);
        for (kid, used) in uses {
            let known = by_kid.entry(kid).or_default();
            known.count += used.count;
            known.last = known.last.max(used.last);
        }
    }
}

impl Registry {
    /// Writes the uses of keys of `kas_uri` down. Those that cannot be written are kept for the
    /// next time. That is no change of the registry: no node has to read anything again.
    ///
    /// # Errors
    /// As any write.
    pub async fn write_uses(&self, kas_uri: &str, uses: &Uses) -> Result<()> {
        let taken = uses.take();
        if taken.is_empty() {
            return Ok(());
        }
        let written = self.add_uses(kas_uri, &taken).await;
        if written.is_err() {
            uses.put_back(taken);
        }
        written
    }

    async fn add_uses(&self, kas_uri: &str, uses: &HashMap<String, Use>) -> Result<()> {
        // In an order that all nodes share, so that two do not wait for each other.
        let mut sorted: Vec<_> = uses.iter().collect();
        sorted.sort_unstable_by_key(|(kid, _)| *kid);
        let mut tx = self.db.pool().begin().await?;
        for (kid, used) in sorted {
            sqlx::query(
                "INSERT INTO key_use (key_id, uses, last_used) \
                 SELECT k.id, $1, $2 FROM kas_key k JOIN kas a ON a.id = k.kas_id \
                 WHERE a.uri = $3 AND k.kid = $4 \
                 ON CONFLICT (key_id) DO UPDATE SET uses = key_use.uses + excluded.uses, \
                 last_used = CASE WHEN excluded.last_used > key_use.last_used \
                 THEN excluded.last_used ELSE key_use.last_used END",
            )
            .bind(used.count)
            .bind(used.last)
            .bind(kas_uri.to_owned())
            .bind(kid.clone())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Uses of keys, by the id of their record.
    ///
    /// # Errors
    /// As any read.
    pub async fn uses(&self) -> Result<HashMap<String, Use>> {
        let rows = sqlx::query("SELECT key_id, uses, last_used FROM key_use")
            .fetch_all(self.db.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let used = Use { count: row.try_get("uses")?, last: row.try_get("last_used")? };
                Ok((row.try_get("key_id")?, used))
            })
            .collect()
    }
}
