//! From a configuration to a server.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use kasbah_access::LocalDecisions;
use kasbah_audit::AuditLog;
use kasbah_auth::Proof;
use kasbah_basic::{BasicFactory, RootKeys};
use kasbah_crypto::envelope::RootKey;
use kasbah_health::{Health, HealthCheck, Pace};
use kasbah_index::CachedIndex;
use kasbah_kas::{AuditSink, Kas, Keyring, ServeError, StderrSink, Tls, TlsMaterial, TlsSource};
use kasbah_pkcs11::HsmFactory;
use kasbah_platform::PlatformSource;
use kasbah_registry::{Registry, services::ControlPlane};
use kasbah_trust::{KeyIndex, KeyService};
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::sleep,
};
use tonic::service::Routes;

use crate::{
    audit_log::{self, ToLog},
    clients::{self, OfRegistry, Told},
    config::{Config, Decider, KeyIndex as Index, Kind, Private, Provider, Server, TlsSettings},
    control_plane::Control,
    decider,
    exit::{Exit, Failure, OrExit},
    gate, health, keyring,
    tokens::exit_of,
};

/// The service that is ready when the server is.
const DATA_PLANE: &str = kasbah_proto::kas::access_service_server::SERVICE_NAME;

/// A server that is ready to listen.
pub(crate) struct Ready {
    kas: Kas,
    /// SIGTERM and SIGINT; heard from here on, so that whoever is told that the server is ready can
    /// stop it.
    signals: [Signal; 2],
    /// The control plane, if it is in this process.
    pub(crate) control: Option<Control>,
    /// Who decides in this process, until it is served.
    local: Option<Arc<LocalDecisions>>,
    /// The audit log; `None` for a server that is only looked at.
    audit: Option<AuditLog>,
    /// What runs beside requests.
    background: JoinSet<()>,
    /// What it needs.
    checks: Vec<Arc<dyn HealthCheck>>,
    /// How long it serves on after it was told to stop, and says so.
    drain_delay: Duration,
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
        Index::Registry(settings) => {
            let control = Control::open(&config, &settings, declared).await?;
            with_registry(config, control).await
        }
        Index::Platform(platform) => {
            let source = PlatformSource::new(*platform).or_exit(Exit::Usage)?;
            let ttl = config.cache.ttl;
            let index = CachedIndex::new(Arc::new(source), config.cache);
            let (told, log) = (Told::of(&config), audit_log::open(&config.audit)?);
            let mut ready =
                Box::pin(assemble(config, Arc::clone(&index) as _, None, Some(log))).await?;
            ready.checks.push(Arc::new(health::OnPlatform { index: Arc::clone(&index), ttl }));
            ready.background.spawn(async move { index.watch().await });
            // Which key access servers there are, and which base key, the platform says.
            ready.kas = told.serve(ready.kas, None, ready.local.take());
            Ok(ready)
        }
    }
}

async fn with_keyring(config: Config) -> Result<Ready, Failure> {
    let keys = keyring::keys(&config)?;
    let index = Keyring::new(&config.kas_uri, keys.clone()).or_exit(Exit::Usage)?;
    let providers = config.providers.clone();
    let (told, log) = (Told::of(&config), audit_log::open(&config.audit)?);
    let base_key = config.base_key.clone();
    let mut ready = Box::pin(assemble(config, Arc::new(index), None, Some(log))).await?;
    keyring::prove(&ready.key_service(), keys, &providers).await?;
    let (kas, base_key) = clients::one_kas(ready.kas, base_key);
    ready.kas = told.serve(kas, Some(base_key), ready.local.take());
    Ok(ready)
}

/// A server of a registry that is only looked at: nothing is declared, migrated or served.
pub(crate) async fn look(mut config: Config) -> Result<Ready, Failure> {
    let Index::Registry(settings) = std::mem::replace(&mut config.index, Index::Keyring) else {
        return Err(Failure::usage("kas.key_index is not `registry`, so there is no database"));
    };
    let control = Control::look(&config, &settings, None).await?;
    config.decisions.by = Decider::Nobody;
    Box::pin(assemble(config, control.index(), Some(control), None)).await
}

