//! The parsers that face the network, for fuzzers. None of them may panic or hang.

use std::time::{Duration, SystemTime};

use crate::{Limits, body::Body, check, context, policy::Policy, srt};

/// Seconds since 1970, the same for every run, so that a finding can be found again.
const NOW: u64 = 1_800_000_000;

/// A signed request token, and what it carries.
pub fn request_token(text: &str) {
    let times = srt::Times {
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        skew: Duration::from_mins(1),
        lifetime: Duration::from_hours(1),
    };
    if let Ok(json) = srt::open(text, times, None) {
        request_body(&json);
    }
}

/// A request body, with the key access objects and policies in it.
pub fn request_body(json: &str) {
    let Ok(body) = Body::parse(json, &Limits::default()) else { return };
    for entry in &body.entries {
        if let Some(named) = &entry.policy {
            policy(&named.body);
        }
        for kao in entry.kaos.iter().filter_map(|kao| kao.kao.as_ref()) {
            let _ = check::check(kao);
        }
    }
}

/// A policy as base64 text.
pub fn policy(text: &str) {
    let _ = Policy::parse(text);
}

/// The header `x-rewrap-additional-context`.
pub fn additional_context(header: &str) {
    let _ = context::fulfillable(Some(header));
}
