//! The configuration of a server: YAML, then the environment on top.
//!
//! A section is read into a raw struct that knows every key there is, and converted once into types
//! that cannot be wrong; after [`Config::load`] nobody asks whether a name exists or a number fits.
//! Every problem is reported at once, with its path. No secret is read and no token touched.

mod audit;
mod auth;
mod decisions;
mod index;
mod keyring;
mod node;
mod problems;
mod providers;
mod secrets;
mod server;
mod telemetry;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use config::{Environment as Variables, File, FileFormat, Value};
use kasbah_index::CacheRules;
use kasbah_trust::{Algorithm, KeyId, SecretSource};

pub(crate) use self::{
    audit::Audit,
    auth::{Auth, Roles},
    decisions::{Decider, Decisions},
    index::{KeyIndex, RegistrySettings},
    keyring::{Key, Private},
    problems::Problem,
    providers::{Kind, MANAGERS, Provider, Rules, TokenSettings},
    server::{Server, TlsSettings},
    telemetry::{Otlp, Telemetry},
};
use self::{index::Wanted, node::Node, problems::Findings, providers::Local};
use crate::environment::Environment;

const SECTIONS: [&str; 16] = [
    "audit",
    "auth",
    "custody_floor",
    "decisions",
    "kas",
    "key_cache",
    "key_managers",
    "keyring",
    "modules",
    "platform",
    "providers",
    "registry",
    "root_keys",
    "secrets",
    "server",
    "telemetry",
];

/// A configuration that can be used.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) kas_uri: String,
    /// A key of the keyring.
    pub(crate) base_key: Option<KeyId>,
    pub(crate) auth: Auth,
    pub(crate) decisions: Decisions,
    pub(crate) audit: Audit,
    pub(crate) telemetry: Telemetry,
    pub(crate) secrets: BTreeMap<String, SecretSource>,
    pub(crate) modules: BTreeMap<String, PathBuf>,
    /// What the modules need, to be set before any thread exists.
    pub(crate) environment: Environment,
    pub(crate) rules: Rules,
    pub(crate) providers: Vec<Provider>,
    pub(crate) keyring: Vec<Key>,
    pub(crate) index: KeyIndex,
    pub(crate) cache: CacheRules,
    /// Names of secrets; the first is for stored keys that name none.
    pub(crate) root_keys: Vec<String>,
    /// Names of secrets that are no PINs: of a database, a platform, nonces, the audit log, TLS,
    /// collectors.
    other_secrets: Vec<String>,
    /// Where it was read.
    pub(crate) file: PathBuf,
    /// What is worth a look.
    pub(crate) warnings: Vec<Problem>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read as YAML at all.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It can be read, but not used.
    #[error("{}: {}", file.display(), Lines(problems))]
    Wrong {
        /// Which file.
        file: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
        /// What is worth a look besides.
        warnings: Vec<Problem>,
    },
}

impl Config {
    /// Reads a configuration file and the environment.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |reason: String| ConfigError::Unreadable { file: file.into(), reason };
        let text = fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        let files = Files::beside(file).map_err(|error| unreadable(error.to_string()))?;
        let sections = read(&text).map_err(|error| unreadable(error.to_string()))?;
        let mut findings = Findings::default();
        let config = Self::convert(sections, &files, &mut findings);
        let Findings { problems, warnings } = findings;
        match config {
            Some(config) if problems.is_empty() => {
                Ok(Self { warnings, file: file.into(), ..config })
            }
            _ => Err(ConfigError::Wrong { file: file.into(), problems, warnings }),
        }
    }

    /// The secrets that a provider configuration may name as a PIN: all that nothing else uses.
    /// Whoever may write one could otherwise have the root key tried on a token, which locks.
    pub(crate) fn pins(&self) -> BTreeMap<String, SecretSource> {
        let mut pins = self.secrets.clone();
        let of_keyring = self.keyring.iter().filter_map(|key| match &key.private {
            Private::Wrapped { wrapping_key, .. } => Some(wrapping_key),
            Private::Token { .. } => None,
        });
        for name in self.root_keys.iter().chain(of_keyring).chain(&self.other_secrets) {
            pins.remove(name);
        }
        pins
    }

    /// The settings of the token of the `opentdf.io/hsm` provider of this name.
    pub(crate) fn token_of(&self, provider: &str) -> Option<&TokenSettings> {
        let found = self.providers.iter().find(|known| known.config.name == provider)?;
        match &found.kind {
            Kind::Hsm(settings) => Some(settings),
            Kind::Basic | Kind::Unknown => None,
        }
    }

    fn convert(
        mut sections: BTreeMap<String, Value>,
        files: &Files,
        findings: &mut Findings,
    ) -> Option<Self> {
        let mut section = |name: &str| Some(Node::new(name, sections.remove(name)?));
        let mut other_secrets = Vec::new();
        let secrets = secrets::secrets(section("secrets"), files, findings);
        let around = index::Around { files, secrets: &secrets };
        let server = server::server(section("server"), around, &mut other_secrets, findings);
        let kas = server::kas(section("kas"), findings);
        let around_auth = auth::Around {
            files,
            secrets: &secrets,
            listen: server.as_ref().map(|server| server.listen),
            kas_uri: kas.as_ref().map(|kas| kas.uri.as_str()),
        };
        let auth = auth::auth(section("auth"), &around_auth, &mut other_secrets, findings);
        let audit = audit::audit(section("audit"), around, &mut other_secrets, findings);
        let telemetry =
            telemetry::telemetry(section("telemetry"), around, &mut other_secrets, findings);
        let (modules, environment) = secrets::modules(section("modules"), files, findings);
        let rules = providers::rules(section("key_managers"), section("custody_floor"), findings);
        let rules = rules.unwrap_or_default();
        let local = Local { modules: &modules, secrets: &secrets, rules };
        let providers = providers::providers(section("providers"), local, findings);
        let surroundings =
            keyring::Surroundings { files, providers: &providers, secrets: &secrets };
        let keyring = keyring::keyring(section("keyring"), surroundings, findings);
        let root_keys = index::root_keys(section("root_keys"), &secrets, findings);
        let cache = index::cache(section("key_cache"), findings);
        let (registry, platform, decisions) =
            (section("registry"), section("platform"), section("decisions"));
        for unknown in sections.into_keys() {
            findings.problem::<()>(unknown, format!("unknown key; there are {}", names(SECTIONS)));
        }
        let server::Kas { uri: kas_uri, index: wanted, base_key } = kas?;
        let has_platform = platform.is_some();
        let platform = platform
            .and_then(|node| index::platform(node, around, &kas_uri, &mut other_secrets, findings));
        let index =
            index::index(wanted, registry, platform.as_ref(), around, &mut other_secrets, findings);
        let around_decisions = decisions::Around {
            files,
            platform: platform.as_ref(),
            has_registry: wanted == Wanted::Registry,
        };
        let decisions = decisions::decisions(decisions, &around_decisions, findings);
        let is_used = wanted == Wanted::Platform
            || decisions.as_ref().is_none_or(|d| matches!(d.by, Decider::Platform(..)));
        if has_platform && !is_used {
            findings.problem::<()>(
                "platform",
                "has no effect without `kas.key_index: platform` or `decisions.mode: platform`; set \
                 one of them or remove this",
            );
        }
        match wanted {
            Wanted::Keyring => {
                check_base_key(base_key.as_ref(), &keyring, findings);
                warn_of_effectless(&providers, &keyring, findings);
            }
            _ if index.is_some() => refuse_effectless(wanted, &providers, &keyring, findings),
            _ => {}
        }
        Some(Self {
            server: server?,
            kas_uri,
            base_key,
            auth: auth?,
            decisions: decisions?,
            audit: audit?,
            telemetry: telemetry?,
            secrets,
            modules,
            environment,
            rules,
            providers,
            keyring,
            index: index?,
            cache: cache?,
            root_keys,
            other_secrets,
            file: PathBuf::new(),
            warnings: Vec::new(),
        })
    }
}

