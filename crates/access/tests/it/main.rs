//! Local entitlements.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot work fails its test"
)]

mod bugs;
mod cases;
mod load;
mod local;
mod naive;
mod policy;
mod properties;
