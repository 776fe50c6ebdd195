//! Published vectors of OpenTDF's formats, and some of our own confirmed against its code.

use base64ct::{Base64, Encoding};
use kasbah_crypto::{
    Curve, Dek, PolicyBinding, PrivateKey, PublicKey, WrappedDek, binding,
    ec::{EcPrivateKey, EcPublicKey, HKDF_SALT, WrapKey},
    envelope::RootKey,
};
use sha2::{Digest, Sha256};

use crate::{sample_dek, unhex};

struct EcVector {
    curve: Curve,
    /// First bytes of the two scalars, which count up from there.
    scalars: [u8; 2],
    kas: &'static str,
    ephemeral: &'static str,
    shared_secret: &'static str,
    key: &'static str,
    blob: &'static str,
}

const EC: [EcVector; 3] = [
    EcVector {
        curve: Curve::P256,
        scalars: [0x01, 0x41],
        kas: "02515c3d6eb9e396b904d3feca7f54fdcd0cc1e997bf375dca515ad0a6c3b4035f",
        ephemeral: "03261efbd3550cf068ef013ed7366ba32f5d6fe557b4b2abce8ade58cba168a55e",
        shared_secret: "7434f2c52e0d08dc73394aae3d2d55d5b88bc570f21cc2b8f8b80b273ddbf76f",
        key: "18c156c27e62aa42844468c3434a258475278a493d8fa26ba020eac1b79f99e8",
        blob: "oKGio6SlpqeoqaqrZc4T/FVJUyu29IyHiYuSHfye7O68VXe1Sq8Mij4svf3b1bJumnaPmZNZTN/204am",
    },
    EcVector {
        curve: Curve::P384,
        scalars: [0x01, 0x41],
        kas: "03c76f2283dda95cd49b0ed9e733d2904474e37216f124e13d2c9ab4cf01021c49\
              ad9cabb3d0b97499aef2f0ab313fa028",
        ephemeral: "02dcd1d3e36f25e675bda55b28b3cfbe3d284287e1f9d16ac575b76c3c7036df30\
                    fe2a8f9be472194323e98b7441fd8eab",
        shared_secret: "4506b6844fec66eacaafa353f344ef68e64416f9ab4051a4c54c7c13c7d3f92d\
                        f2449d0783dce977257e1029e3b0bcc7",
        key: "b29258dd8f3223c9ef81da7944b345c507780ef4c5c13bedf752189245f62d32",
        blob: "oKGio6SlpqeoqaqrpIf/c9DHWYi5jahiUlAOPHa0JTAoxBiTzaONJuOm3rFekvN5CQUnEaboc7SVXWY9",
    },
    EcVector {
        curve: Curve::P521,
        scalars: [0x01, 0x41],
        kas: "0301f7eafa08fc845f03d01f7631f407fa17e6191d45b304d46aa1eaf6484a21fc78\
              bc7003a1db5e8f450724721a2a611bebdbe6c4ca6f8fcf8b8edaaf2d09b8159f50",
        ephemeral: "020007bf4b03bf00b98552b5dd6c5705c3a146c6e9f86b9fc54d72d645baec8cd052\
                    a62c67a08c15fb0e37c39fefc7d1723accb1f1f1895f6c8755dc088ab7fd8be515",
        shared_secret: "011dc09f2294bde5c73ebfe7a7d52db9dfe29c944b3adb29a35b9cfe3284a7bb49e8\
                        b5a63ee405bd333159658a89d81b6b7a4e8bf5a76211bd424df3da948d27fdc1",
        key: "2e70098c0918fb4a8e2a90ff17d57bd25296bf234a4d3322ce9bab42aa3cf3b8",
        blob: "oKGio6Slpqeoqaqr6hP4pf4j6Yeqd1jHvj9Fmowp9DZVwQ6MjgEFd0oKfvkc7hxTxEUhmICCtXKMIBeq",
    },
];

/// Bytes counting up from `first`; those of P-521 begin with a zero to stay below the order.
fn scalar(curve: Curve, first: u8) -> EcPrivateKey {
    let mut bytes: Vec<u8> = (first..).take(curve.field_len()).collect();
    if curve == Curve::P521 {
        bytes[0] = 0;
    }
    EcPrivateKey::from_scalar(curve, &bytes).unwrap()
}

fn bytes(key: &WrapKey) -> String {
    hex::encode(key.to_dek().unwrap().expose_secret())
}

#[test]
fn salt_is_the_hash_of_tdf() {
    assert_eq!(HKDF_SALT, *Sha256::digest("TDF"));
    let published = "aa17cf44585fe15fd634c27b9512d842b42af1bac6178d92161edb4e2abf8197";
    assert_eq!(hex::encode(HKDF_SALT), published);
}