fn read(text: &str) -> Result<BTreeMap<String, Value>, config::ConfigError> {
    let variables = Variables::with_prefix("KASBAH").prefix_separator("__").separator("__");
    config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Yaml))
        .add_source(variables.try_parsing(true))
        .build()?
        .try_deserialize()
}

fn check_base_key(base_key: Option<&KeyId>, keyring: &[Key], findings: &mut Findings) {
    if let Some(kid) = base_key
        && !keyring.iter().any(|key| key.kid == *kid)
    {
        let text = format!(
            "the keyring has no key `{kid}`; it has {}",
            names(keyring.iter().map(|key| &key.kid))
        );
        findings.unknown_name::<()>("kas.base_key", &["keyring"], text);
    }
}

fn warn_of_effectless(providers: &[Provider], keyring: &[Key], findings: &mut Findings) {
    if keyring.is_empty() {
        findings.warn("keyring", "has no keys, so nothing can be rewrapped");
    }
    for (index, key) in keyring.iter().enumerate() {
        if key.legacy && key.algorithm != Algorithm::Rsa2048 {
            let path = format!("keyring[{index}].legacy");
            findings.warn(path, "has no effect: only rsa:2048 keys are tried without a kid");
        }
    }
    for (index, provider) in providers.iter().enumerate() {
        if !keyring.iter().any(|key| key.private.provider() == Some(index)) {
            let name = &provider.config.name;
            findings.warn(
                format!("providers[{index}]"),
                format!("no key of the keyring uses `{name}`"),
            );
        }
    }
}

/// What another index than the keyring does not look at.
fn refuse_effectless(
    wanted: Wanted,
    providers: &[Provider],
    keyring: &[Key],
    findings: &mut Findings,
) {
    if !keyring.is_empty() {
        findings.problem::<()>(
            "keyring",
            "has no effect with this `kas.key_index`; register its keys with `kasbah keys import`",
        );
    }
    if wanted == Wanted::Platform && !providers.is_empty() {
        findings.problem::<()>(
            "providers",
            "has no effect with `kas.key_index: platform`, which has them from the platform",
        );
    }
}

/// Files named by a configuration.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Files beside the configuration `file`.
    fn beside(file: &Path) -> std::io::Result<Self> {
        let file = std::path::absolute(file)?;
        Ok(Self { directory: file.parent().unwrap_or(&file).into() })
    }

    /// A path relative to the configuration.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// The text of the file that the setting at `path` names.
    pub(crate) fn text(&self, path: &str, file: &Path, findings: &mut Findings) -> Option<String> {
        let file = self.resolve(file);
        fs::read_to_string(&file)
            .map_err(|error| {
                findings.problem::<()>(path, format!("cannot read {} ({error})", file.display()))
            })
            .ok()
    }
}

/// Problems as people read them.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [only] => write!(f, "{only}"),
            all => {
                write!(f, "{} problems", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// Names as people read them.
pub(crate) fn names(names: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
