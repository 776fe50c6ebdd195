//! The log from the outside.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod checkpoints;
mod common;
mod durability;
mod file;
mod kill;
mod manipulation;
mod otlp;
mod shape;
mod words;
