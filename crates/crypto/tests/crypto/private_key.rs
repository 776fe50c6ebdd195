//! Reading and writing private keys.

use std::collections::HashSet;

use der::{
    Decode, Encode,
    asn1::{ObjectIdentifier, OctetStringRef, UintRef},
    pem::LineEnding,
};
use kasbah_crypto::{
    Algorithm, Curve, Dek, PrivateKey, PrivateKeyParts, PublicKey, WrappedDek,
    ec::{EcPrivateKey, NONCE_LEN, WrapKey},
    envelope::RootKey,
};
use pkcs8::PrivateKeyInfoRef;

use crate::{parts, private_key, sample_dek};

fn pem(label: &str, der: &[u8]) -> String {
    der::pem::encode_string(label, LineEnding::LF, der).unwrap()
}

fn pkcs8(parts: &PrivateKeyParts) -> Vec<u8> {
    der::pem::decode_vec(parts.to_pem().unwrap().as_bytes()).unwrap().1
}

/// The key inside PKCS#8: PKCS#1 for RSA, RFC 5915 for EC.
fn body(pkcs8: &[u8]) -> Vec<u8> {
    PrivateKeyInfoRef::from_der(pkcs8).unwrap().private_key.as_bytes().to_vec()
}

/// Puts another body into a PKCS#8 key.
fn with_body(pkcs8: &[u8], body: &[u8]) -> Vec<u8> {
    let mut info = PrivateKeyInfoRef::from_der(pkcs8).unwrap();
    info.private_key = OctetStringRef::new(body).unwrap();
    info.to_der().unwrap()
}

fn accepts(label: &str, der: &[u8]) -> bool {
    let text = pem(label, der);
    let accepted = PrivateKey::from_pem(&text).is_ok();
    assert_eq!(PrivateKeyParts::from_pem(&text).is_ok(), accepted, "both read alike");
    accepted
}

#[test]
fn every_kind_of_key_survives_its_pem() {
    for algorithm in Algorithm::ALL {
        let parts = parts(algorithm);
        let text = parts.to_pem().unwrap();
        let key = PrivateKey::from_pem(&text).unwrap();
        assert_eq!(key.public_key(), parts.public_key(), "{algorithm}");
        assert_eq!(key.public_key().algorithm(), Some(algorithm));
        assert_eq!(*PrivateKeyParts::from_pem(&text).unwrap().to_pem().unwrap(), *text);
        let wrapped = parts.public_key().wrap(&sample_dek()).unwrap();
        let dek = key.unwrap_dek(&wrapped).unwrap();
        assert_eq!(dek.expose_secret(), sample_dek().expose_secret(), "{algorithm}");
    }
}

#[test]
fn a_key_opens_only_what_is_wrapped_for_it() {
    let keys: Vec<_> = Algorithm::ALL.into_iter().flat_map(|a| [a, a]).map(private_key).collect();
    for (i, one) in keys.iter().enumerate() {
        let wrapped = one.public_key().wrap(&sample_dek()).unwrap();
        for (j, other) in keys.iter().enumerate() {
            assert_eq!(other.unwrap_dek(&wrapped).is_err(), i != j, "key {j}, wrapped for {i}");
        }
    }
}

#[test]
fn every_length_of_data_key_is_wrapped() {
    for algorithm in Algorithm::ALL {
        let key = private_key(algorithm);
        for len in [16, 24, 32] {
            let dek = Dek::from_slice(&vec![9; len]).unwrap();
            let wrapped = key.public_key().wrap(&dek).unwrap();
            if let WrappedDek::Ec { blob, .. } = &wrapped {
                assert_eq!(blob.len(), 12 + len + 16, "{algorithm}");
            }
            let unwrapped = key.unwrap_dek(&wrapped).unwrap();
            assert_eq!(unwrapped.expose_secret(), dek.expose_secret(), "{algorithm}");
        }
    }
}

#[test]
fn wrapping_never_repeats_itself() {
    for algorithm in Algorithm::ALL {
        let key = private_key(algorithm).public_key();
        let wrap = || match key.wrap(&sample_dek()).unwrap() {
            WrappedDek::Ec { blob, ephemeral } => [&blob, ephemeral.point()].concat(),
            WrappedDek::Rsa(ciphertext) => ciphertext,
        };
        assert_ne!(wrap(), wrap(), "{algorithm}");
    }
}

#[test]
fn one_key_never_uses_a_nonce_twice() {
    let wrap = WrapKey::derive(&[7; 32]).unwrap();
    let root = RootKey::from_hex(&"07".repeat(32)).unwrap();
    let seal_both = |_| [wrap.seal(&sample_dek()).unwrap(), root.seal(b"key").unwrap()];
    let nonces: HashSet<_> =
        (0..1000).flat_map(seal_both).map(|sealed| sealed[..NONCE_LEN].to_vec()).collect();
    assert_eq!(nonces.len(), 2000);
}

