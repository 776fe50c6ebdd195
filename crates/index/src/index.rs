use std::sync::Arc;

use async_trait::async_trait;
use kasbah_trust::{Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyIndex, Result};

use crate::{CacheRules, KeySource, Stats};

/// A cached view of a [`KeySource`].
#[derive(Debug)]
pub struct CachedIndex {
    source: Arc<dyn KeySource>,
    rules: CacheRules,
}

impl CachedIndex {
    /// An empty cache over `source`.
    pub fn new(source: Arc<dyn KeySource>, rules: CacheRules) -> Arc<Self> {
        Arc::new(Self { source, rules })
    }

    /// Looks at the revision every [`CacheRules::poll`]; never returns, somebody must run it.
    pub async fn watch(&self) {
        loop {
            let _ = self.source.revision().await;
            tokio::time::sleep(self.rules.poll).await;
        }
    }

    /// Told by whoever knows (a notification, a local write) that everything cached may have
    /// changed.
    pub fn changed(&self, _revision: u64) {}

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}

#[async_trait]
impl KeyIndex for CachedIndex {
    async fn find_by_id(&self, kid: &KeyId, _: Deadline) -> Result<Arc<KeyDetails>> {
        self.source.find(kid).await?.map(Arc::new).ok_or_else(|| Error::NotFound(kid.clone()))
    }

    async fn list(&self, filter: KeyFilter, _: Deadline) -> Result<Vec<Arc<KeyDetails>>> {
        let passes = |key: &KeyDetails| {
            filter.algorithm.is_none_or(|wanted| key.algorithm == wanted)
                && filter.legacy.is_none_or(|wanted| key.legacy == wanted)
        };
        Ok(self.source.list().await?.into_iter().filter(passes).map(Arc::new).collect())
    }
}
