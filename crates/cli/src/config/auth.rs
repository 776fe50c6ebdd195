//! `auth`: which access tokens are good.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kasbah_kas::{DevVerifier, JwtRules, JwtVerifier, TokenVerifier};
use serde::Deserialize;

use super::{Files, node::Node, problems::Findings};

/// Tolerance for clocks that differ, when nothing is said.
const DEFAULT_CLOCK_SKEW_SECONDS: u64 = 60;
/// A token that expired a quarter of an hour ago is not a matter of clocks.
const MAX_CLOCK_SKEW_SECONDS: u64 = 900;

/// How callers are authenticated.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) verifier: Arc<dyn TokenVerifier>,
    pub(crate) clock_skew: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    mode: String,
    issuer: Option<String>,
    audience: Option<String>,
    jwks_file: Option<PathBuf>,
    public_key_file: Option<PathBuf>,
    clock_skew_seconds: Option<u64>,
}

/// Reads `auth`; `listen` is where the tokens come in, if that is known.
pub(crate) fn auth(
    node: Option<Node>,
    listen: Option<SocketAddr>,
    files: &Files,
    findings: &mut Findings,
) -> Option<Auth> {
    let Some(node) = node else {
        return findings
            .problem("auth.mode", "is missing; use `jwt`, or `dev` on your own machine");
    };
    let raw = node.read::<RawAuth>(findings)?;
    let skew = raw.clock_skew_seconds.unwrap_or(DEFAULT_CLOCK_SKEW_SECONDS);
    if skew > MAX_CLOCK_SKEW_SECONDS {
        return findings.problem(
            "auth.clock_skew_seconds",
            format!("expected at most {MAX_CLOCK_SKEW_SECONDS}; set the clocks instead"),
        );
    }
    let clock_skew = Duration::from_secs(skew);
    let verifier: Arc<dyn TokenVerifier> = match raw.mode.as_str() {
        "jwt" => Arc::new(jwt(raw, clock_skew, files, findings)?),
        "dev" => Arc::new(dev(&raw, listen, findings)?),
        "oidc" => {
            return findings.problem(
                "auth.mode",
                "`oidc` is not available in this version; use `jwt` with a jwks_file",
            );
        }
        _ => return findings.problem("auth.mode", "expected `jwt` or `dev`"),
    };
    Some(Auth { verifier, clock_skew })
}

fn jwt(
    raw: RawAuth,
    skew: Duration,
    files: &Files,
    findings: &mut Findings,
) -> Option<JwtVerifier> {
    let issuer = needed("auth.issuer", raw.issuer, "the exact `iss` of access tokens", findings);
    let audience =
        needed("auth.audience", raw.audience, "what `aud` of access tokens must contain", findings);
    let keys = match (raw.jwks_file, raw.public_key_file) {
        (Some(jwks), None) => Some(("auth.jwks_file", jwks)),
        (None, Some(pem)) => Some(("auth.public_key_file", pem)),
        _ => findings.problem(
            "auth.jwks_file",
            "set exactly one of `jwks_file` and `public_key_file`: the keys that \
             sign access tokens",
        ),
    };
    let (path, file) = keys?;
    let text = files.text(path, &file, findings);
    let (rules, text) = (JwtRules { issuer: issuer?, audience: audience?, skew }, text?);
    let verifier = if path == "auth.jwks_file" {
        JwtVerifier::from_jwks(rules, &text)
    } else {
        JwtVerifier::from_pem(rules, &text)
    };
    verifier.map_err(|error| findings.problem::<()>(path, error)).ok()
}

fn dev(raw: &RawAuth, listen: Option<SocketAddr>, findings: &mut Findings) -> Option<DevVerifier> {
    if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
        return findings.problem(
            "auth.mode",
            "`dev` accepts any token, so server.listen must be a loopback address \
             such as 127.0.0.1; use `jwt` for others",
        );
    }
    let unused = [
        ("issuer", raw.issuer.is_some()),
        ("audience", raw.audience.is_some()),
        ("jwks_file", raw.jwks_file.is_some()),
        ("public_key_file", raw.public_key_file.is_some()),
    ];
    for (name, _) in unused.iter().filter(|(_, given)| *given) {
        findings.problem::<()>(
            format!("auth.{name}"),
            "has no effect with mode `dev`, which accepts any token; remove it or use `jwt`",
        );
    }
    unused.iter().all(|(_, given)| !given).then_some(DevVerifier)
}

fn needed(
    path: &str,
    value: Option<String>,
    what: &str,
    findings: &mut Findings,
) -> Option<String> {
    match value {
        Some(value) if !value.is_empty() => Some(value),
        _ => findings.problem(path, format!("is missing; with mode `jwt` it is {what}")),
    }
}
