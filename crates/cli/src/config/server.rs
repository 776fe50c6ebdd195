//! `server` and `kas`.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use config::Value;
use kasbah_auth::RateLimit;
use kasbah_kas::{Cors, Limits};
use kasbah_trust::{KeyId, SecretSource};
use serde::Deserialize;
use tonic::codegen::http::{HeaderName, Uri};

use super::{
    index::{Around, Wanted, secret},
    node::Node,
    problems::Findings,
    telemetry,
};

/// Where to listen when nothing is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// Where old clients expect their REST routes.
const DEFAULT_REST: &str = "/kas";

/// How requests come in.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<TlsSettings>,
    /// Where Prometheus finds figures.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) cors: Option<Cors>,
    /// Path below which old clients find their REST routes.
    pub(crate) rest: Option<String>,
    /// Path below which every method is served, too.
    pub(crate) prefix: Option<String>,
    /// Whether clients may ask which services there are.
    pub(crate) reflection: bool,
    /// How long to serve on after the signal to stop.
    pub(crate) drain_delay: Duration,
    /// How often each caller may call; `None` for as often as they like.
    pub(crate) rate: Option<RateLimit>,
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    /// PEM certificates of the server.
    pub(crate) certificate_file: PathBuf,
    /// Where the private key is, and the name of its entry under `secrets`.
    pub(crate) private_key: (String, SecretSource),
    /// PEM certificates of the authorities of clients.
    pub(crate) client_ca_file: Option<PathBuf>,
    pub(crate) client_certificate_required: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    listen: Option<String>,
    limits: Option<Value>,
    tls: Option<Value>,
    metrics: Option<Value>,
    plaintext: Option<bool>,
    cors: Option<Value>,
    rest: Option<Value>,
    prefix: Option<String>,
    reflection: Option<bool>,
    drain_delay_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCors {
    origins: Vec<String>,
    headers: Option<Vec<String>>,
    exposed_headers: Option<Vec<String>>,
    credentials: Option<bool>,
    max_age_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRest {
    prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate_file: PathBuf,
    private_key: String,
    client_ca_file: Option<PathBuf>,
    client_certificates: Option<String>,
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
    connections: Option<usize>,
    calls: Option<usize>,
    body_bytes: Option<usize>,
    streams_per_connection: Option<u32>,
    header_bytes: Option<u32>,
    request_timeout_seconds: Option<u64>,
    first_request_timeout_seconds: Option<u64>,
    idle_timeout_seconds: Option<u64>,
    drain_timeout_seconds: Option<u64>,
    calls_per_second: Option<u32>,
    calls_burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKas {
    uri: String,
    key_index: Option<String>,
    base_key: Option<String>,
}

/// Reads `server`; everything in it may be left out.
pub(super) fn server(
    node: Option<Node>,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Server> {
    let raw = match node {
        Some(node) => node.read::<RawServer>(findings)?,
        None => RawServer::default(),
    };
    let tls = match raw.tls {
        Some(value) => Some(tls(value, around, used_secrets, findings)?),
        None => None,
    };
    let metrics = match raw.metrics {
        Some(value) => Some(telemetry::metrics(value, findings)?),
        None => None,
    };
    let raw_limits = match raw.limits {
        Some(value) => Node::new("server.limits", value).read(findings)?,
        None => RawLimits::default(),
    };
    let rate = match (raw_limits.calls_per_second, raw_limits.calls_burst) {
        (None, None) => None,
        (per_second, burst) => Some(rate(per_second, burst, findings)?),
    };
    let limits = limits(&raw_limits, findings);
    let cors = match raw.cors {
        Some(value) => Some(cors(value, findings)?),
        None => None,
    };
    let rest = match raw.rest {
        Some(value) => Some(rest(value, findings)?),
        None => None,
    };
    if let Some(prefix) = &raw.prefix {
        path("server.prefix", prefix, findings)?;
    }
    let Ok(listen) = raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN).parse() else {
        return findings.problem(
            "server.listen",
            "expected an IP address and a port, for example 127.0.0.1:8080 or [::1]:8080",
        );
    };
    if metrics == Some(listen) {
        let text = "is where clients are served; choose another port for figures";
        return findings.problem("server.metrics.listen", text);
    }
    is_encrypted(listen, tls.is_some(), raw.plaintext, findings)?;
    let reflection = raw.reflection.unwrap_or(false);
    let drain_delay = Duration::from_secs(raw.drain_delay_seconds.unwrap_or(0));
    let (limits, prefix) = (limits?, raw.prefix);
    Some(Server { listen, limits, tls, metrics, cors, rest, prefix, reflection, drain_delay, rate })
}

/// Plain text is for loopback addresses, and for whoever asks for it.
fn is_encrypted(
    listen: SocketAddr,
    tls: bool,
    plaintext: Option<bool>,
    findings: &mut Findings,
) -> Option<()> {
    match (tls, plaintext) {
        (true, Some(true)) => {
            findings.problem("server.plaintext", "contradicts `server.tls`; remove one of them")
        }
        (false, None | Some(false)) if !listen.ip().is_loopback() => findings.problem(
            "server.tls",
            "is missing, and `server.listen` is no loopback address: access tokens would cross the \
             network in the clear; set it, or set `server.plaintext: true` where something in \
             front of this server encrypts",
        ),
        _ => Some(()),
    }
}

fn cors(value: Value, findings: &mut Findings) -> Option<Cors> {
    let raw = Node::new("server.cors", value).read::<RawCors>(findings)?;
    let any = raw.origins.iter().any(|origin| origin == "*");
    if raw.origins.is_empty() || (any && raw.origins.len() > 1) {
        let text = "expected origins such as https://app.example, or `*` alone";
        return findings.problem("server.cors.origins", text);
    }
    if any && raw.credentials == Some(true) {
        let text = "browsers take no credentials where any origin may call; name the origins";
        return findings.problem("server.cors.credentials", text);
    }
    for (number, origin) in raw.origins.iter().enumerate() {
        if origin != "*" && !is_origin(origin) {
            return findings.problem(
                format!("server.cors.origins[{number}]"),
                "expected a scheme, a host and perhaps a port, such as https://app.example:8443, \
                 without a path",
            );
        }
    }
    let headers = header_names("headers", raw.headers, findings)?;
    let exposed_headers = header_names("exposed_headers", raw.exposed_headers, findings)?;
    let usual = Cors::of_origins(raw.origins);
    Some(Cors {
        headers,
        exposed_headers,
        credentials: raw.credentials.unwrap_or(usual.credentials),
        max_age: raw.max_age_seconds.map_or(usual.max_age, Duration::from_secs),
        ..usual
    })
}

fn is_origin(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str().is_some_and(|scheme| !scheme.is_empty())
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
            && !text.ends_with('/')
            && uri.path() == "/"
    })
}

