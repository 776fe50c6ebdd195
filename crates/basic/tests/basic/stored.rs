//! What the manager makes of stored private keys, sound and otherwise.

use aws_lc_rs::{
    agreement,
    encoding::{AsDer, EcPrivateKeyRfc5915Der},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use kasbah_basic::{RootKeys, WrapError, wrap_private_key};
use kasbah_trust::{Algorithm, Curve, Error, KeyDetails, KeyMode, Result};
use pem_rfc7468::{LineEnding, encode_string};

use crate::fixture::{OTHER_ROOT, ROOT, manager, private_pem, probe, root, stored, stored_as};

const P256: Algorithm = Algorithm::Ec(Curve::P256);

fn pem(label: &str, der: &[u8]) -> String {
    encode_string(label, LineEnding::LF, der).unwrap()
}

/// What the log says of a key that is a defect on this side.
fn defect(outcome: Result<()>) -> String {
    let Err(Error::Internal(source)) = outcome else { panic!("expected Internal: {outcome:?}") };
    source.to_string()
}

async fn fault(key: &KeyDetails) -> String {
    defect(probe(&manager(&[("a", ROOT)]), key).await)
}

#[tokio::test]
async fn another_root_key_does_not_open_it() {
    let key = stored("k", &private_pem(P256));
    let text = defect(probe(&manager(&[("a", OTHER_ROOT)]), &key).await);
    assert_eq!(
        text,
        "key k: the stored private key does not open with root key `a`; it is damaged, or another \
         root key wrapped it"
    );
}

#[tokio::test]
async fn every_damaged_byte_is_noticed() {
    let manager = manager(&[("a", ROOT)]);
    let pem = private_pem(P256);
    let sound = BASE64_STANDARD.decode(wrap_private_key(&root(ROOT), &pem).unwrap()).unwrap();
    for position in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[position] ^= 1 << (position % 8);
        let key = stored_as("k", &pem, BASE64_STANDARD.encode(damaged));
        let text = defect(probe(&manager, &key).await);
        assert!(text.contains("does not open"), "byte {position}: {text}");
    }
    for longer in [[&sound[..], &[0]].concat(), sound[..sound.len() - 1].to_vec()] {
        let key = stored_as("k", &pem, BASE64_STANDARD.encode(longer));
        assert!(defect(probe(&manager, &key).await).contains("does not open"));
    }
    assert_eq!(manager.loaded_keys(), 0);
}

#[tokio::test]
async fn what_is_too_short_or_no_base64_is_named() {
    let pem = private_pem(P256);
    for length in 0..28 {
        let key = stored_as("k", &pem, BASE64_STANDARD.encode(vec![7; length]));
        let text = fault(&key).await;
        assert!(text.contains(&format!("only {length} bytes long")), "{text}");
    }
    for text in ["%%%", "AAAA=", "AAA A", "\u{fc}"] {
        assert!(fault(&stored_as("k", &pem, text.into())).await.contains("not base64"), "{text}");
    }
}

#[tokio::test]
async fn the_published_example_opens() {
    // Root key, nonce and text of the interoperability notes; the plaintext is no key.
    let wrapped = "oKGio6SlpqeoqaqrG0TFWbS75YrRWsTMRykThvoauCdezVJHfGrE/KdT65ALeOBQEIeJyTE=";
    let key = stored_as("k", &private_pem(P256), wrapped.into());
    assert!(fault(&key).await.contains("opens, but holds no PKCS#8 PEM"));
}

#[tokio::test]
async fn a_sec1_key_is_named_and_refused_beforehand() {
    let private = agreement::PrivateKey::generate(&agreement::ECDH_P256).unwrap();
    let der = AsDer::<EcPrivateKeyRfc5915Der<'_>>::as_der(&private).unwrap();
    let sec1 = pem("EC PRIVATE KEY", der.as_ref());
    assert_eq!(wrap_private_key(&root(ROOT), &sec1), Err(WrapError::NotAKey));
    let wrapped = BASE64_STANDARD.encode(root(ROOT).seal(sec1.as_bytes()).unwrap());
    let text = fault(&stored_as("k", &private_pem(P256), wrapped)).await;
    assert!(text.contains("convert it"), "{text}");
}

