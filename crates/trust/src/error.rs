use crate::KeyId;

/// Source of an error, for the log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Result of a key operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Overload; the same request may succeed later.
    #[error("key manager busy")]
    Busy,
    /// Tampered or undecryptable. Carries nothing: padding, tag, wrong key and binding look alike.
    #[error("decryption failed")]
    Decrypt,
    /// A defect on this side.
    #[error("internal error")]
    Internal(#[source] BoxError),
    /// A key of this name is there already.
    #[error("key {0} exists")]
    Exists(KeyId),
    /// No such key.
    #[error("key {0} not found")]
    NotFound(KeyId),
    /// The key's attributes or its custody policy forbid this. The text is for clients too: it
    /// says which rule, never a secret.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The token, the database or the platform is down, or did not answer in time.
    #[error("key manager unavailable")]
    Unavailable(#[source] BoxError),
    /// This manager does not do that. The text is for clients too.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
}

impl Error {
    /// A defect on this side, described for the log.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// Something this depends on is down, described for the log.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }
}

impl From<kasbah_crypto::CryptoError> for Error {
    fn from(_: kasbah_crypto::CryptoError) -> Self {
        Self::Decrypt
    }
}
