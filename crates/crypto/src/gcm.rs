//! `nonce (12) || ciphertext || tag (16)`, the one shape in which AES-GCM occurs here.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use crate::CryptoError;

/// Length of the tag.
pub(crate) const TAG_LEN: usize = 16;

pub(crate) fn seal(key: &LessSafeKey, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut fresh = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut fresh).map_err(|_| CryptoError)?;
    let mut sealed = vec![0; NONCE_LEN + plaintext.len() + TAG_LEN];
    let (nonce, body) = sealed.split_at_mut(NONCE_LEN);
    let (ciphertext, tag) = body.split_at_mut(plaintext.len());
    nonce.copy_from_slice(&fresh);
    let fresh = Nonce::assume_unique_for_key(fresh);
    key.seal_out_of_place_scatter(fresh, Aad::empty(), plaintext, ciphertext, &[], tag)
        .map_err(|_| CryptoError)?;
    Ok(sealed)
}

pub(crate) fn open(key: &LessSafeKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(CryptoError)?;
    let ciphertext_len = body.len().checked_sub(TAG_LEN).ok_or(CryptoError)?;
    let (ciphertext, tag) = body.split_at(ciphertext_len);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CryptoError)?;
    let mut plaintext = Zeroizing::new(vec![0; ciphertext_len]);
    key.open_separate_gather(nonce, Aad::empty(), ciphertext, tag, &mut plaintext)
        .map_err(|_| CryptoError)?;
    Ok(plaintext)
}
