//! The key manager on real tokens.

#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod closing;
mod conformance;
mod custody;
mod harness;
mod load;
mod loss;
mod soak;
mod store;
mod wrapped;
