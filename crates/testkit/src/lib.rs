//! Fixtures for tests: fresh tokens, golden TDFs, a database server.

#[cfg(feature = "collector")]
pub mod collector;
pub mod golden;
mod kryoptic;
pub mod oidc;
mod opencryptoki;
pub mod postgres;
pub mod proofs;
mod softhsm;
pub mod tdf;
pub mod tokens;
