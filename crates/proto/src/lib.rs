//! Wire messages and services, generated from the repository's `proto/` folder; no logic.
#![forbid(unsafe_code)]

use std::fmt;

#[allow(
    deprecated,
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::module_inception,
    clippy::pedantic,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("kasbah");
}

pub use generated::*;

/// The descriptors of all messages and services: a `google.protobuf.FileDescriptorSet`, with
/// options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Leaves out the token.
impl fmt::Debug for entity::Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ephemeral_id", &self.ephemeral_id).finish_non_exhaustive()
    }
}