async fn with_registry(config: Config, control: Control) -> Result<Ready, Failure> {
    let (told, log) = (Told::of(&config), audit_log::open(&config.audit)?);
    let index = control.index();
    let mut ready = Box::pin(assemble(config, index, Some(control), Some(log.clone()))).await?;
    if let Some(control) = &ready.control {
        let audit = Arc::new(ToLog::new(log, None));
        let plane = control.plane(ready.key_service(), audit);
        control.run_in(&mut ready.background)?;
        let kas = ready.kas.beside(Arc::clone(&plane).routes(), &ControlPlane::SERVICES);
        let base_key = Arc::new(OfRegistry(plane));
        ready.kas = told.serve(kas, Some(base_key), ready.local.take());
    }
    Ok(ready)
}

/// The server over an index, with the managers of this build.
async fn assemble(
    mut config: Config,
    index: Arc<dyn KeyIndex>,
    control: Option<Control>,
    audit: Option<AuditLog>,
) -> Result<Ready, Failure> {
    let root_keys = root_keys(&config)?;
    let pins = config.pins();
    let mut background = JoinSet::new();
    let registry = control.as_ref().map(|control| &control.registry);
    let deciding = decider::rules(config.decisions, registry, &mut background).await?;
    let mut checks: Vec<Arc<dyn HealthCheck>> = Vec::new();
    if let Some(registry) = registry {
        let dpop = config.auth.min_proof == Proof::Dpop;
        checks.push(Arc::new(health::InDatabase {
            database: registry.database().clone(),
            index: Arc::clone(&index),
            is_asked_by_all: dpop && config.auth.dpop.replay.in_database,
        }));
    }
    if let Some(idp) = &config.auth.idp {
        checks.push(Arc::new(health::Issuers(Arc::clone(&idp.tokens))));
    }
    if let Some(platform) = &deciding.platform {
        checks.push(Arc::new(health::Decider(Arc::clone(platform))));
    }
    if let Some(log) = &audit {
        checks.push(Arc::new(health::Audit::new(log.clone(), config.audit.durability)));
    }
    let min_proofs = config.auth.min_proofs.clone();
    let (clock_skew, srt_lifetime) = (config.auth.clock_skew, config.auth.srt_lifetime);
    let gate = gate::gate(config.auth, registry.map(Registry::database)).await?;
    let gate = gate.with_rate(config.server.rate.take());
    let uses = control.as_ref().map(|control| Arc::clone(&control.uses));
    let sink: Arc<dyn AuditSink> = match &audit {
        Some(log) => Arc::new(ToLog::new(log.clone(), uses)),
        None => Arc::new(StderrSink),
    };
    let mut builder = Kas::builder()
        .uri(config.kas_uri)
        .unknown_managers(config.rules.unknown)
        .key_index(index)
        .gate(Arc::new(gate))
        .access(deciding.rules)
        .min_proof(min_proofs)
        .clock_skew(clock_skew)
        .limits(config.server.limits.clone())
        .audit(sink)
        .key_manager(
            kasbah_pkcs11::MANAGER,
            &kasbah_pkcs11::ALGORITHMS,
            Arc::new(HsmFactory::new(config.modules, pins, config.rules.custody_floor)),
        )
        .default_manager(kasbah_pkcs11::MANAGER);
    if let Some(lifetime) = srt_lifetime {
        builder = builder.srt_lifetime(lifetime);
    }
    if let Some(root_keys) = root_keys {
        let basic = Arc::new(BasicFactory::new(root_keys));
        builder = builder
            .key_manager(kasbah_basic::MANAGER, &kasbah_basic::ALGORITHMS, basic)
            .default_manager(kasbah_basic::MANAGER);
    }
    let drain_delay = config.server.drain_delay;
    let kas = with_door(builder.build().or_exit(Exit::Usage)?, config.server)?;
    checks.push(Arc::new(health::KeyManagers(kas.key_service())));
    // What reads files again listens for it. Where nothing does, it must not end the server.
    drop(signal(SignalKind::hangup()).or_exit(Exit::Unavailable)?);
    let signals = [
        signal(SignalKind::terminate()).or_exit(Exit::Unavailable)?,
        signal(SignalKind::interrupt()).or_exit(Exit::Unavailable)?,
    ];
    let local = deciding.local;
    Ok(Ready { kas, signals, control, local, audit, background, checks, drain_delay })
}

