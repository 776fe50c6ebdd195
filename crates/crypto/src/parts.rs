use aws_lc_rs::{
    encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der},
    rsa::{KeySize, PrivateDecryptingKey},
};
use der::{
    Decode, Encode,
    asn1::{OctetStringRef, UintRef},
};
use pkcs8::PrivateKeyInfoRef;
use spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use crate::{
    Algorithm, CryptoError, Curve, PrivateKey, PublicKey,
    ec::{EcPrivateKey, EcPublicKey},
    key::{OID_EC, OID_RSA},
    pem,
    rsa::{RsaPrivateKey, RsaPublicKey},
};

/// The numbers of a private key, for import into a token or storage under a root key. No `Debug`,
/// no `Clone`; wiped on drop.
pub enum PrivateKeyParts {
    /// Scalar and point.
    Ec {
        /// Big-endian, as long as a field element.
        scalar: Zeroizing<Vec<u8>>,
        /// The public half.
        public: EcPublicKey,
    },
    /// The two-prime form of RFC 8017.
    Rsa(Box<RsaParts>),
}

/// The numbers of RFC 8017, section 3.2; unsigned big-endian, no leading zero.
pub struct RsaParts {
    /// `n` and `e`.
    pub public: RsaPublicKey,
    /// `d`
    pub private_exponent: Zeroizing<Vec<u8>>,
    /// `p`
    pub prime1: Zeroizing<Vec<u8>>,
    /// `q`
    pub prime2: Zeroizing<Vec<u8>>,
    /// `dP`
    pub exponent1: Zeroizing<Vec<u8>>,
    /// `dQ`
    pub exponent2: Zeroizing<Vec<u8>>,
    /// `qInv`
    pub coefficient: Zeroizing<Vec<u8>>,
}

