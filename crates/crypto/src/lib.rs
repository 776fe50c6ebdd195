//! Formats of TDF key wrapping as pure functions; no I/O.
//!
//! A data key ([`Dek`]) is wrapped for a KAS or for a client with a [`PublicKey`]: RSA-OAEP
//! ([`rsa`]) or EC-wrap ([`ec`]). [`binding`] ties it to a policy. Software private keys are
//! [`PrivateKey`]; keys that live in a token never appear here.
//!
//! ```
//! use kasbah_crypto::{Algorithm, Curve, Dek, PolicyBinding, PrivateKey, binding};
//!
//! let kas = PrivateKey::generate(Algorithm::Ec(Curve::P256))?;
//! let dek = Dek::generate()?;
//! let wrapped = kas.public_key().wrap(&dek)?;
//! let claimed = PolicyBinding::from(*binding::compute(&dek, "e30="));
//!
//! let unwrapped = kas.unwrap_dek(&wrapped)?;
//! claimed.verify(binding::compute(&unwrapped, "e30=").as_ref())?;
//! # Ok::<(), kasbah_crypto::CryptoError>(())
//! ```
#![forbid(unsafe_code)]

mod algorithm;
pub mod binding;
mod dek;
pub mod ec;
pub mod envelope;
mod gcm;
mod key;
pub mod keywrap;
mod parts;
mod pem;
pub mod rsa;

pub use algorithm::{Algorithm, Curve, UnknownAlgorithm};
pub use binding::PolicyBinding;
pub use dek::Dek;
pub use key::{PrivateKey, PublicKey, PublicKeyError, WrappedDek};
pub use parts::{PrivateKeyParts, RsaParts};

/// A cryptographic operation failed. Carries nothing: bad padding, a wrong key and a wrong tag
/// must look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cryptographic operation failed")]
pub struct CryptoError;
