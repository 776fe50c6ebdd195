//! Who may call what.

use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use tonic::{Status, metadata::MetadataMap};

/// Says who a caller is.
#[async_trait]
pub trait Callers: fmt::Debug + Send + Sync + 'static {
    /// The subject of the access token in an `authorization` header.
    ///
    /// # Errors
    /// `unauthenticated`.
    async fn subject(&self, metadata: &MetadataMap) -> Result<String, Status>;
}

/// Lets administrators in, and readers as far as they may.
#[derive(Debug, Clone)]
pub struct Gate {
    callers: Arc<dyn Callers>,
    admins: BTreeSet<String>,
}

impl Gate {
    /// A gate for the subjects in `admins`; with none, nobody can change anything.
    pub fn new(callers: Arc<dyn Callers>, admins: impl IntoIterator<Item = String>) -> Self {
        Self { callers, admins: admins.into_iter().collect() }
    }

    /// A caller with a good token.
    pub(super) async fn anyone(&self, metadata: &MetadataMap) -> Result<String, Status> {
        self.callers.subject(metadata).await
    }

    /// An administrator.
    pub(super) async fn admin(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let subject = self.callers.subject(metadata).await?;
        if self.admins.contains(&subject) {
            return Ok(subject);
        }
        tracing::warn!(subject, "a call that needs an administrator was refused");
        Err(Status::permission_denied("permission denied"))
    }
}
