//! `kasbah entitlements`, `kasbah kas`, `kasbah keys` and `kasbah providers`: an administrator's
//! commands, which act on a running server by gRPC.
//!
//! One file for each noun turns arguments into requests and answers into text; the files beside
//! them are what the nouns share.

pub(crate) mod entitlements;
mod find;
mod json;
pub(crate) mod kas;
mod key_states;
pub(crate) mod keys;
mod labels;
mod new_key;
mod page;
pub(crate) mod providers;
mod refused;
#[cfg(test)]
mod scripted;
mod server;
mod table;
mod words;
