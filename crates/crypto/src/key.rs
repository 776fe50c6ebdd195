use std::mem;

use base64ct::{Base64UrlUnpadded, Encoding};
use der::{AnyRef, Decode};
use sha2::{Digest, Sha256};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::{
    Algorithm, CryptoError, Curve, Dek,
    ec::{EcPrivateKey, EcPublicKey},
    parts::PrivateKeyParts,
    pem,
    rsa::{RsaPrivateKey, RsaPublicKey},
};

/// rsaEncryption, RFC 8017.
pub(crate) const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-ecPublicKey, RFC 5480.
pub(crate) const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// X25519 and Ed25519, RFC 8410; DSA, RFC 3279.
const OIDS_OF_OTHER_TYPES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("1.3.101.110"),
    ObjectIdentifier::new_unwrap("1.3.101.112"),
    ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"),
];

/// A public key that data keys are wrapped to: a KAS key, a client's session key, an ephemeral.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// EC-wrap on P-256, P-384 or P-521.
    Ec(EcPublicKey),
    /// RSA-OAEP.
    Rsa(RsaPublicKey),
}

/// Why a public key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The text holds no PEM block.
    #[error("no PEM block found")]
    NoPem,
    /// The block is no `SubjectPublicKeyInfo` of a classical type, or the key in it is damaged.
    #[error("not a parseable SubjectPublicKeyInfo")]
    Malformed,
    /// Ed25519, X25519 or DSA.
    #[error("neither an RSA nor an EC key")]
    UnsupportedType,
    /// EC, but not on P-256, P-384 or P-521.
    #[error("unsupported curve; use P-256, P-384 or P-521")]
    UnsupportedCurve,
    /// RSA outside the bounds that tokens handle safely; the text says which bound.
    #[error("RSA key refused: {0}")]
    Refused(&'static str),
}

impl PublicKey {
    /// Reads the first PEM block of `text` as `SubjectPublicKeyInfo`, whatever its label; CRLF is
    /// accepted. Texts of more than 16 KiB hold no PEM block.
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_pem(text: &str) -> Result<Self, PublicKeyError> {
        let block = pem::first_block(text).ok_or(PublicKeyError::NoPem)?;
        Self::from_spki_der(&block.der)
    }

