//! Fixtures for tests: fresh tokens, golden TDFs.

pub mod golden;
mod kryoptic;
mod opencryptoki;
mod softhsm;
pub mod tdf;
pub mod tokens;
