//! Access decisions on data: who may read what a policy's attributes guard.
//!
//! [`Decisions`] is the question; [`DenyAll`] answers it for a KAS that has no other answer.
//! Semantics follow OpenTDF's `authorization.v2` service.
#![forbid(unsafe_code)]

mod question;

pub use question::{Decision, DecisionError, Decisions, DenyAll, Question, Subject};
