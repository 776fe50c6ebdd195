//! `telemetry` and `server.metrics`: where figures and traces go.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use config::Value;
use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    audit::Collector,
    index::{Around, address, secret},
    node::Node,
    problems::Findings,
};

/// How often a collector gets figures when nothing is said.
const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);
/// How long one call to it may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent to a collector.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    pub(crate) otlp: Option<Box<Otlp>>,
    /// Share of requests that are traced, 0 to 1; `None` traces none, whatever clients say.
    pub(crate) sample_ratio: Option<f64>,
}

/// Which collector, and how.
#[derive(Debug)]
pub(crate) struct Otlp {
    pub(crate) collector: Collector,
    /// Names of headers, names of entries under `secrets` and where their values are.
    pub(crate) headers: Vec<(String, String, SecretSource)>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTelemetry {
    otlp: Option<Value>,
    traces: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOtlp {
    endpoint: String,
    ca_file: Option<std::path::PathBuf>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    interval_seconds: Option<u64>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTraces {
    sample_ratio: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetrics {
    listen: String,
}

/// Reads `telemetry`; without it nothing is sent. Names of secrets that it uses are added to
/// `used_secrets`.
pub(super) fn telemetry(
    node: Option<Node>,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Telemetry> {
    let raw = match node {
        Some(node) => node.read::<RawTelemetry>(findings)?,
        None => RawTelemetry::default(),
    };
    if raw.traces.is_some() && raw.otlp.is_none() {
        let text = "has no effect without `telemetry.otlp`, which says where traces go";
        return findings.problem("telemetry.traces", text);
    }
    let otlp = match raw.otlp {
        Some(value) => Some(Box::new(otlp(value, around, used_secrets, findings)?)),
        None => None,
    };
    let sample_ratio = match raw.traces {
        Some(value) => Some(sample_ratio(value, findings)?),
        None => None,
    };
    Some(Telemetry { otlp, sample_ratio })
}

fn otlp(
    value: Value,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Otlp> {
    let raw = Node::new("telemetry.otlp", value).read::<RawOtlp>(findings)?;
    let endpoint = address("telemetry.otlp.endpoint", &raw.endpoint, findings)?;
    for (name, value) in
        [("interval_seconds", raw.interval_seconds), ("timeout_seconds", raw.timeout_seconds)]
    {
        if value == Some(0) {
            return findings.problem(format!("telemetry.otlp.{name}"), "must be at least 1");
        }
    }
    let mut headers = Vec::new();
    for (header, name) in raw.headers {
        let path = format!("telemetry.otlp.headers.{header}");
        let source = secret(&path, &name, around.secrets, findings)?;
        used_secrets.push(name.clone());
        headers.push((header, name, source));
    }
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    Some(Otlp {
        collector: Collector {
            endpoint,
            ca_file: raw.ca_file.map(|file| around.files.resolve(&file)),
        },
        headers,
        interval: seconds(raw.interval_seconds, DEFAULT_INTERVAL),
        timeout: seconds(raw.timeout_seconds, DEFAULT_TIMEOUT),
    })
}

fn sample_ratio(value: Value, findings: &mut Findings) -> Option<f64> {
    let raw = Node::new("telemetry.traces", value).read::<RawTraces>(findings)?;
    let ratio = raw.sample_ratio.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&ratio) {
        return findings.problem("telemetry.traces.sample_ratio", "expected 0 to 1");
    }
    Some(ratio)
}

/// Reads `server.metrics`: where Prometheus finds figures.
pub(super) fn metrics(value: Value, findings: &mut Findings) -> Option<SocketAddr> {
    let raw = Node::new("server.metrics", value).read::<RawMetrics>(findings)?;
    raw.listen.parse().ok().or_else(|| {
        findings.problem(
            "server.metrics.listen",
            "expected an IP address and a port, for example 127.0.0.1:9464 or [::1]:9464",
        )
    })
}