fn header_names(
    key: &str,
    names: Option<Vec<String>>,
    findings: &mut Findings,
) -> Option<Vec<HeaderName>> {
    let read = |(number, name): (usize, String)| {
        name.parse().ok().or_else(|| {
            let path = format!("server.cors.{key}[{number}]");
            findings.problem(path, "expected the name of a header, such as x-request-id")
        })
    };
    names.unwrap_or_default().into_iter().enumerate().map(read).collect()
}

fn rest(value: Value, findings: &mut Findings) -> Option<String> {
    let raw = Node::new("server.rest", value).read::<RawRest>(findings)?;
    let prefix = raw.prefix.unwrap_or_else(|| DEFAULT_REST.to_owned());
    path("server.rest.prefix", &prefix, findings)?;
    Some(prefix)
}

/// A path that something is served below.
fn path(key: &str, prefix: &str, findings: &mut Findings) -> Option<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    if prefix.len() > 1
        && prefix.starts_with('/')
        && !prefix.ends_with('/')
        && !prefix.contains("//")
        && prefix.chars().all(plain)
    {
        return Some(());
    }
    findings.problem(key, "expected a path such as /kas, without a slash at the end")
}

fn tls(
    value: Value,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<TlsSettings> {
    let raw = Node::new("server.tls", value).read::<RawTls>(findings)?;
    used_secrets.push(raw.private_key.clone());
    let key = secret("server.tls.private_key", &raw.private_key, around.secrets, findings);
    around.files.text("server.tls.certificate_file", &raw.certificate_file, findings)?;
    if let Some(file) = &raw.client_ca_file {
        around.files.text("server.tls.client_ca_file", file, findings)?;
    }
    let client_certificate_required = match raw.client_certificates.as_deref() {
        None | Some("optional") => false,
        Some("required") => true,
        Some(_) => {
            let text = "expected `optional` or `required`";
            return findings.problem("server.tls.client_certificates", text);
        }
    };
    if raw.client_certificates.is_some() && raw.client_ca_file.is_none() {
        let text = "has no effect without `client_ca_file`, which says whose are accepted";
        return findings.problem("server.tls.client_certificates", text);
    }
    Some(TlsSettings {
        certificate_file: around.files.resolve(&raw.certificate_file),
        private_key: (raw.private_key, key?),
        client_ca_file: raw.client_ca_file.map(|file| around.files.resolve(&file)),
        client_certificate_required,
    })
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
        ("connections", raw.connections),
        ("calls", raw.calls),
        ("body_bytes", raw.body_bytes),
    ] {
        at_least_one(name, value.map_or(1, |value| value as u64));
    }
    at_least_one("streams_per_connection", raw.streams_per_connection.unwrap_or(1).into());
    at_least_one("header_bytes", raw.header_bytes.unwrap_or(1).into());
    for (name, value) in [
        ("request_timeout_seconds", raw.request_timeout_seconds),
        ("first_request_timeout_seconds", raw.first_request_timeout_seconds),
        ("idle_timeout_seconds", raw.idle_timeout_seconds),
    ] {
        at_least_one(name, value.unwrap_or(1));
    }
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    let limits = Limits {
        message_bytes: raw.message_bytes.unwrap_or(default.message_bytes),
        srt_bytes: raw.srt_bytes.unwrap_or(default.srt_bytes),
        policies: raw.policies.unwrap_or(default.policies),
        kaos: raw.kaos.unwrap_or(default.kaos),
        concurrent_kaos: raw.concurrent_kaos.unwrap_or(default.concurrent_kaos),
        legacy_keys: raw.legacy_keys.unwrap_or(default.legacy_keys),
        concurrent_requests: raw.concurrent_requests.unwrap_or(default.concurrent_requests),
        connections: raw.connections.unwrap_or(default.connections),
        calls: raw.calls.unwrap_or(default.calls),
        body_bytes: raw.body_bytes.unwrap_or(default.body_bytes),
        streams_per_connection: raw
            .streams_per_connection
            .unwrap_or(default.streams_per_connection),
        header_bytes: raw.header_bytes.unwrap_or(default.header_bytes),
        request_timeout: seconds(raw.request_timeout_seconds, default.request_timeout),
        first_request_timeout: seconds(
            raw.first_request_timeout_seconds,
            default.first_request_timeout,
        ),
        idle_timeout: seconds(raw.idle_timeout_seconds, default.idle_timeout),
        drain_timeout: seconds(raw.drain_timeout_seconds, default.drain_timeout),
    };
    if limits.message_bytes < limits.srt_bytes {
        return findings.problem(
            "server.limits.message_bytes",
            "is below srt_bytes, so the largest token would not fit its message; \
             raise it or lower srt_bytes",
        );
    }
    if limits.body_bytes < limits.message_bytes {
        return findings.problem(
            "server.limits.body_bytes",
            "is below message_bytes, so the largest message could never be read; raise it",
        );
    }
    all_fit.then_some(limits)
}

