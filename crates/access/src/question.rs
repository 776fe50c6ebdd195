use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};

/// Decides whether a caller may read data.
#[async_trait]
pub trait Decisions: fmt::Debug + Send + Sync + 'static {
    /// One decision for each resource of the question, in its order.
    ///
    /// # Errors
    /// When there is no decision on any of them. A caller must treat that as no access.
    async fn decide(&self, question: Question<'_>) -> Result<Vec<Decision>, DecisionError>;
}

/// May `subject` do `read` to each of `resources`?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who wants to read.
    pub subject: &'a Subject,
    /// Attribute value FQNs of each resource as its policy has them; neither list is empty.
    pub resources: &'a [Vec<String>],
    /// Obligation value FQNs that the client says it can fulfil, trimmed, case as sent.
    pub fulfillable: &'a [String],
    /// After this moment nobody waits for the answer.
    pub deadline: Instant,
}

/// A caller, as its verified access token describes it.
#[derive(Clone)]
pub struct Subject {
    /// All claims of the token.
    pub claims: Arc<Map<String, Value>>,
    /// The client that asked for the token (`azp`); empty when it does not say.
    pub client_id: String,
    /// The token itself, for a decision service that reads it.
    pub token: Arc<SecretString>,
}

/// Leaves out the claims, which are about people.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// What was decided on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be read.
    pub permit: bool,
    /// Obligation value FQNs that reading brings with it. On a denial: what would have to be
    /// fulfilled; empty when the caller is not entitled anyway.
    pub obligations: Vec<String>,
}

impl Decision {
    /// A denial without obligations.
    pub fn deny() -> Self {
        Self { permit: false, obligations: Vec::new() }
    }
}

/// There is no decision. The texts are for the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DecisionError {
    /// The request ended or its deadline passed before the answer came.
    #[error("the request ended before access was decided: {0}")]
    Cancelled(Arc<str>),
    /// The decision service cannot be reached, does not answer in time, or gives answers that
    /// cannot be right. The same question may be answered later.
    #[error("the decision service is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The decision service refuses to decide.
    #[error("the decision service refuses to decide: {0}")]
    Refused(Arc<str>),
}