#[tokio::test]
async fn text_that_is_no_key_is_not_wrapped() {
    let public = stored("k", &private_pem(P256)).public_key.to_pem();
    let whole = private_pem(P256);
    for text in ["", "secret", &public, &whole[..whole.len() / 2]] {
        assert_eq!(wrap_private_key(&root(ROOT), text), Err(WrapError::NotAKey));
    }
}

#[tokio::test]
async fn a_private_key_of_another_public_key_is_never_used() {
    let manager = manager(&[("a", ROOT)]);
    let sound = stored("k", &private_pem(P256));
    let mut mismatching = sound.clone();
    mismatching.public_key = stored("other", &private_pem(P256)).public_key;
    for key in [&mismatching, &sound, &mismatching] {
        match probe(&manager, key).await {
            Ok(()) => assert_eq!(key.public_key, sound.public_key),
            outcome => assert!(defect(outcome).contains("does not belong to the stored public")),
        }
    }
    assert_eq!(manager.loaded_keys(), 1);
}

#[tokio::test]
async fn a_key_of_another_algorithm_is_named() {
    let mut key = stored("k", &private_pem(P256));
    key.algorithm = Algorithm::Ec(Curve::P384);
    assert!(fault(&key).await.contains("not of its algorithm, ec:secp384r1"));
}

#[tokio::test]
async fn pkcs1_is_read_for_rsa() {
    let whole = private_pem(Algorithm::Rsa2048);
    let (_, pkcs8) = pem_rfc7468::decode_vec(whole.as_bytes()).unwrap();
    // PKCS#8 of an RSA key is 26 bytes of header around the PKCS#1 key.
    let pkcs1 = pem("RSA PRIVATE KEY", &pkcs8[26..]);
    probe(&manager(&[("a", ROOT)]), &stored("k", &pkcs1)).await.unwrap();
}

#[tokio::test]
async fn the_alias_picks_the_root_key() {
    let two = manager(&[("a", ROOT), ("b", OTHER_ROOT)]);
    let pem = private_pem(P256);
    let mut key = stored_as("k", &pem, wrap_private_key(&root(OTHER_ROOT), &pem).unwrap());
    assert!(defect(probe(&two, &key).await).contains("root key `a`"), "no alias: the default");
    key.private_key.key_id = Some("b".into());
    probe(&two, &key).await.unwrap();

    key.private_key.key_id = Some("c".into());
    let outcome = probe(&two, &key).await;
    let Err(Error::Unavailable(source)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(
        source.to_string(),
        "key k: it names root key `c`, but the root keys configured are: a, b"
    );
    probe(&manager(&[("only", OTHER_ROOT)]), &key).await.unwrap();
}

#[test]
fn the_default_must_be_among_the_root_keys() {
    let error = RootKeys::new("b".into(), [("a".into(), root(ROOT))].into()).unwrap_err();
    assert_eq!(error.to_string(), "the default root key is `b`, but the root keys given are: a");
    assert!(RootKeys::new(String::new(), [].into()).is_err());
}

#[tokio::test]
async fn other_modes_with_a_stored_key_are_served() {
    let mut key = stored("k", &private_pem(P256));
    key.mode = KeyMode::ProviderRootKey;
    probe(&manager(&[("a", ROOT)]), &key).await.unwrap();
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let pem = private_pem(P256);
    let manager = manager(&[("a", ROOT)]);
    probe(&manager, &stored("k", &pem)).await.unwrap();
    let root_keys = RootKeys::new("a".into(), [("a".into(), root(ROOT))].into()).unwrap();
    let printed = format!("{manager:?} {root_keys:?}");
    assert_eq!(
        printed,
        "BasicManager { loaded_keys: 1, .. } RootKeys { default: \"a\", aliases: \"a\", .. }"
    );
}