#[test]
fn ec_wrap_opens_the_published_blobs() {
    for vector in &EC {
        let curve = vector.curve;
        let [kas, ephemeral] = vector.scalars.map(|first| scalar(curve, first));
        let point = |text| EcPublicKey::from_sec1(curve, &unhex(text)).unwrap();
        assert_eq!(*kas.public_key(), point(vector.kas), "{curve:?}");
        assert_eq!(*ephemeral.public_key(), point(vector.ephemeral), "{curve:?}");

        let derived = WrapKey::derive(&unhex(vector.shared_secret)).unwrap();
        assert_eq!(bytes(&derived), vector.key, "{curve:?}");
        let agreed = kas.agree(&point(vector.ephemeral)).unwrap();
        assert_eq!(bytes(&agreed), vector.key, "{curve:?}");
        let agreed = ephemeral.agree(&point(vector.kas)).unwrap();
        assert_eq!(bytes(&agreed), vector.key, "{curve:?}");

        let blob = Base64::decode_vec(vector.blob).unwrap();
        let wrapped = WrappedDek::Ec { blob, ephemeral: point(vector.ephemeral) };
        let dek = PrivateKey::Ec(kas).unwrap_dek(&wrapped).unwrap();
        assert_eq!(dek.expose_secret(), sample_dek().expose_secret(), "{curve:?}");
    }
}

#[test]
fn both_point_forms_are_one_key() {
    for vector in &EC {
        let compressed = EcPublicKey::from_sec1(vector.curve, &unhex(vector.kas)).unwrap();
        assert_eq!(compressed.point().len(), 1 + 2 * vector.curve.field_len());
        assert_eq!(compressed.point()[0], 4);
        let uncompressed = EcPublicKey::from_sec1(vector.curve, compressed.point()).unwrap();
        assert_eq!(compressed, uncompressed, "{:?}", vector.curve);
        let x = &unhex(vector.kas)[1..];
        assert_eq!(&compressed.point()[1..=vector.curve.field_len()], x, "{:?}", vector.curve);
    }
}

#[test]
fn ephemeral_spki_is_the_published_one() {
    let published = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJh7701UM8GjvAT7XNmujL11v5Ve0sqvOit5Yy6Fo\
                     pV4XiKCymlamq+xAhMDJa9PcvKa1B/NdvqnphXCEedi9yQ==";
    let published = Base64::decode_vec(published).unwrap();
    let [vector, ..] = &EC;
    let key = EcPublicKey::from_sec1(Curve::P256, &unhex(vector.ephemeral)).unwrap();
    assert_eq!(PublicKey::Ec(key.clone()).to_spki_der(), published);
    assert_eq!(PublicKey::from_spki_der(&published).unwrap(), PublicKey::Ec(key));
}

