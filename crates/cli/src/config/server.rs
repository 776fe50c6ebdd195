//! `server` and `kas`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use config::Value;
use kasbah_kas::Limits;
use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    index::{Around, Wanted, secret},
    node::Node,
    problems::Findings,
};

/// Where to listen when nothing is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// How requests come in.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<TlsSettings>,
}

/// How connections are encrypted.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    /// PEM certificates of the server.
    pub(crate) certificates: String,
    /// Where the private key is, and the name of its entry under `secrets`.
    pub(crate) private_key: (String, SecretSource),
    /// PEM certificates of the authorities of clients.
    pub(crate) client_authorities: Option<String>,
    pub(crate) client_certificate_required: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    listen: Option<String>,
    limits: Option<Value>,
    tls: Option<Value>,
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
    Some(Server { listen, limits: limits?, tls })
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
    let file = "server.tls.certificate_file";
    let certificates = around.files.text(file, &raw.certificate_file, findings);
    let client_authorities = match &raw.client_ca_file {
        Some(ca) => Some(around.files.text("server.tls.client_ca_file", ca, findings)?),
        None => None,
    };
    let client_certificate_required = match raw.client_certificates.as_deref() {
        None | Some("optional") => false,
        Some("required") => true,
        Some(_) => {
            let text = "expected `optional` or `required`";
            return findings.problem("server.tls.client_certificates", text);
        }
    };
    if raw.client_certificates.is_some() && client_authorities.is_none() {
        let text = "has no effect without `client_ca_file`, which says whose are accepted";
        return findings.problem("server.tls.client_certificates", text);
    }
    Some(TlsSettings {
        certificates: certificates?,
        private_key: (raw.private_key, key?),
        client_authorities,
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
