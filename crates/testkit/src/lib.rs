//! Fixtures for tests: fresh tokens, golden TDFs, a database server.

pub mod golden;
mod kryoptic;
mod opencryptoki;
pub mod postgres;
mod softhsm;
pub mod tdf;
pub mod tokens;
