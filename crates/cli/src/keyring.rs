//! A keyring: keys of the configuration, which must all work before anything is served.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::anyhow;
use futures_util::future::join_all;
use kasbah_pkcs11::{error::Error as TokenError, provision};
use kasbah_trust::{
    Deadline, Error, KeyDetails, KeyMode, KeyService, KeyStatus, PrivateKeyRef, ProviderConfig,
    PublicKey,
};

use crate::{
    config::{Config, Key, Kind, Private, Provider},
    exit::{Exit, Failure, sentence},
    tokens::exit_of,
};

/// How long one key may take to prove itself. Tokens on a network take seconds to wake up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// The keys of the keyring with their public halves, read from tokens where they live there.
pub(crate) fn keys(config: &Config) -> Result<Vec<KeyDetails>, Failure> {
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

/// Builds every manager and uses every key once. Providers are asked at the same time, the keys of
/// one in turn: its queue may be short.
pub(crate) async fn prove(
    service: &KeyService,
    keys: Vec<KeyDetails>,
    providers: &[Provider],
) -> Result<(), Failure> {
    let mut of_provider: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        let provider = key.provider.as_ref().map(|config| config.name.clone());
        of_provider.entry(provider).or_default().push((index, key));
    }
    let turns = of_provider.into_values().map(|keys| prove_in_turn(service, keys, providers));
    let failed = join_all(turns).await.into_iter().flatten();
    match failed.min_by_key(|(index, _)| *index) {
        Some((_, failure)) => Err(failure),
        None => Ok(()),
    }
}

/// The first key that does not work.
async fn prove_in_turn(
    service: &KeyService,
    keys: Vec<(usize, KeyDetails)>,
    providers: &[Provider],
) -> Option<(usize, Failure)> {
    for (index, key) in keys {
        if let Err(failure) = prove_key(service, &key, providers).await {
            return Some((index, failure));
        }
    }
    None
}

async fn prove_key(
    service: &KeyService,
    key: &KeyDetails,
    providers: &[Provider],
) -> Result<(), Failure> {
    let Err(error) = service.prove(key, Deadline::after(PROBE_TIMEOUT)).await else {
        return Ok(());
    };
    match &key.provider {
        Some(config) if is_optional(config, providers) => {
            let error = sentence(&error.into());
            tracing::warn!(kid = %key.kid, error, "key is not ready; its provider is optional");
            Ok(())
        }
        _ => Err(unproven(key, error)),
    }
}

fn is_optional(config: &Arc<ProviderConfig>, providers: &[Provider]) -> bool {
    providers.iter().any(|provider| !provider.required && Arc::ptr_eq(&provider.config, config))
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
