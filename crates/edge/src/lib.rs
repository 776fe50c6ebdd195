//! The edge: one port on which services answer in every protocol that clients speak.
//!
//! [`Edge`] takes gRPC services (tonic `Routes`) and serves each of their unary methods by Connect
//! (POST, and GET where a method has no side effects), gRPC and gRPC-Web, as JSON and as binary
//! messages, over HTTP/1.1 and HTTP/2, with TLS or without. It knows nothing of what the services do.
//!
//! `listener` accepts connections and ends those that do nothing; `front` takes a request, has the
//! [`Guard`] let it in before a byte of its body is read, and hands it to the protocol runtime
//! (`connectrpc`); `bridge` carries one unary call from there to the services and back, and `json`
//! is the protobuf JSON on the way.
#![forbid(unsafe_code)]

mod bridge;
mod budget;
mod cors;
mod error;
mod fair;
mod front;
mod json;
mod listener;
mod methods;
mod quiet;
mod settings;
mod tls;

pub use cors::Cors;
pub use error::error_response;
pub use front::{AsSent, Call, Guard, Open, WholeMessages};
pub use listener::{DescriptorError, Edge};
pub use settings::EdgeLimits;
pub use tls::{Tls, TlsError, TlsMaterial, TlsSource};
