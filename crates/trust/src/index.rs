use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{Algorithm, Deadline, KeyDetails, KeyId, Result};

/// Which keys to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// Only keys of this algorithm.
    pub algorithm: Option<Algorithm>,
    /// Only legacy keys, or only others.
    pub legacy: Option<bool>,
}

/// Finds the keys of one KAS.
#[async_trait]
pub trait KeyIndex: fmt::Debug + Send + Sync + 'static {
    /// The key of this id, active or rotated.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the index cannot be asked.
    async fn find_by_id(&self, kid: &KeyId, deadline: Deadline) -> Result<Arc<KeyDetails>>;

    /// All keys that pass `filter`, whatever their status, in the order in which they should be
    /// handed out or tried.
    ///
    /// # Errors
    /// `Unavailable` when the index cannot be asked.
    async fn list(&self, filter: KeyFilter, deadline: Deadline) -> Result<Vec<Arc<KeyDetails>>>;
}