#[test]
fn agreement_needs_one_curve() {
    let curves = [Curve::P256, Curve::P384, Curve::P521];
    for one in curves {
        for other in curves {
            let key = EcPrivateKey::generate(one).unwrap();
            let peer = EcPrivateKey::generate(other).unwrap();
            assert_eq!(key.agree(peer.public_key()).is_ok(), one == other, "{one:?}, {other:?}");
        }
    }
}

#[test]
fn scalars_are_of_the_curve() {
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        let len = curve.field_len();
        let one = [vec![0; len - 1], vec![1]].concat();
        assert!(EcPrivateKey::from_scalar(curve, &one).is_ok(), "{curve:?}");
        for (name, scalar) in [
            ("empty", vec![]),
            ("zero", vec![0; len]),
            ("beyond the order", vec![0xff; len]),
            ("short", one[1..].to_vec()),
            ("long", [vec![0], one].concat()),
        ] {
            assert!(EcPrivateKey::from_scalar(curve, &scalar).is_err(), "{curve:?}, {name}");
        }
    }
}

#[test]
fn rsa_is_read_as_pkcs1_too() {
    let parts = parts(Algorithm::Rsa2048);
    let der = body(&pkcs8(&parts));
    let text = pem("RSA PRIVATE KEY", &der).replace('\n', "\r\n");
    assert_eq!(PrivateKey::from_pem(&text).unwrap().public_key(), parts.public_key());
    assert!(!accepts("PRIVATE KEY", &der));
    assert!(!accepts("RSA PRIVATE KEY", &pkcs8(&parts)));
}

#[test]
fn ec_is_read_as_pkcs8_only() {
    let der = pkcs8(&parts(Algorithm::Ec(Curve::P256)));
    assert!(accepts("PRIVATE KEY", &der));
    assert!(!accepts("EC PRIVATE KEY", &body(&der)));
    assert!(!accepts("PRIVATE KEY", &body(&der)));
}

#[test]
fn ec_needs_no_public_half_but_the_right_one() {
    let der = pkcs8(&parts(Algorithm::Ec(Curve::P384)));
    let other = body(&pkcs8(&parts(Algorithm::Ec(Curve::P384))));
    let other = sec1::EcPrivateKey::from_der(&other).unwrap();
    let inner = body(&der);
    let inner = sec1::EcPrivateKey::from_der(&inner).unwrap();
    let with = |change: fn(&mut sec1::EcPrivateKey<'_>)| {
        let mut inner = inner.clone();
        change(&mut inner);
        with_body(&der, &inner.to_der().unwrap())
    };
    assert!(accepts("PRIVATE KEY", &with(|key| key.public_key = None)));
    let named = |curve: Curve| Some(sec1::EcParameters::NamedCurve(curve.oid()));
    let with_curve = |curve| {
        let mut inner = inner.clone();
        inner.parameters = named(curve);
        with_body(&der, &inner.to_der().unwrap())
    };
    assert!(accepts("PRIVATE KEY", &with_curve(Curve::P384)));
    assert!(!accepts("PRIVATE KEY", &with_curve(Curve::P256)), "another curve inside");
    let mut mixed = inner.clone();
    mixed.public_key = other.public_key;
    assert!(!accepts("PRIVATE KEY", &with_body(&der, &mixed.to_der().unwrap())));
    assert!(!accepts("PRIVATE KEY", &with(|key| key.private_key = &key.private_key[1..])));
    assert!(!accepts("PRIVATE KEY", &with(|key| key.private_key = &[0; 48])), "zero");
    assert!(!accepts("PRIVATE KEY", &with(|key| key.private_key = &[0xff; 48])), "too large");
}

