//! `secrets` and `modules`: what this node has, by name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    Files,
    node::{Node, join},
    problems::Findings,
};
use crate::environment::Environment;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    file: Option<PathBuf>,
    env: Option<String>,
    credential: Option<String>,
    command: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModule {
    path: PathBuf,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Reads `secrets`: where each comes from, not what it is.
pub(crate) fn secrets(
    node: Option<Node>,
    files: &Files,
    findings: &mut Findings,
) -> BTreeMap<String, SecretSource> {
    let entries = node.map(|node| node.entries(findings)).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, node)| Some((name, secret(node, files, findings)?)))
        .collect()
}

fn secret(node: Node, files: &Files, findings: &mut Findings) -> Option<SecretSource> {
    let path = node.path.clone();
    let raw = node.read::<RawSecret>(findings)?;
    match (raw.file, raw.env, raw.credential, raw.command) {
        (Some(file), None, None, None) => {
            let file = files.resolve(&file);
            if !file.exists() {
                return findings.problem(
                    join(&path, "file"),
                    format!("{} does not exist, or may not be seen by this user", file.display()),
                );
            }
            Some(SecretSource::File(file))
        }
        (None, Some(name), None, None) if !name.is_empty() => Some(SecretSource::Env(name)),
        (None, None, Some(name), None) => {
            if name.is_empty() || name.contains('/') {
                return findings.problem(
                    join(&path, "credential"),
                    "expected the name of a systemd credential, without `/`",
                );
            }
            Some(SecretSource::Credential(name))
        }
        (None, None, None, Some(words)) if !words.is_empty() => Some(SecretSource::Command(words)),
        _ => findings.problem(
            path,
            "set exactly one of `file`, `env`, `credential` and `command`: where \
             the secret comes from, never the secret itself",
        ),
    }
}

/// Reads `modules`: the libraries by name, and the environment that they need.
pub(crate) fn modules(
    node: Option<Node>,
    files: &Files,
    findings: &mut Findings,
) -> (BTreeMap<String, PathBuf>, Environment) {
    let mut environment = Environment::default();
    let mut modules = BTreeMap::new();
    for (name, node) in node.map(|node| node.entries(findings)).unwrap_or_default() {
        let path = node.path.clone();
        let Some(raw) = node.read::<RawModule>(findings) else { continue };
        for (variable, value) in &raw.env {
            let path = format!("{path}.env.{variable}");
            add_variable(
                &path,
                variable,
                &files.resolve_existing(value),
                &mut environment,
                findings,
            );
        }
        let library = files.resolve(&raw.path);
        if !library.is_file() {
            findings.problem::<()>(
                join(&path, "path"),
                format!(
                    "{} does not exist; install the module or correct the path",
                    library.display()
                ),
            );
        }
        modules.insert(name, library);
    }
    (modules, environment)
}

fn add_variable(
    path: &str,
    variable: &str,
    value: &str,
    environment: &mut Environment,
    findings: &mut Findings,
) {
    if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
        findings.problem::<()>(path, "is no possible environment variable");
    } else if !environment.insert(variable, value) {
        findings.problem::<()>(
            path,
            "another module sets this variable to something else; a process has one environment",
        );
    }
}

impl Files {
    /// A value of `modules.*.env`: where a file of that name lies beside the configuration, its
    /// path; otherwise the value as it is.
    fn resolve_existing(&self, value: &str) -> String {
        let file = self.resolve(Path::new(value));
        match file.to_str() {
            Some(file) if !value.is_empty() && Path::new(file).exists() => file.to_owned(),
            _ => value.to_owned(),
        }
    }
}
