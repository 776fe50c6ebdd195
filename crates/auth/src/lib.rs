//! Who asks: access tokens, proofs that their sender holds the key they are bound to, and roles.
//!
//! [`TokenVerifier`] decides whether a token is good.
#![forbid(unsafe_code)]

mod caller;
mod certificate;
mod clock;
mod dpop;
mod gate;
mod htu;
mod json;
mod jws;
mod layer;
mod nonce;
mod proofs;
mod refusal;
mod replay;
mod roles;
mod token;

pub use caller::{Caller, Proof, ProofKey};
pub use clock::{Clock, system_clock};
pub use dpop::{DpopSettings, DpopSettingsError};
pub use gate::Gate;
pub use htu::OriginError;
pub use jws::{Jws, JwsError, VerifyingKey};
pub use layer::{GateLayer, Gated};
pub use proofs::{Presented, Proofs, Proven, Scheme};
pub use refusal::{Refusal, RefusalKind};
pub use replay::{MemoryReplay, ReplayError, ReplayStore, Seen};
pub use roles::{ClaimNames, PolicyError, RolePolicy};
pub use token::{Confirmation, DevTokens, TokenVerifier, VerifiedToken};
