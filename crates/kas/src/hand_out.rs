//! Keys as clients get them to wrap with.

use kasbah_proto::policy::{self, SimpleKasKey, SimpleKasPublicKey};
use kasbah_trust::{
    Algorithm, Curve, Deadline, Error, KeyDetails, KeyId, KeyMode, KeyService, KeyStatus, Result,
};

/// The key of this id, if clients may have it: it is active, and proven. `kas_id` is the id of the
/// KAS, which may be empty. `None` if there is no such key, or it is out of use.
///
/// # Errors
/// Any when it is not proven now, or the index cannot be asked.
pub(crate) async fn key_of_id(
    keys: &KeyService,
    kid: &KeyId,
    kas_id: &str,
    deadline: Deadline,
) -> Result<Option<SimpleKasKey>> {
    let key = match keys.index().find_by_id(kid, deadline).await {
        Ok(key) => key,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    if key.status != KeyStatus::Active || key.mode == KeyMode::PublicKeyOnly {
        return Ok(None);
    }
    keys.prove(&key, deadline).await?;
    Ok(Some(simple_key(&key, kas_id)))
}

/// Says in the log why a key is not handed out.
pub(crate) fn unproven(key: &KeyDetails, error: &Error) {
    tracing::warn!(
        kid = %key.kid,
        error = error as &dyn std::error::Error,
        "public key is not handed out: its private key is not proven"
    );
}

/// What clients wrap with.
pub(crate) fn simple_key(key: &KeyDetails, kas_id: &str) -> SimpleKasKey {
    let public_key = SimpleKasPublicKey {
        algorithm: number(key.algorithm) as i32,
        kid: key.kid.to_string(),
        pem: key.public_key.to_pem(),
    };
    SimpleKasKey {
        kas_uri: key.kas_uri.to_string(),
        public_key: Some(public_key),
        kas_id: kas_id.to_owned(),
    }
}

fn number(algorithm: Algorithm) -> policy::Algorithm {
    use policy::Algorithm as Wire;
    match algorithm {
        Algorithm::Rsa2048 => Wire::Rsa2048,
        Algorithm::Rsa4096 => Wire::Rsa4096,
        Algorithm::Ec(Curve::P256) => Wire::EcP256,
        Algorithm::Ec(Curve::P384) => Wire::EcP384,
        Algorithm::Ec(Curve::P521) => Wire::EcP521,
    }
}

/// The identifier of an algorithm, such as `rsa:2048`; `None` for a number that stands for none that
/// is served here.
pub(crate) fn identifier(number_of: i32) -> Option<&'static str> {
    let is_it = |algorithm: &Algorithm| number(*algorithm) as i32 == number_of;
    Algorithm::ALL.into_iter().find(is_it).map(Algorithm::as_str)
}
