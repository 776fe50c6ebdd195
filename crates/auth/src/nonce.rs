//! Nonces for proofs of possession (RFC 9449, section 9), which need no memory: servers with the
//! same secret and the same time hand out the same.
//!
//! Time is cut into windows of equal length. The nonce of a window is the base64url text of its
//! number (8 bytes, big-endian) and the first 16 bytes of HMAC-SHA256 over that number and a label.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    constant_time,
    error::Unspecified,
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretBox};

const LABEL: &[u8] = b"kasbah DPoP nonce";
const NUMBER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// Makes nonces and knows them again.
pub(crate) struct Nonces {
    key: hmac::Key,
    /// Length of a window, in seconds; not 0.
    period: u64,
}

impl Nonces {
    /// With `secret`, or else one of this process.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn new(
        secret: Option<&SecretBox<[u8; 32]>>,
        period: Duration,
    ) -> Result<Self, Unspecified> {
        let key = match secret {
            Some(secret) => hmac::Key::new(HMAC_SHA256, secret.expose_secret()),
            None => hmac::Key::generate(HMAC_SHA256, &SystemRandom::new())?,
        };
        Ok(Self { key, period: period.as_secs().max(1) })
    }

    /// The nonce to hand out at `now`, in seconds since 1970.
    pub(crate) fn current(&self, now: u64) -> String {
        URL_SAFE_NO_PAD.encode(self.of(self.window(now)))
    }

    /// Whether `nonce` is of the window of `now` or the one before.
    pub(crate) fn is_good(&self, nonce: &str, now: u64) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(nonce) else { return false };
        let Some(number) = bytes.first_chunk::<NUMBER_BYTES>() else { return false };
        let (window, current) = (u64::from_be_bytes(*number), self.window(now));
        let recent = window == current || window.checked_add(1) == Some(current);
        recent && constant_time::verify_slices_are_equal(&bytes, &self.of(window)).is_ok()
    }

    fn window(&self, now: u64) -> u64 {
        now / self.period
    }

    fn of(&self, window: u64) -> Vec<u8> {
        let number = window.to_be_bytes();
        let tag = hmac::sign(&self.key, &[number.as_slice(), LABEL].concat());
        number.into_iter().chain(tag.as_ref().iter().copied().take(TAG_BYTES)).collect()
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").field("period", &self.period).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 300;

    fn nonces(secret: u8) -> Nonces {
        let secret = SecretBox::new(Box::new([secret; 32]));
        Nonces::new(Some(&secret), Duration::from_secs(PERIOD)).unwrap()
    }

    #[test]
    fn a_nonce_is_what_was_promised() {
        let bytes = URL_SAFE_NO_PAD.decode(nonces(7).current(3 * PERIOD + 1)).unwrap();
        let message = [3_u64.to_be_bytes().as_slice(), LABEL].concat();
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, &[7; 32]), &message);
        assert_eq!(bytes[..8], 3_u64.to_be_bytes());
        assert_eq!(bytes[8..], tag.as_ref()[..16]);
    }

    #[test]
    fn the_current_and_the_previous_are_good() {
        let (nonces, start) = (nonces(1), 10 * PERIOD);
        let nonce = nonces.current(start);
        for (now, good) in [
            (start - 1, false),
            (start, true),
            (start + PERIOD - 1, true),
            (start + 2 * PERIOD - 1, true),
            (start + 2 * PERIOD, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(nonces.is_good(&nonce, now), good, "{now}");
        }
    }

    #[test]
    fn those_with_the_same_secret_know_each_others() {
        let nonce = nonces(1).current(0);
        assert!(nonces(1).is_good(&nonce, 0));
        assert!(!nonces(2).is_good(&nonce, 0));
    }

    #[test]
    fn without_a_secret_no_two_are_alike() {
        let random = || Nonces::new(None, Duration::from_secs(PERIOD)).unwrap();
        assert_ne!(random().current(0), random().current(0));
    }

    #[test]
    fn each_bit_counts() {
        let nonces = nonces(1);
        let good = URL_SAFE_NO_PAD.decode(nonces.current(0)).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!nonces.is_good(&URL_SAFE_NO_PAD.encode(bytes), 0), "{bit}");
        }
        for length in [0, 7, 8, 23] {
            assert!(!nonces.is_good(&URL_SAFE_NO_PAD.encode(&good[..length]), 0), "{length}");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert!(!nonces.is_good(&URL_SAFE_NO_PAD.encode(longer), 0));
        assert!(!nonces.is_good(&URL_SAFE_NO_PAD.encode([0xff; 24]), 0));
    }
}
