//! A small HTTP client on the workspace's one TLS stack: bounded answers, no redirects.
#![forbid(unsafe_code)]

mod client;
mod tls;

pub use client::Http;
pub use http_body_util::Full;
pub use hyper::{Request, StatusCode, Uri, body::Bytes, header};
pub use rustls::RootCertStore;
pub use tls::{TlsError, authorities, client_config};
