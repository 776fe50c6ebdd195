use crate::{
    Algorithm, CryptoError, Dek,
    ec::{EcPrivateKey, EcPublicKey},
    rsa::{RsaPrivateKey, RsaPublicKey},
};

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
    /// accepted.
    pub fn from_pem(text: &str) -> Result<Self, PublicKeyError> {
        let _ = text;
        todo!()
    }

    /// Reads a DER `SubjectPublicKeyInfo`.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let _ = der;
        todo!()
    }

    /// DER `SubjectPublicKeyInfo`.
    pub fn to_spki_der(&self) -> Vec<u8> {
        todo!()
    }

    /// PEM `PUBLIC KEY`, LF line ends.
    pub fn to_pem(&self) -> String {
        todo!()
    }

    /// JSON Web Key text (RFC 7517): `kty`, `n`, `e` or `kty`, `crv`, `x`, `y`.
    pub fn to_jwk(&self) -> String {
        todo!()
    }

    /// The KAS algorithm of a key of this shape; `None` for RSA sizes that KAS keys do not have.
    pub fn algorithm(&self) -> Option<Algorithm> {
        todo!()
    }

    /// SHA-256 of the DER `SubjectPublicKeyInfo`.
    pub fn fingerprint(&self) -> [u8; 32] {
        todo!()
    }

    /// Wraps a data key as a client does for a KAS: RSA-OAEP, or EC-wrap under a fresh ephemeral.
    pub fn wrap(&self, dek: &Dek) -> Result<WrappedDek, CryptoError> {
        let _ = dek;
        todo!()
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
    /// Reads PEM: PKCS#8 `PRIVATE KEY` for either kind, PKCS#1 `RSA PRIVATE KEY` for RSA.
    ///
    /// # Errors
    /// [`CryptoError`]; says nothing of the key.
    pub fn from_pem(text: &str) -> Result<Self, CryptoError> {
        let _ = text;
        todo!()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        todo!()
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike, a form that does not fit the key included.
    pub fn unwrap_dek(&self, wrapped: &WrappedDek) -> Result<Dek, CryptoError> {
        let _ = wrapped;
        todo!()
    }
}
