use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{Jws, JwsError, VerifyingKey, json};

/// Keys of a set beyond these are not looked at.
const MOST: usize = 256;

/// The keys of one issuer.
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// SHA-256 of the text it was read from: the same text, the same keys.
    digest: [u8; 32],
}

struct Key {
    kid: Option<String>,
    key: VerifyingKey,
}

/// A key set that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Two keys share a `kid`.
    #[error("two keys of the JWKS have the same kid")]
    DuplicateKid,
    /// Not a set of JSON Web Keys.
    #[error("not a JSON Web Key Set (RFC 7517), or a name appears twice in an object of it")]
    Form,
    /// There are several keys, and one has no `kid`.
    #[error("the JWKS has several keys and one of them has no kid; give it one")]
    MissingKid,
    /// Nothing to verify with.
    #[error(
        "the JWKS holds no RSA (2048 to 8192 bits), P-256, P-384, P-521 or Ed25519 key for \
         signatures"
    )]
    NoUsableKey,
    /// No public key.
    #[error(
        "not a public key in PEM form (SubjectPublicKeyInfo) of type RSA (2048 to 8192 bits), \
         P-256, P-384, P-521 or Ed25519"
    )]
    Pem,
}

/// Why a key set does not verify a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyProblem {
    /// Several keys, and the token names none.
    NoKid,
    /// No key, or not one that the token names.
    UnknownKid,
    /// The key that it names did not sign it.
    Signature(JwsError),
    /// The only key did not sign it, and no `kid` says that it should have.
    OnlyKey(JwsError),
}

impl KeySet {
    /// Reads a JWKS; keys for other uses than signatures, and those of other types, are passed
    /// over. There may be none left.
    pub(crate) fn from_jwks(text: &[u8]) -> Result<Self, KeySetError> {
        let document = json::object(text).ok_or(KeySetError::Form)?;
        let all = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::Form)?;
        let keys: Vec<_> = all.iter().take(MOST).filter_map(usable).collect();
        let mut kids = BTreeSet::new();
        for key in &keys {
            match &key.kid {
                Some(kid) if !kids.insert(kid) => return Err(KeySetError::DuplicateKid),
                None if keys.len() > 1 => return Err(KeySetError::MissingKid),
                _ => {}
            }
        }
        Ok(Self { keys, digest: Sha256::digest(text).into() })
    }

    /// A set of one key without `kid`.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeySetError> {
        let key = VerifyingKey::from_pem(pem).map_err(|_| KeySetError::Pem)?;
        Ok(Self { keys: vec![Key { kid: None, key }], digest: Sha256::digest(pem).into() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Verifies with the key that `kid` names. A token may lack it where there is one key only,
    /// and may have any where that has none.
    pub(crate) fn verify(&self, jws: &Jws<'_>, kid: Option<&str>) -> Result<(), KeyProblem> {
        match (kid, self.keys.as_slice()) {
            (None, [only]) => jws.verify(&only.key).map_err(KeyProblem::OnlyKey),
            (Some(_), [only]) if only.kid.is_none() => {
                jws.verify(&only.key).map_err(KeyProblem::OnlyKey)
            }
            (None, [_, ..]) => Err(KeyProblem::NoKid),
            (_, keys) => {
                let named = keys.iter().find(|key| key.kid.as_deref() == kid);
                let named = named.ok_or(KeyProblem::UnknownKid)?;
                jws.verify(&named.key).map_err(KeyProblem::Signature)
            }
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

fn usable(jwk: &Value) -> Option<Key> {
    let jwk = jwk.as_object().filter(|jwk| is_for_signatures(jwk))?;
    let kid = match jwk.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str()?.to_owned()),
    };
    Some(Key { kid, key: VerifyingKey::from_jwk(jwk).ok()? })
}

fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|all| all.contains(&Value::from("verify")))
    });
    operations && jwk.get("use").is_none_or(|purpose| purpose == "sig")
}
