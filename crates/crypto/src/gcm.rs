//! `nonce (12) || ciphertext || tag (16)`, the one shape in which AES-GCM occurs here.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use crate::CryptoError;

/// Length of the tag.
pub(crate) const TAG_LEN: usize = 16;

pub(crate) fn seal(key: &LessSafeKey, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| CryptoError)?;
    // Encrypted in place: the plaintext never lies in a buffer that grows.
    let mut sealed = Zeroizing::new(Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN));
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plaintext);
    let (_, body) = sealed.split_at_mut(NONCE_LEN);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), body)
        .map_err(|_| CryptoError)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(std::mem::take(&mut *sealed))
}

pub(crate) fn open(key: &LessSafeKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    if sealed.len() < NONCE_LEN + TAG_LEN {
        return Err(CryptoError);
    }
    let (nonce, body) = sealed.split_at(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CryptoError)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    let len =
        key.open_in_place(nonce, Aad::empty(), &mut plaintext).map_err(|_| CryptoError)?.len();
    plaintext.truncate(len);
    Ok(plaintext)
}
