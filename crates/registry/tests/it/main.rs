//! The control plane over both databases, through its services.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]
#![expect(deprecated, reason = "old clients send these fields")]

mod access;
mod device;
mod entitlements;
mod harness;
mod index;
mod kas;
mod keys;
mod lifecycle;
mod private;
mod providers;
mod replay;
mod schema;
mod validation;
