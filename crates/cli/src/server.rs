//! From a configuration to a server.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};

use anyhow::anyhow;
use kasbah_basic::{BasicFactory, RootKeys};
use kasbah_crypto::envelope::RootKey;
use kasbah_index::CachedIndex;
use kasbah_kas::{AuditSink, Kas, Keyring, ServeError, StderrSink};
use kasbah_pkcs11::HsmFactory;
use kasbah_platform::PlatformSource;
use kasbah_trust::{KeyIndex, KeyService};
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::{
    config::{Config, KeyIndex as Index, Kind, Private, Provider, RegistrySettings},
    control_plane::{Control, CountingSink},
    exit::{Exit, Failure, OrExit},
    keyring,
    tokens::exit_of,
};

/// A server that is ready to listen.
pub(crate) struct Ready {
    kas: Kas,
    /// SIGTERM and SIGINT; heard from here on, so that whoever is told that the server is ready can
    /// stop it.
    signals: [Signal; 2],
    /// The control plane, if it is in this process.
    pub(crate) control: Option<Control>,
    /// What runs beside requests.
    background: JoinSet<()>,
}

/// Builds the server of a configuration; `declared` is where provider configurations are declared
/// in files.
pub(crate) async fn build(mut config: Config, declared: Option<&Path>) -> Result<Ready, Failure> {
    let index = std::mem::replace(&mut config.index, Index::Keyring);
    if declared.is_some() && !matches!(index, Index::Registry(_)) {
        return Err(Failure::usage(
            "--provider-config declares provider configurations in a registry; set \
             `kas.key_index: registry`, or use `providers` of the configuration",
        ));
    }
    open_tokens(&config.providers)?;
    match index {
        Index::Keyring => with_keyring(config).await,
        Index::Registry(settings) => with_registry(config, settings, declared).await,
        Index::Platform(platform) => {
            let source = PlatformSource::new(*platform).or_exit(Exit::Usage)?;
            let index = CachedIndex::new(Arc::new(source), config.cache);
            let kas = kas(config, Arc::clone(&index) as _, Arc::new(StderrSink))?;
            let mut background = JoinSet::new();
            background.spawn(async move { index.watch().await });
            Ready::new(kas, None, background)
        }
    }
}

async fn with_keyring(config: Config) -> Result<Ready, Failure> {
    let keys = keyring::keys(&config)?;
    let index = Keyring::new(&config.kas_uri, keys.clone()).or_exit(Exit::Usage)?;
    let providers = config.providers.clone();
    let kas = kas(config, Arc::new(index), Arc::new(StderrSink))?;
    keyring::prove(&kas.key_service(), keys, &providers).await?;
    Ready::new(kas, None, JoinSet::new())
}

/// A server of a registry that is only looked at: nothing is declared, migrated or served.
pub(crate) async fn look(mut config: Config) -> Result<Ready, Failure> {
    let Index::Registry(settings) = std::mem::replace(&mut config.index, Index::Keyring) else {
        return Err(Failure::usage("kas.key_index is not `registry`, so there is no database"));
    };
    let control = Control::look(&config, &settings, None).await?;
    let kas = kas(config, control.index(), Arc::new(StderrSink))?;
    Ready::new(kas, Some(control), JoinSet::new())
}

async fn with_registry(
    config: Config,
    settings: RegistrySettings,
    declared: Option<&Path>,
) -> Result<Ready, Failure> {
    let control = Control::open(&config, &settings, declared).await?;
    let verifier = Arc::clone(&config.auth.verifier);
    let sink = CountingSink::new(StderrSink, Arc::clone(&control.uses));
    let kas = kas(config, control.index(), Arc::new(sink))?;
    let routes = control.routes(kas.key_service(), verifier, settings.admins);
    let background = control.background()?;
    Ready::new(kas.beside(routes), Some(control), background)
}

