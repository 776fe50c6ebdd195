//! Keys as they come in requests: refused when they cannot be what they claim.

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_crypto::PublicKey;
use kasbah_proto::policy::Algorithm;
use spki::{SubjectPublicKeyInfoRef, der::Decode};

use crate::{
    convert,
    error::{Error, Result},
};

/// Longest PEM text of a public key, in base64. ML-KEM-1024 needs a quarter.
const MAX_PUBLIC: usize = 16 * 1024;
/// Longest wrapped private key, in base64. RSA-4096 needs a tenth.
const MAX_WRAPPED: usize = 64 * 1024;

/// Object identifiers of the algorithms that no manager here serves.
const KEM_OIDS: [(Algorithm, &str); 5] = [
    (Algorithm::HpqtXwing, "1.3.6.1.4.1.62253.25722"),
    (Algorithm::HpqtSecp256r1Mlkem768, "1.3.6.1.5.5.7.6.59"),
    (Algorithm::HpqtSecp384r1Mlkem1024, "1.3.6.1.5.5.7.6.63"),
    (Algorithm::Mlkem768, "2.16.840.1.101.3.4.4.2"),
    (Algorithm::Mlkem1024, "2.16.840.1.101.3.4.4.3"),
];

/// The PEM text of `public_key_ctx.pem`, which is base64 of it.
///
/// # Errors
/// [`Error::Invalid`] when it is no public key of `algorithm`.
pub(crate) fn public_pem(pem: &str, algorithm: i32) -> Result<String> {
    let text = String::from_utf8(base64(pem, MAX_PUBLIC)?)
        .map_err(|_| Error::invalid("public_key_ctx.pem is not base64 of a PEM text"))?;
    check_public_text(&text)?;
    let wanted = Algorithm::try_from(algorithm).unwrap_or_default();
    match convert::algorithm(algorithm) {
        Some(_) => {
            let key = PublicKey::from_pem(&text).map_err(|error| {
                Error::invalid(format!("public_key_ctx.pem is not a usable public key: {error}"))
            })?;
            if key.algorithm() != convert::algorithm(algorithm) {
                return Err(mismatch(wanted));
            }
        }
        None => check_kem(&text, wanted)?,
    }
    Ok(text)
}

/// Text around the key is kept and given to clients with it.
fn check_public_text(text: &str) -> Result<()> {
    if is_private_key(text.as_bytes()) {
        return Err(Error::invalid("public_key_ctx.pem contains a private key"));
    }
    if text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) {
        return Err(Error::invalid("public_key_ctx.pem contains control characters"));
    }
    Ok(())
}

fn check_kem(text: &str, wanted: Algorithm) -> Result<()> {
    let refused = || Error::invalid("public_key_ctx.pem is not a PEM public key");
    let (label, der) = pem_rfc7468::decode_vec(text.as_bytes()).map_err(|_| refused())?;
    if label != "PUBLIC KEY" {
        return Err(refused());
    }
    let info = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| refused())?;
    let oid = info.algorithm.oid.to_string();
    if KEM_OIDS.contains(&(wanted, oid.as_str())) { Ok(()) } else { Err(mismatch(wanted)) }
}

fn mismatch(wanted: Algorithm) -> Error {
    Error::invalid(format!("public_key_ctx.pem is not a key of {}", wanted.as_str_name()))
}

/// Checks the text of `private_key_ctx.wrapped_key`.
///
/// # Errors
/// [`Error::Invalid`] when it is no base64, or a private key in clear.
pub(crate) fn check_wrapped(wrapped_key: &str) -> Result<()> {
    let bytes = base64(wrapped_key, MAX_WRAPPED)?;
    if is_private_key(&bytes) {
        return Err(Error::invalid("unencrypted private key not allowed"));
    }
    Ok(())
}

/// PEM of any private key, or DER of PKCS#8, PKCS#1 or SEC1.
fn is_private_key(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let is_pem = text
        .lines()
        .filter_map(|line| line.split_once("-----BEGIN"))
        .any(|(_, label)| label.contains("PRIVATE KEY"));
    is_pem || is_private_der(bytes)
}

/// A DER SEQUENCE over all of it that begins with a version, as the three formats do.
fn is_private_der(bytes: &[u8]) -> bool {
    let Ok(sequence) = spki::der::AnyRef::from_der(bytes) else { return false };
    sequence.header().tag() == spki::der::Tag::Sequence
        && matches!(sequence.value(), [2, 1, 0 | 1, ..])
}

/// Standard base64 with padding, line ends tolerated.
fn base64(text: &str, most: usize) -> Result<Vec<u8>> {
    if text.len() > most {
        return Err(Error::invalid(format!("a key is longer than {most} characters")));
    }
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    BASE64_STANDARD.decode(text).map_err(|_| Error::invalid("expected base64 encoded value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = include_str!("../../testkit/data/golden-r1.pem");

    #[test]
    fn private_keys_in_clear_are_recognised() {
        let (_, der) = pem_rfc7468::decode_vec(PEM.as_bytes()).unwrap();
        let amid = format!("key: {PEM}");
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n";
        for clear in [PEM.as_bytes(), amid.as_bytes(), &der, encrypted] {
            let error = check_wrapped(&BASE64_STANDARD.encode(clear)).unwrap_err();
            assert_eq!(error.to_string(), "unencrypted private key not allowed");
        }
        check_wrapped(&BASE64_STANDARD.encode([7; 64])).unwrap();
        assert_eq!(
            check_wrapped("not base64!").unwrap_err().to_string(),
            "expected base64 encoded value"
        );
    }

    #[test]
    fn public_keys_come_with_nothing_that_clients_may_not_get() {
        let public = include_str!("../../crypto/tests/crypto/data/p256.pem");
        let read = |text: &str| public_pem(&BASE64_STANDARD.encode(text), 3);
        assert_eq!(read(&format!("# e1\r\n{public}")).unwrap().lines().next(), Some("# e1"));
        for (text, what) in [
            (format!("{public}{PEM}"), "a private key"),
            (format!("{PEM}{public}"), "a private key"),
            (format!("\0{public}"), "control characters"),
            (format!("{public}\u{9b}"), "control characters"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert_eq!(error, format!("public_key_ctx.pem contains {what}"));
        }
    }

    #[test]
    fn public_keys_must_be_of_their_algorithm() {
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        for (pem, algorithm) in [
            (encoded(PEM), 1),
            (encoded("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), 1),
            (encoded("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), 20),
            (encoded("hello"), 3),
            (BASE64_STANDARD.encode([0xff, 0xfe]), 3),
        ] {
            let error = public_pem(&pem, algorithm).unwrap_err();
            assert!(error.to_string().starts_with("public_key_ctx.pem"), "{error}");
        }
    }
}
