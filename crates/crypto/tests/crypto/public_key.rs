//! Reading and writing public keys.

use der::{
    AnyRef, Encode,
    asn1::{BitStringRef, Null, ObjectIdentifier},
};
use kasbah_crypto::{
    Algorithm, Curve, PublicKey,
    PublicKeyError::{self, Malformed, NoPem, Refused, UnsupportedCurve, UnsupportedType},
    ec::EcPublicKey,
    rsa::RsaPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::private_key;

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("data/", $name, ".pem"))
    };
}

const EC: [(&str, &str, Curve); 3] = [
    (data!("p256"), data!("p256-compressed"), Curve::P256),
    (data!("p384"), data!("p384-compressed"), Curve::P384),
    (data!("p521"), data!("p521-compressed"), Curve::P521),
];

fn rsa(text: &str) -> RsaPublicKey {
    match PublicKey::from_pem(text) {
        Ok(PublicKey::Rsa(key)) => key,
        other => panic!("{other:?}"),
    }
}

fn ec(text: &str) -> EcPublicKey {
    match PublicKey::from_pem(text) {
        Ok(PublicKey::Ec(key)) => key,
        other => panic!("{other:?}"),
    }
}

fn pem_body(text: &str) -> Vec<u8> {
    der::pem::decode_vec(text.as_bytes()).unwrap().1
}

fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new(text).unwrap()
}