    /// Reads a DER `SubjectPublicKeyInfo`; EC keys name their curve.
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let malformed = |_: der::Error| PublicKeyError::Malformed;
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(malformed)?;
        let key = spki.subject_public_key.as_bytes().ok_or(PublicKeyError::Malformed)?;
        match spki.algorithm.oid {
            OID_RSA => {
                if spki.algorithm.parameters != Some(AnyRef::NULL) {
                    return Err(PublicKeyError::Malformed);
                }
                let key = pkcs1::RsaPublicKeyRef::from_der(key).map_err(malformed)?;
                let (modulus, exponent) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
                RsaPublicKey::from_components(modulus, exponent).map(Self::Rsa)
            }
            OID_EC => {
                let parameters = spki.algorithm.parameters.ok_or(PublicKeyError::Malformed)?;
                let oid = parameters.decode_as().map_err(malformed)?;
                let curve = Curve::from_oid(oid).ok_or(PublicKeyError::UnsupportedCurve)?;
                EcPublicKey::from_sec1(curve, key).map(Self::Ec)
            }
            oid if OIDS_OF_OTHER_TYPES.contains(&oid) => Err(PublicKeyError::UnsupportedType),
            _ => Err(PublicKeyError::Malformed),
        }
    }

    /// DER `SubjectPublicKeyInfo`, points uncompressed.
    pub fn to_spki_der(&self) -> Vec<u8> {
        self.spki().to_vec()
    }

    fn spki(&self) -> &[u8] {
        match self {
            Self::Ec(key) => key.spki(),
            Self::Rsa(key) => key.spki(),
        }
    }

    /// PEM `PUBLIC KEY`, LF line ends.
    pub fn to_pem(&self) -> String {
        mem::take(&mut *pem::encode("PUBLIC KEY", self.spki()))
    }

    /// JSON Web Key text (RFC 7517): `kty`, `n`, `e` or `kty`, `crv`, `x`, `y`.
    pub fn to_jwk(&self) -> String {
        let encode = Base64UrlUnpadded::encode_string;
        let jwk = match self {
            Self::Rsa(key) => serde_json::json!({
                "kty": "RSA", "n": encode(key.modulus()), "e": encode(key.exponent()),
            }),
            Self::Ec(key) => {
                let (x, y) = key.point()[1..].split_at(key.curve().field_len());
                serde_json::json!({
                    "kty": "EC", "crv": key.curve().jwk_name(), "x": encode(x), "y": encode(y),
                })
            }
        };
        jwk.to_string()
    }

    /// The KAS algorithm of a key of this shape; `None` for RSA sizes that KAS keys do not have.
    pub fn algorithm(&self) -> Option<Algorithm> {
        match self {
            Self::Ec(key) => Some(Algorithm::Ec(key.curve())),
            Self::Rsa(key) => match key.bits() {
                2048 => Some(Algorithm::Rsa2048),
                4096 => Some(Algorithm::Rsa4096),
                _ => None,
            },
        }
    }

    /// SHA-256 of the DER `SubjectPublicKeyInfo`.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.spki()).into()
    }

    /// Wraps a data key as a client does for a KAS: RSA-OAEP, or EC-wrap under a fresh ephemeral.
    ///
    /// # Errors
    /// [`CryptoError`] when the library refuses.
    pub fn wrap(&self, dek: &Dek) -> Result<WrappedDek, CryptoError> {
        match self {
            Self::Rsa(key) => Ok(WrappedDek::Rsa(key.encrypt(dek)?)),
            Self::Ec(key) => {
                let ephemeral = EcPrivateKey::generate(key.curve())?;
                let blob = ephemeral.agree(key)?.seal(dek)?;
                Ok(WrappedDek::Ec { blob, ephemeral: ephemeral.public_key().clone() })
            }
        }
    }
}

/// A data key wrapped for a KAS key.
#[derive(Debug, Clone)]
pub enum WrappedDek {
    /// `ec-wrapped`: blob of [`crate::ec`] and the sender's ephemeral public key.
    Ec {
        /// `nonce || ciphertext || tag`
        blob: Vec<u8>,
        /// Public half of the ephemeral key that wrapped it.
        ephemeral: EcPublicKey,
    },
    /// `wrapped`: RSA-OAEP ciphertext.
    Rsa(Vec<u8>),
}

/// A private key in software. No `Debug`, no `Clone`.
pub enum PrivateKey {
    /// EC-wrap.
    Ec(EcPrivateKey),
    /// RSA-OAEP.
    Rsa(RsaPrivateKey),
}

impl PrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, CryptoError> {
        PrivateKeyParts::generate(algorithm)?.to_private_key()
    }

    /// Reads PEM: PKCS#8 `PRIVATE KEY` for either kind, PKCS#1 `RSA PRIVATE KEY` for RSA.
    ///
    /// # Errors
    /// [`CryptoError`]; says nothing of the key.
    pub fn from_pem(text: &str) -> Result<Self, CryptoError> {
        PrivateKeyParts::parse_pem(text)?.to_private_key()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Ec(key) => PublicKey::Ec(key.public_key().clone()),
            Self::Rsa(key) => PublicKey::Rsa(key.public_key().clone()),
        }
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike, a form that does not fit the key included.
    pub fn unwrap_dek(&self, wrapped: &WrappedDek) -> Result<Dek, CryptoError> {
        match (self, wrapped) {
            (Self::Rsa(key), WrappedDek::Rsa(ciphertext)) => key.decrypt(ciphertext),
            (Self::Ec(key), WrappedDek::Ec { blob, ephemeral }) => key.agree(ephemeral)?.open(blob),
            _ => Err(CryptoError),
        }
    }
}
