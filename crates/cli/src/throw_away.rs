//! Throw-away tokens in software modules.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use kasbah_pkcs11::{module::Module, provision, token::Token};
use kasbah_trust::SecretSource;
use secrecy::SecretString;

use crate::{
    config::TokenSettings,
    environment::Environment,
    exit::{Exit, Failure, OrExit},
};

/// Where distributions put SoftHSM: Debian and Ubuntu, Fedora, Homebrew.
const SOFTHSM_PATHS: [&str; 7] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// Label of throw-away tokens.
pub(crate) const LABEL: &str = "kas";
/// File with the user's PIN, and name of the entry under `secrets`.
pub(crate) const PIN: &str = "pin";

/// A module whose configuration file makes it keep its tokens in a directory.
#[derive(Debug)]
pub(crate) struct ThrowAway {
    directory: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) kind: &'static ModuleKind,
}

/// A software module that can be told where its tokens are.
#[derive(Debug)]
pub(crate) struct ModuleKind {
    /// Part of the file name of such a library; also the name of the entry under `modules`.
    pub(crate) name: &'static str,
    /// The variable that names its configuration file.
    pub(crate) variable: &'static str,
    /// The configuration file.
    pub(crate) file: &'static str,
    configuration: fn(&Path) -> String,
}

static KINDS: [ModuleKind; 2] = [
    ModuleKind {
        name: "softhsm",
        variable: "SOFTHSM2_CONF",
        file: "softhsm2.conf",
        configuration: |directory| {
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                directory.join("tokens").display()
            )
        },
    },
    ModuleKind {
        name: "kryoptic",
        variable: "KRYOPTIC_CONF",
        file: "kryoptic.conf",
        configuration: |directory| {
            let database = directory.join("tokens").join("token.sql");
            let database = database.display();
            format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{database}\"\n")
        },
    },
];

impl ThrowAway {
    /// Writes the configuration of a module into an existing directory. The token itself is made by
    /// [`ThrowAway::make`], once the environment is set.
    pub(crate) fn prepare(directory: &Path, module: Option<&Path>) -> Result<Self, Failure> {
        let module = match module {
            Some(module) => module.to_owned(),
            None => softhsm()?,
        };
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(kind) = KINDS.iter().find(|kind| name.contains(kind.name)) else {
            return Err(Failure::usage(format!(
                "{}: throw-away tokens can be made in SoftHSM and Kryoptic only; make one of \
                 another module with `kasbah hsm init` and name it in a configuration",
                module.display()
            )));
        };
        let directory = std::path::absolute(directory).or_exit(Exit::Usage)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(directory.join("tokens"))
            .with_context(|| format!("cannot make a token in {}", directory.display()))
            .or_exit(Exit::Usage)?;
        write_secret(&directory.join(kind.file), &(kind.configuration)(&directory))?;
        Ok(Self { directory, module, kind })
    }

    /// What the module must find in the environment.
    pub(crate) fn environment(&self) -> Environment {
        let file = self.directory.join(self.kind.file);
        Environment::of(self.kind.variable, &file.to_string_lossy())
    }

    /// How to reach the token once it is made.
    pub(crate) fn settings(&self) -> TokenSettings {
        TokenSettings {
            module: self.module.clone(),
            module_name: self.kind.name.into(),
            token: LABEL.into(),
            slot: None,
            pin: SecretSource::File(self.directory.join(PIN)),
            pin_name: PIN.into(),
        }
    }

    /// Makes the token, with random PINs, and logs in.
    pub(crate) fn make(&self) -> Result<Arc<Token>, Failure> {
        let module = Module::load("--module", &self.module)?;
        let (pin, so_pin) = (random_pin()?, random_pin()?);
        write_secret(&self.directory.join(PIN), &pin)?;
        write_secret(&self.directory.join("so-pin"), &so_pin)?;
        let (pin, so_pin) = (SecretString::from(pin), SecretString::from(so_pin));
        provision::init_token(&module, LABEL, &so_pin, &pin)?;
        Ok(self.settings().open()?)
    }
}

/// Writes a file that only this user can read.
pub(crate) fn write_secret(file: &Path, text: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
        .or_exit(Exit::Usage)
}

/// Random bytes as hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> Result<String, Failure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system's random source failed"))
        .or_exit(Exit::Unavailable)?;
    Ok(hex::encode(bytes))
}

/// Eight characters suit the limits of all modules.
fn random_pin() -> Result<String, Failure> {
    random_hex::<4>()
}

fn softhsm() -> Result<PathBuf, Failure> {
    SOFTHSM_PATHS.into_iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        Failure::usage(
            "SoftHSM is not installed: apt-get install softhsm2, dnf install softhsm or brew \
             install softhsm; or name a module with --module",
        )
    })
}
