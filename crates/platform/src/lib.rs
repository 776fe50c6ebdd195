//! The keys of a Key Access Server, and its access decisions, from a running OpenTDF platform.
//!
//! [`PlatformSource`] is a [`kasbah_index::KeySource`]; put a [`kasbah_index::CachedIndex`] in
//! front of it. [`key_details`] reads one key as the platform sends it.
//! [`PlatformDecisions`] are the [`kasbah_access::Decisions`] of the platform.
#![forbid(unsafe_code)]

mod asked;
mod breaker;
mod config;
mod convert;
mod decisions;
mod error;
mod link;
mod source;
mod token;

pub use breaker::{BreakerRules, DecisionState};
pub use config::{ClientCredentials, Connection, PlatformConfig, SetupError};
pub use convert::{ConvertError, key_details};
pub use decisions::{DecisionSettings, PlatformDecisions};
pub use kasbah_http::Uri;
pub use source::PlatformSource;
