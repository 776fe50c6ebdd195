use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use crate::{
    evaluate::Request,
    model::Entitlements,
    question::{Decision, DecisionError, Decisions, Question},
    record::{Category, Entity, Record},
};

/// Where to be stricter than OpenTDF's platform. By default nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// `not_in` is false for a missing claim, and `in` and `not_in` compare numbers and booleans
    /// by their JSON text. Otherwise a missing claim, a number or a boolean is in no list, which
    /// is what `not_in` asks for.
    pub strict_guards: bool,
    /// Claims whose name has `.`, `[` or `]` cannot be selected. Otherwise `.a.b` selects the claim
    /// `a.b` as well as `b` in `a`, which matters if users choose names of their claims.
    pub nested_only: bool,
}

/// Decides with entitlements that it holds itself.
#[derive(Debug)]
pub struct LocalDecisions {
    entitlements: RwLock<Arc<Entitlements>>,
    options: LocalOptions,
}

impl LocalDecisions {
    /// Decides with `entitlements`.
    pub fn new(entitlements: Entitlements, options: LocalOptions) -> Self {
        Self { entitlements: RwLock::new(Arc::new(entitlements)), options }
    }

    /// Decides every later question with these. One that is under way is not disturbed.
    pub fn replace(&self, entitlements: Entitlements) {
        *self.entitlements.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entitlements);
    }

    /// What it decides with at the moment.
    pub fn entitlements(&self) -> Arc<Entitlements> {
        Arc::clone(&self.entitlements.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is worth a look in what it decides with, with the options that it has.
    pub fn warnings(&self) -> Vec<String> {
        self.entitlements().warnings(self.options)
    }
}

#[async_trait]
impl Decisions for LocalDecisions {
    /// The caller is one entity with one record: the claims of its token. Never fails.
    async fn decide(&self, question: Question<'_>) -> Result<Vec<Decision>, DecisionError> {
        let records = Record::of_token(&question.subject.claims).into_iter().collect();
        let request = Request {
            entities: &[Entity { category: Category::Subject, records }],
            action: "read",
            client_id: &question.subject.client_id,
            resources: question.resources,
            fulfillable: question.fulfillable,
        };
        Ok(self.entitlements().decide(&request, self.options))
    }
}
