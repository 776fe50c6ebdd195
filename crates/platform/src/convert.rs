use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_crypto::{Curve, PublicKey, PublicKeyError};
use kasbah_proto::policy::{self, AsymmetricKey, KasKey, KeyProviderConfig};
use kasbah_trust::{Algorithm, KeyDetails, KeyMode, KeyStatus, PrivateKeyRef, ProviderConfig};

/// A key of the platform that makes no sense. Names the field.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The message has no `key`.
    #[error("the platform sent a key without content")]
    Empty,
    /// `key_algorithm` is not set.
    #[error("key {0} has no key_algorithm")]
    NoAlgorithm(String),
    /// `key_mode` is not one of the four.
    #[error("key {kid} has key_mode {mode}, which is not one of 1 to 4")]
    Mode {
        /// Which key.
        kid: String,
        /// Its number.
        mode: i32,
    },
    /// `public_key_ctx.pem` is not base64 of text.
    #[error("public_key_ctx.pem of key {0} is not base64 of a PEM text")]
    Encoding(String),
    /// The PEM holds no usable public key.
    #[error("public_key_ctx.pem of key {kid} cannot be used")]
    PublicKey {
        /// Which key.
        kid: String,
        /// Why.
        source: PublicKeyError,
    },
    /// The PEM holds a key of another kind than the algorithm says.
    #[error("public_key_ctx.pem of key {kid} is no {expected} key")]
    Mismatch {
        /// Which key.
        kid: String,
        /// `key_algorithm`.
        expected: Algorithm,
    },
    /// `provider_config` does not say which manager; a list by the platform never does.
    #[error("provider {provider} of key {kid} has no manager")]
    NoManager {
        /// Which key.
        kid: String,
        /// Name of its provider configuration.
        provider: String,
    },
    /// `provider_config.config_json` is not UTF-8.
    #[error("config_json of provider {provider} of key {kid} is not UTF-8")]
    ConfigJson {
        /// Which key.
        kid: String,
        /// Name of its provider configuration.
        provider: String,
    },
}

/// Reads a key as the platform sends it; `None` for a (post-quantum) algorithm that no manager
/// here serves.
///
/// A status beyond `ACTIVE` and `ROTATED` takes the key out of use, whatever it means there. The
/// version of the provider configuration is the microsecond of its last change, 0 when unknown.
///
/// # Errors
/// See [`ConvertError`].
pub fn key_details(key: &KasKey) -> Result<Option<KeyDetails>, ConvertError> {
    let content = key.key.as_ref().ok_or(ConvertError::Empty)?;
    let Some(algorithm) = algorithm(content)? else { return Ok(None) };
    Ok(Some(KeyDetails {
        kas_uri: key.kas_uri.as_str().into(),
        kid: content.key_id.as_str().into(),
        algorithm,
        mode: mode(content)?,
        status: status(content.key_status),
        legacy: content.legacy,
        public_key: public_key(content, algorithm)?,
        private_key: private_key(content),
        provider: provider(content)?.map(Into::into),
    }))
}

fn algorithm(key: &AsymmetricKey) -> Result<Option<Algorithm>, ConvertError> {
    Ok(match policy::Algorithm::try_from(key.key_algorithm) {
        Ok(policy::Algorithm::Rsa2048) => Some(Algorithm::Rsa2048),
        Ok(policy::Algorithm::Rsa4096) => Some(Algorithm::Rsa4096),
        Ok(policy::Algorithm::EcP256) => Some(Algorithm::Ec(Curve::P256)),
        Ok(policy::Algorithm::EcP384) => Some(Algorithm::Ec(Curve::P384)),
        Ok(policy::Algorithm::EcP521) => Some(Algorithm::Ec(Curve::P521)),
        Ok(policy::Algorithm::Unspecified) => {
            return Err(ConvertError::NoAlgorithm(key.key_id.clone()));
        }
        _ => None,
    })
}

fn mode(key: &AsymmetricKey) -> Result<KeyMode, ConvertError> {
    match key.key_mode {
        1 => Ok(KeyMode::ConfigRootKey),
        2 => Ok(KeyMode::ProviderRootKey),
        3 => Ok(KeyMode::Remote),
        4 => Ok(KeyMode::PublicKeyOnly),
        mode => Err(ConvertError::Mode { kid: key.key_id.clone(), mode }),
    }
}

/// By number: 3 and 4 are ours, and a platform may have others.
fn status(number: i32) -> KeyStatus {
    match number {
        1 => KeyStatus::Active,
        2 => KeyStatus::Rotated,
        4 => KeyStatus::Compromised,
        _ => KeyStatus::Disabled,
    }
}

fn public_key(key: &AsymmetricKey, expected: Algorithm) -> Result<PublicKey, ConvertError> {
    let kid = || key.key_id.clone();
    let encoded = key.public_key_ctx.as_ref().map_or("", |context| context.pem.as_str());
    let pem =
        STANDARD.decode(encoded.trim_ascii()).ok().and_then(|pem| String::from_utf8(pem).ok());
    let pem = pem.ok_or_else(|| ConvertError::Encoding(kid()))?;
    let public = PublicKey::from_pem(&pem)
        .map_err(|source| ConvertError::PublicKey { kid: kid(), source })?;
    if public.algorithm() != Some(expected) {
        return Err(ConvertError::Mismatch { kid: kid(), expected });
    }
    Ok(public)
}

fn private_key(key: &AsymmetricKey) -> PrivateKeyRef {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    key.private_key_ctx.as_ref().map_or_else(PrivateKeyRef::default, |context| PrivateKeyRef {
        key_id: text(&context.key_id),
        wrapped_key: text(&context.wrapped_key),
    })
}

fn provider(key: &AsymmetricKey) -> Result<Option<ProviderConfig>, ConvertError> {
    let Some(config) = &key.provider_config else { return Ok(None) };
    if config.manager.is_empty() {
        let (kid, provider) = (key.key_id.clone(), config.name.clone());
        return Err(ConvertError::NoManager { kid, provider });
    }
    let config_json = String::from_utf8(config.config_json.clone()).map_err(|_| {
        ConvertError::ConfigJson { kid: key.key_id.clone(), provider: config.name.clone() }
    })?;
    Ok(Some(ProviderConfig {
        name: config.name.clone(),
        manager: config.manager.clone(),
        config_json,
        version: version(config),
    }))
}

fn version(config: &KeyProviderConfig) -> u64 {
    let updated = config.metadata.as_ref().and_then(|metadata| metadata.updated_at.as_ref());
    updated.map_or(0, |at| {
        let micros = i128::from(at.seconds) * 1_000_000 + i128::from(at.nanos) / 1_000;
        u64::try_from(micros.max(0)).unwrap_or(u64::MAX)
    })
}