/// How often each caller may call.
fn rate(per_second: Option<u32>, burst: Option<u32>, findings: &mut Findings) -> Option<RateLimit> {
    let Some(per_second) = per_second else {
        let text = "has no effect without `calls_per_second`; set that too";
        return findings.problem("server.limits.calls_burst", text);
    };
    let mut number = |name: &str, value: u32| {
        let path = format!("server.limits.{name}");
        let text = "must be at least 1: with 0 nothing could be served";
        NonZeroU32::new(value).or_else(|| findings.problem(path, text))
    };
    let per_second = number("calls_per_second", per_second)?;
    let burst = burst.map_or(Some(per_second), |burst| number("calls_burst", burst))?;
    Some(RateLimit::new(per_second, burst))
}

/// `kas`.
pub(super) struct Kas {
    /// The URI this server is registered under.
    pub(super) uri: String,
    /// Where its keys are found.
    pub(super) index: Wanted,
    /// Which of them clients wrap with when nothing else says with which.
    pub(super) base_key: Option<KeyId>,
}

/// Reads `kas`.
pub(super) fn kas(node: Option<Node>, findings: &mut Findings) -> Option<Kas> {
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
    let absolute = raw.uri.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    if !absolute {
        return findings.problem(
            "kas.uri",
            "expected an absolute http or https URI, for example http://localhost:8080",
        );
    }
    let base_key = raw.base_key.as_deref().map(KeyId::from);
    if base_key.is_some() && wanted != Wanted::Keyring {
        findings.problem::<()>(
            "kas.base_key",
            "is for `kas.key_index: keyring`; elsewhere it is set by `kasbah keys base set`, or by the \
             platform",
        );
    }
    Some(Kas { uri: raw.uri, index: wanted, base_key })
}
