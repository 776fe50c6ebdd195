//! `registry`, `platform`, `key_cache` and `root_keys`: where keys are found.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use kasbah_index::CacheRules;
use kasbah_platform::{ClientCredentials, PlatformConfig, Uri};
use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    Files, names,
    node::{Node, join},
    problems::Findings,
};

/// Where keys are found.
#[derive(Debug)]
pub(crate) enum KeyIndex {
    /// In the configuration.
    Keyring,
    /// In a database of our own, with the services to keep it.
    Registry(RegistrySettings),
    /// On an OpenTDF platform.
    Platform(Box<PlatformConfig>),
}

/// The database of the control plane.
#[derive(Debug, Clone)]
pub(crate) struct RegistrySettings {
    /// `sqlite:PATH` or `postgres://USER@HOST:PORT/NAME`, without a password.
    pub(crate) database: String,
    /// The password of a PostgreSQL user, and the name of its entry under `secrets`.
    pub(crate) password: Option<(String, SecretSource)>,
}

/// Which of them a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Keyring,
    Registry,
    Platform,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegistry {
    database: String,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlatform {
    endpoint: String,
    ca_file: Option<PathBuf>,
    token_endpoint: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    page_size: Option<u16>,
    request_timeout_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    entries: Option<usize>,
    ttl_seconds: Option<u64>,
    stale_limit_seconds: Option<u64>,
}

/// What sections may name.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) files: &'a Files,
    pub(super) secrets: &'a BTreeMap<String, SecretSource>,
}

