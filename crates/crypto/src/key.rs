use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use der::{Decode, Encode, asn1::BitStringRef, pem::LineEnding};
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};

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
    /// The block is no `SubjectPublicKeyInfo`, or the key in it is damaged.
    #[error("not a parseable SubjectPublicKeyInfo")]
    Malformed,
    /// Neither RSA nor EC.
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
        Self::from_spki_der(&block.der.ok_or(PublicKeyError::NoPem)?)
    }

    /// Reads a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let malformed = |_: der::Error| PublicKeyError::Malformed;
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(malformed)?;
        let key = spki.subject_public_key.as_bytes().ok_or(PublicKeyError::Malformed)?;
        match spki.algorithm.oid {
            OID_RSA => {
                let key = pkcs1::RsaPublicKeyRef::from_der(key).map_err(malformed)?;
                RsaPublicKey::from_components(
                    key.modulus.as_bytes(),
                    key.public_exponent.as_bytes(),
                )
                .map(Self::Rsa)
            }
            OID_EC => {
                let oid = spki.algorithm.parameters_oid();
                let oid = oid.map_err(|_| PublicKeyError::UnsupportedCurve)?;
                let curve = Curve::from_oid(oid).ok_or(PublicKeyError::UnsupportedCurve)?;
                EcPublicKey::from_sec1(curve, key).map(Self::Ec)
            }
            _ => Err(PublicKeyError::UnsupportedType),
        }
    }

    /// DER `SubjectPublicKeyInfo`.
    pub fn to_spki_der(&self) -> Vec<u8> {
        self.encode_spki().unwrap_or_default()
    }

    fn encode_spki(&self) -> der::Result<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let body = pkcs1::RsaPublicKey {
                    modulus: der::asn1::UintRef::new(key.modulus())?,
                    public_exponent: der::asn1::UintRef::new(key.exponent())?,
                };
                let parameters = Some(der::asn1::Null.into());
                spki(OID_RSA, parameters, &body.to_der()?)
            }
            Self::Ec(key) => spki(OID_EC, Some((&key.curve().oid()).into()), key.point()),
        }
    }

    /// PEM `PUBLIC KEY`, LF line ends.
    pub fn to_pem(&self) -> String {
        der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &self.to_spki_der())
            .unwrap_or_default()
    }

    /// JSON Web Key text (RFC 7517): `kty`, `n`, `e` or `kty`, `crv`, `x`, `y`.
    pub fn to_jwk(&self) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
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
        Sha256::digest(self.to_spki_der()).into()
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

fn spki(
    oid: ObjectIdentifier,
    parameters: Option<der::AnyRef<'_>>,
    key: &[u8],
) -> der::Result<Vec<u8>> {
    let algorithm = AlgorithmIdentifierRef { oid, parameters };
    let subject_public_key = BitStringRef::from_bytes(key)?;
    SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der()
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
        PrivateKeyParts::from_pem(text)?.to_private_key()
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
