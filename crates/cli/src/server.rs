//! From a configuration to a server that has proven its keys.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::anyhow;
use futures_util::future::join_all;
use kasbah_basic::{BasicFactory, RootKeys};
use kasbah_crypto::envelope::RootKey;
use kasbah_kas::{Kas, Keyring, ServeError, StderrSink};
use kasbah_pkcs11::{HsmFactory, error::Error as TokenError, provision};
use kasbah_trust::{
    Algorithm, Custody, Deadline, Error, KeyDetails, KeyMode, KeyService, KeyStatus, PrivateKeyRef,
    ProviderConfig, PublicKey,
};
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    config::{Config, Key, Kind, Private, Provider},
    exit::{Exit, Failure, OrExit, sentence},
    tokens::exit_of,
};

/// How long one key may take to prove itself. Tokens on a network take seconds to wake up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// A server whose keys have been used once.
pub(crate) struct Proven {
    kas: Kas,
    /// SIGTERM and SIGINT; heard from here on, so that whoever is told that the server is ready can
    /// stop it.
    signals: [Signal; 2],
    pub(crate) keys: Vec<ProvenKey>,
}

/// A key that is served.
pub(crate) struct ProvenKey {
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
    /// Name of its manager.
    pub(crate) manager: String,
    pub(crate) public_key: PublicKey,
    /// `None` for a key of an optional provider that is down.
    pub(crate) custody: Option<Custody>,
}

/// Builds the server of a configuration and uses every key of it once.
pub(crate) async fn build(config: Config) -> Result<Proven, Failure> {
    open_tokens(&config.providers)?;
    let keys = keys(&config)?;
    let root_keys = root_keys(&config)?;
    let keyring = Keyring::new(&config.kas_uri, keys.clone()).or_exit(Exit::Usage)?;
    let floor = config.rules.custody_floor;
    let mut builder = Kas::builder()
        .uri(config.kas_uri)
        .unknown_managers(config.rules.unknown)
        .key_index(Arc::new(keyring))
        .verifier(config.auth.verifier)
        .clock_skew(config.auth.clock_skew)
        .limits(config.server.limits)
        .audit(Arc::new(StderrSink))
        .key_manager(
            kasbah_pkcs11::MANAGER,
            &kasbah_pkcs11::ALGORITHMS,
            Arc::new(HsmFactory::new(config.modules, config.secrets, floor)),
        )
        .default_manager(kasbah_pkcs11::MANAGER);
    if let Some(root_keys) = root_keys {
        let basic = Arc::new(BasicFactory::new(root_keys));
        builder = builder
            .key_manager(kasbah_basic::MANAGER, &kasbah_basic::ALGORITHMS, basic)
            .default_manager(kasbah_basic::MANAGER);
    }
    let kas = builder.build().or_exit(Exit::Usage)?;
    let keys = prove(&kas.key_service(), keys, &config.providers).await?;
    let signals = [
        signal(SignalKind::terminate()).or_exit(Exit::Unavailable)?,
        signal(SignalKind::interrupt()).or_exit(Exit::Unavailable)?,
    ];
    Ok(Proven { kas, signals, keys })
}

