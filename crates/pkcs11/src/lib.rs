//! The key manager `opentdf.io/hsm`: private keys in a PKCS#11 token, data keys too where it can.
//!
//! From the outside in: a [`module::Module`] is a loaded PKCS#11 library, a [`token::Token`] is a
//! device found in it and logged in to, a [`uri::KeyUri`] names a key on it. [`template`] says what
//! keys and data keys look like inside the token, [`provision`] makes such keys, and [`error`]
//! classifies what the token answers.
#![forbid(unsafe_code)]

pub mod error;
mod ffi;
pub mod module;
pub mod provision;
pub mod template;
pub mod token;
pub mod uri;

use kasbah_trust::Algorithm;

/// The name this manager is registered under.
pub const MANAGER: &str = "opentdf.io/hsm";

/// What it serves.
pub const ALGORITHMS: [Algorithm; 5] = Algorithm::ALL;
