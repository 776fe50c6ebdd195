use jsonwebtoken::{Algorithm as Jose, EncodingKey, Header};
use kasbah_crypto::{Algorithm, CryptoError, Curve, PrivateKeyParts, PublicKey};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::dpop::thumbprint;

/// What signs tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSA with PKCS#1 padding; every OIDC client takes it.
    #[default]
    Rs256,
}

/// Keys cannot be made, read or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A cryptographic operation failed; in practice the system has no randomness.
    #[error("the cryptographic library fails")]
    Failed,
    /// Not the text that [`SigningKeys::to_pem`] makes.
    #[error("not one RSA key of 2048 or 4096 bits and one P-256 key as PEM `PRIVATE KEY`")]
    Form,
}

/// One key per algorithm. No `Debug`, no `Clone`; wiped on drop.
pub struct SigningKeys {
    rs256: SigningKey,
    es256: SigningKey,
}

struct SigningKey {
    key: EncodingKey,
    kid: String,
    /// JSON Web Key with `kid`, `alg` and `use`.
    public: Value,
    pem: SecretString,
}

impl SigningKeys {
    /// Fresh keys, RSA with 2048 bits. Takes a tenth of a second or longer.
    ///
    /// # Errors
    /// [`KeysError::Failed`]
    pub fn generate() -> Result<Self, KeysError> {
        let generate = |algorithm| PrivateKeyParts::generate(algorithm).map_err(failed);
        Ok(Self {
            rs256: SigningKey::new(&generate(Algorithm::Rsa2048)?)?,
            es256: SigningKey::new(&generate(Algorithm::Ec(Curve::P256))?)?,
        })
    }

    /// Reads two PEM blocks `PRIVATE KEY` (PKCS#8, RFC 5958), one key of each kind in any order.
    ///
    /// # Errors
    /// [`KeysError::Form`]
    pub fn from_pem(text: &SecretString) -> Result<Self, KeysError> {
        let text = text.expose_secret();
        let second = text.rfind(BEGIN).ok_or(KeysError::Form)?;
        if text.matches(BEGIN).count() != 2 {
            return Err(KeysError::Form);
        }
        let (first, second) = text.split_at(second);
        let read = |text| PrivateKeyParts::from_pem(text).map_err(|_| KeysError::Form);
        let (mut rs256, mut es256) = (None, None);
        for parts in [read(first)?, read(second)?] {
            match parts.public_key().algorithm() {
                Some(Algorithm::Rsa2048 | Algorithm::Rsa4096) => rs256 = Some(parts),
                Some(Algorithm::Ec(Curve::P256)) => es256 = Some(parts),
                _ => return Err(KeysError::Form),
            }
        }
        Ok(Self {
            rs256: SigningKey::new(&rs256.ok_or(KeysError::Form)?)?,
            es256: SigningKey::new(&es256.ok_or(KeysError::Form)?)?,
        })
    }

    /// Both private keys as [`SigningKeys::from_pem`] reads them.
    pub fn to_pem(&self) -> SecretString {
        let keys = [&self.rs256, &self.es256];
        let mut text =
            String::with_capacity(keys.map(|key| key.pem.expose_secret().len()).iter().sum());
        for key in keys {
            text.push_str(key.pem.expose_secret());
        }
        text.into()
    }

    /// The public keys as JSON Web Keys.
    pub(crate) fn public(&self) -> [Value; 2] {
        [self.rs256.public.clone(), self.es256.public.clone()]
    }

    /// A compact JWS.
    pub(crate) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        typ: &str,
        claims: &Map<String, Value>,
    ) -> Result<String, KeysError> {
        let (key, algorithm) = match algorithm {
            SigningAlgorithm::Es256 => (&self.es256, Jose::ES256),
            SigningAlgorithm::Rs256 => (&self.rs256, Jose::RS256),
        };
        let mut header = Header::new(algorithm);
        header.typ = Some(typ.to_owned());
        header.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&header, claims, &key.key).map_err(|_| KeysError::Failed)
    }
}

impl SigningKey {
    fn new(parts: &PrivateKeyParts) -> Result<Self, KeysError> {
        let pem = parts.to_pem().map_err(failed)?;
        let public_key = parts.public_key();
        let (key, alg) = match public_key {
            PublicKey::Rsa(_) => (EncodingKey::from_rsa_pem(pem.as_bytes()), "RS256"),
            PublicKey::Ec(_) => (EncodingKey::from_ec_pem(pem.as_bytes()), "ES256"),
        };
        let public: Option<Map<String, Value>> = serde_json::from_str(&public_key.to_jwk()).ok();
        let mut public = public.ok_or(KeysError::Failed)?;
        let kid = thumbprint(&public).ok_or(KeysError::Failed)?;
        for (name, value) in [("kid", kid.as_str()), ("alg", alg), ("use", "sig")] {
            public.insert(name.to_owned(), value.into());
        }
        Ok(Self {
            key: key.map_err(|_| KeysError::Failed)?,
            kid,
            public: Value::Object(public),
            pem: pem.as_str().into(),
        })
    }
}

fn failed(_: CryptoError) -> KeysError {
    KeysError::Failed
}

const BEGIN: &str = "-----BEGIN";
