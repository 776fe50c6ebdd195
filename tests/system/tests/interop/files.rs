//! Files of the repository, and what programs say.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What a program said.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file of the repository, or one that was built.
pub(crate) fn repository(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    assert!(file.exists(), "{} is missing; make interop-clients", file.display());
    std::path::absolute(file).unwrap()
}

/// A program that must be there.
pub(crate) fn program(name: &str) -> Command {
    Command::new(repository(name))
}