/// Reads the section of the index that is wanted; another must not be there. Names of secrets that
/// it uses are added to `used_secrets`.
pub(super) fn index(
    wanted: Wanted,
    registry_section: Option<Node>,
    platform: Option<&PlatformConfig>,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<KeyIndex> {
    if registry_section.is_some() && wanted != Wanted::Registry {
        findings.problem::<()>(
            "registry",
            "has no effect without `kas.key_index: registry`; set that or remove this",
        );
    }
    match wanted {
        Wanted::Keyring => Some(KeyIndex::Keyring),
        Wanted::Registry => match registry_section {
            Some(node) => {
                let index = registry(node, around.files, around.secrets, findings);
                if let Some(KeyIndex::Registry(settings)) = &index {
                    used_secrets.extend(settings.password.iter().map(|(name, _)| name.clone()));
                }
                index
            }
            None => findings.problem(
                "registry.database",
                "is missing; give `sqlite:FILE` or `postgres://USER@HOST:PORT/NAME`",
            ),
        },
        Wanted::Platform => match platform {
            Some(platform) => Some(KeyIndex::Platform(Box::new(platform.clone()))),
            // What is wrong with it is told where it is read.
            None if findings.is_doubtful("platform") => None,
            None => findings.problem(
                "platform.endpoint",
                "is missing; give the address of the platform, for example https://platform:443",
            ),
        },
    }
}

fn registry(
    node: Node,
    files: &Files,
    secrets: &BTreeMap<String, SecretSource>,
    findings: &mut Findings,
) -> Option<KeyIndex> {
    let path = node.path.clone();
    let raw = node.read::<RawRegistry>(findings)?;
    let database = database(&join(&path, "database"), raw.database, files, findings);
    let password = match raw.password {
        None => None,
        Some(name) => {
            let source = secret(&join(&path, "password"), &name, secrets, findings)?;
            Some((name, source))
        }
    };
    let database = database?;
    if password.is_some() && database.starts_with("sqlite:") {
        return findings.problem(join(&path, "password"), "has no effect on a file of SQLite");
    }
    Some(KeyIndex::Registry(RegistrySettings { database, password }))
}

fn database(path: &str, url: String, files: &Files, findings: &mut Findings) -> Option<String> {
    if let Some(file) = url.strip_prefix("sqlite:").filter(|file| !file.is_empty()) {
        return Some(format!("sqlite:{}", files.resolve(file.as_ref()).display()));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let authority = url.split("//").nth(1).unwrap_or_default();
        let user = authority.split('@').next().filter(|_| authority.contains('@'));
        let in_query = authority.split_once('?').is_some_and(|(_, q)| q.contains("password"));
        if in_query || user.is_some_and(|user| user.contains(':')) {
            return findings.problem(
                path,
                "holds a password; take it out and name an entry of `secrets` in \
                 `registry.password`",
            );
        }
        return Some(url);
    }
    findings.problem(path, "expected `sqlite:FILE` or `postgres://USER@HOST:PORT/NAME`")
}

/// Reads `platform`. Names of secrets that it uses are added to `used_secrets`.
pub(super) fn platform(
    node: Node,
    Around { files, secrets }: Around<'_>,
    kas_uri: &str,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<PlatformConfig> {
    let path = node.path.clone();
    let raw = node.read::<RawPlatform>(findings)?;
    let endpoint = address(&join(&path, "endpoint"), &raw.endpoint, findings);
    used_secrets.extend(raw.client_secret.clone());
    let auth = match (raw.token_endpoint, raw.client_id, raw.client_secret) {
        (None, None, None) => {
            findings.warn(&path, "names no client, so the platform is asked without a token");
            None
        }
        (Some(token_endpoint), Some(client_id), Some(client_secret)) => Some(ClientCredentials {
            token_endpoint: address(&join(&path, "token_endpoint"), &token_endpoint, findings)?,
            client_id,
            client_secret: secret(
                &join(&path, "client_secret"),
                &client_secret,
                secrets,
                findings,
            )?,
            scope: raw.scope,
        }),
        _ => {
            return findings.problem(
                &path,
                "set all of `token_endpoint`, `client_id` and `client_secret`, or none",
            );
        }
    };
    if raw.page_size.is_some_and(|size| !(1..=2500).contains(&size)) {
        findings.problem::<()>("platform.page_size", "expected 1 to 2500");
    }
    let endpoint = endpoint?;
    let token_endpoint = auth.as_ref().map(|auth| ("token_endpoint", &auth.token_endpoint));
    for (setting, uri) in [("endpoint", &endpoint)].into_iter().chain(token_endpoint) {
        let is_local =
            uri.host().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
        if uri.scheme_str() == Some("http") && !is_local {
            let text = "is plain http: keys, tokens and secrets can be read and changed on the way";
            findings.warn(join(&path, setting), text);
        }
    }
    let default = PlatformConfig::new(endpoint, kas_uri);
    let timeout = raw.request_timeout_seconds.filter(|seconds| *seconds > 0);
    Some(PlatformConfig {
        ca_file: raw.ca_file.map(|file| files.resolve(&file)),
        auth,
        page_size: raw.page_size.unwrap_or(default.page_size),
        request_timeout: timeout.map_or(default.request_timeout, Duration::from_secs),
        ..default
    })
}

pub(super) fn address(path: &str, text: &str, findings: &mut Findings) -> Option<Uri> {
    match text.parse::<Uri>() {
        Ok(uri) if uri.host().is_some() && uri.scheme_str().is_some() => Some(uri),
        _ => findings.problem(path, "expected an absolute http or https address"),
    }
}

pub(super) fn secret(
    path: &str,
    name: &str,
    secrets: &BTreeMap<String, SecretSource>,
    findings: &mut Findings,
) -> Option<SecretSource> {
    // What was given is not repeated: people put passwords there.
    secrets.get(name).cloned().or_else(|| {
        let known = names(secrets.keys());
        let text = format!("no such entry under `secrets`, which has {known}");
        findings.unknown_name(path, &["secrets"], text)
    })
}

/// Reads `key_cache`.
pub(super) fn cache(node: Option<Node>, findings: &mut Findings) -> Option<CacheRules> {
    let raw = match node {
        Some(node) => node.read::<RawCache>(findings)?,
        None => RawCache::default(),
    };
    let default = CacheRules::default();
    if raw.entries == Some(0) {
        return findings.problem("key_cache.entries", "must be at least 1");
    }
    let seconds = |value: Option<u64>, or| value.map_or(or, Duration::from_secs);
    Some(CacheRules {
        capacity: raw.entries.unwrap_or(default.capacity),
        ttl: seconds(raw.ttl_seconds, default.ttl),
        stale_limit: seconds(raw.stale_limit_seconds, default.stale_limit),
        ..default
    })
}

/// Reads `root_keys`: names of secrets, the first for stored keys that name none.
pub(super) fn root_keys(
    node: Option<Node>,
    secrets: &BTreeMap<String, SecretSource>,
    findings: &mut Findings,
) -> Vec<String> {
    let items = node.map(|node| node.items(findings)).unwrap_or_default();
    let mut root_keys = Vec::new();
    for node in items {
        let path = node.path.clone();
        let Some(name) = node.text(findings) else { continue };
        if secret(&path, &name, secrets, findings).is_some() {
            root_keys.push(name);
        }
    }
    root_keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_database_has_no_password_in_its_url() {
        let files = Files::beside(Path::new("/etc/kasbah/kasbah.yaml")).unwrap();
        for (url, expected) in [
            ("sqlite:registry.db", Ok("sqlite:/etc/kasbah/registry.db")),
            ("sqlite:/var/lib/r.db", Ok("sqlite:/var/lib/r.db")),
            ("postgres://kasbah@db:5432/kasbah", Ok("postgres://kasbah@db:5432/kasbah")),
            ("postgres://db/kasbah?sslmode=require", Ok("postgres://db/kasbah?sslmode=require")),
            ("postgres://kasbah:hunter2@db/kasbah", Err("holds a password")),
            ("postgres://kasbah@db/kasbah?password=hunter2", Err("holds a password")),
            ("postgresql://db/kasbah?user=x&password=hunter2", Err("holds a password")),
            ("mysql://db/kasbah", Err("expected `sqlite:FILE`")),
            ("sqlite:", Err("expected `sqlite:FILE`")),
        ] {
            let mut findings = Findings::default();
            let found = database("registry.database", url.to_owned(), &files, &mut findings);
            assert_eq!(found.as_deref(), expected.ok(), "{url}");
            let told = findings.problems.iter().map(ToString::to_string).collect::<String>();
            assert!(told.contains(expected.err().unwrap_or_default()), "{url}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