#[test]
fn every_damaged_bit_of_a_blob_is_noticed() {
    let [vector, ..] = &EC;
    let key = WrapKey::derive(&unhex(vector.shared_secret)).unwrap();
    let blob = Base64::decode_vec(vector.blob).unwrap();
    for bit in 0..blob.len() * 8 {
        let mut damaged = blob.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..blob.len() {
        assert!(key.open(&blob[..len]).is_err(), "cut to {len}");
    }
    assert!(key.open(&[&blob[..], &[0]].concat()).is_err(), "one byte more");
}

const POLICY: &str = "eyJ1dWlkIjoiMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1IiwiYm9keSI6eyJk\
                      YXRhQXR0cmlidXRlcyI6W3siYXR0cmlidXRlIjoiaHR0cHM6Ly9leGFtcGxlLmNvbS9hdHRyL2Ev\
                      dmFsdWUvYiJ9XSwiZGlzc2VtIjpbXX19";
const MAC: &str = "089553447aae0ae036bcc491b9fef15d797b4dad408f191c9a7f68c5024d9477";
const HASH_OF_HEX: &str = "MDg5NTUzNDQ3YWFlMGFlMDM2YmNjNDkxYjlmZWYxNWQ3OTdiNGRhZDQwOGYxOTFjOWE3ZjY4\
                           YzUwMjRkOTQ3Nw==";
const HASH_OF_BYTES: &str = "CJVTRHquCuA2vMSRuf7xXXl7Ta1Ajxkcmn9oxQJNlHc=";

#[test]
fn binding_is_the_published_one() {
    let computed = binding::compute(&sample_dek(), POLICY);
    assert_eq!(hex::encode(computed.as_ref()), MAC);
    let upper_case = Base64::encode_string(MAC.to_uppercase().as_bytes());
    let broken_lines = format!("{}\r\n{}\n", &HASH_OF_HEX[..76], &HASH_OF_HEX[76..]);
    for hash in [HASH_OF_HEX, HASH_OF_BYTES, &upper_case, &broken_lines] {
        let claimed = PolicyBinding::parse(hash).unwrap();
        assert_eq!(hex::encode(claimed.as_bytes()), MAC, "{hash}");
        claimed.verify(computed.as_ref()).unwrap();
    }
}

#[test]
fn binding_notices_every_change() {
    let claimed = PolicyBinding::parse(HASH_OF_HEX).unwrap();
    let computed = binding::compute(&sample_dek(), POLICY);
    for bit in 0..256 {
        let mut changed = *computed;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(claimed.verify(&changed).is_err(), "bit {bit}");
        assert!(PolicyBinding::from(changed).verify(computed.as_ref()).is_err(), "bit {bit}");
    }
    for len in [0, 16, 31] {
        assert!(claimed.verify(&computed[..len]).is_err(), "cut to {len}");
    }
    assert!(claimed.verify(&[computed.as_ref(), &[0]].concat()).is_err(), "one byte more");
    let other = Dek::generate().unwrap();
    assert!(claimed.verify(binding::compute(&other, POLICY).as_ref()).is_err(), "another data key");
    let decoded = String::from_utf8(Base64::decode_vec(POLICY).unwrap()).unwrap();
    for policy in ["", &decoded, &POLICY[1..], &POLICY.to_lowercase()] {
        let computed = binding::compute(&sample_dek(), policy);
        assert!(claimed.verify(computed.as_ref()).is_err(), "{policy}");
    }
}

#[test]
fn what_is_no_binding_is_refused() {
    let base64 = |text: &str| Base64::encode_string(text.as_bytes());
    for (name, hash) in [
        ("empty", String::new()),
        ("only line ends", "\r\n".into()),
        ("bare hex", MAC.into()),
        ("no padding", HASH_OF_BYTES.trim_end_matches('=').into()),
        ("too much padding", format!("{HASH_OF_BYTES}=")),
        ("stray bits in the last digit", HASH_OF_BYTES.replace("Hc=", "Hd=")),
        ("URL-safe digits", HASH_OF_BYTES.replace('M', "-")),
        ("a space", HASH_OF_BYTES.replacen('M', " M", 1)),
        ("31 bytes", Base64::encode_string(&[0; 31])),
        ("33 bytes", Base64::encode_string(&[0; 33])),
        ("62 digits", base64(&MAC[2..])),
        ("63 digits", base64(&MAC[1..])),
        ("66 digits", base64(&format!("{MAC}00"))),
        ("64 characters, one no digit", base64(&MAC.replace('a', "g"))),
        ("twice base64", base64(HASH_OF_BYTES)),
        ("beyond ASCII", format!("é{HASH_OF_BYTES}")),
        ("endless", "A".repeat(1 << 20)),
    ] {
        assert!(PolicyBinding::parse(&hash).is_err(), "{name}");
    }
}

const ROOT_KEY: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const SEALED: &str = "oKGio6SlpqeoqaqrG0TFWbS75YrRWsTMRykThvoauCdezVJHfGrE/KdT65ALeOBQEIeJyTE=";

#[test]
fn root_key_opens_the_published_text() {
    let sealed = Base64::decode_vec(SEALED).unwrap();
    for text in [ROOT_KEY, &ROOT_KEY.to_uppercase()] {
        let key = RootKey::from_hex(text).unwrap();
        assert_eq!(key.open(&sealed).unwrap().as_slice(), b"example private key bytes");
    }
}

#[test]
fn root_key_notices_every_damage() {
    let sealed = Base64::decode_vec(SEALED).unwrap();
    let key = RootKey::from_hex(ROOT_KEY).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(key.open(&sealed[..len]).is_err(), "cut to {len}");
    }
    for text in [&ROOT_KEY[..32], &ROOT_KEY[..48], &ROOT_KEY.replace('2', "3")] {
        assert!(RootKey::from_hex(text).unwrap().open(&sealed).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_root_key_is_refused() {
    for text in [
        "",
        " ",
        &ROOT_KEY[1..],
        &ROOT_KEY[2..],
        &ROOT_KEY[..30],
        &ROOT_KEY[..34],
        &format!("{ROOT_KEY}00"),
        &ROOT_KEY.replace('f', "g"),
        &format!("0x{}", &ROOT_KEY[2..]),
        &format!("{} {}", &ROOT_KEY[..32], &ROOT_KEY[33..]),
        &"a".repeat(1 << 20),
    ] {
        assert!(RootKey::from_hex(text).is_err(), "{text:.80}");
    }
}

#[test]
fn data_keys_have_three_lengths() {
    for len in 0..100 {
        let accepted = Dek::from_slice(&vec![7; len]).is_ok();
        assert_eq!(accepted, matches!(len, 16 | 24 | 32), "{len} bytes");
    }
}
