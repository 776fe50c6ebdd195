//! Access tokens of several issuers, verified with keys that are given or fetched.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod https;
mod idp;
mod remote;
mod signer;
mod tokens;
