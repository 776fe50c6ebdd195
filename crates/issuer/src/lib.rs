//! An OIDC issuer for development and tests: it gives access tokens to clients that know their
//! secret (RFC 6749, section 4.4), bound to a key of theirs if they prove one (RFC 9449).
//!
//! It speaks HTTP without TLS and on loopback addresses only. Its paths are those of Keycloak with
//! a realm `opentdf`, because one OpenTDF client knows no others.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use kasbah_issuer::{Client, Issuer, Settings, SigningKeys};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let audience = vec!["http://localhost:8080".to_owned()];
//! let settings = Settings::new(listener.local_addr()?, audience, SigningKeys::generate()?);
//! let issuer = Arc::new(Issuer::new(settings)?);
//! let claims = serde_json::json!({ "realm_access": { "roles": ["opentdf-admin"] } });
//! issuer.add_client(Client {
//!     id: "opentdf".to_owned(),
//!     secret: "secret".into(),
//!     claims: claims.as_object().cloned().unwrap_or_default(),
//! })?;
//! issuer.serve(listener, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod dpop;
mod endpoints;
mod issuer;
mod keys;
mod refusal;
mod serve;
mod token;

pub use client::Client;
pub use endpoints::Answer;
pub use issuer::{Issuer, IssuerError, Settings, TokenType};
pub use keys::{KeysError, SigningAlgorithm, SigningKeys};
pub use serve::serve;
