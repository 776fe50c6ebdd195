//! Values of a configuration with the path that leads to them.

use std::collections::BTreeMap;

use config::{ConfigError, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::problems::Findings;

/// A value and its path.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    value: Value,
}

impl Node {
    pub(crate) fn new(path: impl Into<String>, value: Value) -> Self {
        Self { path: path.into(), value }
    }

    /// Reads a map into a raw struct; `None`, with the problem noted, when it does not fit.
    pub(crate) fn read<T: DeserializeOwned>(self, findings: &mut Findings) -> Option<T> {
        // A struct could be read from a list too, by position.
        if !matches!(self.value.kind, ValueKind::Table(_)) {
            return findings.problem(self.path, "expected a map of settings");
        }
        match serde_path_to_error::deserialize(self.value) {
            Ok(raw) => Some(raw),
            Err(error) => {
                let inner = error.path().to_string();
                let path = if inner == "." { self.path } else { join(&self.path, &inner) };
                match error.into_inner() {
                    ConfigError::NotFound(field) => {
                        findings.problem(join(&path, &field), "is missing")
                    }
                    error => findings.problem(path, reason(error)),
                }
            }
        }
    }

    /// Reads a text.
    pub(crate) fn text(self, findings: &mut Findings) -> Option<String> {
        match self.value.kind {
            ValueKind::String(text) => Some(text),
            _ => findings.problem(self.path, "expected a text"),
        }
    }

    /// The entries of a map; none for an empty value.
    pub(crate) fn entries(self, findings: &mut Findings) -> BTreeMap<String, Node> {
        match self.value.kind {
            ValueKind::Nil => BTreeMap::new(),
            ValueKind::Table(table) => table
                .into_iter()
                .map(|(name, value)| {
                    let node = Self::new(join(&self.path, &name), value);
                    (name, node)
                })
                .collect(),
            _ => {
                findings.problem::<()>(self.path, "expected a map of names to settings");
                BTreeMap::new()
            }
        }
    }

    /// The items of a list; none for an empty value.
    pub(crate) fn items(self, findings: &mut Findings) -> Vec<Node> {
        match self.value.kind {
            ValueKind::Nil => Vec::new(),
            ValueKind::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, value)| Self::new(format!("{}[{index}]", self.path), value))
                .collect(),
            _ => {
                findings.problem::<()>(self.path, "expected a list, one item per line after `- `");
                Vec::new()
            }
        }
    }
}

/// `inner` below `outer`.
pub(crate) fn join(outer: &str, inner: &str) -> String {
    if inner.starts_with('[') { format!("{outer}{inner}") } else { format!("{outer}.{inner}") }
}

/// The reason alone: the path is told by us, and what was found may be a secret in the wrong place.
fn reason(error: ConfigError) -> String {
    match error {
        ConfigError::At { error, .. } => reason(*error),
        ConfigError::Type { expected, .. } => format!("expected {expected}"),
        other => {
            let text = other.to_string();
            match (text.starts_with("invalid "), text.rsplit_once("expected ")) {
                (true, Some((_, expected))) => format!("expected {expected}"),
                _ => text,
            }
        }
    }
}
