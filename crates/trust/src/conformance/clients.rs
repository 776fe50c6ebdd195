use std::sync::OnceLock;

use aws_lc_rs::{
    aead, agreement, digest, hkdf, rand,
    rsa::{
        OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey,
        PublicEncryptingKey,
    },
};
use kasbah_crypto::{
    Algorithm, Curve, Dek, PrivateKey, PublicKey, WrappedDek, ec, ec::EcPublicKey,
};

use crate::{Recipient, RewrappedKey};

/// Private keys of clients, made on first use and kept for the process: RSA keys take a while.
pub struct Clients {
    keys: [OnceLock<PrivateKey>; Algorithm::ALL.len()],
}

impl Clients {
    /// The client of each algorithm.
    pub fn shared() -> &'static Self {
        static CLIENTS: Clients = Clients::new();
        &CLIENTS
    }

    /// Others of the same algorithms, who must not be able to open what is meant for the first.
    pub fn strangers() -> &'static Self {
        static STRANGERS: Clients = Clients::new();
        &STRANGERS
    }

    /// The private key of this algorithm.
    ///
    /// # Panics
    /// When the key cannot be made.
    pub fn private_key(&self, algorithm: Algorithm) -> &PrivateKey {
        let position = Algorithm::ALL.iter().position(|known| *known == algorithm);
        let slot = &self.keys[position.expect("ALL is complete")];
        slot.get_or_init(|| PrivateKey::generate(algorithm).expect("a private key"))
    }

    /// The public key of this algorithm.
    ///
    /// # Panics
    /// When the key cannot be made.
    pub fn public_key(&self, algorithm: Algorithm) -> PublicKey {
        self.private_key(algorithm).public_key()
    }

    /// Opens an answer as the client that `recipient` was opened for would; `None` when its key
    /// does not fit.
    ///
    /// # Panics
    /// When the recipient's session key is no key.
    pub fn open(
        &self,
        algorithm: Algorithm,
        recipient: &Recipient,
        answer: &RewrappedKey,
    ) -> Option<Dek> {
        let wrapped = match recipient.session_public_key() {
            None => WrappedDek::Rsa(answer.wrapped.clone()),
            Some(pem) => match PublicKey::from_pem(&pem).expect("session key") {
                PublicKey::Ec(ephemeral) => {
                    WrappedDek::Ec { blob: answer.wrapped.clone(), ephemeral }
                }
                PublicKey::Rsa(_) => panic!("an RSA session key"),
            },
        };
        self.private_key(algorithm).unwrap_dek(&wrapped).ok()
    }

    const fn new() -> Self {
        Self { keys: [const { OnceLock::new() }; Algorithm::ALL.len()] }
    }
}

/// Which hash an OAEP ciphertext is made with.
#[derive(Clone, Copy)]
pub(super) enum Oaep {
    Sha1,
    Sha256,
}

/// Wraps any bytes for `key`, be they a data key or not, with the format done over again beside
/// `kasbah_crypto`.
pub(super) fn wrap_bytes(key: &PublicKey, plaintext: &[u8]) -> WrappedDek {
    match key {
        PublicKey::Rsa(_) => WrappedDek::Rsa(encrypt(key, plaintext, Oaep::Sha1)),
        PublicKey::Ec(key) => {
            let (ephemeral, secret) = agree(key);
            let key = aead::UnboundKey::new(&aead::AES_256_GCM, &secret).expect("AES key");
            let mut nonce = [0; ec::NONCE_LEN];
            rand::fill(&mut nonce).expect("randomness");
            let mut sealed = plaintext.to_vec();
            aead::LessSafeKey::new(key)
                .seal_in_place_append_tag(
                    aead::Nonce::assume_unique_for_key(nonce),
                    aead::Aad::empty(),
                    &mut sealed,
                )
                .expect("sealing");
            WrappedDek::Ec { blob: [&nonce[..], &sealed].concat(), ephemeral }
        }
    }
}

/// RSA-OAEP with one hash for label and MGF1.
pub(super) fn encrypt(key: &PublicKey, plaintext: &[u8], hash: Oaep) -> Vec<u8> {
    let algorithm: &'static OaepAlgorithm = match hash {
        Oaep::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Oaep::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let key = PublicEncryptingKey::from_der(&key.to_spki_der()).expect("RSA public key");
    let key = OaepPublicEncryptingKey::new(key).expect("RSA-OAEP key");
    let mut ciphertext = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, plaintext, &mut ciphertext, None).expect("encrypting");
    ciphertext
}

/// An ephemeral public key, and what ECDH and HKDF make of its private half and `peer`.
pub(super) fn agree(peer: &EcPublicKey) -> (EcPublicKey, [u8; 32]) {
    let curve = match peer.curve() {
        Curve::P256 => &agreement::ECDH_P256,
        Curve::P384 => &agreement::ECDH_P384,
        Curve::P521 => &agreement::ECDH_P521,
    };
    let private = agreement::PrivateKey::generate(curve).expect("ephemeral key");
    let public = private.compute_public_key().expect("ephemeral public key");
    let public = EcPublicKey::from_sec1(peer.curve(), public.as_ref()).expect("a point");
    let peer = agreement::UnparsedPublicKey::new(curve, peer.point());
    let secret = agreement::agree(&private, peer, "no agreement", |shared| {
        let mut secret = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, digest::digest(&digest::SHA256, b"TDF").as_ref())
            .extract(shared)
            .expand(&[], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut secret))
            .expect("HKDF");
        Ok::<_, &str>(secret)
    });
    (public, secret.expect("agreement"))
}
