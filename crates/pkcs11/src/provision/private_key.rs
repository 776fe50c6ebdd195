use cryptoki::object::Attribute;
use pkcs8::{PrivateKeyInfoRef, SecretDocument, der::Decode};
use zeroize::Zeroize;

/// The secret attributes of a private key on its way into a token; wiped on drop.
pub(super) struct PrivateNumbers(Vec<Attribute>);

impl PrivateNumbers {
    /// Reads PEM: PKCS#8 `PRIVATE KEY` (RSA, EC) or PKCS#1 `RSA PRIVATE KEY`.
    pub(super) fn from_pem(pem: &str) -> Option<Self> {
        let (label, document) = SecretDocument::from_pem(pem).ok()?;
        match label {
            "RSA PRIVATE KEY" => Self::from_pkcs1(document.as_bytes()),
            "PRIVATE KEY" => {
                let info = PrivateKeyInfoRef::from_der(document.as_bytes()).ok()?;
                let key = info.private_key.as_bytes();
                Self::from_pkcs1(key).or_else(|| Self::from_sec1(key))
            }
            _ => None,
        }
    }

    /// `template` with the secret attributes, which are wiped with the result.
    pub(super) fn with(mut self, template: Vec<Attribute>) -> Self {
        self.0.splice(0..0, template);
        self
    }

    fn from_pkcs1(der: &[u8]) -> Option<Self> {
        let key = pkcs1::RsaPrivateKeyRef::from_der(der).ok()?;
        Some(Self(vec![
            Attribute::Modulus(key.modulus.as_bytes().to_vec()),
            Attribute::PublicExponent(key.public_exponent.as_bytes().to_vec()),
            Attribute::PrivateExponent(key.private_exponent.as_bytes().to_vec()),
            Attribute::Prime1(key.prime1.as_bytes().to_vec()),
            Attribute::Prime2(key.prime2.as_bytes().to_vec()),
            Attribute::Exponent1(key.exponent1.as_bytes().to_vec()),
            Attribute::Exponent2(key.exponent2.as_bytes().to_vec()),
            Attribute::Coefficient(key.coefficient.as_bytes().to_vec()),
        ]))
    }

    fn from_sec1(der: &[u8]) -> Option<Self> {
        let key = sec1::EcPrivateKey::from_der(der).ok()?;
        Some(Self(vec![Attribute::Value(key.private_key.to_vec())]))
    }
}

impl std::ops::Deref for PrivateNumbers {
    type Target = [Attribute];

    fn deref(&self) -> &[Attribute] {
        &self.0
    }
}

impl Drop for PrivateNumbers {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            match attribute {
                Attribute::Coefficient(secret)
                | Attribute::Exponent1(secret)
                | Attribute::Exponent2(secret)
                | Attribute::Prime1(secret)
                | Attribute::Prime2(secret)
                | Attribute::PrivateExponent(secret)
                | Attribute::Value(secret) => secret.zeroize(),
                _ => {}
            }
        }
    }
}
