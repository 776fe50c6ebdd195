//! What telemetry says, and to whom.

mod collector;
mod figures;
mod otlp;
mod outage;
mod propagation;
