//! The `kasbah` command from the outside.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failing test")]

mod common;
mod config;
