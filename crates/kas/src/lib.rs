//! The data plane of a Key Access Server: `kas.AccessService`, in every protocol of its clients.
//!
//! Start at [`Kas::builder`]. A request passes the edge (`kasbah_edge`), which asks the gate
//! (`kasbah_auth`), `server` (limits), `rewrap`
//! (the checks, in order), `access` (the decision) and only then a key manager. `edge` is the one
//! module that knows status codes and public texts.
//!
//! ```no_run
//! # use std::{future, sync::Arc};
//! # use kasbah_auth::Gate;
//! # use kasbah_kas::{Kas, Keyring, StderrSink};
//! # use kasbah_trust::{Algorithm, KeyManagerFactory};
//! # type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
//! # async fn run(basic: Arc<dyn KeyManagerFactory>, gate: Arc<Gate>) -> Result<()> {
//! let uri = "http://localhost:8080";
//! let kas = Kas::builder()
//!     .uri(uri)
//!     .key_manager("opentdf.io/basic", &Algorithm::ALL, basic)
//!     .default_manager("opentdf.io/basic")
//!     .key_index(Arc::new(Keyring::new(uri, vec![])?))
//!     .gate(gate)
//!     .audit(Arc::new(StderrSink::default()))
//!     .build()?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! kas.serve(listener, future::pending()).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod access;
mod attributes;
mod audit;
mod base_key;
mod body;
mod builder;
mod check;
mod context;
mod edge;
mod encoding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hand_out;
mod keyring;
mod limits;
mod min_proof;
mod one_kas;
mod policy;
mod public_key;
mod redeem;
mod rest;
mod rewrap;
mod server;
mod srt;
mod well_known;

pub use access::{AccessGranted, AccessRules};
pub use attributes::Attributes;
pub use audit::{AuditEvent, AuditOutcome, AuditSink, MemorySink, StderrSink};
pub use base_key::BaseKey;
pub use builder::{BuildError, KasBuilder};
pub use kasbah_edge::{Cors, Tls, TlsError, TlsMaterial, TlsSource};
pub use keyring::{Keyring, KeyringError};
pub use limits::Limits;
pub use min_proof::MinProof;
pub use one_kas::OneKas;
pub use server::{Kas, ServeError};

pub use well_known::{Idp, WellKnown};
