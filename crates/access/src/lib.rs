//! Access decisions on data: who may read what a policy's attributes guard.
//!
//! [`Decisions`] is the question; [`LocalDecisions`] answers it from a file of [`Entitlements`]. Semantics follow OpenTDF's
//! `authorization.v2` service; [`Entitlements::decide`] and the options say where not.
#![forbid(unsafe_code)]

mod compile;
mod evaluate;
mod file;
mod flatten;
mod fqn;
mod local;
mod model;
mod number;
mod obligations;
mod question;
mod record;

pub use compile::EntitlementsError;
pub use evaluate::Request;
pub use fqn::{is_attribute_value_fqn, is_obligation_fqn};
pub use local::{LocalDecisions, LocalOptions};
pub use model::{Attribute, AttributeValue, Entitlements, Rule};
pub use question::{Decision, DecisionError, Decisions, Question, Subject};
pub use record::{Category, Entity, Record};
