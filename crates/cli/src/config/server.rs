//! `server` and `kas`.

use std::{net::SocketAddr, time::Duration};

use config::Value;
use kasbah_kas::Limits;
use serde::Deserialize;

use super::{index::Wanted, node::Node, problems::Findings};

/// Where to listen when nothing is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// How requests come in.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    listen: Option<String>,
    limits: Option<Value>,
}

/// As [`Limits`], which has the meaning and the defaults.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    message_bytes: Option<usize>,
    srt_bytes: Option<usize>,
    policies: Option<usize>,
    kaos: Option<usize>,
    concurrent_kaos: Option<usize>,
    legacy_keys: Option<usize>,
    concurrent_requests: Option<usize>,
    streams_per_connection: Option<u32>,
    header_bytes: Option<u32>,
    request_timeout_seconds: Option<u64>,
    drain_timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKas {
    uri: String,
    key_index: Option<String>,
}

/// Reads `server`; everything in it may be left out.
pub(crate) fn server(node: Option<Node>, findings: &mut Findings) -> Option<Server> {
    let raw = match node {
        Some(node) => node.read::<RawServer>(findings)?,
        None => RawServer { listen: None, limits: None },
    };
    let raw_limits = match raw.limits {
        Some(value) => Node::new("server.limits", value).read(findings)?,
        None => RawLimits::default(),
    };
    let limits = limits(&raw_limits, findings);
    let Ok(listen) = raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN).parse() else {
        return findings.problem(
            "server.listen",
            "expected an IP address and a port, for example 127.0.0.1:8080 or [::1]:8080",
        );
    };
    Some(Server { listen, limits: limits? })
}

fn limits(raw: &RawLimits, findings: &mut Findings) -> Option<Limits> {
    let default = Limits::default();
    let mut all_fit = true;
    let mut at_least_one = |name: &str, value: u64| {
        if value == 0 {
            findings.problem::<()>(
                format!("server.limits.{name}"),
                "must be at least 1: with 0 nothing could be served",
            );
            all_fit = false;
        }
    };
    for (name, value) in [
        ("message_bytes", raw.message_bytes),
        ("srt_bytes", raw.srt_bytes),
        ("policies", raw.policies),
        ("kaos", raw.kaos),
        ("concurrent_kaos", raw.concurrent_kaos),
        ("concurrent_requests", raw.concurrent_requests),
    ] {
        at_least_one(name, value.map_or(1, |value| value as u64));
    }
    at_least_one("streams_per_connection", raw.streams_per_connection.unwrap_or(1).into());
    at_least_one("header_bytes", raw.header_bytes.unwrap_or(1).into());
    at_least_one("request_timeout_seconds", raw.request_timeout_seconds.unwrap_or(1));
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    let limits = Limits {
        message_bytes: raw.message_bytes.unwrap_or(default.message_bytes),
        srt_bytes: raw.srt_bytes.unwrap_or(default.srt_bytes),
        policies: raw.policies.unwrap_or(default.policies),
        kaos: raw.kaos.unwrap_or(default.kaos),
        concurrent_kaos: raw.concurrent_kaos.unwrap_or(default.concurrent_kaos),
        legacy_keys: raw.legacy_keys.unwrap_or(default.legacy_keys),
        concurrent_requests: raw.concurrent_requests.unwrap_or(default.concurrent_requests),
        streams_per_connection: raw
            .streams_per_connection
            .unwrap_or(default.streams_per_connection),
        header_bytes: raw.header_bytes.unwrap_or(default.header_bytes),
        request_timeout: seconds(raw.request_timeout_seconds, default.request_timeout),
        drain_timeout: seconds(raw.drain_timeout_seconds, default.drain_timeout),
    };
    if limits.message_bytes < limits.srt_bytes {
        return findings.problem(
            "server.limits.message_bytes",
            "is below srt_bytes, so the largest token would not fit its message; \
             raise it or lower srt_bytes",
        );
    }
    all_fit.then_some(limits)
}

/// Reads `kas`, which is the URI this server is registered under, and where its keys are found.
pub(super) fn kas(node: Option<Node>, findings: &mut Findings) -> Option<(String, Wanted)> {
    let Some(node) = node else {
        return findings.problem(
            "kas.uri",
            "is missing; give the URI clients know this server by, for example \
             http://localhost:8080",
        );
    };
    let raw = node.read::<RawKas>(findings)?;
    let wanted = match raw.key_index.as_deref().unwrap_or("keyring") {
        "keyring" => Wanted::Keyring,
        "registry" => Wanted::Registry,
        "platform" => Wanted::Platform,
        _ => {
            return findings
                .problem("kas.key_index", "expected `keyring`, `registry` or `platform`");
        }
    };
    let absolute = raw.uri.parse::<tonic::transport::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    if !absolute {
        return findings.problem(
            "kas.uri",
            "expected an absolute http or https URI, for example http://localhost:8080",
        );
    }
    Some((raw.uri, wanted))
}
