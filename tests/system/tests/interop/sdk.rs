//! The SDKs, each as its own program.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use kasbah_system_tests::dev::Dev;

use crate::files::{program, repository, said};

/// An SDK; how it is run is in `tests/interop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    Go,
    JavaScript,
    Python,
    Rust,
}

impl Sdk {
    /// Encrypts into a file of this name.
    pub(crate) fn encrypt(
        self,
        dev: &Dev,
        name: &str,
        plaintext: &[u8],
        options: &[&str],
    ) -> Result<PathBuf, String> {
        let tdf = dev.dir().join(name);
        let mut command = self.command(dev);
        match self {
            Self::Python => {
                let file = dev.dir().join("plaintext");
                fs::write(&file, plaintext).unwrap();
                command.arg("encrypt").args(options).arg("-o").arg(&tdf).arg(file)
            }
            _ => self.arguments(&mut command, dev, "encrypt", &tdf, options),
        };
        finished(command, plaintext)?;
        Ok(tdf)
    }

    /// Decrypts a file.
    pub(crate) fn decrypt(
        self,
        dev: &Dev,
        tdf: &Path,
        options: &[&str],
    ) -> Result<Vec<u8>, String> {
        let mut command = self.command(dev);
        match self {
            Self::Python => command.arg("decrypt").args(options).arg(tdf),
            _ => self.arguments(&mut command, dev, "decrypt", tdf, options),
        };
        Ok(finished(command, &[])?.stdout)
    }

    fn command(self, dev: &Dev) -> Command {
        match self {
            Self::Go => program("target/interop/go/client"),
            Self::Rust => program("target/interop-rust/debug/kasbah-interop"),
            Self::JavaScript => {
                let mut command = program("target/oidc-provider/node");
                command.arg(repository("target/interop/js/client.mjs"));
                command
            }
            Self::Python => {
                // Its command line, as it comes. Its log of information has all that it sends.
                let mut command = program("target/python-venv/bin/python");
                command.args(["-m", "otdf_python", "--log-level", "WARNING"]);
                command.args(["--platform-url", dev.url(), "--plaintext"]);
                command.arg("--with-client-creds-file").arg(dev.credentials());
                command
            }
        }
    }

    /// What our own programs take, see `tests/interop`.
    fn arguments<'c>(
        self,
        command: &'c mut Command,
        dev: &Dev,
        verb: &str,
        tdf: &Path,
        options: &[&str],
    ) -> &'c mut Command {
        command.arg(verb);
        if self == Self::Go {
            command.args(options).arg(dev.url()).arg(dev.credentials()).arg(tdf)
        } else {
            command.arg(dev.url()).arg(dev.credentials()).arg(tdf).args(options)
        }
    }
}

/// Runs it to its end; an error is all that it said.
pub(crate) fn finished(mut command: Command, input: &[u8]) -> Result<Output, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Who reads nothing is gone before all is written, which is not this side's business.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{}{}", said(&output.stdout), said(&output.stderr)))
}
