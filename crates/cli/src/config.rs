//! The configuration of a server: YAML, then the environment on top.
//!
//! A section is read into a raw struct that knows every key there is, and converted once into types
//! that cannot be wrong; after [`Config::load`] nobody asks whether a name exists or a number fits.
//! Every problem is reported at once, with its path. No secret is read and no token touched.

mod auth;
mod keyring;
mod node;
mod problems;
mod providers;
mod secrets;
mod server;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use config::{Environment as Variables, File, FileFormat, Value};
use kasbah_trust::{Algorithm, SecretSource};

pub(crate) use self::{
    auth::Auth,
    keyring::{Key, Private},
    problems::Problem,
    providers::{Kind, Provider, Rules, TokenSettings},
    server::Server,
};
use self::{node::Node, problems::Findings, providers::Local};
use crate::environment::Environment;

const SECTIONS: [&str; 9] = [
    "auth",
    "custody_floor",
    "kas",
    "key_managers",
    "keyring",
    "modules",
    "providers",
    "secrets",
    "server",
];

/// A configuration that can be used.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) kas_uri: String,
    pub(crate) auth: Auth,
    pub(crate) secrets: BTreeMap<String, SecretSource>,
    pub(crate) modules: BTreeMap<String, PathBuf>,
    /// What the modules need, to be set before any thread exists.
    pub(crate) environment: Environment,
    pub(crate) rules: Rules,
    pub(crate) providers: Vec<Provider>,
    pub(crate) keyring: Vec<Key>,
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
            Some(config) if problems.is_empty() => Ok(Self { warnings, ..config }),
            _ => Err(ConfigError::Wrong { file: file.into(), problems, warnings }),
        }
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
        let server = server::server(section("server"), findings);
        let kas_uri = server::kas(section("kas"), findings);
        let listen = server.as_ref().map(|server| server.listen);
        let auth = auth::auth(section("auth"), listen, files, findings);
        let secrets = secrets::secrets(section("secrets"), files, findings);
        let (modules, environment) = secrets::modules(section("modules"), files, findings);
        let rules = providers::rules(section("key_managers"), section("custody_floor"), findings);
        let rules = rules.unwrap_or_default();
        let local = Local { modules: &modules, secrets: &secrets, rules };
        let providers = providers::providers(section("providers"), local, findings);
        let around = keyring::Surroundings { files, providers: &providers, secrets: &secrets };
        let keyring = keyring::keyring(section("keyring"), around, findings);
        for unknown in sections.into_keys() {
            findings.problem::<()>(unknown, format!("unknown key; there are {}", names(SECTIONS)));
        }
        warn_of_effectless(&providers, &keyring, findings);
        Some(Self {
            server: server?,
            kas_uri: kas_uri?,
            auth: auth?,
            secrets,
            modules,
            environment,
            rules,
            providers,
            keyring,
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