impl PrivateKeyParts {
    /// A fresh key in software.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, CryptoError> {
        let size = match algorithm {
            Algorithm::Rsa2048 => KeySize::Rsa2048,
            Algorithm::Rsa4096 => KeySize::Rsa4096,
            Algorithm::Ec(curve) => return Self::generate_ec(curve),
        };
        let key = PrivateDecryptingKey::generate(size).map_err(|_| CryptoError)?;
        let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| CryptoError)?;
        Self::from_pkcs8(der.as_ref())
    }

    fn generate_ec(curve: Curve) -> Result<Self, CryptoError> {
        let key = EcPrivateKey::generate(curve)?;
        let scalar: EcPrivateKeyBin<'_> = key.inner().as_be_bytes().map_err(|_| CryptoError)?;
        let scalar = Zeroizing::new(scalar.as_ref().to_vec());
        Ok(Self::Ec { scalar, public: key.public_key().clone() })
    }

    /// Reads PEM: PKCS#8 `PRIVATE KEY` for either kind, PKCS#1 `RSA PRIVATE KEY` for RSA. The
    /// private half must belong to the public one.
    ///
    /// # Errors
    /// [`CryptoError`]; says nothing of the key.
    pub fn from_pem(text: &str) -> Result<Self, CryptoError> {
        let parts = Self::parse_pem(text)?;
        parts.to_private_key()?;
        Ok(parts)
    }

    /// Does not check the numbers of an RSA key against one another; `to_private_key` does.
    pub(crate) fn parse_pem(text: &str) -> Result<Self, CryptoError> {
        let block = pem::first_block(text).ok_or(CryptoError)?;
        match block.label {
            "PRIVATE KEY" => Self::from_pkcs8(&block.der),
            "RSA PRIVATE KEY" => Self::from_pkcs1(&block.der),
            _ => Err(CryptoError),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, CryptoError> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(|_| CryptoError)?;
        match info.algorithm.oid {
            OID_RSA => Self::from_pkcs1(info.private_key.as_bytes()),
            OID_EC => {
                let oid = info.algorithm.parameters_oid().map_err(|_| CryptoError)?;
                let curve = Curve::from_oid(oid).ok_or(CryptoError)?;
                Self::from_sec1(curve, info.private_key.as_bytes())
            }
            _ => Err(CryptoError),
        }
    }

    fn from_sec1(curve: Curve, der: &[u8]) -> Result<Self, CryptoError> {
        let body = sec1::EcPrivateKey::from_der(der).map_err(|_| CryptoError)?;
        let stated = body.parameters.and_then(sec1::EcParameters::named_curve);
        if stated.is_some_and(|oid| oid != curve.oid()) {
            return Err(CryptoError);
        }
        let key = EcPrivateKey::from_scalar(curve, body.private_key)?;
        if let Some(point) = body.public_key {
            let stated = EcPublicKey::from_sec1(curve, point).map_err(|_| CryptoError)?;
            if stated != *key.public_key() {
                return Err(CryptoError);
            }
        }
        let scalar = Zeroizing::new(body.private_key.to_vec());
        Ok(Self::Ec { scalar, public: key.public_key().clone() })
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, CryptoError> {
        let body = pkcs1::RsaPrivateKeyRef::from_der(der).map_err(|_| CryptoError)?;
        let public =
            RsaPublicKey::from_components(body.modulus.as_bytes(), body.public_exponent.as_bytes())
                .map_err(|_| CryptoError)?;
        let number = |number: UintRef<'_>| Zeroizing::new(number.as_bytes().to_vec());
        Ok(Self::Rsa(Box::new(RsaParts {
            public,
            private_exponent: number(body.private_exponent),
            prime1: number(body.prime1),
            prime2: number(body.prime2),
            exponent1: number(body.exponent1),
            exponent2: number(body.exponent2),
            coefficient: number(body.coefficient),
        })))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Ec { public, .. } => PublicKey::Ec(public.clone()),
            Self::Rsa(parts) => PublicKey::Rsa(parts.public.clone()),
        }
    }

    /// PEM `PRIVATE KEY` (PKCS#8, RFC 5958), LF line ends.
    ///
    /// # Errors
    /// None in practice: parts that were read can be written.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, CryptoError> {
        Ok(pem::encode("PRIVATE KEY", &self.to_pkcs8()?))
    }

    /// A key to operate with; fails when private and public half do not match.
    pub(crate) fn to_private_key(&self) -> Result<PrivateKey, CryptoError> {
        match self {
            Self::Ec { scalar, public } => {
                let key = EcPrivateKey::from_scalar(public.curve(), scalar)?;
                (key.public_key() == public).then_some(PrivateKey::Ec(key)).ok_or(CryptoError)
            }
            Self::Rsa(parts) => {
                let key = RsaPrivateKey::from_pkcs8(&self.to_pkcs8()?, parts.public.clone())?;
                Ok(PrivateKey::Rsa(key))
            }
        }
    }

    /// DER `PrivateKeyInfo`.
    fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.encode_pkcs8().map_err(|_| CryptoError)
    }

    fn encode_pkcs8(&self) -> der::Result<Zeroizing<Vec<u8>>> {
        let curve_oid;
        let (oid, parameters, body) = match self {
            Self::Rsa(parts) => (OID_RSA, der::asn1::Null.into(), parts.to_pkcs1()?),
            Self::Ec { scalar, public } => {
                curve_oid = public.curve().oid();
                let body = sec1::EcPrivateKey {
                    private_key: scalar,
                    parameters: None,
                    public_key: Some(public.point()),
                };
                (OID_EC, (&curve_oid).into(), Zeroizing::new(body.to_der()?))
            }
        };
        let algorithm = AlgorithmIdentifierRef { oid, parameters: Some(parameters) };
        let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&body)?);
        info.to_der().map(Zeroizing::new)
    }
}

impl RsaParts {
    fn to_pkcs1(&self) -> der::Result<Zeroizing<Vec<u8>>> {
        let body = pkcs1::RsaPrivateKey {
            modulus: UintRef::new(self.public.modulus())?,
            public_exponent: UintRef::new(self.public.exponent())?,
            private_exponent: UintRef::new(&self.private_exponent)?,
            prime1: UintRef::new(&self.prime1)?,
            prime2: UintRef::new(&self.prime2)?,
            exponent1: UintRef::new(&self.exponent1)?,
            exponent2: UintRef::new(&self.exponent2)?,
            coefficient: UintRef::new(&self.coefficient)?,
            other_prime_infos: None,
        };
        body.to_der().map(Zeroizing::new)
    }
}
