//! A private key as the database stores it: base64 of `nonce || AES-GCM ciphertext || tag` over
//! its PEM text, empty additional data.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use kasbah_crypto::{
    PrivateKey,
    ec::{NONCE_LEN, TAG_LEN},
    envelope::RootKey,
};
use kasbah_trust::KeyDetails;
use zeroize::Zeroizing;

use crate::{
    cache::LoadedKey,
    error::{Fault, WrapError},
    locked::Locked,
};

/// Wraps a private key for the database; the result goes to `private_key_ctx.wrapped_key`.
///
/// # Errors
/// When `pem` is no key this manager could use, before anything is stored that cannot be read.
pub fn wrap_private_key(root: &RootKey, pem: &str) -> Result<String, WrapError> {
    let key = PrivateKey::from_pem(pem).map_err(|_| WrapError::NotAKey)?;
    key.public_key().algorithm().ok_or(WrapError::NotAKey)?;
    let sealed = root.seal(pem.as_bytes()).map_err(|_| WrapError::Random)?;
    Ok(BASE64_STANDARD.encode(sealed))
}

/// Wraps a stored private key by `new` instead of `old`.
pub(crate) fn wrap_again(
    wrapped: &str,
    alias: &str,
    old: &RootKey,
    new: &RootKey,
) -> Result<String, Fault> {
    let pem = open(wrapped, alias, old)?;
    let sealed = new.seal(pem.expose_secret()).map_err(|_| Fault::Random)?;
    Ok(BASE64_STANDARD.encode(sealed))
}

/// Unwraps the private key of `key` and checks that it is the one.
pub(crate) fn load(
    key: &KeyDetails,
    wrapped: &str,
    alias: &str,
    root: &RootKey,
) -> Result<LoadedKey, Fault> {
    let private = parse(&open(wrapped, alias, root)?)?;
    let public = private.public_key();
    if public != key.public_key {
        return Err(Fault::Mismatch);
    }
    if public.algorithm() != Some(key.algorithm) {
        return Err(Fault::Algorithm(key.algorithm));
    }
    Ok(LoadedKey { private, public })
}

/// The PEM text of a stored key.
fn open(wrapped: &str, alias: &str, root: &RootKey) -> Result<Locked, Fault> {
    let sealed = BASE64_STANDARD.decode(wrapped).map_err(|_| Fault::NotBase64)?;
    if sealed.len() < NONCE_LEN + TAG_LEN {
        return Err(Fault::TooShort(sealed.len()));
    }
    let opened: Zeroizing<Vec<u8>> =
        root.open(&sealed).map_err(|_| Fault::DoesNotOpen(alias.to_owned()))?;
    Ok(Locked::new(&opened))
}

fn parse(pem: &Locked) -> Result<PrivateKey, Fault> {
    let pem = std::str::from_utf8(pem.expose_secret()).map_err(|_| Fault::NotAKey)?;
    PrivateKey::from_pem(pem).map_err(|_| Fault::NotAKey)
}
