//! A log of audit events that shows what was removed, changed or cut off.
//!
//! Start at [`AuditLog::open`]. Each event becomes one line of JSON that carries the SHA-256 of the
//! line before it (`line`), so a change anywhere shows. A **checkpoint**, signed with Ed25519, vouches
//! for all lines up to it and is copied to a second place (`checkpoint`, `export`), so whoever can write
//! the log but has no signing key can neither compute the chain anew nor cut it off unseen.
//! [`verify`](verify()) reads all of it back.
//!
//! What no log can show: events after the last checkpoint that were removed from the end, or replaced.
//! [`Report::unvouched`] says how many lines are in that state.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use kasbah_audit::{AuditLog, MemorySink, Settings};
//!
//! let log = AuditLog::open(Settings::new("kas-1", MemorySink::default()))?;
//! log.append(serde_json::json!({ "msg": "rewrap", "audit": { "eventMetaData": null } })).wait().await?;
//! log.close(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod checkpoint;
mod export;
mod file;
mod key;
mod line;
mod log;
mod otlp;
mod problem;
mod receipt;
mod sink;
mod stats;
mod tail;
mod verify;
mod writer;

pub use checkpoint::Checkpoint;
pub use file::{FileSettings, FileSink};
pub use kasbah_telemetry::{Collector, CollectorError};
pub use key::{KeyError, PublicKey, SigningKey};
pub use line::{Head, MAX_LINE};
pub use log::{AuditLog, CloseError, Durability, OpenError, Settings};
pub use otlp::{OtlpError, OtlpSettings};
pub use problem::{Finding, Problem};
pub use receipt::{NotKept, Receipt};
pub use sink::{MemorySink, Opened, Sink, SinkError, StderrSink};
pub use stats::Stats;
pub use verify::{Check, Report, Source, VerifyError, verify, verify_files};
