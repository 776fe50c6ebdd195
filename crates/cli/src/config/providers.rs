//! `key_managers`, `custody_floor` and `providers`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use config::Value;
use kasbah_trust::{CustodyPolicy, ProviderConfig, SecretSource, UnknownManager};
use serde::Deserialize;

use super::{
    names,
    node::{Node, join},
    problems::Findings,
};

/// The managers of this build.
pub(crate) const MANAGERS: [&str; 2] = [kasbah_basic::MANAGER, kasbah_pkcs11::MANAGER];

/// What the local configuration says of key managers in general.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) unknown: UnknownManager,
    pub(crate) custody_floor: CustodyPolicy,
}

impl Default for Rules {
    fn default() -> Self {
        Self { unknown: UnknownManager::Default, custody_floor: CustodyPolicy::Transient }
    }
}

/// A provider configuration.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    pub(crate) config: Arc<ProviderConfig>,
    /// Whether the server may not start without it.
    pub(crate) required: bool,
    pub(crate) kind: Kind,
}

/// What serves a provider.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Basic,
    Hsm(TokenSettings),
    /// Nobody registered its manager.
    Unknown,
}

/// How to reach the token of an `opentdf.io/hsm` provider.
#[derive(Debug, Clone)]
pub(crate) struct TokenSettings {
    pub(crate) module: PathBuf,
    /// Name of the entry under `modules`.
    pub(crate) module_name: String,
    pub(crate) token: String,
    pub(crate) slot: Option<u64>,
    pub(crate) pin: SecretSource,
    /// Name of the entry under `secrets`.
    pub(crate) pin_name: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKeyManagers {
    unknown: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    name: String,
    manager: Option<String>,
    #[serde(default = "empty")]
    config: Value,
    required: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHsm {
    module: String,
    token: String,
    pin: String,
    slot: Option<u64>,
    custody: Option<String>,
    workers: Option<usize>,
    queue: Option<usize>,
    open_keys: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBasic {}

fn empty() -> Value {
    Value::new(None, config::Map::<String, Value>::new())
}

/// Reads `key_managers` and `custody_floor`.
pub(crate) fn rules(
    managers: Option<Node>,
    floor: Option<Node>,
    findings: &mut Findings,
) -> Option<Rules> {
    let raw = match managers {
        Some(node) => node.read::<RawKeyManagers>(findings)?,
        None => RawKeyManagers::default(),
    };
    let unknown = match raw.unknown.as_deref() {
        None | Some("default") => UnknownManager::Default,
        Some("refuse") => UnknownManager::Refuse,
        Some(_) => {
            return findings.problem("key_managers.unknown", "expected `default` or `refuse`");
        }
    };
    let custody_floor = match floor {
        None => CustodyPolicy::Transient,
        Some(node) => custody("custody_floor", &node.text(findings)?, findings)?,
    };
    Some(Rules { unknown, custody_floor })
}

/// What a node has that provider configurations may name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local<'a> {
    pub(crate) modules: &'a BTreeMap<String, PathBuf>,
    pub(crate) secrets: &'a BTreeMap<String, SecretSource>,
    pub(crate) rules: Rules,
}

/// Reads `providers`.
pub(crate) fn providers(
    node: Option<Node>,
    local: Local<'_>,
    findings: &mut Findings,
) -> Vec<Provider> {
    let mut seen = BTreeSet::new();
    let mut providers = Vec::new();
    for node in node.map(|node| node.items(findings)).unwrap_or_default() {
        let path = node.path.clone();
        let Some(provider) = provider(node, local, findings) else { continue };
        if !seen.insert(provider.config.name.clone()) {
            findings.problem::<()>(
                join(&path, "name"),
                "another provider has this name; keys could not tell them apart",
            );
        }
        providers.push(provider);
    }
    providers
}

fn provider(node: Node, local: Local<'_>, findings: &mut Findings) -> Option<Provider> {
    let path = node.path.clone();
    let raw = node.read::<RawProvider>(findings)?;
    if raw.name.is_empty() {
        return findings.problem(join(&path, "name"), "is empty; give the provider a name");
    }
    let manager = raw.manager.unwrap_or_else(|| raw.name.clone());
    let config_json = json(raw.config.clone());
    let config = Node::new(join(&path, "config"), raw.config);
    let required = raw.required.unwrap_or(true);
    let kind = match manager.as_str() {
        kasbah_basic::MANAGER => {
            config.read::<RawBasic>(findings).map(|RawBasic {}| Kind::Basic)?
        }
        kasbah_pkcs11::MANAGER => Kind::Hsm(hsm(config, local, findings)?),
        _ => unknown(&join(&path, "manager"), &manager, local.rules.unknown, findings)?,
    };
    let config = ProviderConfig { name: raw.name, manager, config_json, version: 1 };
    Some(Provider { config: Arc::new(config), required, kind })
}

fn unknown(
    path: &str,
    manager: &str,
    rule: UnknownManager,
    findings: &mut Findings,
) -> Option<Kind> {
    let known = format!("this build has {}", MANAGERS.join(" and "));
    match rule {
        UnknownManager::Refuse => findings.problem(
            path,
            format!("`{manager}` is not registered, and key_managers.unknown is `refuse`; {known}"),
        ),
        UnknownManager::Default => {
            findings.warn(
                path,
                format!(
                    "`{manager}` is not registered; keys wrapped by a root key are tried \
                     with {}, others cannot be served; {known}",
                    kasbah_basic::MANAGER
                ),
            );
            Some(Kind::Unknown)
        }
    }
}

fn hsm(node: Node, local: Local<'_>, findings: &mut Findings) -> Option<TokenSettings> {
    let path = node.path.clone();
    let raw = node.read::<RawHsm>(findings)?;
    let module = local.modules.get(&raw.module).cloned().or_else(|| {
        findings.unknown_name(
            join(&path, "module"),
            &["modules"],
            format!("no such entry under `modules`, which has {}", names(local.modules.keys())),
        )
    });
    // What was given is not repeated: people put PINs there.
    let pin = local.secrets.get(&raw.pin).cloned().or_else(|| {
        findings.unknown_name(
            join(&path, "pin"),
            &["secrets"],
            format!(
                "no such entry under `secrets`, which has {}; name an entry, never \
                 write a PIN here",
                names(local.secrets.keys())
            ),
        )
    });
    if raw.token.is_empty() {
        findings.problem::<()>(join(&path, "token"), "is empty; give the label of a token");
    }
    bounded(&join(&path, "workers"), raw.workers, kasbah_pkcs11::config::MAX_WORKERS, findings);
    bounded(&join(&path, "queue"), raw.queue, kasbah_pkcs11::config::MAX_QUEUE, findings);
    let most = kasbah_pkcs11::config::MAX_OPEN_KEYS;
    bounded(&join(&path, "open_keys"), raw.open_keys, most, findings);
    if let Some(text) = &raw.custody {
        let path = join(&path, "custody");
        let policy = custody(&path, text, findings);
        if policy.is_some_and(|policy| policy < local.rules.custody_floor) {
            findings.problem::<()>(
                path,
                format!("is below custody_floor, `{}`", local.rules.custody_floor.as_str()),
            );
        }
    }
    Some(TokenSettings {
        module: module?,
        module_name: raw.module,
        token: raw.token,
        slot: raw.slot,
        pin: pin?,
        pin_name: raw.pin,
    })
}

fn bounded(path: &str, value: Option<usize>, most: usize, findings: &mut Findings) {
    if value.is_some_and(|value| !(1..=most).contains(&value)) {
        findings.problem::<()>(path, format!("expected 1 to {most}"));
    }
}

fn custody(path: &str, text: &str, findings: &mut Findings) -> Option<CustodyPolicy> {
    text.parse().map_err(|expected: &str| findings.problem::<()>(path, expected)).ok()
}

/// The settings of a provider as its manager reads them.
fn json(value: Value) -> String {
    value.try_deserialize::<serde_json::Value>().unwrap_or_default().to_string()
}
