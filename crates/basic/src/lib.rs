//! The key manager `opentdf.io/basic`: private keys in the database, wrapped by a root key.
//!
//! Register a [`BasicFactory`] made from [`RootKeys`] under [`MANAGER`]; [`wrap_private_key`] makes
//! what the database stores.
//!
//! # Where secrets are
//! - *The text of an unwrapped private key* is kept only while it is being read: on pages that are
//!   locked in memory, then wiped. What decryption and parsing use in between is wiped too, but not
//!   locked.
//! - *Parsed private keys* stay for as long as they are in use, up to [`CACHED_KEYS`] of them,
//!   because parsing costs more than a decryption. They are in the heap of aws-lc, which wipes them
//!   when they are freed; it offers no way to lock them. The same holds for *root keys*.
//!
//! So a host that swaps to an unencrypted disk can write a private key there. Turn swap off, or
//! encrypt it.
#![forbid(unsafe_code)]

mod cache;
mod error;
mod factory;
mod locked;
mod manager;
mod root_keys;
mod store;
mod stored;

use kasbah_trust::{Algorithm, Curve};

pub use cache::CACHED_KEYS;
pub use error::{RootKeyError, WrapError};
pub use factory::BasicFactory;
pub use manager::BasicManager;
pub use root_keys::RootKeys;
pub use stored::wrap_private_key;

/// The name to register it under.
pub const MANAGER: &str = "opentdf.io/basic";

/// What it serves.
pub const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Rsa2048,
    Algorithm::Rsa4096,
    Algorithm::Ec(Curve::P256),
    Algorithm::Ec(Curve::P384),
    Algorithm::Ec(Curve::P521),
];
