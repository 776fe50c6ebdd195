//! A cache between a Key Access Server and wherever its keys are registered.
//!
//! [`CachedIndex`] is the [`kasbah_trust::KeyIndex`] over any [`KeySource`].
#![forbid(unsafe_code)]

mod cache;
mod epoch;
mod failure;
mod flight;
mod index;
mod rules;
mod source;

pub use index::CachedIndex;
pub use rules::{CacheRules, Stats};
pub use source::KeySource;
