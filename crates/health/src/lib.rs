//! Whether a server can do its work, and how that is asked.
//!
//! Two questions are kept apart. *Is it alive* depends on nothing: a server that answers is, and to
//! start it again would not help a dependency that is down. *Is it ready* depends on what every
//! request needs, and is for those who decide where to send requests.
//!
//! [`Health`] looks at everything in the background and answers from memory, as plain HTTP
//! ([`Health::router`]) and as `grpc.health.v1.Health` ([`Health::server`]). What there is to look at
//! comes in as [`HealthCheck`]s.
#![forbid(unsafe_code)]

mod finding;
mod health;
mod http;
mod report;
mod rpc;

pub use finding::{Finding, State};
pub use health::{Health, HealthCheck, Pace};
pub use rpc::{DESCRIPTORS, SERVICE};
