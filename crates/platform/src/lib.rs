//! The keys of a Key Access Server, read from a running OpenTDF platform.
//!
//! [`PlatformSource`] is a [`kasbah_index::KeySource`]; put a [`kasbah_index::CachedIndex`] in
//! front of it. [`key_details`] reads one key as the platform sends it.
#![forbid(unsafe_code)]

mod config;
mod convert;
mod error;
mod link;
mod source;
mod token;

pub use config::{ClientCredentials, Connection, PlatformConfig, SetupError};
pub use convert::{ConvertError, key_details};
pub use kasbah_http::Uri;
pub use source::PlatformSource;
