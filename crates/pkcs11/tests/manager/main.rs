//! The key manager on real tokens.

mod closing;
mod conformance;
mod custody;
mod harness;
mod load;
mod loss;
mod soak;
