//! openCryptoki's software token, which does not keep what it promises: the negative test of the
//! custody check.
//!
//! Its state belongs to the whole host (slot 3 of the stock configuration, `/var/lib/opencryptoki`)
//! and needs the daemon `pkcsslotd`. A test that uses it must have `opencryptoki` in its name, so
//! that the nextest group of that name runs one at a time.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::tokens::{self, TestToken};

const MODULES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0",
    "/usr/lib/aarch64-linux-gnu/opencryptoki/libopencryptoki.so.0",
    "/usr/lib64/opencryptoki/libopencryptoki.so.0",
];

/// Makes tokens in openCryptoki.
#[derive(Debug)]
pub struct OpenCryptoki;

impl OpenCryptoki {
    /// Slot of the software token in the stock configuration.
    pub const SLOT: u64 = 3;

    /// The host's software token, initialised again; starts the daemon when it is not running.
    ///
    /// # Panics
    /// When openCryptoki is not installed or its daemon cannot be started.
    pub fn fresh() -> TestToken {
        let module = Self::module();
        if tokens::starts(&module).is_err() {
            start_daemon(&module);
        }
        TestToken::in_slot(module, Self::SLOT)
    }

    /// The module, where distributions put it.
    ///
    /// # Panics
    /// When it is in none of these places.
    pub fn module() -> PathBuf {
        MODULES.into_iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| {
            panic!("openCryptoki is not installed: apt-get install opencryptoki")
        })
    }
}

fn start_daemon(module: &Path) {
    let status = Command::new("pkcsslotd").status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "pkcsslotd does not start ({status:?}); start it as root"
    );
    for _ in 0..50 {
        if tokens::starts(module).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("openCryptoki does not start although pkcsslotd runs; is this user in group pkcs11?");
}
