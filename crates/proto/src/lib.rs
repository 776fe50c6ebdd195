//! Wire messages and services, generated from the repository's `proto/` folder; no logic.
#![forbid(unsafe_code)]

#[allow(
    deprecated,
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("kasbah");
}

pub use generated::*;
