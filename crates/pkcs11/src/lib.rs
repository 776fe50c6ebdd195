//! The key manager `opentdf.io/hsm`: private keys in a PKCS#11 token, data keys too where it can.
//!
//! From the outside in: a [`module::Module`] is a loaded PKCS#11 library, a [`token::Token`] is a
//! device found in it and logged in to, a [`uri::KeyUri`] names a key on it. [`template`] says what
//! keys and data keys look like inside the token, [`provision`] makes such keys, and [`error`]
//! classifies what the token answers.
//!
//! On top of these, an [`HsmFactory`] makes [`HsmManager`]s. A manager turns requests into jobs for
//! worker threads that own a session each (`worker`, `job`, `perform`); `rewrap` is what they do
//! with data keys, `object` keeps session objects from outliving their use, `recipient` is the
//! session key of an EC response, `selftest` finds out what a key really does, `canary` tells a bad
//! ciphertext from a dead device, and `recovery` gets a lost token back.
//!
//! A manager also makes keys (`store`): in the token, or outside of it, wrapped by a key of the
//! token. `wrapped` says how and what that is worth, `record` is how such a key is stored, `kek` are
//! the keys that wrap, and `opened` are those open on a session. `ffi` is all that is unsafe.
#![deny(unsafe_code)]

pub mod bench;
mod canary;
pub mod config;
pub mod error;
mod factory;
mod ffi;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod job;
mod kek;
mod manager;
mod mechanism;
pub mod module;
mod object;
mod opened;
mod perform;
pub mod provision;
mod recipient;
mod record;
mod recovery;
mod rewrap;
mod selftest;
mod store;
pub mod template;
pub mod token;
pub mod uri;
mod worker;
mod wrapped;

use kasbah_trust::Algorithm;

pub use factory::HsmFactory;
pub use manager::HsmManager;
pub use worker::Stats;

/// The name this manager is registered under.
pub const MANAGER: &str = "opentdf.io/hsm";

/// What it serves.
pub const ALGORITHMS: [Algorithm; 5] = Algorithm::ALL;
