use std::fmt;

use async_trait::async_trait;
use kasbah_trust::{KeyDetails, KeyId, Result};

/// Where the keys of one KAS are registered: a database, a platform.
///
/// Implementations bound every call in time, answer from the state committed when the call began or
/// later, and fail with `Unavailable` (or `Busy`) when they cannot know: that is what the cache
/// bridges. Any other error is about the key and reaches whoever asked for it.
#[async_trait]
pub trait KeySource: fmt::Debug + Send + Sync + 'static {
    /// The key of this kid, whatever its status; `None` when the source knows none.
    async fn find(&self, kid: &KeyId) -> Result<Option<KeyDetails>>;

    /// All keys, every page of them, newest first.
    async fn list(&self) -> Result<Vec<KeyDetails>>;

    /// Grows with every change of any key or provider configuration; `None` for a source that
    /// cannot tell.
    async fn revision(&self) -> Result<Option<u64>>;
}