fn spki(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> Vec<u8> {
    let algorithm = AlgorithmIdentifierRef { oid, parameters };
    let subject_public_key = BitStringRef::from_bytes(key).unwrap();
    SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der().unwrap()
}

#[test]
fn what_openssl_writes_is_read_and_written_alike() {
    for (text, bits, algorithm) in [
        (data!("rsa2048"), 2048, Some(Algorithm::Rsa2048)),
        (data!("rsa3072"), 3072, None),
        (data!("rsa8192"), 8192, None),
    ] {
        let key = PublicKey::from_pem(text).unwrap();
        assert_eq!(rsa(text).bits(), bits);
        assert_eq!(rsa(text).exponent(), [1, 0, 1]);
        assert_eq!(key.algorithm(), algorithm);
        assert_eq!(key.to_pem(), text);
        assert_eq!(key.to_spki_der(), pem_body(text));
        assert_eq!(key.fingerprint(), *Sha256::digest(pem_body(text)));
    }
    for (uncompressed, compressed, curve) in EC {
        let key = PublicKey::from_pem(uncompressed).unwrap();
        assert_eq!(key, PublicKey::from_pem(compressed).unwrap());
        assert_eq!(ec(uncompressed).curve(), curve);
        assert_eq!(key.algorithm(), Some(Algorithm::Ec(curve)));
        assert_eq!(key.to_pem(), uncompressed);
        assert_eq!(key.to_spki_der(), pem_body(uncompressed));
        assert_eq!(key.fingerprint(), *Sha256::digest(pem_body(uncompressed)));
    }
    let key = private_key(Algorithm::Rsa4096).public_key();
    assert_eq!(key.algorithm(), Some(Algorithm::Rsa4096));
}

#[test]
fn keys_are_equal_only_to_themselves() {
    let keys: Vec<_> =
        [data!("rsa2048"), data!("rsa3072"), data!("p256"), data!("p384"), data!("p521")]
            .into_iter()
            .map(|text| PublicKey::from_pem(text).unwrap())
            .collect();
    for (i, one) in keys.iter().enumerate() {
        for (j, other) in keys.iter().enumerate() {
            assert_eq!(one == other, i == j, "{i}, {j}");
        }
    }
}

#[test]
fn the_label_does_not_matter() {
    let text = data!("p256").replace("PUBLIC KEY", "CERTIFICATE");
    assert!(PublicKey::from_pem(&text).is_ok());
}

#[test]
fn what_is_no_usable_key_is_refused_with_its_reason() {
    let modulus = "the modulus must have 2048 to 8192 bits";
    let exponent = "the exponent must be odd and between 65537 and 2^33";
    for (name, text, expected) in [
        ("empty", "", NoPem),
        ("text", "hello", NoPem),
        ("cut", &data!("p256")[..100], NoPem),
        ("empty body", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", Malformed),
        ("garbage", "-----BEGIN PUBLIC KEY-----\nQUJD\n-----END PUBLIC KEY-----\n", Malformed),
        ("PKCS#1", data!("rsa2048-pkcs1"), Malformed),
        ("certificate", data!("certificate"), Malformed),
        ("RSA-PSS", data!("rsa2048-pss"), Malformed),
        ("Ed448", data!("ed448"), Malformed),
        ("explicit parameters", data!("p256-explicit"), Malformed),
        ("Ed25519", data!("ed25519"), UnsupportedType),
        ("X25519", data!("x25519"), UnsupportedType),
        ("DSA", data!("dsa"), UnsupportedType),
        ("P-224", data!("p224"), UnsupportedCurve),
        ("secp256k1", data!("secp256k1"), UnsupportedCurve),
        ("brainpoolP256r1", data!("brainpool256"), UnsupportedCurve),
        ("1024 bits", data!("rsa1024"), Refused(modulus)),
        ("exponent 3", data!("rsa2048-e3"), Refused(exponent)),
    ] {
        assert_eq!(PublicKey::from_pem(text), Err(expected), "{name}");
    }
}

#[test]
fn der_is_read_strictly() {
    let (rsa_oid, ec_oid) = (oid("1.2.840.113549.1.1.1"), oid("1.2.840.10045.2.1"));
    let p256 = Curve::P256.oid();
    let rsa_spki = pem_body(data!("rsa2048"));
    let rsa_body = pem_body(data!("rsa2048-pkcs1"));
    let point = ec(data!("p256")).point().to_vec();
    let null = Some(Null.into());
    let curve = Some((&p256).into());
    assert!(PublicKey::from_spki_der(&spki(rsa_oid, null, &rsa_body)).is_ok());
    assert!(PublicKey::from_spki_der(&spki(ec_oid, curve, &point)).is_ok());

    let mut unused_bits = pem_body(data!("p256"));
    assert_eq!(unused_bits[25], 0);
    unused_bits[25] = 1;
    let mut negative = rsa_body.clone();
    assert_eq!(negative[8], 0);
    negative.splice(5..9, [0x82, 0x01, 0x00]);
    negative[3] -= 1;
    for (name, der) in [
        ("empty", vec![]),
        ("trailing byte", [&rsa_spki[..], &[0]].concat()),
        ("RSA without parameters", spki(rsa_oid, None, &rsa_body)),
        ("RSA with a curve", spki(rsa_oid, curve, &rsa_body)),
        ("RSA with a point", spki(rsa_oid, null, &point)),
        ("RSA without key", spki(rsa_oid, null, &[])),
        ("RSA, trailing byte", spki(rsa_oid, null, &[&rsa_body[..], &[0]].concat())),
        ("RSA, negative modulus", spki(rsa_oid, null, &negative)),
        ("RSA, empty numbers", spki(rsa_oid, null, &[0x30, 4, 2, 0, 2, 0])),
        ("EC without parameters", spki(ec_oid, None, &point)),
        ("EC with NULL", spki(ec_oid, null, &point)),
        ("EC with an RSA key", spki(ec_oid, curve, &rsa_body)),
        ("EC without point", spki(ec_oid, curve, &[])),
        ("EC, SPKI as point", spki(ec_oid, curve, &pem_body(data!("p256")))),
        ("unused bits", unused_bits),
        ("ML-KEM-768", spki(oid("2.16.840.1.101.3.4.4.2"), None, &[7; 1184])),
        ("X-Wing", spki(oid("1.3.6.1.4.1.62253.25722"), None, &[7; 1216])),
        ("composite KEM", spki(oid("1.3.6.1.5.5.7.6.59"), None, &[7; 1249])),
    ] {
        assert_eq!(PublicKey::from_spki_der(&der), Err(Malformed), "{name}");
    }
    let wrong_curve = spki(ec_oid, Some((&Curve::P384.oid()).into()), &point);
    assert_eq!(PublicKey::from_spki_der(&wrong_curve), Err(Malformed));
    let numbers = [0x30, 6, 2, 1, 0, 2, 1, 0];
    let zeros = PublicKey::from_spki_der(&spki(rsa_oid, null, &numbers));
    assert!(matches!(zeros, Err(Refused(_))), "{zeros:?}");
}

#[test]
fn every_cut_of_an_encoding_is_refused() {
    for text in [data!("p256"), data!("p256-compressed"), data!("rsa2048")] {
        let der = pem_body(text);
        for len in 0..der.len() {
            assert_eq!(PublicKey::from_spki_der(&der[..len]), Err(Malformed), "{len}");
        }
    }
}

#[test]
fn points_off_the_curve_are_refused() {
    for (text, compressed, curve) in EC {
        let point = ec(text).point().to_vec();
        let short = ec(compressed).point()[1..=curve.field_len()].to_vec();
        let with = |first: u8, rest: &[u8]| [&[first], rest].concat();
        let mut off = point.clone();
        *off.last_mut().unwrap() ^= 1;
        let parity = point.last().unwrap() & 1;
        for (name, point) in [
            ("empty", vec![]),
            ("infinity", vec![0]),
            ("infinity, padded", vec![0; point.len()]),
            ("origin", with(4, &vec![0; point.len() - 1])),
            ("off the curve", off),
            ("hybrid", with(6 | parity, &point[1..])),
            ("hybrid of the other parity", with(7 - parity, &point[1..])),
            ("no form", with(5, &point[1..])),
            ("no form, short", with(1, &short)),
            ("compressed, long", with(2, &point[1..])),
            ("uncompressed, short", with(4, &short)),
            ("x beyond the field", with(2, &vec![0xff; curve.field_len()])),
            ("cut", point[..point.len() - 1].to_vec()),
            ("trailing byte", with(4, &[&point[1..], &[0]].concat())),
            ("whole encoding", pem_body(text)),
        ] {
            assert_eq!(EcPublicKey::from_sec1(curve, &point), Err(Malformed), "{curve:?}, {name}");
        }
        for other in [Curve::P256, Curve::P384, Curve::P521] {
            assert_eq!(EcPublicKey::from_sec1(other, &point).is_ok(), other == curve);
        }
    }
}

/// A number of `bits` bits, the lowest of which is set as `odd` says.
fn number(bits: usize, odd: bool) -> Vec<u8> {
    let mut number = vec![0xff; bits.div_ceil(8)];
    number[0] = 0xff >> (number.len() * 8 - bits);
    *number.last_mut().unwrap() -= u8::from(!odd);
    number
}

#[test]
fn rsa_numbers_have_bounds() {
    let accepts = |n: &[u8], e: &[u8]| RsaPublicKey::from_components(n, e).is_ok();
    let f4 = [1, 0, 1];
    for bits in [2048, 2049, 3072, 4096, 8191, 8192] {
        assert!(accepts(&number(bits, true), &f4), "{bits} bits");
        let even = RsaPublicKey::from_components(&number(bits, false), &f4);
        assert_eq!(even, Err(Refused("the modulus must be odd")), "{bits} bits");
        assert_eq!(RsaPublicKey::from_components(&number(bits, true), &f4).unwrap().bits(), bits);
    }
    for bits in [1, 1024, 2047, 8193, 16384, 100_000] {
        assert!(!accepts(&number(bits, true), &f4), "{bits} bits");
    }
    let n = number(2048, true);
    for e in [65537, 65539, (1 << 32) + 1, (1_u64 << 33) - 1] {
        assert!(accepts(&n, &e.to_be_bytes()), "e = {e}");
    }
    for e in [0, 1, 2, 3, 17, 257, 65535, 65536, 65538, (1 << 33) + 1, u64::MAX] {
        assert!(!accepts(&n, &e.to_be_bytes()), "e = {e}");
    }
    assert!(!accepts(&n, &[1, 0, 0, 0, 0, 0, 0, 0, 1]), "e = 2^64 + 1");
    assert!(!accepts(&n, &n), "e = n");
    assert!(!accepts(&n, &[]), "no exponent");
    assert!(!accepts(&[], &f4), "no modulus");
    assert!(!accepts(&[0; 256], &f4), "zero modulus");
}

#[test]
fn leading_zeros_of_rsa_numbers_do_not_count() {
    let n = number(2048, true);
    let plain = RsaPublicKey::from_components(&n, &[1, 0, 1]).unwrap();
    let padded = [&[0, 0], n.as_slice()].concat();
    let padded = RsaPublicKey::from_components(&padded, &[0, 0, 0, 1, 0, 1]).unwrap();
    assert_eq!(plain, padded);
    assert_eq!((padded.modulus(), padded.exponent()), (n.as_slice(), &[1, 0, 1][..]));
    let short = [&[0], &number(2040, true)[..]].concat();
    assert!(RsaPublicKey::from_components(&short, &[1, 0, 1]).is_err());
}

#[test]
fn jwk_has_the_members_of_rfc_7518() {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let parse = |text: &str| -> Value {
        serde_json::from_str(&PublicKey::from_pem(text).unwrap().to_jwk()).unwrap()
    };
    let key = rsa(data!("rsa2048"));
    let n = Base64UrlUnpadded::encode_string(key.modulus());
    assert_eq!(parse(data!("rsa2048")), json!({ "kty": "RSA", "n": n, "e": "AQAB" }));
    for ((text, _, curve), name) in EC.into_iter().zip(["P-256", "P-384", "P-521"]) {
        let jwk = parse(text);
        let coordinate = |name: &str| {
            let digits = jwk[name].as_str().unwrap();
            Base64UrlUnpadded::decode_vec(digits).unwrap()
        };
        assert_eq!((&jwk["kty"], &jwk["crv"]), (&json!("EC"), &json!(name)));
        assert_eq!(jwk.as_object().unwrap().len(), 4);
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        assert_eq!(coordinate("x").len(), curve.field_len());
        assert_eq!(point, ec(text).point());
    }
}

#[test]
fn errors_say_what_to_use_instead() {
    assert_eq!(UnsupportedCurve.to_string(), "unsupported curve; use P-256, P-384 or P-521");
    let error: PublicKeyError = RsaPublicKey::from_components(&[1], &[1]).unwrap_err();
    let expected = "RSA key refused: the modulus must have 2048 to 8192 bits";
    assert_eq!(error.to_string(), expected);
}
