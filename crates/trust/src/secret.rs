use std::{env, fmt, fs, path::PathBuf, process::Command};

use secrecy::SecretString;
use zeroize::Zeroizing;

/// Where a secret comes from: the one way PINs and root keys reach the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Standard output of a command (program and arguments).
    Command(Vec<String>),
    /// A systemd credential, a file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// An environment variable.
    Env(String),
    /// A file.
    File(PathBuf),
}

/// A secret could not be read. Names the source and the reason, never the secret.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret from {origin}: {reason}")]
pub struct SecretError {
    origin: String,
    reason: String,
}

impl SecretSource {
    /// Reads the secret; one trailing line end is dropped.
    ///
    /// # Errors
    /// When the source cannot be read, is not UTF-8 or is empty.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let fail = |reason: String| SecretError { origin: self.to_string(), reason };
        let bytes = Zeroizing::new(self.bytes().map_err(&fail)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| fail("it is not UTF-8".into()))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(fail("it is empty".into()));
        }
        Ok(SecretString::from(Box::<str>::from(text)))
    }

    /// The file that it is in, if it is in one.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Credential(name) => {
                Some(PathBuf::from(env::var_os("CREDENTIALS_DIRECTORY")?).join(name))
            }
            Self::Command(_) | Self::Env(_) => None,
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => fs::read(path).map_err(|error| error.to_string()),
            Self::Env(name) => {
                env::var(name).map(String::into_bytes).map_err(|error| error.to_string())
            }
            Self::Credential(name) => {
                let directory = env::var_os("CREDENTIALS_DIRECTORY").ok_or(
                    "CREDENTIALS_DIRECTORY is not set; is this unit given the credential?",
                )?;
                fs::read(PathBuf::from(directory).join(name)).map_err(|error| error.to_string())
            }
            Self::Command(words) => {
                let (program, arguments) = words.split_first().ok_or("the command is empty")?;
                let output = Command::new(program)
                    .args(arguments)
                    .output()
                    .map_err(|error| error.to_string())?;
                if output.status.success() {
                    Ok(output.stdout)
                } else {
                    Err(format!("the command ended with {}", output.status))
                }
            }
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => {
                write!(f, "command {}", words.first().map_or("(empty)", String::as_str))
            }
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
