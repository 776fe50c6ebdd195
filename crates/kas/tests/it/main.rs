//! The real server on a real socket, asked by hand-written requests.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod audit;
mod builder;
mod concurrency;
mod decisions;
mod durability;
mod gate;
mod harness;
mod hostile;
mod limits;
mod managers;
mod public_key;
mod reading;
mod recipients;
mod reflection;
mod rewrap;
mod scripted;
mod shutdown;
mod tls;
mod token;
