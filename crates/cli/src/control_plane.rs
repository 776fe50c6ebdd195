//! The control plane in the process of a server: its database, its services, and what keeps the key
//! index current.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use kasbah_access::{Entitlements, LocalOptions};
use kasbah_index::CachedIndex;
use kasbah_pkcs11::config::Settings;
use kasbah_registry::{
    Database, DocumentCheck, NewProvider, PolicyAudit, Registry, RegistrySource, SettingsCheck,
    Uses, read_providers, services::ControlPlane,
};
use kasbah_trust::{CustodyPolicy, KeyIndex, KeyService};
use secrecy::ExposeSecret;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use zeroize::Zeroizing;

use crate::{
    config::{Config, RegistrySettings},
    exit::{Exit, Failure, OrExit},
};

/// How often uses of keys are written down.
const USES_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last of them may take when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The control plane of a server.
pub(crate) struct Control {
    pub(crate) registry: Registry,
    pub(crate) uses: Arc<Uses>,
    kas_uri: String,
    index: Arc<CachedIndex>,
    declared: Declarations,
    settings: NodeSettings,
}

/// Where provider configurations are declared.
#[derive(Debug, Clone)]
struct Declarations {
    /// Of the configuration, with its path.
    of_config: Vec<(NewProvider, String)>,
    /// A file or directory.
    path: Option<PathBuf>,
    /// Path of the configuration.
    config: String,
}

impl Control {
    /// Opens the database, brings it up to date, and declares what is declared.
    pub(crate) async fn open(
        config: &Config,
        settings: &RegistrySettings,
        declared: Option<&Path>,
    ) -> Result<Self, Failure> {
        let control = Self::look(config, settings, declared).await?;
        let providers = control.declared.read(control.settings).or_exit(Exit::Usage)?;
        let migrated = control.registry.database().migrate().await;
        migrated.context("registry.database").or_exit(Exit::Unavailable)?;
        control
            .registry
            .declare_providers(&providers, &control.declared.sources())
            .await
            .context("the declared provider configurations")
            .map_err(|error| Failure::new(exit_of(&error), error))?;
        Ok(control)
    }

    /// Opens the database as it is, and changes nothing.
    pub(crate) async fn look(
        config: &Config,
        settings: &RegistrySettings,
        declared: Option<&Path>,
    ) -> Result<Self, Failure> {
        let registry = open_registry(config, settings).await?;
        let source = RegistrySource::new(registry.clone(), config.kas_uri.clone());
        Ok(Self {
            registry,
            uses: Arc::default(),
            kas_uri: config.kas_uri.clone(),
            index: CachedIndex::new(Arc::new(source), config.cache),
            declared: Declarations {
                of_config: of_config(config),
                path: declared.map(Path::to_owned),
                config: config.file.display().to_string(),
            },
            settings: NodeSettings::of(config),
        })
    }

    /// Where the server finds its keys.
    pub(crate) fn index(&self) -> Arc<dyn KeyIndex> {
        Arc::clone(&self.index) as _
    }

    /// The services.
    pub(crate) fn plane(
        &self,
        keys: Arc<KeyService>,
        audit: Arc<dyn PolicyAudit>,
    ) -> Arc<ControlPlane> {
        Arc::new(ControlPlane::new(
            self.registry.clone(),
            keys,
            self.kas_uri.clone(),
            audit,
            Arc::new(EntitlementsCheck),
        ))
    }

    /// Runs in `background` what runs beside requests.
    pub(crate) fn run_in(&self, background: &mut JoinSet<()>) -> Result<(), Failure> {
        let index = Arc::clone(&self.index);
        background.spawn(async move { index.watch().await });
        let database = self.registry.database().clone();
        background.spawn(async move { database.listen().await });
        let (index, mut changes) = (Arc::clone(&self.index), self.registry.database().changes());
        background.spawn(async move {
            while changes.changed().await.is_ok() {
                let revision = *changes.borrow_and_update();
                index.changed(revision);
            }
        });
        let (registry, uses, kas_uri) =
            (self.registry.clone(), Arc::clone(&self.uses), self.kas_uri.clone());
        background.spawn(async move {
            loop {
                tokio::time::sleep(USES_INTERVAL).await;
                if let Err(error) = registry.write_uses(&kas_uri, &uses).await {
                    tracing::debug!(%error, "uses of keys are written down later");
                }
            }
        });
        let mut hangup = signal(SignalKind::hangup()).or_exit(Exit::Unavailable)?;
        let (registry, declared, settings) =
            (self.registry.clone(), self.declared.clone(), self.settings);
        background.spawn(async move {
            while hangup.recv().await.is_some() {
                match declared.reload(&registry, settings).await {
                    Ok(count) => tracing::info!(count, "provider configurations were read again"),
                    Err(error) => {
                        let error = crate::exit::sentence(&error);
                        tracing::error!(error, "provider configurations stay as they were");
                    }
                }
            }
        });
        Ok(())
    }

    /// Writes down what is left, and ends.
    pub(crate) async fn close(self) {
        let last = self.registry.write_uses(&self.kas_uri, &self.uses);
        if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, last).await, Ok(Ok(()))) {
            tracing::warn!("the last uses of keys could not be written down");
        }
        self.registry.database().close().await;
    }
}

