//! Compact JSON Web Signatures (RFC 7515), with public keys only.
//!
//! The signatures are `jsonwebtoken`'s business; here is what it leaves open: strict JSON, no
//! critical extensions, and ECDSA on P-521, which it lacks.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto, jwk::Jwk};
use kasbah_crypto::{Curve, PublicKey};
use serde_json::{Map, Value};

use crate::json;

const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
/// Coordinate of P-521, in bytes.
const P521_BYTES: usize = 66;

/// A public key with the algorithms it verifies.
pub struct VerifyingKey {
    key: Key,
    algorithms: Vec<&'static str>,
}

enum Key {
    Jose(DecodingKey),
    P521(UnparsedPublicKey<Vec<u8>>),
}

/// Why a JWS was refused; never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// The header's `alg` is not one that fits the key.
    #[error("its algorithm does not fit the key")]
    Algorithm,
    /// The header lists extensions that must be understood.
    #[error("its header lists critical extensions")]
    Critical,
    /// Not three base64url parts with strict JSON objects in the first two.
    #[error("it is not a compact JWS with JSON objects in it")]
    Form,
    /// No key that is supported: RSA from 2048 bits, P-256, P-384, P-521, Ed25519.
    #[error("its key is of no supported type")]
    Key,
    /// The key did not make the signature.
    #[error("its signature is wrong")]
    Signature,
}

/// A JWS whose form is right. Nothing in it is true before [`Jws::verify`].
pub struct Jws<'a> {
    signed: &'a str,
    signature: &'a str,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl<'a> Jws<'a> {
    /// Reads the three parts.
    ///
    /// # Errors
    /// When they are not what they have to be.
    pub fn parse(text: &'a str) -> Result<Self, JwsError> {
        let (signed, signature) = text.rsplit_once('.').ok_or(JwsError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(JwsError::Form)?;
        let header = part(header)?;
        if header.contains_key("crit") {
            return Err(JwsError::Critical);
        }
        Ok(Self { signed, signature, header, claims: part(claims)? })
    }

    /// Everything in the header.
    pub fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// A text of the header.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    /// The claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The claims, without the rest.
    pub fn into_claims(self) -> Map<String, Value> {
        self.claims
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// When `key` did not make it with one of its algorithms.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), JwsError> {
        let name = self.header_text("alg").ok_or(JwsError::Algorithm)?;
        if !key.algorithms.contains(&name) {
            return Err(JwsError::Algorithm);
        }
        let message = self.signed.as_bytes();
        let good = match &key.key {
            Key::Jose(key) => {
                let algorithm = name.parse::<Algorithm>().map_err(|_| JwsError::Algorithm)?;
                crypto::verify(self.signature, message, key, algorithm).unwrap_or(false)
            }
            Key::P521(key) => URL_SAFE_NO_PAD
                .decode(self.signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        };
        if good { Ok(()) } else { Err(JwsError::Signature) }
    }
}

fn part(text: &str) -> Result<Map<String, Value>, JwsError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::Form)?;
    json::object(&bytes).ok_or(JwsError::Form)
}

impl VerifyingKey {
    /// A key of a JSON Web Key (RFC 7517). Its `alg`, if it has one, is the only algorithm.
    ///
    /// # Errors
    /// When it is no public key for signatures of a supported type, or its `alg` does not fit it.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, JwsError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let mut algorithms = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => RSA.to_vec(),
            (Some("EC"), Some("P-256")) => vec!["ES256"],
            (Some("EC"), Some("P-384")) => vec!["ES384"],
            (Some("EC"), Some("P-521")) => vec!["ES512"],
            (Some("OKP"), Some("Ed25519")) => vec!["EdDSA"],
            _ => return Err(JwsError::Key),
        };
        if let Some(named) = jwk.get("alg") {
            algorithms.retain(|algorithm| named.as_str() == Some(algorithm));
        }
        if algorithms.is_empty() {
            return Err(JwsError::Key);
        }
        let key = match text("crv") {
            Some("P-521") => Key::P521(UnparsedPublicKey::new(
                &ECDSA_P521_SHA512_FIXED,
                p521_point(text("x"), text("y")).ok_or(JwsError::Key)?,
            )),
            _ => Key::Jose(jose(jwk)?),
        };
        Ok(Self { key, algorithms })
    }

    /// A key of PEM text, a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// When it is no public key of a supported type.
    pub fn from_pem(pem: &str) -> Result<Self, JwsError> {
        match PublicKey::from_pem(pem) {
            Ok(PublicKey::Ec(key)) if key.curve() == Curve::P521 => {
                let jwk = serde_json::from_str(&PublicKey::Ec(key).to_jwk());
                Self::from_jwk(&jwk.map_err(|_| JwsError::Key)?)
            }
            Ok(PublicKey::Ec(key)) => {
                let algorithm = if key.curve() == Curve::P256 { "ES256" } else { "ES384" };
                Self::jose(DecodingKey::from_ec_pem(pem.as_bytes()), &[algorithm])
            }
            Ok(PublicKey::Rsa(_)) => Self::jose(DecodingKey::from_rsa_pem(pem.as_bytes()), &RSA),
            Err(kasbah_crypto::PublicKeyError::UnsupportedType) => {
                Self::jose(DecodingKey::from_ed_pem(pem.as_bytes()), &["EdDSA"])
            }
            Err(_) => Err(JwsError::Key),
        }
    }

    fn jose(
        key: jsonwebtoken::errors::Result<DecodingKey>,
        algorithms: &[&'static str],
    ) -> Result<Self, JwsError> {
        let key = Key::Jose(key.map_err(|_| JwsError::Key)?);
        Ok(Self { key, algorithms: algorithms.to_vec() })
    }

    /// The names of its algorithms, as `alg` has them.
    pub fn algorithms(&self) -> &[&'static str] {
        &self.algorithms
    }
}

fn jose(jwk: &Map<String, Value>) -> Result<DecodingKey, JwsError> {
    // `alg` and `use` are looked at elsewhere, and the library refuses values it does not know.
    let members = ["kty", "crv", "n", "e", "x", "y"];
    let public: Map<String, Value> = members
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), jwk.get(*name)?.clone())))
        .collect();
    if public.get("kty") == Some(&Value::from("RSA")) && !has_rsa_size(&public) {
        return Err(JwsError::Key);
    }
    let jwk: Jwk = serde_json::from_value(Value::Object(public)).map_err(|_| JwsError::Key)?;
    DecodingKey::from_jwk(&jwk).map_err(|_| JwsError::Key)
}

/// 2048 to 8192 bits, which is what the verifier takes.
fn has_rsa_size(jwk: &Map<String, Value>) -> bool {
    let modulus = jwk.get("n").and_then(Value::as_str).map(|n| URL_SAFE_NO_PAD.decode(n));
    let Some(Ok(modulus)) = modulus else { return false };
    (256..=1024).contains(&modulus.iter().skip_while(|byte| **byte == 0).count())
}

/// Uncompressed SEC 1.
fn p521_point(x: Option<&str>, y: Option<&str>) -> Option<Vec<u8>> {
    let mut point = vec![4];
    for coordinate in [x?, y?] {
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok()?;
        if bytes.len() != P521_BYTES {
            return None;
        }
        point.extend(bytes);
    }
    Some(point)
}
