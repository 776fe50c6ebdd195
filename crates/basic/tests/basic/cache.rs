//! Which keys the manager takes for the same.

use std::sync::Arc;

use kasbah_basic::{CACHED_KEYS, wrap_private_key};
use kasbah_trust::{Algorithm, Curve};

use crate::fixture::{OTHER_ROOT, ROOT, manager, private_pem, probe, root, stored, stored_as};

const P256: Algorithm = Algorithm::Ec(Curve::P256);

#[tokio::test]
async fn one_key_is_loaded_once() {
    let manager = manager(&[("a", ROOT)]);
    let key = stored("k", &private_pem(P256));
    for _ in 0..3 {
        probe(&manager, &key).await.unwrap();
    }
    assert_eq!(manager.loaded_keys(), 1);
}

#[tokio::test]
async fn the_same_kid_at_two_kas_is_two_keys() {
    let manager = manager(&[("a", ROOT)]);
    let one = stored("k", &private_pem(P256));
    let mut other = stored("k", &private_pem(P256));
    other.kas_uri = "https://kas.example.org".into();
    for _ in 0..2 {
        probe(&manager, &one).await.unwrap();
        probe(&manager, &other).await.unwrap();
    }
    assert_eq!(manager.loaded_keys(), 2);
    // Not even the same stored text makes it one.
    let mut copied = one.clone();
    copied.kas_uri = Arc::clone(&other.kas_uri);
    probe(&manager, &copied).await.unwrap();
    assert_eq!(manager.loaded_keys(), 3);
}

#[tokio::test]
async fn a_kid_used_again_is_another_key() {
    let manager = manager(&[("a", ROOT)]);
    let old = stored("k", &private_pem(P256));
    let new = stored("k", &private_pem(P256));
    for _ in 0..2 {
        probe(&manager, &old).await.unwrap();
        probe(&manager, &new).await.unwrap();
    }
    // The old private key does not answer for the new public key, loaded or not.
    let mut mixed = old.clone();
    mixed.public_key = new.public_key.clone();
    assert!(probe(&manager, &mixed).await.is_err());
}

#[tokio::test]
async fn a_key_in_memory_does_not_answer_for_another_root_key() {
    let manager = manager(&[("a", ROOT), ("b", OTHER_ROOT)]);
    let mut key = stored("k", &private_pem(P256));
    probe(&manager, &key).await.unwrap();
    key.private_key.key_id = Some("b".into());
    assert!(probe(&manager, &key).await.is_err());
}

#[tokio::test]
async fn the_number_of_loaded_keys_is_bounded() {
    let manager = manager(&[("a", ROOT)]);
    let keys: Vec<_> =
        (0..CACHED_KEYS + 20).map(|n| stored(&format!("k{n}"), &private_pem(P256))).collect();
    for key in &keys {
        probe(&manager, key).await.unwrap();
    }
    assert_eq!(manager.loaded_keys(), CACHED_KEYS);
    for key in &keys {
        probe(&manager, key).await.unwrap();
    }
    assert_eq!(manager.loaded_keys(), CACHED_KEYS);
}

#[tokio::test]
async fn a_key_that_fails_is_not_kept() {
    let manager = manager(&[("a", ROOT)]);
    let pem = private_pem(P256);
    let wrapped = wrap_private_key(&root(OTHER_ROOT), &pem).unwrap();
    assert!(probe(&manager, &stored_as("k", &pem, wrapped)).await.is_err());
    assert_eq!(manager.loaded_keys(), 0);
}
