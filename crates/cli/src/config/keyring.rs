//! `keyring`: the keys of this KAS.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use kasbah_pkcs11::uri::KeyUri;
use kasbah_trust::{Algorithm, KeyId, PublicKey, SecretSource};
use serde::Deserialize;

use super::{
    Files, names,
    node::{Node, join},
    problems::Findings,
    providers::{Kind, Provider},
};

/// A key of the keyring.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) kid: KeyId,
    pub(crate) algorithm: Algorithm,
    pub(crate) legacy: bool,
    pub(crate) private: Private,
}

/// Where its private part is.
#[derive(Debug)]
pub(crate) enum Private {
    /// In a token.
    Token {
        /// Index of its provider.
        provider: usize,
        uri: KeyUri,
        /// What the token must answer; without it, what the token answers is believed.
        pinned: Option<PublicKey>,
    },
    /// In a file, wrapped by a root key.
    Wrapped {
        /// Index of its provider; without one, the default manager serves it.
        provider: Option<usize>,
        public_key: PublicKey,
        /// base64 text.
        wrapped_key: String,
        /// Name of the entry under `secrets`.
        wrapping_key: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    kid: String,
    algorithm: String,
    provider: Option<String>,
    key: Option<String>,
    public_key_file: Option<PathBuf>,
    wrapped_key_file: Option<PathBuf>,
    wrapping_key: Option<String>,
    #[serde(default)]
    legacy: bool,
}

impl Private {
    /// Index of the provider, if it has one.
    pub(crate) fn provider(&self) -> Option<usize> {
        match self {
            Self::Token { provider, .. } => Some(*provider),
            Self::Wrapped { provider, .. } => *provider,
        }
    }
}

/// What a key may refer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) files: &'a Files,
    pub(crate) providers: &'a [Provider],
    pub(crate) secrets: &'a BTreeMap<String, SecretSource>,
}

