//! Interfaces between a Key Access Server and whatever holds its private keys.
//!
//! Start at [`KeyManager`], and there at [`KeyManager::rewrap`], the operation everything is built
//! around. [`KeyService`] shows how a manager is chosen for a key. A manager is done when it passes
//! the suite in `conformance` (feature `conformance`).
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod custody;
mod deadline;
mod details;
mod error;
mod index;
mod instance;
mod manager;
mod proof;
mod protected;
mod recipient;
mod secret;
mod service;
mod store;

pub use custody::{Boundary, Custody, CustodyLevel, CustodyPolicy};
pub use deadline::Deadline;
pub use details::{KeyDetails, KeyId, KeyMode, KeyStatus, PrivateKeyRef, ProviderConfig};
pub use error::{BoxError, Error, Result};
pub use index::{KeyFilter, KeyIndex};
pub use instance::Lease;
pub use kasbah_crypto::{
    Algorithm, Curve, Dek, PolicyBinding, PublicKey, WrappedDek, ec::EcPublicKey,
};
pub use manager::{
    Health, KeyManager, KeyManagerFactory, KeyManagers, RegistrationError, RewrapRequest,
};
pub use protected::{ProtectedKey, RewrappedKey, SoftwareKey, VerifiedKey};
pub use recipient::{DeviceRecipient, Recipient};
pub use secret::{SecretError, SecretSource};
pub use service::{Designation, KeyService, UnknownManager};
pub use store::{KeyStore, NewKey, StoredKey};
