//! How a private key is stored outside the token.
//!
//! `KPW1`, then: algorithm (1 byte: 1 RSA, 2 EC), length (2 bytes) and text of the kid, length (2)
//! and label of the wrapping key, SHA-256 of the public key's `SubjectPublicKeyInfo` (32), length
//! (4) and bytes of the private key as PKCS#8 wrapped by RFC 5649 (KWP), and at last HMAC-SHA256
//! (32) of everything before it, under a key that stays in the token. Numbers are big-endian; the
//! whole is stored as base64 with padding.
//!
//! The HMAC ties kid and public key to the wrapped key, which wrapping alone does not: who may only
//! write the store can neither damage a record unnoticed nor swap two.

use std::{fmt, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_trust::{Algorithm, KeyDetails};

use crate::template::Family;

const MAGIC: &[u8; 4] = b"KPW1";
/// Length of the HMAC at the end.
pub(crate) const MAC_LEN: usize = 32;
/// Longest record, in bytes: twice what an RSA-4096 key needs.
const MAX_LEN: usize = 6 * 1024;
/// Most bytes of a kid or a label.
const MAX_NAME_LEN: usize = 128;
/// Lengths that RFC 5649 yields for private keys.
const BLOB_LEN: Range<usize> = 24..4 * 1024;

/// A stored private key, not proven to be genuine. What it holds is encrypted.
#[derive(PartialEq, Eq)]
pub(crate) struct Record {
    bytes: Vec<u8>,
    family: Family,
    kid: String,
    kek: String,
    fingerprint: [u8; 32],
    blob: Range<usize>,
}

/// What is wrong with a record, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Record {
    /// The record of a key, short of the HMAC over what this returns.
    ///
    /// # Errors
    /// When a name or the wrapped key is shorter or longer than a record holds.
    pub(crate) fn unsigned(
        algorithm: Algorithm,
        kid: &str,
        kek: &str,
        fingerprint: &[u8; 32],
        blob: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        let name = |text: &str| {
            let length = u16::try_from(text.len()).ok();
            let length = length.filter(|_| (1..=MAX_NAME_LEN).contains(&text.len()));
            let length = length.ok_or(Malformed("a name is empty or too long"))?.to_be_bytes();
            Ok([&length[..], text.as_bytes()].concat())
        };
        let length = u32::try_from(blob.len()).ok().filter(|_| is_blob_len(blob.len()));
        let length = length.ok_or(Malformed("the wrapped key has an odd length"))?.to_be_bytes();
        let family = [Family::of(algorithm) as u8];
        let (kid, kek) = (name(kid)?, name(kek)?);
        Ok([MAGIC, &family[..], &kid, &kek, fingerprint, &length, blob].concat())
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn from_base64(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_LEN / 3 * 4 {
            return Err(Malformed("it is too long"));
        }
        let bytes = STANDARD.decode(text).map_err(|_| Malformed("it is no base64"))?;
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        if reader.array()? != *MAGIC {
            return Err(Malformed("it does not begin with KPW1"));
        }
        let family = match reader.array()? {
            [1] => Family::Rsa,
            [2] => Family::Ec,
            _ => return Err(Malformed("its algorithm is neither RSA nor EC")),
        };
        let kid = reader.name()?;
        let kek = reader.name()?;
        let fingerprint = reader.array()?;
        let length = usize::try_from(u32::from_be_bytes(reader.array()?));
        let length = length.ok().filter(|length| is_blob_len(*length));
        let blob = reader.range(length.ok_or(Malformed("its wrapped key has an odd length"))?)?;
        reader.range(MAC_LEN)?;
        if reader.at != bytes.len() {
            return Err(Malformed("it goes on after its end"));
        }
        Ok(Self { bytes, family, kid, kek, fingerprint, blob })
    }

    /// Checks that it is the record of this key and not of another one.
    ///
    /// # Errors
    /// When it is another's.
    pub(crate) fn check_owner(&self, key: &KeyDetails) -> Result<(), Malformed> {
        if self.family != Family::of(key.algorithm) {
            return Err(Malformed("it is of a key of another algorithm"));
        }
        if self.kid() != key.kid.as_str() {
            return Err(Malformed("it is of a key of another name"));
        }
        if *self.fingerprint() != key.public_key.fingerprint() {
            return Err(Malformed("it belongs to another public key"));
        }
        if Some(self.kek()) != key.private_key.key_id.as_deref() {
            return Err(Malformed("it names another wrapping key than private_key_ctx.key_id"));
        }
        Ok(())
    }

    /// RSA or EC.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// The kid of the key.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// SHA-256 of the public key.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Label of the wrapping key.
    pub(crate) fn kek(&self) -> &str {
        &self.kek
    }

    /// The wrapped private key.
    pub(crate) fn blob(&self) -> &[u8] {
        &self.bytes[self.blob.clone()]
    }

    /// What the HMAC is over.
    pub(crate) fn signed(&self) -> &[u8] {
        &self.bytes[..self.blob.end]
    }

    /// The HMAC.
    pub(crate) fn mac(&self) -> &[u8] {
        &self.bytes[self.blob.end..]
    }
}

fn is_blob_len(length: usize) -> bool {
    BLOB_LEN.contains(&length) && length.is_multiple_of(8)
}

/// Puts the HMAC behind what it is over, ready to be stored.
pub(crate) fn to_base64(unsigned: &[u8], mac: &[u8; MAC_LEN]) -> String {
    STANDARD.encode([unsigned, mac].concat())
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("kek", &self.kek).finish_non_exhaustive()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn range(&mut self, length: usize) -> Result<Range<usize>, Malformed> {
        let range = self.at..self.at + length;
        if range.end > self.bytes.len() {
            return Err(Malformed("it is cut short"));
        }
        self.at = range.end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let range = self.range(N)?;
        self.bytes[range].try_into().map_err(|_| Malformed("it is cut short"))
    }

    fn name(&mut self) -> Result<String, Malformed> {
        let length = match usize::from(u16::from_be_bytes(self.array()?)) {
            0 => return Err(Malformed("a name in it is empty")),
            length if length > MAX_NAME_LEN => {
                return Err(Malformed("a name in it is too long"));
            }
            length => length,
        };
        let range = self.range(length)?;
        let name = self.bytes[range].to_vec();
        String::from_utf8(name).map_err(|_| Malformed("a name in it is no text"))
    }
}

#[cfg(test)]
mod tests {
    use kasbah_trust::Curve;
    use proptest::prelude::*;

    use super::*;

    const EC: Algorithm = Algorithm::Ec(Curve::P256);

    fn record(blob: &[u8]) -> Vec<u8> {
        let unsigned = Record::unsigned(EC, "e1", "kasbah-kek-ec", &[7; 32], blob).unwrap();
        [unsigned, vec![9; MAC_LEN]].concat()
    }

    #[test]
    fn laid_out_as_documented() {
        let bytes = record(&[5; 80]);
        let expected = [
            &b"KPW1\x02\0\x02e1\0\x0dkasbah-kek-ec"[..],
            &[7; 32],
            &[0, 0, 0, 80],
            &[5; 80],
            &[9; 32],
        ]
        .concat();
        assert_eq!(bytes, expected);
        let read = Record::from_base64(&STANDARD.encode(&bytes)).unwrap();
        assert_eq!((read.kek(), read.blob()), ("kasbah-kek-ec", &[5; 80][..]));
        assert_eq!((read.signed(), read.mac()), bytes.split_at(bytes.len() - MAC_LEN));
        assert_eq!(to_base64(read.signed(), &[9; 32]), STANDARD.encode(&bytes));
        assert!(!format!("{read:?}").contains('5'));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let sound = record(&[5; 80]);
        for length in 0..sound.len() {
            assert!(Record::from_bytes(sound[..length].to_vec()).is_err(), "{length} bytes");
        }
        let longer = [&sound[..], &[0]].concat();
        assert_eq!(Record::from_bytes(longer), Err(Malformed("it goes on after its end")));
        for (at, byte, expected) in [
            (0, b'k', "it does not begin with KPW1"),
            (4, 0, "its algorithm is neither RSA nor EC"),
            (4, 3, "its algorithm is neither RSA nor EC"),
            (6, 0, "a name in it is empty"),
            (6, 129, "a name in it is too long"),
            (5, 1, "a name in it is too long"),
            (7, 0xff, "a name in it is no text"),
            (11, 0xff, "a name in it is no text"),
            (59, 81, "its wrapped key has an odd length"),
            (57, 1, "its wrapped key has an odd length"),
        ] {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            let refused = Record::from_bytes(bytes).unwrap_err();
            assert_eq!(refused.0, expected, "byte {at} = {byte}");
        }
        for text in ["", "====", "S1BXMQ", "ä"] {
            assert!(Record::from_base64(text).is_err(), "{text}");
        }
        let long = "A".repeat(MAX_LEN * 2);
        assert_eq!(Record::from_base64(&long), Err(Malformed("it is too long")));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let long = "k".repeat(129);
        let sound = [5; 80];
        assert!(Record::unsigned(EC, &long, "kek", &[7; 32], &sound).is_err());
        assert!(Record::unsigned(EC, "e1", &long, &[7; 32], &sound).is_err());
        assert!(Record::unsigned(EC, "e1", "kek", &[7; 32], &[5; 4096]).is_err());
        assert!(Record::unsigned(EC, "e1", "kek", &[7; 32], &[]).is_err());
        assert!(Record::unsigned(EC, "e1", "kek", &[7; 32], &[5; 81]).is_err());
        assert!(Record::unsigned(EC, "", "kek", &[7; 32], &sound).is_err());
        assert!(Record::unsigned(EC, "e1", "", &[7; 32], &sound).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::from_bytes([MAGIC, &bytes[..]].concat());
            let _ = Record::from_bytes(bytes);
        }

        #[test]
        fn what_is_written_is_read(
            kid in "\\PC{1,30}", kek in "\\PC{1,30}", eighths in 3_usize..400,
        ) {
            let blob = vec![1; 8 * eighths];
            let bytes = Record::unsigned(EC, &kid, &kek, &[7; 32], &blob).unwrap();
            let read = Record::from_bytes([bytes, vec![9; MAC_LEN]].concat()).unwrap();
            prop_assert_eq!((&*read.kid, read.kek(), read.blob()), (&*kid, &*kek, &*blob));
        }
    }
}
