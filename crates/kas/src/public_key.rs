//! `PublicKey` and `LegacyPublicKey`: the key that clients wrap data keys with.

use std::sync::Arc;

use kasbah_proto::kas::{LegacyPublicKeyRequest, PublicKeyRequest, PublicKeyResponse};
use kasbah_trust::{Algorithm, Deadline, Error, KeyDetails, KeyFilter, KeyService};

use crate::edge::{PublicKeyFault, report};

/// Answers `PublicKey`.
pub(crate) async fn public_key(
    keys: &KeyService,
    request: &PublicKeyRequest,
    deadline: Deadline,
) -> Result<PublicKeyResponse, PublicKeyFault> {
    let key = find(keys, &request.algorithm, deadline).await?;
    let public_key = match request.fmt.as_str() {
        "" | "pkcs8" => key.public_key.to_pem(),
        "jwk" => key.public_key.to_jwk(),
        _ => return Err(PublicKeyFault::UnknownFormat),
    };
    let kid = if request.v == "1" { String::new() } else { key.kid.to_string() };
    Ok(PublicKeyResponse { public_key, kid })
}

/// Answers `LegacyPublicKey`, always with PEM. The answer says no kid, so neither will what is
/// wrapped with it, and only legacy keys are tried for that.
pub(crate) async fn legacy_public_key(
    keys: &KeyService,
    request: &LegacyPublicKeyRequest,
    deadline: Deadline,
) -> Result<String, PublicKeyFault> {
    let Some(algorithm) = algorithm(&request.algorithm) else {
        return Err(PublicKeyFault::LegacyAlgorithm);
    };
    let found = match algorithm {
        Algorithm::Rsa2048 => keys.legacy_key_to_hand_out(deadline).await,
        _ => Ok(None),
    };
    let key = match found {
        Ok(Some(key)) => Ok(key),
        Ok(None) => find(keys, &request.algorithm, deadline).await,
        Err(error) => Err(lookup(&error)),
    };
    match key {
        Ok(key) => Ok(key.public_key.to_pem()),
        Err(PublicKeyFault::Lookup) => Err(PublicKeyFault::LegacyLookup),
        Err(fault) => Err(fault),
    }
}

async fn find(
    keys: &KeyService,
    name: &str,
    deadline: Deadline,
) -> Result<Arc<KeyDetails>, PublicKeyFault> {
    if let Some(algorithm) = algorithm(name)
        && let Some(key) =
            keys.key_to_hand_out(algorithm, deadline).await.map_err(|error| lookup(&error))?
    {
        return Ok(key);
    }
    let all =
        keys.index().list(KeyFilter::default(), deadline).await.map_err(|error| lookup(&error))?;
    Err(if all.is_empty() { PublicKeyFault::NoKeys } else { PublicKeyFault::NoKeyForAlgorithm })
}

fn algorithm(name: &str) -> Option<Algorithm> {
    if name.is_empty() { Some(Algorithm::Rsa2048) } else { name.parse().ok() }
}

fn lookup(error: &Error) -> PublicKeyFault {
    report(error);
    match error {
        Error::Busy | Error::Unavailable(_) => PublicKeyFault::Unavailable,
        _ => PublicKeyFault::Lookup,
    }
}
