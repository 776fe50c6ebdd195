//! The control plane over both databases, through its services.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]
#![expect(deprecated, reason = "old clients send these fields")]

mod harness;
mod index;
mod kas;
mod keys;
mod lifecycle;
mod providers;
mod schema;
mod validation;
