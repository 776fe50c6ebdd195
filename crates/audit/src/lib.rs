//! A log of audit events that shows what was removed, changed or cut off.
#![forbid(unsafe_code)]

mod receipt;

pub use receipt::{NotKept, Receipt};
