//! Compact JSON Web Signatures (RFC 7515), with public keys only.
//!
//! The signatures are `jsonwebtoken`'s business; here is what it leaves open: strict JSON, no
//! critical extensions, and ECDSA on P-521, which it lacks.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use kasbah_crypto::{Curve, PublicKey, PublicKeyError, ec::EcPublicKey, rsa::RsaPublicKey};
use serde_json::{Map, Value};

use crate::json;

const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
/// All that are verified, as `alg` has them.
pub(crate) const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

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
#[error("{}", self.reason())]
pub enum JwsError {
    /// The header's `alg` is not one that fits the key.
    Algorithm,
    /// The header lists extensions that must be understood.
    Critical,
    /// Not three base64url parts with strict JSON objects in the first two.
    Form,
    /// No key that is supported: RSA from 2048 to 8192 bits, P-256, P-384, P-521, Ed25519.
    Key,
    /// The key did not make the signature.
    Signature,
}

impl JwsError {
    /// Its text, for a refusal.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Algorithm => "its algorithm does not fit the key",
            Self::Critical => "its header lists critical extensions",
            Self::Form => "it is not a compact JWS with JSON objects in it",
            Self::Key => "its key is of no supported type",
            Self::Signature => "its signature is wrong",
        }
    }
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
        let bytes = |name: &str| text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        // `crv` says something in keys on curves alone: what makes the key must be what makes its
        // thumbprint (RFC 7638).
        let key = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => Self::rsa(bytes("n"), bytes("e")),
            (Some("EC"), Some("P-256")) => Self::point(Curve::P256, bytes("x"), bytes("y")),
            (Some("EC"), Some("P-384")) => Self::point(Curve::P384, bytes("x"), bytes("y")),
            (Some("EC"), Some("P-521")) => Self::point(Curve::P521, bytes("x"), bytes("y")),
            (Some("OKP"), Some("Ed25519")) => Self::edwards(bytes("x")),
            _ => None,
        };
        let mut key = key.ok_or(JwsError::Key)?;
        if let Some(named) = jwk.get("alg") {
            key.algorithms.retain(|algorithm| named.as_str() == Some(algorithm));
        }
        if key.algorithms.is_empty() { Err(JwsError::Key) } else { Ok(key) }
    }

    /// A key of PEM text, a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// When it is no public key of a supported type.
    pub fn from_pem(pem: &str) -> Result<Self, JwsError> {
        match PublicKey::from_pem(pem) {
            Ok(PublicKey::Ec(key)) => Ok(Self::ec(&key)),
            Ok(PublicKey::Rsa(key)) => {
                Self::rsa(Some(key.modulus().into()), Some(key.exponent().into()))
                    .ok_or(JwsError::Key)
            }
            Err(PublicKeyError::UnsupportedType) => {
                let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| JwsError::Key)?;
                Ok(Self::jose(key, &["EdDSA"]))
            }
            Err(_) => Err(JwsError::Key),
        }
    }

    fn rsa(modulus: Option<Vec<u8>>, exponent: Option<Vec<u8>>) -> Option<Self> {
        let key = RsaPublicKey::from_components(&modulus?, &exponent?).ok()?;
        let key = DecodingKey::from_rsa_raw_components(key.modulus(), key.exponent());
        Some(Self::jose(key, &RSA))
    }

    /// Coordinates have the length of the field, RFC 7518, section 6.2.1.2.
    fn point(curve: Curve, x: Option<Vec<u8>>, y: Option<Vec<u8>>) -> Option<Self> {
        let (x, y) = (x?, y?);
        if x.len() != curve.field_len() || y.len() != curve.field_len() {
            return None;
        }
        let point = [&[4], x.as_slice(), &y].concat();
        EcPublicKey::from_sec1(curve, &point).ok().map(|key| Self::ec(&key))
    }

    fn ec(key: &EcPublicKey) -> Self {
        match key.curve() {
            Curve::P256 => Self::jose(DecodingKey::from_ec_der(key.point()), &["ES256"]),
            Curve::P384 => Self::jose(DecodingKey::from_ec_der(key.point()), &["ES384"]),
            Curve::P521 => {
                let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key.point().to_vec());
                Self { key: Key::P521(key), algorithms: vec!["ES512"] }
            }
        }
    }

    fn edwards(x: Option<Vec<u8>>) -> Option<Self> {
        let x = x.filter(|x| x.len() == ED25519_PUBLIC_KEY_LEN)?;
        Some(Self::jose(DecodingKey::from_ed_der(&x), &["EdDSA"]))
    }

    fn jose(key: DecodingKey, algorithms: &[&'static str]) -> Self {
        Self { key: Key::Jose(key), algorithms: algorithms.to_vec() }
    }

    /// The names of its algorithms, as `alg` has them.
    pub fn algorithms(&self) -> &[&'static str] {
        &self.algorithms
    }
}

#[cfg(test)]
mod tests;
