use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    },
};
use kasbah_basic::{BasicManager, RootKeys, wrap_private_key};
use kasbah_crypto::{PrivateKey, envelope::RootKey};
use kasbah_trust::{
    Algorithm, Curve, Deadline, KeyDetails, KeyManager, KeyMode, KeyStatus, PrivateKeyRef, Result,
};
use pem_rfc7468::{LineEnding, encode_string};

pub const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
pub const OTHER_ROOT: &str = "ff2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3eff";

pub fn root(hex: &str) -> RootKey {
    RootKey::from_hex(hex).unwrap()
}

/// A manager with these root keys by alias, of which the first is the default.
pub fn manager(root_keys: &[(&str, &str)]) -> BasicManager {
    let keys: BTreeMap<_, _> =
        root_keys.iter().map(|(alias, hex)| ((*alias).to_owned(), root(hex))).collect();
    BasicManager::new(Arc::new(RootKeys::new(root_keys[0].0.to_owned(), keys).unwrap()))
}

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// Whether the manager can use the key.
pub async fn probe(manager: &BasicManager, key: &KeyDetails) -> Result<()> {
    manager.probe(key, soon()).await.map(drop)
}

/// A fresh private key in PKCS#8 PEM.
pub fn private_pem(algorithm: Algorithm) -> String {
    let ecdsa = match algorithm {
        Algorithm::Rsa2048 => return rsa_pem(KeySize::Rsa2048),
        Algorithm::Rsa4096 => return rsa_pem(KeySize::Rsa4096),
        Algorithm::Ec(Curve::P256) => &ECDSA_P256_SHA256_ASN1_SIGNING,
        Algorithm::Ec(Curve::P384) => &ECDSA_P384_SHA384_ASN1_SIGNING,
        Algorithm::Ec(Curve::P521) => &ECDSA_P521_SHA512_ASN1_SIGNING,
    };
    let document = EcdsaKeyPair::generate_pkcs8(ecdsa, &SystemRandom::new()).unwrap();
    pem("PRIVATE KEY", document.as_ref())
}

fn rsa_pem(size: KeySize) -> String {
    let pair = KeyPair::generate(size).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    pem("PRIVATE KEY", der.as_ref())
}

pub fn pem(label: &str, der: &[u8]) -> String {
    encode_string(label, LineEnding::LF, der).unwrap()
}

/// The stored form of a private key under [`ROOT`].
pub fn stored(kid: &str, pem: &str) -> KeyDetails {
    stored_as(kid, pem, wrap_private_key(&root(ROOT), pem).unwrap())
}

/// Details of the key in `pem` beside any wrapped text.
pub fn stored_as(kid: &str, pem: &str, wrapped: String) -> KeyDetails {
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