/// Reads `keyring`.
pub(crate) fn keyring(
    node: Option<Node>,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<Key> {
    let mut seen = BTreeSet::new();
    let mut keys = Vec::new();
    for node in node.map(|node| node.items(findings)).unwrap_or_default() {
        let path = node.path.clone();
        let Some(raw) = node.read::<RawKey>(findings) else { continue };
        if !seen.insert(raw.kid.clone()) {
            findings.problem::<()>(
                join(&path, "kid"),
                "another key of the keyring has this kid; give one of them another",
            );
        }
        keys.extend(key(&path, &raw, around, findings));
    }
    keys
}

fn key(path: &str, raw: &RawKey, around: Surroundings<'_>, findings: &mut Findings) -> Option<Key> {
    if raw.kid.trim().is_empty() {
        findings.problem::<()>(join(path, "kid"), "is empty; give the key a name");
    }
    let algorithm = raw
        .algorithm
        .parse()
        .map_err(|error| findings.problem::<()>(join(path, "algorithm"), error))
        .ok();
    let provider = provider(path, raw.provider.as_deref(), around, findings)?;
    let public_key = match &raw.public_key_file {
        None => None,
        Some(file) => Some(public_key(path, file, algorithm, around.files, findings)?),
    };
    let (kid, legacy) = (KeyId::from(raw.kid.as_str()), raw.legacy);
    let private = match (&raw.key, &raw.wrapped_key_file) {
        (Some(_), None) => in_token(path, raw, provider, public_key, around, findings)?,
        (None, Some(_)) => wrapped(path, raw, provider, public_key, around, findings)?,
        _ => {
            return findings.problem(
                path,
                "set exactly one of `key` (a key in a provider's token) and \
                 `wrapped_key_file` (a key wrapped by a root key)",
            );
        }
    };
    Some(Key { kid, algorithm: algorithm?, legacy, private })
}

fn in_token(
    path: &str,
    raw: &RawKey,
    provider: Option<usize>,
    pinned: Option<PublicKey>,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Private> {
    if raw.wrapping_key.is_some() {
        return findings.problem(
            join(path, "wrapping_key"),
            "has no effect with `key`: keys in a token are not wrapped; remove it",
        );
    }
    let Some(provider) = provider else {
        return findings.problem(
            join(path, "provider"),
            format!(
                "is missing; name the provider whose token has the key; there are {}",
                provider_names(around.providers)
            ),
        );
    };
    let uri: KeyUri = raw
        .key
        .as_deref()
        .unwrap_or_default()
        .parse()
        .map_err(|error| findings.problem::<()>(join(path, "key"), error))
        .ok()?;
    let named = &around.providers[provider];
    match &named.kind {
        Kind::Hsm(settings) => uri
            .check_token(&settings.token)
            .map_err(|error| findings.problem::<()>(join(path, "key"), error))
            .ok()?,
        Kind::Basic => {
            return findings.problem(
                join(path, "key"),
                format!("provider `{}` has no token; use `wrapped_key_file`", named.config.name),
            );
        }
        Kind::Unknown if named.required => {
            return findings.problem(
                join(path, "provider"),
                format!(
                    "its key manager, `{}`, is not registered, and no other can use a key \
                     that lives there",
                    named.config.manager
                ),
            );
        }
        Kind::Unknown => {}
    }
    Some(Private::Token { provider, uri, pinned })
}

fn wrapped(
    path: &str,
    raw: &RawKey,
    provider: Option<usize>,
    public_key: Option<PublicKey>,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Private> {
    if let Some(named) = provider.map(|index| &around.providers[index])
        && matches!(named.kind, Kind::Hsm(_))
    {
        return findings.problem(
            join(path, "wrapped_key_file"),
            format!(
                "provider `{}` uses keys in its token only; use `key`, or leave `provider` out",
                named.config.name
            ),
        );
    }
    let known = names(around.secrets.keys());
    let wrapping_key = match &raw.wrapping_key {
        None => findings.problem(
            join(path, "wrapping_key"),
            format!(
                "is missing; name the entry under `secrets` that holds the root key; \
                 there are {known}"
            ),
        ),
        Some(name) if around.secrets.contains_key(name) => Some(name.clone()),
        // What was given is not repeated: people put keys there.
        Some(_) => findings.unknown_name(
            join(path, "wrapping_key"),
            &["secrets"],
            format!("no such entry under `secrets`, which has {known}"),
        ),
    };
    let file = raw.wrapped_key_file.as_deref().unwrap_or_else(|| "".as_ref());
    let wrapped_key = around.files.text(&join(path, "wrapped_key_file"), file, findings);
    let public_key = public_key.or_else(|| {
        findings.problem(
            join(path, "public_key_file"),
            "is missing; a wrapped key needs its public key beside it",
        )
    });
    Some(Private::Wrapped {
        provider,
        public_key: public_key?,
        wrapped_key: wrapped_key?.trim().to_owned(),
        wrapping_key: wrapping_key?,
    })
}

/// Outer `None`: named, but not there.
#[expect(clippy::option_option, reason = "a mistake and an absence differ")]
fn provider(
    path: &str,
    name: Option<&str>,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Option<usize>> {
    let Some(name) = name else { return Some(None) };
    match around.providers.iter().position(|provider| provider.config.name == name) {
        Some(index) => Some(Some(index)),
        None => findings.unknown_name(
            join(path, "provider"),
            &["modules", "providers", "secrets"],
            format!(
                "there is no provider `{name}`; there are {}",
                provider_names(around.providers)
            ),
        ),
    }
}

fn public_key(
    path: &str,
    file: &Path,
    algorithm: Option<Algorithm>,
    files: &Files,
    findings: &mut Findings,
) -> Option<PublicKey> {
    let path = join(path, "public_key_file");
    let text = files.text(&path, file, findings)?;
    let key =
        PublicKey::from_pem(&text).map_err(|error| findings.problem::<()>(&path, error)).ok()?;
    match algorithm {
        Some(algorithm) if key.algorithm() != Some(algorithm) => {
            findings.problem(path, format!("is no {algorithm} key; correct it or `algorithm`"))
        }
        _ => Some(key),
    }
}

fn provider_names(providers: &[Provider]) -> String {
    names(providers.iter().map(|provider| &provider.config.name))
}