impl Proven {
    /// Serves until SIGTERM or SIGINT.
    pub(crate) async fn serve(self, listener: TcpListener) -> Result<(), Failure> {
        let [mut terminate, mut interrupt] = self.signals;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        self.kas.serve(listener, stop).await.map_err(|error| match error {
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

/// The keys of the keyring with their public halves, read from tokens where they live there.
fn keys(config: &Config) -> Result<Vec<KeyDetails>, Failure> {
    let mut keys = Vec::new();
    for key in &config.keyring {
        let provider = key.private.provider().map(|index| &config.providers[index]);
        let (public_key, mode, private_key) = match &key.private {
            Private::Token { uri, pinned, .. } => {
                let Some(public_key) = in_token(key, provider, pinned.as_ref())? else { continue };
                let key_id = Some(uri.to_string());
                (public_key, KeyMode::Remote, PrivateKeyRef { key_id, wrapped_key: None })
            }
            Private::Wrapped { public_key, wrapped_key, wrapping_key, .. } => {
                let wrapped_key = Some(wrapped_key.clone());
                let key_id = Some(wrapping_key.clone());
                let private_key = PrivateKeyRef { key_id, wrapped_key };
                (public_key.clone(), KeyMode::ConfigRootKey, private_key)
            }
        };
        keys.push(KeyDetails {
            kas_uri: config.kas_uri.as_str().into(),
            kid: key.kid.clone(),
            algorithm: key.algorithm,
            mode,
            status: KeyStatus::Active,
            legacy: key.legacy,
            public_key,
            private_key,
            provider: provider.map(|provider| Arc::clone(&provider.config)),
        });
    }
    Ok(keys)
}

/// The public half of a key in a token; `None`, with a warning, when it cannot be known and the
/// provider is optional.
fn in_token(
    key: &Key,
    provider: Option<&Provider>,
    pinned: Option<&PublicKey>,
) -> Result<Option<PublicKey>, Failure> {
    let required = provider.is_none_or(|provider| provider.required);
    match read_public_key(key, provider) {
        Ok(found) if found.algorithm() != Some(key.algorithm) => Err(Failure::usage(format!(
            "key {}: the key in the token is not of its algorithm, {}; correct \
             `algorithm` or `key`",
            key.kid, key.algorithm
        ))),
        Ok(found) if pinned.is_some_and(|pinned| *pinned != found) => Err(Failure::usage(format!(
            "key {}: the key in the token has another public key than public_key_file; correct \
             `key`, or take the token's with `kasbah hsm public`",
            key.kid
        ))),
        Ok(found) => Ok(Some(found)),
        Err(error) if required => {
            let exit = exit_of(&error);
            Err(Failure::new(exit, anyhow!(error).context(format!("key {}", key.kid))))
        }
        Err(error) => {
            let error = sentence(&error.into());
            if pinned.is_none() {
                tracing::warn!(
                    kid = %key.kid,
                    error,
                    "key is left out until the next start; public_key_file would keep it"
                );
            }
            Ok(pinned.cloned())
        }
    }
}

fn read_public_key(key: &Key, provider: Option<&Provider>) -> Result<PublicKey, TokenError> {
    match (&key.private, provider.map(|provider| &provider.kind)) {
        (Private::Token { uri, .. }, Some(Kind::Hsm(settings))) => {
            provision::public(&*settings.open()?, uri)
        }
        _ => Err(TokenError::Config("its key manager is not registered".into())),
    }
}

/// The root keys that the keyring names; `None` when it names none.
fn root_keys(config: &Config) -> Result<Option<RootKeys>, Failure> {
    let mut keys = BTreeMap::new();
    for key in &config.keyring {
        let Private::Wrapped { wrapping_key, .. } = &key.private else { continue };
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
    let Some(default) = keys.keys().next().cloned() else { return Ok(None) };
    RootKeys::new(default, keys).map(Some).or_exit(Exit::Usage)
}

/// Builds every manager and uses every key once. Providers are asked at the same time, the keys of
/// one in turn: its queue may be short.
async fn prove(
    service: &KeyService,
    keys: Vec<KeyDetails>,
    providers: &[Provider],
) -> Result<Vec<ProvenKey>, Failure> {
    let mut of_provider: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        let provider = key.provider.as_ref().map(|config| config.name.clone());
        of_provider.entry(provider).or_default().push((index, key));
    }
    let turns = of_provider.into_values().map(|keys| prove_in_turn(service, keys, providers));
    let mut proven: Vec<_> = join_all(turns).await.into_iter().flatten().collect();
    proven.sort_unstable_by_key(|(index, _)| *index);
    proven.into_iter().map(|(_, key)| key).collect()
}

/// Up to the first key that does not work.
async fn prove_in_turn(
    service: &KeyService,
    keys: Vec<(usize, KeyDetails)>,
    providers: &[Provider],
) -> Vec<(usize, Result<ProvenKey, Failure>)> {
    let mut proven = Vec::new();
    for (index, key) in keys {
        let result = prove_key(service, key, providers).await;
        let is_end = result.is_err();
        proven.push((index, result));
        if is_end {
            break;
        }
    }
    proven
}

async fn prove_key(
    service: &KeyService,
    key: KeyDetails,
    providers: &[Provider],
) -> Result<ProvenKey, Failure> {
    let (manager, custody) = match probe(service, &key).await {
        Ok((manager, custody)) => (manager, Some(custody)),
        Err(error) => match &key.provider {
            Some(config) if is_optional(config, providers) => {
                let error = sentence(&error.into());
                tracing::warn!(kid = %key.kid, error, "key is not ready; its provider is optional");
                (config.manager.clone(), None)
            }
            _ => return Err(unproven(&key, error)),
        },
    };
    if let Some(custody) = custody {
        tracing::info!(
            kid = %key.kid,
            algorithm = %key.algorithm,
            manager,
            custody = %custody.level,
            enforced_by_key = custody.enforced_by_key,
            boundary = custody.boundary.as_str(),
            legacy = key.legacy,
            "key is ready"
        );
    }
    Ok(ProvenKey {
        kid: key.kid.to_string(),
        algorithm: key.algorithm,
        manager,
        public_key: key.public_key,
        custody,
    })
}

fn is_optional(config: &Arc<ProviderConfig>, providers: &[Provider]) -> bool {
    providers.iter().any(|provider| !provider.required && Arc::ptr_eq(&provider.config, config))
}

async fn probe(service: &KeyService, key: &KeyDetails) -> Result<(String, Custody), Error> {
    let manager = service.manager_for(key).await?;
    let custody = manager.probe(key, Deadline::after(PROBE_TIMEOUT)).await?;
    Ok((manager.designation().manager.clone(), custody))
}

fn unproven(key: &KeyDetails, error: Error) -> Failure {
    let exit = match &error {
        Error::Busy => Exit::Unavailable,
        Error::Unavailable(source) => exit_of_source(source.as_ref()),
        Error::Decrypt
        | Error::Exists(_)
        | Error::Internal(_)
        | Error::NotFound(_)
        | Error::NotPermitted(_)
        | Error::Unsupported(_) => Exit::Usage,
    };
    let what = match error {
        Error::Decrypt => "its private key does not belong to its public key",
        _ => "it cannot be used",
    };
    Failure::new(exit, anyhow!(error).context(format!("key {}: {what}", key.kid)))
}

/// What a token said, if it was a token.
fn exit_of_source(source: &(dyn std::error::Error + 'static)) -> Exit {
    let mut causes = std::iter::successors(Some(source), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref()).map_or(Exit::Unavailable, exit_of)
}
