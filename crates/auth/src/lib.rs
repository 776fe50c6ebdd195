//! Who asks: access tokens, proofs that their sender holds the key they are bound to, and roles.
//!
//! [`TokenVerifier`] decides whether a token is good.
#![forbid(unsafe_code)]

mod caller;
mod json;
mod jws;
mod refusal;
mod roles;
mod token;

pub use caller::{Caller, Proof, ProofKey};
pub use jws::{Jws, JwsError, VerifyingKey};
pub use refusal::{Refusal, RefusalKind};
pub use roles::{ClaimNames, PolicyError, RolePolicy};
pub use token::{Confirmation, DevTokens, TokenVerifier, VerifiedToken};
