//! `auth`: which access tokens are good, how they must be proven, and who may call what.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use config::Value;
use kasbah_auth::{
    ClaimNames, DevTokens, DpopSettings, IssuerSettings, KeySource, MemoryReplay, Proof, Proofs,
    RolePolicy, SetupError, TokenRules, TokenVerifier, Tokens,
};
use kasbah_kas::{Idp, MinProof};
use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    Files,
    index::{address, secret},
    node::{Node, join},
    problems::Findings,
};

/// A token that expired a quarter of an hour ago is not a matter of clocks.
const MAX_CLOCK_SKEW_SECONDS: u64 = 900;
/// How long the keys of an issuer may take to be fetched, when nothing is said.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How callers are authenticated, and what they may call.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) tokens: Arc<dyn TokenVerifier>,
    /// Where clients are sent for tokens; `None` if any token will do.
    pub(crate) idp: Option<Idp>,
    /// Issuers that do not say who has which role.
    pub(crate) without_roles: Vec<String>,
    pub(crate) clock_skew: Duration,
    pub(crate) dpop: Dpop,
    /// What every caller must prove.
    pub(crate) min_proof: Proof,
    /// What callers must prove for single keys and providers.
    pub(crate) min_proofs: MinProof,
    pub(crate) claims: ClaimNames,
    pub(crate) roles: Roles,
    pub(crate) srt_lifetime: Option<Duration>,
}

/// How proofs of possession are checked.
#[derive(Debug)]
pub(crate) struct Dpop {
    /// Everything but the secret of nonces.
    pub(crate) settings: DpopSettings,
    /// Where the secret of nonces is, and the name of its entry under `secrets`.
    pub(crate) nonce_secret: Option<(String, SecretSource)>,
    pub(crate) replay: Replay,
}

/// Where used proofs are remembered, how many of them, and of one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replay {
    pub(crate) in_database: bool,
    pub(crate) entries: usize,
    pub(crate) per_key: usize,
}

/// A role policy in casbin form.
#[derive(Debug)]
pub(crate) enum Roles {
    /// Ours, and rules behind it.
    BuiltIn(String),
    /// Another one.
    Replaced(String),
}

