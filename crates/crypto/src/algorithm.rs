use std::{fmt, str::FromStr};

use spki::ObjectIdentifier;

/// Algorithm of a KAS key, written as OpenTDF does (`rsa:2048`, `ec:secp256r1`, ...).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `rsa:2048`
    Rsa2048,
    /// `rsa:4096`
    Rsa4096,
    /// `ec:secp256r1`, `ec:secp384r1`, `ec:secp521r1`
    Ec(Curve),
}

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

/// The text names no algorithm this build knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown algorithm; expected one of rsa:2048, rsa:4096, ec:secp256r1, ec:secp384r1, ec:secp521r1"
)]
pub struct UnknownAlgorithm;

impl Algorithm {
    /// Every algorithm, in the order they are documented.
    pub const ALL: [Self; 5] = [
        Self::Rsa2048,
        Self::Rsa4096,
        Self::Ec(Curve::P256),
        Self::Ec(Curve::P384),
        Self::Ec(Curve::P521),
    ];

    /// The identifier on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa:2048",
            Self::Rsa4096 => "rsa:4096",
            Self::Ec(Curve::P256) => "ec:secp256r1",
            Self::Ec(Curve::P384) => "ec:secp384r1",
            Self::Ec(Curve::P521) => "ec:secp521r1",
        }
    }

    /// Whether keys of this algorithm are RSA keys.
    pub fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa4096)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|a| a.as_str() == text).ok_or(UnknownAlgorithm)
    }
}

impl Curve {
    /// The curve of an object identifier, RFC 5480, section 2.1.1.1.
    pub(crate) fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.oid() == oid)
    }

    /// Object identifier, RFC 5480, section 2.1.1.1.
    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
            Self::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
            Self::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        }
    }

    /// `crv` of a JSON Web Key, RFC 7518, section 6.2.1.1.
    pub(crate) fn jwk_name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Width of a field element, which is the length of an ECDH shared secret, in bytes.
    pub fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}
