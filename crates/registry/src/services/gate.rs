//! Who may call what.

use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use tonic::{Request, Status, metadata::MetadataMap};

use crate::audit::Actor;

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
    pub(super) async fn anyone<T>(&self, request: &Request<T>) -> Result<Actor, Status> {
        Ok(Actor {
            subject: self.callers.subject(request.metadata()).await?,
            user_agent: user_agent(request.metadata()).to_owned(),
            address: request.remote_addr().map(|address| address.ip()),
        })
    }

    /// An administrator.
    pub(super) async fn admin<T>(&self, request: &Request<T>) -> Result<Actor, Status> {
        let actor = self.anyone(request).await?;
        if self.admins.contains(&actor.subject) {
            return Ok(actor);
        }
        tracing::warn!(actor.subject, "a call that needs an administrator was refused");
        Err(Status::permission_denied("permission denied"))
    }
}

fn user_agent(metadata: &MetadataMap) -> &str {
    metadata.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default()
}
