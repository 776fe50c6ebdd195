use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kasbah_basic::{BasicManager, RootKeys, wrap_private_key};
use kasbah_crypto::{PrivateKey, PrivateKeyParts, envelope::RootKey};
use kasbah_trust::{
    Algorithm, Deadline, KeyDetails, KeyManager, KeyMode, KeyStatus, PrivateKeyRef, Result,
};

pub(crate) const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
pub(crate) const OTHER_ROOT: &str =
    "ff2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3eff";

pub(crate) fn root(hex: &str) -> RootKey {
    RootKey::from_hex(hex).unwrap()
}

/// A manager with these root keys by alias, of which the first is the default.
pub(crate) fn manager(root_keys: &[(&str, &str)]) -> BasicManager {
    let keys: BTreeMap<_, _> =
        root_keys.iter().map(|(alias, hex)| ((*alias).to_owned(), root(hex))).collect();
    BasicManager::new(Arc::new(RootKeys::new(root_keys[0].0.to_owned(), keys).unwrap()))
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// Whether the manager can use the key.
pub(crate) async fn probe(manager: &BasicManager, key: &KeyDetails) -> Result<()> {
    manager.probe(key, soon()).await.map(drop)
}

/// A fresh private key in PKCS#8 PEM.
pub(crate) fn private_pem(algorithm: Algorithm) -> String {
    PrivateKeyParts::generate(algorithm).unwrap().to_pem().unwrap().to_string()
}

/// The stored form of a private key under [`ROOT`].
pub(crate) fn stored(kid: &str, pem: &str) -> KeyDetails {
    stored_as(kid, pem, wrap_private_key(&root(ROOT), pem).unwrap())
}

/// Details of the key in `pem` beside any wrapped text.
pub(crate) fn stored_as(kid: &str, pem: &str, wrapped: String) -> KeyDetails {
    let public_key = PrivateKey::from_pem(pem).unwrap().public_key();
    KeyDetails {
        kas_uri: "https://kas.example.com".into(),
        kid: kid.into(),
        algorithm: public_key.algorithm().unwrap(),
        mode: KeyMode::ConfigRootKey,
        status: KeyStatus::Active,
        legacy: false,
        public_key,
        private_key: PrivateKeyRef { key_id: None, wrapped_key: Some(wrapped) },
        provider: None,
    }
}
