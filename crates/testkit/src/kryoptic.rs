//! Kryoptic, the module that can do everything: RSA and EC sealed.
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::{env, fs, path::PathBuf};

use aws_lc_rs::digest;

use crate::tokens::TestToken;

/// Makes tokens in Kryoptic.
#[derive(Debug)]
pub struct Kryoptic;

impl Kryoptic {
    /// A fresh token, in a database of its own.
    ///
    /// # Panics
    /// When Kryoptic has not been built.
    pub fn fresh() -> TestToken {
        TestToken::configured(Self::module(), "KRYOPTIC_CONF", |dir| {
            format!(
                "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
                dir.join("token.sql").display()
            )
        })
    }

    /// The module: `KASBAH_KRYOPTIC_MODULE`, or where `make kryoptic` put it.
    ///
    /// # Panics
    /// When it is in neither place.
    pub fn module() -> PathBuf {
        let path = env::var_os("KASBAH_KRYOPTIC_MODULE").map_or_else(built, PathBuf::from);
        assert!(path.exists(), "{} is missing: run `make kryoptic`", path.display());
        path
    }
}

/// Where `tests/bin/build-kryoptic` builds it: a cache keyed by the lock file.
fn built() -> PathBuf {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kryoptic/Cargo.lock");
    let lock = fs::read(lock).unwrap_or_else(|error| panic!("{lock}: {error}"));
    let key = hex::encode(digest::digest(&digest::SHA256, &lock));
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let cache = cache.expect("HOME or XDG_CACHE_HOME is set");
    cache.join(format!("kasbah/kryoptic-{}/release/libkryoptic_pkcs11.so", &key[..16]))
}
