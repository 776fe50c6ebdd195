//! What fresh PKCS#11 tokens have in common.
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Error,
    session::UserType,
    slot::Slot,
    types::AuthPin,
};
use tempfile::TempDir;

pub use crate::{kryoptic::Kryoptic, opencryptoki::OpenCryptoki, softhsm::SoftHsm};

/// Label of every test token.
pub const LABEL: &str = "kas";
/// User PIN of every test token. Eight characters suit the limits of all modules.
pub const PIN: &str = "12345678";
/// Security officer's PIN of every test token.
pub const SO_PIN: &str = "87654321";

/// An initialised token of its own; gone when this is dropped.
///
/// The module's configuration is named by an environment variable of this process, so there can be
/// one token per module and process: run tests under cargo-nextest. The module is left
/// uninitialised, as a program finds it.
#[derive(Debug)]
pub struct TestToken {
    module: PathBuf,
    env: Vec<(&'static str, String)>,
    dir: TempDir,
}

impl TestToken {
    /// Path of the module.
    pub fn module_path(&self) -> &Path {
        &self.module
    }

    /// Label of the token.
    pub fn label(&self) -> &'static str {
        LABEL
    }

    /// A file that holds the user PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin")
    }

    /// The directory of the token, for a test's own files too.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a child process must have in its environment to see the token.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Writes the configuration file of a module, points `variable` at it, and makes the token.
    pub(crate) fn configured(
        module: PathBuf,
        variable: &'static str,
        configuration: impl FnOnce(&Path) -> String,
    ) -> Self {
        let dir = directory();
        let file = dir.path().join("module.conf");
        fs::write(&file, configuration(dir.path())).expect("the configuration file is writable");
        let value = file.to_str().expect("temporary paths are UTF-8").to_owned();
        set_env(variable, &value);
        initialize(&module, |context| {
            let slots = context.get_slots_with_token().expect("the module lists its slots");
            let is_blank = |slot: &Slot| {
                context.get_token_info(*slot).is_ok_and(|info| !info.token_initialized())
            };
            slots.into_iter().find(is_blank).expect("a fresh directory has a blank token")
        });
        Self { module, env: vec![(variable, value)], dir }
    }

    /// Makes the token in a slot that is always there.
    pub(crate) fn in_slot(module: PathBuf, slot: u64) -> Self {
        initialize(&module, |_| Slot::try_from(slot).expect("slot numbers fit"));
        Self { module, env: Vec::new(), dir: directory() }
    }
}

/// Whether the module starts in this environment; it is left uninitialised.
pub(crate) fn starts(module: &Path) -> Result<(), Error> {
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    context.finalize()
}

fn initialize(module: &Path, blank: impl FnOnce(&Pkcs11) -> Slot) {
    let context = Pkcs11::new(module)
        .unwrap_or_else(|error| panic!("{} does not load: {error}", module.display()));
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap_or_else(
        |error| {
            panic!(
                "{} does not start: {error}; one fresh token per module and process, run the tests \
                 with cargo nextest",
                module.display()
            )
        },
    );
    let pin = |text: &str| AuthPin::from(Box::<str>::from(text));
    let slot = blank(&context);
    context.init_token(slot, &pin(SO_PIN), LABEL).expect("the token is initialised");
    // SoftHSM moves a token to another slot when it is initialised.
    let slots = context.get_slots_with_token().expect("the module lists its slots");
    let is_ours =
        |slot: &Slot| context.get_token_info(*slot).is_ok_and(|info| info.label() == LABEL);
    let slot = slots.into_iter().find(is_ours).unwrap_or(slot);
    let session = context.open_rw_session(slot).expect("a session opens");
    session.login(UserType::So, Some(&pin(SO_PIN))).expect("the officer logs in");
    session.init_pin(&pin(PIN)).expect("the user PIN is set");
    session.close().expect("the session closes");
    context.finalize().expect("the module ends");
}

fn directory() -> TempDir {
    let dir = TempDir::with_prefix("kasbah-token-").expect("the temporary directory is writable");
    fs::write(dir.path().join("pin"), format!("{PIN}\n")).expect("the PIN file is writable");
    dir
}

/// Sets a variable that a PKCS#11 module reads; for the start of a test.
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "modules read their configuration from the environment of the process"
)]
pub fn set_env(name: &str, value: &str) {
    // SAFETY: called at the start of a test, which is alone in its process (nextest) and has
    // started no thread yet; the test harness's own thread only waits.
    unsafe { std::env::set_var(name, value) }
}
