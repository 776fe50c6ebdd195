//! The `kasbah` command from the outside.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failing test")]

mod audit;
mod bench;
mod common;
mod config;
mod dev;
mod hsm;
mod serve;
mod tdf;
mod usage;
