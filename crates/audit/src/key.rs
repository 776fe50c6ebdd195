//! The key that signs checkpoints: Ed25519, RFC 8032.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey},
};
use pem_rfc7468::LineEnding;
use secrecy::{ExposeSecret, SecretString};
use spki::{
    AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Encode, asn1::BitStringRef},
};
use zeroize::Zeroizing;

use crate::line::sha256;

/// A key cannot be used. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a PKCS#8 PEM file of an Ed25519 key.
    #[error("expected an unencrypted PEM file with an Ed25519 private key (PKCS#8)")]
    Private,
    /// Not an SPKI PEM file of an Ed25519 key.
    #[error("expected a PEM file with an Ed25519 public key (SPKI)")]
    Public,
    /// The library has no key to give.
    #[error("no key could be made")]
    Generate,
}

/// Signs checkpoints. The library wipes it.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Reads a private key: PKCS#8 (RFC 5958, RFC 8410) in PEM, with or without its public half.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_pem(pem: &SecretString) -> Result<Self, KeyError> {
        let pem = pem.expose_secret().trim_ascii();
        let (label, der) =
            pem_rfc7468::decode_vec(pem.as_bytes()).map_err(|_| KeyError::Private)?;
        let der = Zeroizing::new(der);
        if label != PRIVATE {
            return Err(KeyError::Private);
        }
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| KeyError::Private)?;
        Self::new(pair).ok_or(KeyError::Private)
    }

    /// Makes a key and returns it with its PKCS#8 PEM, which is what has to be kept.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generate() -> Result<(Self, SecretString), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| KeyError::Generate)?;
        let pem = pem_rfc7468::encode_string(PRIVATE, LineEnding::LF, der.as_ref())
            .map_err(|_| KeyError::Generate)?;
        let key = Self::new(pair).ok_or(KeyError::Generate)?;
        Ok((key, SecretString::from(pem)))
    }

    fn new(pair: Ed25519KeyPair) -> Option<Self> {
        let public = PublicKey::new(pair.public_key().as_ref().try_into().ok()?)?;
        Some(Self { pair, public })
    }

    /// Its public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> String {
        hex::encode(self.pair.sign(message))
    }
}

/// Checks what a [`SigningKey`] has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    raw: [u8; 32],
    der: Vec<u8>,
    id: String,
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo` (RFC 5280, RFC 8410) in PEM.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, der) =
            pem_rfc7468::decode_vec(pem.trim_ascii().as_bytes()).map_err(|_| KeyError::Public)?;
        let spki = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| KeyError::Public)?;
        if label != PUBLIC || spki.algorithm != ALGORITHM {
            return Err(KeyError::Public);
        }
        let raw = spki.subject_public_key.as_bytes().and_then(|raw| raw.try_into().ok());
        raw.and_then(Self::new).ok_or(KeyError::Public)
    }

    fn new(raw: [u8; 32]) -> Option<Self> {
        // Not every 32 bytes are a point of the curve.
        ParsedPublicKey::new(&ED25519, raw).ok()?;
        let subject_public_key = BitStringRef::from_bytes(&raw).ok()?;
        let der = SubjectPublicKeyInfoRef { algorithm: ALGORITHM, subject_public_key };
        let der = der.to_der().ok()?;
        let id = hex::encode(&sha256(&der)[..8]);
        Some(Self { raw, der, id })
    }

    /// The first 16 hex digits of the SHA-256 of its `SubjectPublicKeyInfo`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its `SubjectPublicKeyInfo` in PEM.
    pub fn to_pem(&self) -> String {
        // Only a label of wrong form could fail.
        pem_rfc7468::encode_string(PUBLIC, LineEnding::LF, &self.der).unwrap_or_default()
    }

    /// Whether `signature`, in lower-case hex, is one over `message`.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let Ok(bytes) = hex::decode(signature) else { return false };
        // There must be only one way to write a signature, or a changed line would pass.
        hex::encode(&bytes) == signature
            && aws_lc_rs::signature::UnparsedPublicKey::new(&ED25519, self.raw)
                .verify(message, &bytes)
                .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// `id-Ed25519`, without parameters.
const ALGORITHM: AlgorithmIdentifierRef<'static> =
    AlgorithmIdentifierRef { oid: ObjectIdentifier::new_unwrap("1.3.101.112"), parameters: None };
