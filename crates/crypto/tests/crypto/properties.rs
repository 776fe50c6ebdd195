//! Parsers survive anything; what is sealed opens again.

use base64ct::{Base64, Encoding};
use der::pem::LineEnding;
use kasbah_crypto::{
    Curve, Dek, PolicyBinding, PrivateKey, PublicKey, WrappedDek, binding,
    ec::{EcPrivateKey, EcPublicKey, WrapKey},
    envelope::RootKey,
    keywrap,
};
use proptest::{collection::vec, prelude::*, sample::Index};

fn curve() -> impl Strategy<Value = Curve> {
    prop_oneof![Just(Curve::P256), Just(Curve::P384), Just(Curve::P521)]
}

fn dek_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32)]
}

fn pem(label: &str, der: &[u8]) -> String {
    der::pem::encode_string(label, LineEnding::LF, der).unwrap()
}

proptest! {
    #[test]
    fn no_text_upsets_a_parser(text in any::<String>()) {
        prop_assert!(PublicKey::from_pem(&text).is_err());
        prop_assert!(PrivateKey::from_pem(&text).is_err());
        prop_assert!(PolicyBinding::parse(&text).is_err());
        let _ = RootKey::from_hex(&text);
    }

    #[test]
    fn no_pem_like_text_upsets_a_parser(
        words in vec(prop_oneof!["-----BEGIN ", "-----END ", "-----", "PUBLIC KEY", "[A-Za-z0-9+/=\r\n]{0,80}"], 0..12)
    ) {
        let text = words.concat();
        prop_assert!(PublicKey::from_pem(&text).is_err());
        prop_assert!(PrivateKey::from_pem(&text).is_err());
    }

    #[test]
    fn no_bytes_upset_a_parser(bytes in vec(any::<u8>(), 0..600), curve in curve()) {
        prop_assert!(PublicKey::from_spki_der(&bytes).is_err());
        prop_assert!(PublicKey::from_pem(&pem("PUBLIC KEY", &bytes)).is_err());
        prop_assert!(PrivateKey::from_pem(&pem("PRIVATE KEY", &bytes)).is_err());
        prop_assert!(PrivateKey::from_pem(&pem("RSA PRIVATE KEY", &bytes)).is_err());
        let _ = EcPublicKey::from_sec1(curve, &bytes);
    }

    /// Random bytes rarely get past the outermost tag; a damaged key does.
    #[test]
    fn no_damage_to_a_key_upsets_a_parser(
        which in any::<Index>(), at in any::<Index>(), byte in any::<u8>()
    ) {
        let texts = [
            include_str!("data/p256.pem"),
            include_str!("data/p521-compressed.pem"),
            include_str!("data/p256-explicit.pem"),
            include_str!("data/rsa2048.pem"),
            include_str!("data/certificate.pem"),
        ];
        let mut der = der::pem::decode_vec(which.get(&texts).as_bytes()).unwrap().1;
        let at = at.index(der.len());
        der[at] = byte;
        if let Ok(key) = PublicKey::from_spki_der(&der) {
            prop_assert_eq!(PublicKey::from_spki_der(&key.to_spki_der()), Ok(key.clone()));
            prop_assert_eq!(PublicKey::from_pem(&key.to_pem()), Ok(key));
        }
    }

    #[test]
    fn both_forms_of_a_binding_are_read(mac in any::<[u8; 32]>(), upper in any::<bool>()) {
        let digits = if upper { hex::encode_upper(mac) } else { hex::encode(mac) };
        for hash in [Base64::encode_string(&mac), Base64::encode_string(digits.as_bytes())] {
            let claimed = PolicyBinding::parse(&hash).unwrap();
            prop_assert_eq!(claimed.as_bytes(), &mac);
        }
    }

    #[test]
    fn a_binding_is_of_one_policy_and_one_key(
        one in dek_bytes(), other in dek_bytes(), policy in any::<String>(), another in any::<String>()
    ) {
        let [one_key, other_key] = [&one, &other].map(|bytes| Dek::from_slice(bytes).unwrap());
        let claimed = PolicyBinding::from(*binding::compute(&one_key, &policy));
        let verify = |key, policy| claimed.verify(binding::compute(key, policy).as_ref()).is_ok();
        prop_assert!(verify(&one_key, &policy));
        prop_assert_eq!(verify(&other_key, &policy), one == other);
        prop_assert_eq!(verify(&one_key, &another), policy == another);
    }

    #[test]
    fn a_blob_opens_under_its_key_only(
        bytes in dek_bytes(), secret in any::<[u8; 32]>(), other in any::<[u8; 32]>(),
        bit in any::<Index>()
    ) {
        let dek = Dek::from_slice(&bytes).unwrap();
        let key = WrapKey::derive(&secret).unwrap();
        let mut blob = key.seal(&dek).unwrap();
        prop_assert_eq!(blob.len(), bytes.len() + 28);
        let opened = key.open(&blob).unwrap();
        prop_assert_eq!(opened.expose_secret(), bytes.as_slice());
        prop_assert_eq!(WrapKey::derive(&other).unwrap().open(&blob).is_err(), secret != other);
        let bit = bit.index(blob.len() * 8);
        blob[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(key.open(&blob).is_err());
    }

    #[test]
    fn no_bytes_open(
        secret in any::<[u8; 32]>(), blob in vec(any::<u8>(), 0..200)
    ) {
        prop_assert!(WrapKey::derive(&secret).unwrap().open(&blob).is_err());
        prop_assert!(RootKey::from_hex(&hex::encode(secret)).unwrap().open(&blob).is_err());
        prop_assert!(keywrap::unwrap(&secret, &blob).is_err());
    }

    #[test]
    fn an_envelope_opens_again(
        key in dek_bytes(), plaintext in vec(any::<u8>(), 0..4000), bit in any::<Index>()
    ) {
        let key = RootKey::from_hex(&hex::encode(key)).unwrap();
        let mut sealed = key.seal(&plaintext).unwrap();
        prop_assert_eq!(sealed.len(), plaintext.len() + 28);
        let opened = key.open(&sealed).unwrap();
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
        let bit = bit.index(sealed.len() * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(key.open(&sealed).is_err());
    }

    #[test]
    fn ec_wrap_opens_again(curve in curve(), bytes in dek_bytes()) {
        let dek = Dek::from_slice(&bytes).unwrap();
        let key = EcPrivateKey::generate(curve).unwrap();
        let public = PublicKey::Ec(key.public_key().clone());
        let public = PublicKey::from_pem(&public.to_pem()).unwrap();
        let wrapped = public.wrap(&dek).unwrap();
        let WrappedDek::Ec { ephemeral, .. } = &wrapped else { panic!("not EC") };
        prop_assert_eq!(ephemeral.curve(), curve);
        let unwrapped = PrivateKey::Ec(key).unwrap_dek(&wrapped).unwrap();
        prop_assert_eq!(unwrapped.expose_secret(), bytes.as_slice());
    }
}
