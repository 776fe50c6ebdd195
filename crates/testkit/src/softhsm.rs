//! SoftHSM, the module everybody has: RSA sealed, EC transient.
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::tokens::TestToken;

/// Where distributions put it: Debian and Ubuntu, Fedora, Homebrew.
const PATHS: [&str; 7] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// Makes tokens in SoftHSM.
#[derive(Debug)]
pub struct SoftHsm;

impl SoftHsm {
    /// A fresh token, in a directory of its own.
    ///
    /// # Panics
    /// When SoftHSM is not installed.
    pub fn fresh() -> TestToken {
        TestToken::configured(Self::module(), "SOFTHSM2_CONF", |dir| {
            let tokens = dir.join("tokens");
            fs::create_dir(&tokens).expect("the token directory is writable");
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                tokens.display()
            )
        })
    }

    /// The module: `KASBAH_SOFTHSM_MODULE`, or where distributions put it.
    ///
    /// # Panics
    /// When it is in none of these places.
    pub fn module() -> PathBuf {
        if let Some(path) = env::var_os("KASBAH_SOFTHSM_MODULE") {
            return path.into();
        }
        PATHS.into_iter().map(PathBuf::from).find(|path| Path::exists(path)).unwrap_or_else(|| {
            panic!(
                "SoftHSM is not installed: apt-get install softhsm2, dnf install softhsm or brew \
                 install softhsm; or set KASBAH_SOFTHSM_MODULE"
            )
        })
    }
}