/// The server over an index, with the managers of this build.
fn kas(
    config: Config,
    index: Arc<dyn KeyIndex>,
    audit: Arc<dyn AuditSink>,
) -> Result<Kas, Failure> {
    let root_keys = root_keys(&config)?;
    let pins = config.pins();
    let mut builder = Kas::builder()
        .uri(config.kas_uri)
        .unknown_managers(config.rules.unknown)
        .key_index(index)
        .verifier(config.auth.verifier)
        .clock_skew(config.auth.clock_skew)
        .limits(config.server.limits)
        .audit(audit)
        .key_manager(
            kasbah_pkcs11::MANAGER,
            &kasbah_pkcs11::ALGORITHMS,
            Arc::new(HsmFactory::new(config.modules, pins, config.rules.custody_floor)),
        )
        .default_manager(kasbah_pkcs11::MANAGER);
    if let Some(root_keys) = root_keys {
        let basic = Arc::new(BasicFactory::new(root_keys));
        builder = builder
            .key_manager(kasbah_basic::MANAGER, &kasbah_basic::ALGORITHMS, basic)
            .default_manager(kasbah_basic::MANAGER);
    }
    builder.build().or_exit(Exit::Usage)
}

impl Ready {
    fn new(kas: Kas, control: Option<Control>, background: JoinSet<()>) -> Result<Self, Failure> {
        let signals = [
            signal(SignalKind::terminate()).or_exit(Exit::Unavailable)?,
            signal(SignalKind::interrupt()).or_exit(Exit::Unavailable)?,
        ];
        Ok(Self { kas, signals, control, background })
    }

    /// The keys and their managers.
    pub(crate) fn key_service(&self) -> Arc<KeyService> {
        self.kas.key_service()
    }

    /// Ends without having served.
    pub(crate) async fn close(mut self) {
        self.key_service().close().await;
        self.background.shutdown().await;
        if let Some(control) = self.control {
            control.close().await;
        }
    }

    /// Serves until SIGTERM or SIGINT.
    pub(crate) async fn serve(mut self, listener: TcpListener) -> Result<(), Failure> {
        let [mut terminate, mut interrupt] = self.signals;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let served = self.kas.serve(listener, stop).await;
        self.background.shutdown().await;
        if let Some(control) = self.control {
            control.close().await;
        }
        served.map_err(|error| match error {
            ServeError::NotLoopback(_) => Failure::new(Exit::Usage, error),
            ServeError::Listener(_) | ServeError::Transport(_) => {
                Failure::new(Exit::Unavailable, error)
            }
        })
    }
}

/// Listens on `address`.
pub(crate) fn listen(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            anyhow!(error).context(format!("cannot listen on {address}")),
        )
    })?;
    listener.set_nonblocking(true).or_exit(Exit::Unavailable)?;
    Ok(listener)
}

/// Logs in to every token that must be there, whether or not a key is used on it.
fn open_tokens(providers: &[Provider]) -> Result<(), Failure> {
    for provider in providers.iter().filter(|provider| provider.required) {
        if let Kind::Hsm(settings) = &provider.kind {
            settings.open().map_err(|error| {
                let exit = exit_of(&error);
                let name = &provider.config.name;
                Failure::new(exit, anyhow!(error).context(format!("provider {name}")))
            })?;
        }
    }
    Ok(())
}

/// The root keys that are named; `None` when none is.
fn root_keys(config: &Config) -> Result<Option<RootKeys>, Failure> {
    let mut keys = BTreeMap::new();
    let of_keyring = config.keyring.iter().filter_map(|key| match &key.private {
        Private::Wrapped { wrapping_key, .. } => Some(wrapping_key),
        Private::Token { .. } => None,
    });
    for wrapping_key in config.root_keys.iter().chain(of_keyring) {
        if let Some(source) = config.secrets.get(wrapping_key) {
            let text = source.read().map_err(|error| {
                let error = anyhow!(error).context(format!("secrets.{wrapping_key}"));
                Failure::new(Exit::Usage, error)
            })?;
            let root = RootKey::from_hex(text.expose_secret()).map_err(|_| {
                Failure::usage(format!(
                    "secrets.{wrapping_key}: expected 32, 48 or 64 hexadecimal digits, an AES key"
                ))
            })?;
            keys.insert(wrapping_key.clone(), root);
        }
    }
    let default = config.root_keys.first().or(keys.keys().next()).cloned();
    let Some(default) = default else { return Ok(None) };
    RootKeys::new(default, keys).map(Some).or_exit(Exit::Usage)
}
