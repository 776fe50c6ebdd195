//! The manager from outside: the contract of the seam, and what it makes of stored keys.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod cache;
mod conformance;
mod fixture;
mod stored;
