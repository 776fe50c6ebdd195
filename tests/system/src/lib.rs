//! What black-box tests need: a client of its own making, an issuer of tokens, the `kasbah`
//! binary, and the recording PKCS#11 module. The tests are in `tests/`.
#![expect(clippy::expect_used, reason = "a panic is a failing test")]

pub mod admin;
pub mod client;
pub mod decisions;
pub mod dev;
pub mod issuer;
pub mod oidc;
pub mod poll;
pub mod recorder;
pub mod server;
pub mod token;
pub mod wire;
