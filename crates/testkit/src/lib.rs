//! Fixtures for tests: fresh tokens, signed tokens, golden TDFs.
mod kryoptic;
mod opencryptoki;
mod softhsm;
pub mod tokens;