/// How clients come in.
fn with_door(mut kas: Kas, server: Server) -> Result<Kas, Failure> {
    if let Some(settings) = server.tls {
        kas = kas.tls(tls(settings)?);
    }
    if let Some(cors) = server.cors {
        kas = kas.cors(cors);
    }
    if let Some(prefix) = server.rest {
        kas = kas.rest(prefix);
    }
    if let Some(prefix) = server.prefix {
        kas = kas.prefix(prefix);
    }
    if server.reflection {
        kas = kas.reflection();
    }
    Ok(kas)
}

fn tls(settings: TlsSettings) -> Result<Tls, Failure> {
    let required = settings.client_certificate_required;
    Tls::new(Arc::new(settings), required).context("server.tls").or_exit(Exit::Usage)
}

impl TlsSource for TlsSettings {
    fn load(&self) -> Result<TlsMaterial, String> {
        let read = |file: &Path| {
            std::fs::read_to_string(file)
                .map_err(|error| format!("cannot read {} ({error})", file.display()))
        };
        let (name, source) = &self.private_key;
        let private_key = source.read().map_err(|error| format!("secrets.{name}: {error}"))?;
        Ok(TlsMaterial {
            certificates: read(&self.certificate_file)?,
            private_key,
            client_authorities: self.client_ca_file.as_deref().map(read).transpose()?,
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        let certificates = [Some(&self.certificate_file), self.client_ca_file.as_ref()];
        let files = certificates.into_iter().flatten().cloned();
        files.chain(self.private_key.1.file()).collect()
    }
}

impl Ready {
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
        if let Some(log) = self.audit {
            audit_log::close(log).await;
        }
    }

    /// Serves until SIGTERM or SIGINT.
    pub(crate) async fn serve(mut self, listener: TcpListener) -> Result<(), Failure> {
        let health = Health::new(self.checks, &[DATA_PLANE], Pace::default());
        health.run_in(&mut self.background);
        let kas = self
            .kas
            .beside(Routes::new(health.server()), &[kasbah_health::SERVICE])
            .describe(kasbah_health::DESCRIPTORS)
            .http(health.router());
        let stop = told_to_stop(self.signals, health, self.drain_delay);
        let served = kas.serve(listener, stop).await;
        self.background.shutdown().await;
        if let Some(control) = self.control {
            control.close().await;
        }
        if let Some(log) = self.audit {
            audit_log::close(log).await;
        }
        served.map_err(|error| match error {
            ServeError::NotLoopback(_) => Failure::new(Exit::Usage, error),
            ServeError::Listener(_) | ServeError::Descriptors(_) | ServeError::Reflection(_) => {
                Failure::new(Exit::Unavailable, error)
            }
        })
    }
}

/// Completes when requests are to be accepted no longer: `delay` after the first signal, in which
/// whoever asks is told that the server is not ready, or at the second.
async fn told_to_stop(signals: [Signal; 2], health: Arc<Health>, delay: Duration) {
    let [mut terminate, mut interrupt] = signals;
    let mut signal = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    signal().await;
    health.drain();
    tokio::select! {
        () = sleep(delay) => {}
        () = signal() => {}
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
