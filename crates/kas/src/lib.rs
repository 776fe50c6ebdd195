//! The data plane of a Key Access Server: `kas.AccessService` over gRPC.
//!
//! Start at [`Kas::builder`]. A request passes `server` (authentication, limits), `rewrap` (the
//! checks, in order), `access` (the decision) and only then a key manager. `edge` is the one
//! module that knows status codes and public texts.
//!
//! ```no_run
//! # use std::{future, sync::Arc};
//! # use kasbah_kas::{DevVerifier, Kas, Keyring, StderrSink};
//! # use kasbah_trust::{Algorithm, KeyManagerFactory};
//! # async fn run(basic: Arc<dyn KeyManagerFactory>) -> Result<(), Box<dyn std::error::Error>> {
//! let uri = "http://localhost:8080";
//! let kas = Kas::builder()
//!     .uri(uri)
//!     .key_manager("opentdf.io/basic", &Algorithm::ALL, basic)
//!     .default_manager("opentdf.io/basic")
//!     .key_index(Arc::new(Keyring::new(uri, vec![])?))
//!     .verifier(Arc::new(DevVerifier))
//!     .audit(Arc::new(StderrSink::default()))
//!     .build()?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! kas.serve(listener, future::pending()).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod access;
mod audit;
mod auth;
mod body;
mod builder;
mod check;
mod context;
mod edge;
mod encoding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod jwt;
mod keyring;
mod limits;
mod policy;
mod public_key;
mod redeem;
mod rewrap;
mod server;
mod srt;

pub use access::AccessGranted;
pub use audit::{AuditEvent, AuditOutcome, AuditSink, MemorySink, StderrSink};
pub use auth::{AuthError, Caller, DevVerifier, TokenVerifier};
pub use builder::{BuildError, KasBuilder};
pub use jwt::{JwtError, JwtRules, JwtVerifier};
pub use keyring::{Keyring, KeyringError};
pub use limits::Limits;
pub use server::{Kas, ServeError};