impl Declarations {
    /// Every declaration with its file.
    fn read(&self, settings: NodeSettings) -> anyhow::Result<Vec<(NewProvider, String)>> {
        let mut all = self.of_config.clone();
        let Some(path) = &self.path else { return Ok(all) };
        for new in read_providers(path)? {
            let file = new.file.display().to_string();
            let is_same = |(known, _): &&(NewProvider, String)| {
                known.name == new.provider.name && known.manager == new.provider.manager
            };
            if let Some((_, other)) = all.iter().find(is_same) {
                return Err(anyhow!(
                    "{file}:{}: `{}` is declared in {other} already",
                    new.line,
                    new.provider.name
                ));
            }
            let provider = &new.provider;
            let json = String::from_utf8_lossy(&provider.config_json);
            settings
                .check(&provider.name, &provider.manager, &json)
                .map_err(|wrong| anyhow!("{file}:{}: {wrong}", new.line))?;
            all.push((new.provider, file));
        }
        Ok(all)
    }

    /// Everything that declares something here.
    fn sources(&self) -> Vec<String> {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        path.into_iter().chain([self.config.clone()]).collect()
    }

    async fn reload(&self, registry: &Registry, settings: NodeSettings) -> anyhow::Result<usize> {
        let declared = self.read(settings)?;
        registry.declare_providers(&declared, &self.sources()).await?;
        Ok(declared.len())
    }
}

/// Connects to a registry, as its database is.
pub(crate) async fn open_registry(
    config: &Config,
    settings: &RegistrySettings,
) -> Result<Registry, Failure> {
    let database = open(settings).await?;
    Ok(Registry::new(database, Arc::new(NodeSettings::of(config))))
}

/// Connects to the database of a registry.
pub(crate) async fn open(settings: &RegistrySettings) -> Result<Database, Failure> {
    let url = match &settings.password {
        None => Zeroizing::new(settings.database.clone()),
        Some((name, source)) => {
            let password = source.read().with_context(|| format!("secrets.{name}"));
            let password = password.or_exit(Exit::Usage)?;
            with_password(&settings.database, password.expose_secret())
        }
    };
    Database::open(&url)
        .await
        .with_context(|| {
            format!(
                "registry.database: cannot use {}; start the database, or correct this entry",
                settings.database
            )
        })
        .map_err(|error| Failure::new(exit_of(&error), error))
}

/// Puts a password behind the user of a URL.
fn with_password(url: &str, password: &str) -> Zeroizing<String> {
    let Some((user, rest)) = url.split_once('@') else { return Zeroizing::new(url.to_owned()) };
    let digits = Zeroizing::new(hex::encode(password));
    // As long as it gets, so that no shorter copy is left behind.
    let mut whole = Zeroizing::new(String::with_capacity(url.len() + 2 * digits.len() + 1));
    whole.push_str(user);
    whole.push(':');
    for at in (0..digits.len()).step_by(2) {
        whole.push('%');
        whole.push_str(&digits[at..at + 2]);
    }
    whole.push('@');
    whole.push_str(rest);
    whole
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<kasbah_registry::Error>());
    match cause {
        Some(kasbah_registry::Error::Unavailable { .. }) => Exit::Unavailable,
        _ => Exit::Usage,
    }
}

/// The provider configurations of the configuration itself.
fn of_config(config: &Config) -> Vec<(NewProvider, String)> {
    let file = config.file.display().to_string();
    let declare = |provider: &crate::config::Provider| {
        let new = NewProvider {
            name: provider.config.name.to_lowercase(),
            manager: provider.config.manager.clone(),
            config_json: provider.config.config_json.clone().into_bytes(),
            labels: kasbah_registry::Labels::new(),
        };
        (new, file.clone())
    };
    config.providers.iter().map(declare).collect()
}

/// What this node allows a provider configuration of the database to name.
#[derive(Debug, Clone, Copy)]
struct NodeSettings {
    custody_floor: CustodyPolicy,
}

impl NodeSettings {
    fn of(config: &Config) -> Self {
        Self { custody_floor: config.rules.custody_floor }
    }
}

impl SettingsCheck for NodeSettings {
    /// A name that this node lacks passes: another node may have it, and the manager says so here.
    fn check(&self, _: &str, manager: &str, config_json: &str) -> Result<(), Cow<'static, str>> {
        if manager != kasbah_pkcs11::MANAGER {
            return Ok(());
        }
        let settings: Settings =
            config_json.parse().map_err(|error| format!("config_json: {error}"))?;
        // What was given is not repeated: people put PINs there.
        for (setting, section, value) in
            [("module", "modules", &settings.module), ("pin", "secrets", &settings.pin)]
        {
            if !is_name(value) {
                return Err(Cow::Owned(format!(
                    "config_json: {setting} must be the name of an entry under `{section}` of the \
                     node's configuration, never a path, a command or a value"
                )));
            }
        }
        if settings.custody < self.custody_floor {
            return Err(Cow::Owned(format!(
                "config_json: custody {} is below this node's custody_floor, {}",
                settings.custody.as_str(),
                self.custody_floor.as_str()
            )));
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        && !text.contains("..")
}

/// Checks entitlements before they are kept in the registry.
#[derive(Debug)]
struct EntitlementsCheck;

impl DocumentCheck for EntitlementsCheck {
    fn check(&self, document: &str) -> Result<Vec<String>, String> {
        let entitlements = Entitlements::parse(document).map_err(|error| error.to_string())?;
        Ok(entitlements.warnings(LocalOptions::default()))
    }
}
