//! RSA-OAEP against an independent implementation, and against blocks it would never write.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, digest};
use kasbah_crypto::{Algorithm, PrivateKey, PublicKey, WrappedDek};
use rsa::{
    BoxedUint, hazmat,
    pkcs8::{DecodePrivateKey, DecodePublicKey},
    traits::PublicKeyParts,
};
use sha1::Sha1;
use sha2::Sha256;

use crate::{parts, sample_dek};

struct Pair {
    ours: PrivateKey,
    theirs: rsa::PrivateKey,
}

impl Pair {
    fn generate(algorithm: Algorithm) -> Self {
        let pem = parts(algorithm).to_pem().unwrap();
        let theirs = rsa::PrivateKey::from_pkcs8_pem(&pem).unwrap();
        Self { ours: PrivateKey::from_pem(&pem).unwrap(), theirs }
    }

    fn unwraps(&self, ciphertext: Vec<u8>) -> bool {
        match self.ours.unwrap_dek(&WrappedDek::Rsa(ciphertext)) {
            Ok(dek) => dek.expose_secret() == sample_dek().expose_secret(),
            Err(_) => false,
        }
    }

    /// The public operation on a whole encoded block.
    fn raise(&self, block: &[u8]) -> Vec<u8> {
        let public = self.theirs.to_public_key();
        let bits = public.n().bits_precision();
        let number = BoxedUint::from_be_slice(block, bits).unwrap();
        let raised = hazmat::rsa_encrypt(&public, &number).unwrap().to_be_bytes();
        raised[raised.len() - public.size()..].to_vec()
    }
}

#[test]
fn oaep_agrees_with_another_implementation() {
    for algorithm in [Algorithm::Rsa2048, Algorithm::Rsa4096] {
        let pair = Pair::generate(algorithm);
        let PublicKey::Rsa(public) = pair.ours.public_key() else { panic!("not RSA") };
        for _ in 0..8 {
            let ciphertext = public.encrypt(&sample_dek()).unwrap();
            assert_eq!(ciphertext.len() * 8, public.bits());
            let plaintext = pair.theirs.oaep_decrypt::<Sha1>(&ciphertext).unwrap();
            assert_eq!(plaintext, sample_dek().expose_secret());

            let theirs = pair.theirs.to_public_key();
            let ciphertext = theirs.oaep_encrypt::<Sha1>(sample_dek().expose_secret()).unwrap();
            assert!(pair.unwraps(ciphertext), "{algorithm}");
            let ciphertext = theirs.oaep_encrypt::<Sha256>(sample_dek().expose_secret()).unwrap();
            assert!(!pair.unwraps(ciphertext), "{algorithm} with SHA-256");
        }
        let spki = pair.ours.public_key().to_spki_der();
        assert_eq!(
            rsa::PublicKey::from_public_key_der(&spki).unwrap(),
            pair.theirs.to_public_key()
        );
    }
}

/// EME-OAEP of RFC 8017, section 7.1.1, open at every seam.
struct Block {
    first: u8,
    seed: [u8; 20],
    label: &'static [u8],
    separator: u8,
    message: Vec<u8>,
}

impl Default for Block {
    fn default() -> Self {
        let message = sample_dek().expose_secret().to_vec();
        Self { first: 0, seed: [0x5a; 20], label: b"", separator: 1, message }
    }
}

impl Block {
    fn encode(&self, len: usize) -> Vec<u8> {
        let padding = vec![0; len - 2 * 20 - 2 - self.message.len()];
        let label = digest(&SHA1, self.label);
        let mut db = [label.as_ref(), &padding, &[self.separator], &self.message].concat();
        mask(&mut db, &self.seed);
        let mut seed = self.seed;
        mask(&mut seed, &db);
        [&[self.first][..], &seed, &db].concat()
    }
}

/// MGF1, RFC 8017, section B.2.1.
fn mask(bytes: &mut [u8], seed: &[u8]) {
    for (counter, chunk) in (0_u32..).zip(bytes.chunks_mut(20)) {
        let block = digest(&SHA1, &[seed, &counter.to_be_bytes()].concat());
        chunk.iter_mut().zip(block.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[test]
fn oaep_refuses_every_flaw_of_a_block() {
    let pair = Pair::generate(Algorithm::Rsa2048);
    let encode = |block: Block| pair.raise(&block.encode(256));
    assert!(pair.unwraps(encode(Block::default())), "a block without flaw");
    for (name, block) in [
        ("first byte 1", Block { first: 1, ..Block::default() }),
        ("first byte 0x7f", Block { first: 0x7f, ..Block::default() }),
        ("a label", Block { label: b"kas", ..Block::default() }),
        ("no separator", Block { separator: 0, message: vec![0; 32], ..Block::default() }),
        ("another separator", Block { separator: 2, ..Block::default() }),
        ("0 bytes", Block { message: vec![], ..Block::default() }),
        ("15 bytes", Block { message: vec![7; 15], ..Block::default() }),
        ("33 bytes", Block { message: vec![7; 33], ..Block::default() }),
        ("the longest message", Block { message: vec![7; 214], ..Block::default() }),
    ] {
        // Of the last two, the length alone is wrong, and the padding is sound.
        let unwrapped = pair.ours.unwrap_dek(&WrappedDek::Rsa(encode(block)));
        assert!(unwrapped.is_err(), "{name}");
    }
}

#[test]
fn oaep_refuses_what_is_no_ciphertext_of_the_key() {
    let pair = Pair::generate(Algorithm::Rsa2048);
    let PublicKey::Rsa(public) = pair.ours.public_key() else { panic!("not RSA") };
    let good = public.encrypt(&sample_dek()).unwrap();
    let mut flipped = good.clone();
    flipped[128] ^= 1;
    let another = parts(Algorithm::Rsa2048).public_key();
    let WrappedDek::Rsa(another) = another.wrap(&sample_dek()).unwrap() else { panic!("not RSA") };
    for (name, ciphertext) in [
        ("empty", vec![]),
        ("one byte", vec![1]),
        ("zero", vec![0; 256]),
        ("one", [vec![0; 255], vec![1]].concat()),
        ("the modulus", public.modulus().to_vec()),
        ("beyond the modulus", vec![0xff; 256]),
        ("a flipped bit", flipped),
        ("cut", good[..255].to_vec()),
        ("without the first byte", good[1..].to_vec()),
        ("a leading zero", [&[0], &good[..]].concat()),
        ("a trailing zero", [&good[..], &[0]].concat()),
        ("512 bytes", good.repeat(2)),
        ("a megabyte", vec![1; 1 << 20]),
        ("another key's", another),
    ] {
        assert!(!pair.unwraps(ciphertext), "{name}");
    }
    assert!(pair.unwraps(good));
}
