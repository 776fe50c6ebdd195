//! Figures of a Key Access Server, the trace that a request belongs to, and where both go.
//!
//! Code that does the work records into [`instruments`] and opens `tracing` spans; it knows nothing of
//! where they go. Until `Telemetry::start` (feature `export`) was called nobody listens, and both
//! cost next to nothing.
//!
//! Labels have few values: words of this code base, names of key managers, status codes. No kid, no
//! caller, no address and nothing of a request is ever a label.
#![forbid(unsafe_code)]

#[cfg(feature = "collector")]
mod collector;
#[cfg(feature = "export")]
mod export;
mod guards;
mod instruments;
#[cfg(feature = "propagation")]
mod propagation;

#[cfg(feature = "collector")]
pub use collector::{Collector, CollectorError};
#[cfg(feature = "export")]
pub use export::{Figures, Settings, StartError, Telemetry, Traces, serve_metrics};
pub use guards::{InFlight, Waiting};
pub use instruments::{Instruments, Rewrap, instruments};
#[cfg(feature = "propagation")]
pub use propagation::{inject, set_parent};