/// What `auth` may name.
pub(crate) struct Around<'a> {
    pub(crate) files: &'a Files,
    pub(crate) secrets: &'a BTreeMap<String, SecretSource>,
    /// Where tokens come in, if that is known.
    pub(crate) listen: Option<SocketAddr>,
    /// URI of this KAS, if that is known.
    pub(crate) kas_uri: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    mode: String,
    issuer: Option<String>,
    audience: Option<String>,
    algorithms: Option<Vec<String>>,
    jwks_file: Option<PathBuf>,
    public_key_file: Option<PathBuf>,
    jwks_uri: Option<String>,
    token_endpoint: Option<String>,
    ca_file: Option<PathBuf>,
    issuers: Option<Value>,
    clock_skew_seconds: Option<u64>,
    key_refresh_seconds: Option<u64>,
    key_stale_limit_seconds: Option<u64>,
    fetch_timeout_seconds: Option<u64>,
    cached_tokens: Option<usize>,
    srt_lifetime_seconds: Option<u64>,
    min_proof: Option<Value>,
    dpop: Option<Value>,
    roles: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIssuer {
    issuer: Option<String>,
    audience: Option<String>,
    algorithms: Option<Vec<String>>,
    jwks_file: Option<PathBuf>,
    public_key_file: Option<PathBuf>,
    jwks_uri: Option<String>,
    token_endpoint: Option<String>,
    ca_file: Option<PathBuf>,
    gives_roles: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMinProof {
    server: Option<String>,
    #[serde(default)]
    providers: BTreeMap<String, String>,
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDpop {
    enforce: Option<bool>,
    require_nonce: Option<bool>,
    nonce_seconds: Option<u64>,
    nonce_secret: Option<String>,
    max_age_seconds: Option<u64>,
    skew_seconds: Option<u64>,
    path_only_htu: Option<bool>,
    bound_by_bearer: Option<bool>,
    algorithms: Option<Vec<String>>,
    origins: Option<Vec<String>>,
    replay: Option<String>,
    replay_entries: Option<usize>,
    replay_per_key: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoles {
    username_claim: Option<String>,
    groups_claim: Option<String>,
    client_id_claim: Option<String>,
    policy_file: Option<PathBuf>,
    more_policy_file: Option<PathBuf>,
}

/// Reads `auth`. Names of secrets that it uses are added to `used_secrets`.
pub(crate) fn auth(
    node: Option<Node>,
    around: &Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Auth> {
    let Some(node) = node else {
        return findings
            .problem("auth.mode", "is missing; use `oidc` or `jwt`, or `dev` on your own machine");
    };
    let mut raw = node.read::<RawAuth>(findings)?;
    let rules = rules(&raw, findings);
    let min_proof = min_proof(raw.min_proof.take(), findings);
    let dpop = dpop(raw.dpop.take(), around, used_secrets, findings);
    let roles = roles(raw.roles.take(), around.files, findings);
    let srt_lifetime = raw.srt_lifetime_seconds.map(Duration::from_secs);
    if srt_lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
        findings.problem::<()>("auth.srt_lifetime_seconds", "must be at least 1");
    }
    let (tokens, idp, without_roles): (Arc<dyn TokenVerifier>, _, _) = match raw.mode.as_str() {
        "dev" => (Arc::new(dev(&raw, around.listen, findings)?), None, Vec::new()),
        "jwt" | "oidc" => {
            let (idp, without_roles) = tokens(raw, rules?, around.files, findings)?;
            (Arc::clone(&idp.tokens) as _, Some(idp), without_roles)
        }
        _ => return findings.problem("auth.mode", "expected `oidc`, `jwt` or `dev`"),
    };
    let (server, min_proofs) = min_proof?;
    let (mut dpop, (claims, roles)) = (dpop?, roles?);
    dpop.settings.enforce |= server == Proof::Dpop;
    let clock_skew = rules?.skew;
    Some(Auth {
        tokens,
        idp,
        without_roles,
        clock_skew,
        dpop,
        min_proof: server,
        min_proofs,
        claims,
        roles,
        srt_lifetime,
    })
}

fn rules(raw: &RawAuth, findings: &mut Findings) -> Option<TokenRules> {
    let default = TokenRules::default();
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    let rules = TokenRules {
        skew: seconds(raw.clock_skew_seconds, default.skew),
        refresh: seconds(raw.key_refresh_seconds, default.refresh),
        stale_limit: seconds(raw.key_stale_limit_seconds, default.stale_limit),
        cache_entries: raw.cached_tokens.unwrap_or(default.cache_entries),
        ..default
    };
    if rules.skew.as_secs() > MAX_CLOCK_SKEW_SECONDS {
        return findings.problem(
            "auth.clock_skew_seconds",
            format!("expected at most {MAX_CLOCK_SKEW_SECONDS}; set the clocks instead"),
        );
    }
    if rules.refresh.is_zero() {
        return findings.problem("auth.key_refresh_seconds", "must be at least 1");
    }
    if rules.stale_limit < rules.refresh {
        return findings.problem(
            "auth.key_stale_limit_seconds",
            "is below key_refresh_seconds, so keys would be given up before they are asked for again",
        );
    }
    Some(rules)
}

/// Reads who issues tokens, one issuer in `auth` itself or several in `auth.issuers`, of which clients are
/// sent to the first; and which of them do not say who has which role.
fn tokens(
    raw: RawAuth,
    rules: TokenRules,
    files: &Files,
    findings: &mut Findings,
) -> Option<(Idp, Vec<String>)> {
    let timeout = raw.fetch_timeout_seconds.map_or(FETCH_TIMEOUT, Duration::from_secs);
    let discovers = raw.mode == "oidc";
    let own = RawIssuer {
        issuer: raw.issuer,
        audience: raw.audience,
        algorithms: raw.algorithms,
        jwks_file: raw.jwks_file,
        public_key_file: raw.public_key_file,
        jwks_uri: raw.jwks_uri,
        token_endpoint: raw.token_endpoint,
        ca_file: raw.ca_file,
        gives_roles: None,
    };
    let entries = match raw.issuers {
        None => vec![("auth".to_owned(), own)],
        Some(_) if own.issuer.is_some() => {
            return findings.problem("auth.issuers", "set either `issuer` or `issuers`, not both");
        }
        Some(_) if own.token_endpoint.is_some() => {
            let text = "has no effect beside `issuers`; set it in the first of them";
            return findings.problem("auth.token_endpoint", text);
        }
        Some(list) => {
            let items = Node::new("auth.issuers", list).items(findings);
            let read = |node: Node| Some((node.path.clone(), node.read::<RawIssuer>(findings)?));
            items.into_iter().filter_map(read).collect()
        }
    };
    let is_choice = entries.len() > 1;
    let (mut issuers, mut without_roles, mut token_endpoints) =
        (Vec::new(), Vec::new(), Vec::new());
    for (path, entry) in entries {
        token_endpoints.push(match &entry.token_endpoint {
            Some(text) => token_endpoint(&path, text, findings),
            None => None,
        });
        match entry.gives_roles {
            Some(false) => without_roles.extend(entry.issuer.clone()),
            None if is_choice => findings.warn(
                join(&path, "gives_roles"),
                "is not set, so groups in its tokens make administrators; set it to `true` or `false`",
            ),
            _ => {}
        }
        if let Some(settings) = issuer(&path, entry, discovers, timeout, files, findings) {
            // On its own, so that what is wrong with it is told with its path.
            match Tokens::new(vec![settings.clone()], rules) {
                Ok(_) => issuers.push(settings),
                Err(error) => {
                    findings
                        .problem::<()>(join(&path, setting_of(&error, &settings)), reason(&error));
                }
            }
        }
    }
    if !findings.problems.is_empty() {
        return None;
    }
    let first = issuers.first().map(|first| first.issuer.clone()).unwrap_or_default();
    match Tokens::new(issuers, rules) {
        Ok(tokens) => {
            let token_endpoint = token_endpoints.into_iter().next().flatten();
            let idp = Idp { issuer: first, token_endpoint, tokens: Arc::new(tokens) };
            Some((idp, without_roles))
        }
        Err(error) => findings.problem("auth.issuers", error),
    }
}

/// Clients send their secret there, so it has to be an address that can be one.
fn token_endpoint(path: &str, text: &str, findings: &mut Findings) -> Option<String> {
    let uri = address(&join(path, "token_endpoint"), text, findings)?;
    match uri.scheme_str() {
        Some("http" | "https") => Some(text.to_owned()),
        _ => findings.problem(join(path, "token_endpoint"), "expected an http or https address"),
    }
}

fn issuer(
    path: &str,
    raw: RawIssuer,
    discovers: bool,
    timeout: Duration,
    files: &Files,
    findings: &mut Findings,
) -> Option<IssuerSettings> {
    let issuer =
        needed(&join(path, "issuer"), raw.issuer, "the exact `iss` of access tokens", findings);
    let what = "what `aud` of access tokens must contain";
    let audience = needed(&join(path, "audience"), raw.audience, what, findings);
    let keys = match (raw.jwks_file, raw.public_key_file, discovers) {
        (Some(file), None, _) => {
            KeySource::Jwks(files.text(&join(path, "jwks_file"), &file, findings)?)
        }
        (None, Some(file), _) => {
            KeySource::Pem(files.text(&join(path, "public_key_file"), &file, findings)?)
        }
        (None, None, true) => {
            let jwks_uri = match raw.jwks_uri {
                Some(uri) => Some(address(&join(path, "jwks_uri"), &uri, findings)?),
                None => None,
            };
            let ca_file = raw.ca_file.map(|file| files.resolve(&file));
            KeySource::Discovery { jwks_uri, ca_file, timeout }
        }
        (Some(_), Some(_), _) | (None, None, false) => {
            return findings.problem(
                join(path, "jwks_file"),
                "set exactly one of `jwks_file` and `public_key_file`: the keys that sign access \
                 tokens; or use mode `oidc`, which asks the issuer for them",
            );
        }
    };
    let algorithms = raw.algorithms.unwrap_or_default();
    Some(IssuerSettings { issuer: issuer?, audience: audience?, algorithms, keys })
}

/// The setting that an error is about.
fn setting_of(error: &SetupError, settings: &IssuerSettings) -> &'static str {
    match (error, &settings.keys) {
        (SetupError::Algorithm { .. }, _) => "algorithms",
        (SetupError::Audience(_), _) => "audience",
        (SetupError::JwksUri(_), _) => "jwks_uri",
        (SetupError::Tls { .. }, _) => "ca_file",
        (SetupError::Keys { .. }, KeySource::Pem(_)) => "public_key_file",
        (SetupError::Keys { .. }, _) => "jwks_file",
        _ => "issuer",
    }
}

/// The path says already which issuer it is.
fn reason(error: &SetupError) -> String {
    match error {
        SetupError::Keys { source, .. } => source.to_string(),
        SetupError::Tls { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn dev(raw: &RawAuth, listen: Option<SocketAddr>, findings: &mut Findings) -> Option<DevTokens> {
    if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
        return findings.problem(
            "auth.mode",
            "`dev` accepts any token, so server.listen must be a loopback address \
             such as 127.0.0.1; use `oidc` or `jwt` for others",
        );
    }
    let unused = [
        ("issuer", raw.issuer.is_some()),
        ("issuers", raw.issuers.is_some()),
        ("audience", raw.audience.is_some()),
        ("jwks_file", raw.jwks_file.is_some()),
        ("jwks_uri", raw.jwks_uri.is_some()),
        ("token_endpoint", raw.token_endpoint.is_some()),
        ("public_key_file", raw.public_key_file.is_some()),
    ];
    for (name, _) in unused.iter().filter(|(_, given)| *given) {
        findings.problem::<()>(
            format!("auth.{name}"),
            "has no effect with mode `dev`, which accepts any token; remove it or use `jwt`",
        );
    }
    unused.iter().all(|(_, given)| !given).then_some(DevTokens)
}

/// `min_proof`: one word for the whole server, or a map.
fn min_proof(value: Option<Value>, findings: &mut Findings) -> Option<(Proof, MinProof)> {
    let Some(value) = value else { return Some((Proof::Bearer, MinProof::default())) };
    let path = "auth.min_proof";
    if let Ok(word) = value.clone().into_string()
        && !matches!(value.kind, config::ValueKind::Table(_))
    {
        return Some((proof(path, &word, findings)?, MinProof::default()));
    }
    let raw = Node::new(path, value).read::<RawMinProof>(findings)?;
    let server = match raw.server {
        Some(word) => proof(&join(path, "server"), &word, findings)?,
        None => Proof::Bearer,
    };
    let mut read = |name: &str, words: BTreeMap<String, String>| {
        let path = join(path, name);
        let proofs = words
            .into_iter()
            .map(|(of, word)| Some((of.clone(), proof(&join(&path, &of), &word, findings)?)));
        proofs.collect::<Option<BTreeMap<_, _>>>()
    };
    let (providers, keys) = (read("providers", raw.providers), read("keys", raw.keys));
    Some((server, MinProof { providers: providers?, keys: keys? }))
}

fn proof(path: &str, word: &str, findings: &mut Findings) -> Option<Proof> {
    let all = [Proof::Bearer, Proof::Dpop, Proof::Mtls];
    all.into_iter()
        .find(|proof| proof.as_str() == word)
        .or_else(|| findings.problem(path, "expected `bearer`, `dpop` or `mtls`"))
}

fn dpop(
    value: Option<Value>,
    around: &Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Dpop> {
    let raw = match value {
        Some(value) => Node::new("auth.dpop", value).read::<RawDpop>(findings)?,
        None => RawDpop::default(),
    };
    // Without a KAS URI there is a problem already.
    if around.kas_uri.is_some()
        && let Err(error) = Proofs::new(settings(&raw, around), Arc::new(MemoryReplay::default()))
    {
        findings.problem::<()>("auth.dpop", error);
    }
    let settings = settings(&raw, around);
    let nonce_secret = match raw.nonce_secret {
        Some(name) => {
            used_secrets.push(name.clone());
            let source = secret("auth.dpop.nonce_secret", &name, around.secrets, findings)?;
            Some((name, source))
        }
        None => None,
    };
    let replay = match raw.replay.as_deref().unwrap_or("node") {
        word @ ("node" | "database") => Replay {
            in_database: word == "database",
            entries: raw.replay_entries.unwrap_or(100_000),
            per_key: raw.replay_per_key.unwrap_or(10_000),
        },
        _ => return findings.problem("auth.dpop.replay", "expected `node` or `database`"),
    };
    if replay.entries == 0 || replay.per_key == 0 {
        findings.problem::<()>("auth.dpop.replay_entries", "no proof could be remembered");
    }
    Some(Dpop { settings, nonce_secret, replay })
}

fn settings(raw: &RawDpop, around: &Around<'_>) -> DpopSettings {
    let default = DpopSettings::default();
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    let own_origin = || around.kas_uri.and_then(origin_of).into_iter().collect();
    DpopSettings {
        enforce: raw.enforce.unwrap_or(default.enforce),
        require_nonce: raw.require_nonce.unwrap_or(default.require_nonce),
        nonce_period: seconds(raw.nonce_seconds, default.nonce_period),
        nonce_secret: None,
        max_age: seconds(raw.max_age_seconds, default.max_age),
        skew: seconds(raw.skew_seconds, default.skew),
        path_only_htu: raw.path_only_htu.unwrap_or(default.path_only_htu),
        bound_by_bearer: raw.bound_by_bearer.unwrap_or(default.bound_by_bearer),
        algorithms: raw.algorithms.clone().unwrap_or(default.algorithms),
        origins: raw.origins.clone().unwrap_or_else(own_origin),
    }
}

/// `scheme://host[:port]` of a URI.
fn origin_of(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    Some(format!("{scheme}://{}", rest.split(['/', '?', '#']).next()?))
}

fn roles(
    value: Option<Value>,
    files: &Files,
    findings: &mut Findings,
) -> Option<(ClaimNames, Roles)> {
    let raw = match value {
        Some(value) => Node::new("auth.roles", value).read::<RawRoles>(findings)?,
        None => RawRoles::default(),
    };
    let default = ClaimNames::default();
    let claims = ClaimNames {
        username: raw.username_claim.unwrap_or(default.username),
        groups: raw.groups_claim.unwrap_or(default.groups),
        client_id: raw.client_id_claim.unwrap_or(default.client_id),
    };
    let mut read = |name: &str, file: &Path| {
        let path = join("auth.roles", name);
        let csv = files.text(&path, file, findings)?;
        RolePolicy::check(&csv).map_err(|error| findings.problem::<()>(path, error)).ok()?;
        Some(csv)
    };
    let roles = match (raw.policy_file, raw.more_policy_file) {
        (Some(_), Some(_)) => {
            return findings.problem(
                "auth.roles.more_policy_file",
                "has no effect beside `policy_file`, which replaces the whole policy",
            );
        }
        (Some(file), None) => Roles::Replaced(read("policy_file", &file)?),
        (None, Some(file)) => Roles::BuiltIn(read("more_policy_file", &file)?),
        (None, None) => Roles::BuiltIn(String::new()),
    };
    Some((claims, roles))
}

fn needed(
    path: &str,
    value: Option<String>,
    what: &str,
    findings: &mut Findings,
) -> Option<String> {
    match value {
        Some(value) if !value.is_empty() => Some(value),
        _ => findings.problem(path, format!("is missing; it is {what}")),
    }
}
