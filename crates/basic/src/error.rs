use kasbah_trust::{Error, KeyId};

/// Root keys that cannot stand.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the default root key is `{default}`, but the root keys given are: {known}")]
pub struct RootKeyError {
    pub(crate) default: String,
    pub(crate) known: String,
}

/// A private key that was not wrapped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// [`crate::BasicManager`] could not read it again.
    #[error(
        "not a private key that opentdf.io/basic can use; give it PEM with PKCS#8 (`PRIVATE KEY`), \
         or for RSA PKCS#1 (`RSA PRIVATE KEY`), of rsa:2048, rsa:4096, ec:secp256r1, ec:secp384r1 \
         or ec:secp521r1"
    )]
    NotAKey,
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// Why a stored private key is of no use. For the log: no client can do anything about it.
#[derive(Debug, thiserror::Error)]
#[error("key {kid}: {fault}")]
pub(crate) struct StoredKeyError {
    pub(crate) kid: KeyId,
    pub(crate) fault: Fault,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the stored private key is not base64; import the key again")]
    NotBase64,
    #[error("the stored private key is only {0} bytes long; import the key again")]
    TooShort(usize),
    #[error(
        "the stored private key does not open with root key `{0}`; it is damaged, or another root \
         key wrapped it"
    )]
    DoesNotOpen(String),
    #[error(
        "the stored private key opens, but holds no PKCS#8 PEM (or PKCS#1 PEM for RSA); convert it \
         and import the key again"
    )]
    NotAKey,
    #[error("the stored private key does not belong to the stored public key; import both again")]
    Mismatch,
    #[error("the stored key is not of its algorithm, {0}; import the key again")]
    Algorithm(kasbah_trust::Algorithm),
    #[error("the system's random source failed")]
    Random,
    #[error("it names root key `{alias}`, but the root keys configured are: {known}")]
    UnknownRootKey { alias: String, known: String },
}

impl From<StoredKeyError> for Error {
    fn from(error: StoredKeyError) -> Self {
        match error.fault {
            // Mended by configuring the root key, without touching the key.
            Fault::UnknownRootKey { .. } => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}