#[test]
fn rsa_numbers_must_belong_together() {
    let der = pkcs8(&parts(Algorithm::Rsa2048));
    let inner = body(&der);
    let inner = pkcs1::RsaPrivateKeyRef::from_der(&inner).unwrap();
    let accepts_numbers = |numbers: [&[u8]; 8]| {
        let numbers = numbers.map(|number| UintRef::new(number).unwrap());
        let key = pkcs1::RsaPrivateKeyRef {
            modulus: numbers[0],
            public_exponent: numbers[1],
            private_exponent: numbers[2],
            prime1: numbers[3],
            prime2: numbers[4],
            exponent1: numbers[5],
            exponent2: numbers[6],
            coefficient: numbers[7],
            other_prime_infos: None,
        };
        accepts("PRIVATE KEY", &with_body(&der, &key.to_der().unwrap()))
    };
    let numbers = [
        inner.modulus,
        inner.public_exponent,
        inner.private_exponent,
        inner.prime1,
        inner.prime2,
        inner.exponent1,
        inner.exponent2,
        inner.coefficient,
    ]
    .map(|number| number.as_bytes().to_vec());
    let borrow = |numbers: &[Vec<u8>; 8]| accepts_numbers(std::array::from_fn(|i| &numbers[i][..]));
    assert!(borrow(&numbers), "the key as it is");
    for i in 0..numbers.len() {
        let mut changed = numbers.clone();
        *changed[i].last_mut().unwrap() ^= 2;
        assert!(!borrow(&changed), "number {i} changed");
        let mut zero = numbers.clone();
        zero[i] = vec![0];
        assert!(!borrow(&zero), "number {i} zero");
    }
    let mut swapped = numbers.clone();
    swapped.swap(3, 4);
    assert!(!borrow(&swapped), "primes swapped");
}

#[test]
fn what_is_no_private_key_is_refused() {
    let key = parts(Algorithm::Ec(Curve::P256));
    let der = pkcs8(&key);
    let public = key.public_key();
    let rsa1024 = include_str!("data/rsa1024.pem");
    let long = format!("{}{}", " ".repeat(16 * 1024), *key.to_pem().unwrap());
    for (name, text) in [
        ("empty", ""),
        ("text", "hello"),
        ("too long", &long),
        ("public key", &public.to_pem()),
        ("RSA public key", rsa1024),
        ("certificate", include_str!("data/certificate.pem")),
        ("public key under the label of a private one", &pem("PRIVATE KEY", &public.to_spki_der())),
        ("encrypted", &pem("ENCRYPTED PRIVATE KEY", &der)),
        ("another label", &pem("KEY", &der)),
        ("trailing byte", &pem("PRIVATE KEY", &[&der[..], &[0]].concat())),
        ("empty body", &pem("PRIVATE KEY", &[])),
    ] {
        assert!(PrivateKey::from_pem(text).is_err(), "{name}");
        assert!(PrivateKeyParts::from_pem(text).is_err(), "{name}");
    }
    for len in 0..der.len() {
        assert!(!accepts("PRIVATE KEY", &der[..len]), "cut to {len}");
    }
}

#[test]
fn other_types_of_private_keys_are_refused() {
    let der = pkcs8(&parts(Algorithm::Ec(Curve::P256)));
    for oid in ["1.3.101.110", "1.3.101.112", "1.2.840.10040.4.1", "2.16.840.1.101.3.4.4.2"] {
        let mut info = PrivateKeyInfoRef::from_der(&der).unwrap();
        info.algorithm.oid = oid.parse().unwrap();
        assert!(!accepts("PRIVATE KEY", &info.to_der().unwrap()), "{oid}");
    }
    let p224: ObjectIdentifier = "1.3.132.0.33".parse().unwrap();
    let mut info = PrivateKeyInfoRef::from_der(&der).unwrap();
    for parameters in [None, Some((&p224).into()), Some(der::AnyRef::NULL)] {
        info.algorithm.parameters = parameters;
        assert!(!accepts("PRIVATE KEY", &info.to_der().unwrap()), "{parameters:?}");
    }
}

#[test]
fn parts_are_the_numbers_of_the_key() {
    let parts_of_rsa = parts(Algorithm::Rsa2048);
    let inner = body(&pkcs8(&parts_of_rsa));
    let inner = pkcs1::RsaPrivateKeyRef::from_der(&inner).unwrap();
    let PrivateKeyParts::Rsa(rsa) = &parts_of_rsa else { panic!("not RSA") };
    for (name, number, expected) in [
        ("d", &rsa.private_exponent, inner.private_exponent),
        ("p", &rsa.prime1, inner.prime1),
        ("q", &rsa.prime2, inner.prime2),
        ("dP", &rsa.exponent1, inner.exponent1),
        ("dQ", &rsa.exponent2, inner.exponent2),
        ("qInv", &rsa.coefficient, inner.coefficient),
    ] {
        assert!(***number == *expected.as_bytes(), "{name}");
        assert_ne!(number[0], 0, "{name} has no leading zero");
    }
    for curve in [Curve::P256, Curve::P384, Curve::P521] {
        let parts = parts(Algorithm::Ec(curve));
        let PrivateKeyParts::Ec { scalar, public } = &parts else { panic!("not EC") };
        assert_eq!(scalar.len(), curve.field_len());
        let key = EcPrivateKey::from_scalar(curve, scalar).unwrap();
        assert_eq!(key.public_key(), public);
        assert_eq!(parts.public_key(), PublicKey::Ec(public.clone()));
    }
}
