//! Who asks: access tokens, proofs that their sender holds the key they are bound to, and roles.
//!
//! [`TokenVerifier`] decides whether a token is good.
#![forbid(unsafe_code)]

mod cache;
mod caller;
mod certificate;
mod claims;
mod clock;
mod dpop;
mod gate;
mod htu;
mod issuer;
mod json;
mod jws;
mod keys;
mod layer;
mod metadata;
mod nonce;
mod proofs;
mod rate;
mod refusal;
mod remote;
mod replay;
mod roles;
mod settings;
mod token;
mod tokens;

pub use caller::{Caller, Proof, ProofKey};
pub use clock::{Clock, system_clock};
pub use dpop::{DpopSettings, DpopSettingsError};
pub use gate::Gate;
pub use htu::OriginError;
pub use jws::{Jws, JwsError, VerifyingKey};
pub use keys::KeySetError;
pub use layer::{GateLayer, Gated};
pub use metadata::Metadata;
pub use proofs::{Presented, Proofs, Proven, Scheme};
pub use rate::RateLimit;
pub use refusal::{Refusal, RefusalKind};
pub use replay::{MemoryReplay, ReplayError, ReplayStore, Seen};
pub use roles::{ClaimNames, PolicyError, RolePolicy};
pub use settings::{IssuerSettings, KeySource, SetupError, TokenRules};
pub use token::{Confirmation, DevTokens, TokenVerifier, VerifiedToken};
pub use tokens::{IssuerHealth, KeyState, Tokens};
