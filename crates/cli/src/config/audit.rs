//! `audit`: where audit events are kept, and how safely.

use std::{fs, path::PathBuf, time::Duration};

use config::Value;
use kasbah_audit::{Durability, FileSettings};
use kasbah_platform::Uri;
use kasbah_trust::SecretSource;
use serde::Deserialize;

use super::{
    index::{Around, address, secret},
    node::Node,
    problems::Findings,
};

/// How the audit log is kept.
#[derive(Debug)]
pub(crate) struct Audit {
    /// Name of this node.
    pub(crate) node: String,
    /// `None` writes to standard error.
    pub(crate) file: Option<FileSettings>,
    pub(crate) durability: Durability,
    pub(crate) queue: Option<usize>,
    /// Where the key that signs checkpoints is, and the name of its entry under `secrets`.
    pub(crate) signing_key: Option<(String, SecretSource)>,
    pub(crate) checkpoint_file: Option<PathBuf>,
    pub(crate) checkpoint_events: Option<u64>,
    pub(crate) checkpoint_interval: Option<Duration>,
    /// Whether lines go to standard error besides.
    pub(crate) stderr_copy: bool,
    pub(crate) otlp: Option<Collector>,
}

/// Where copies of events are sent.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) endpoint: Uri,
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    node: Option<String>,
    file: Option<PathBuf>,
    rotate_bytes: Option<u64>,
    rotate_hours: Option<u64>,
    keep: Option<usize>,
    durability: Option<String>,
    queue: Option<usize>,
    signing_key: Option<String>,
    checkpoint_file: Option<PathBuf>,
    checkpoint_events: Option<u64>,
    checkpoint_seconds: Option<u64>,
    stderr_copy: Option<bool>,
    otlp: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCollector {
    endpoint: String,
    ca_file: Option<PathBuf>,
}

/// Reads `audit`; without it events go to standard error. Names of secrets that it uses are added to
/// `used_secrets`.
pub(super) fn audit(
    node: Option<Node>,
    around: Around<'_>,
    used_secrets: &mut Vec<String>,
    findings: &mut Findings,
) -> Option<Audit> {
    let raw = match node {
        Some(node) => node.read::<RawAudit>(findings)?,
        None => RawAudit::default(),
    };
    refuse_zeros(&raw, findings);
    let durability = durability(raw.durability.as_deref(), findings)?;
    let signing_key = match &raw.signing_key {
        Some(name) => {
            used_secrets.push(name.clone());
            let source = secret("audit.signing_key", name, around.secrets, findings)?;
            Some((name.clone(), source))
        }
        None => None,
    };
    if raw.checkpoint_file.is_some() && signing_key.is_none() {
        findings.problem::<()>(
            "audit.checkpoint_file",
            "needs `signing_key`, which signs checkpoints; make one with `kasbah audit key`",
        );
    }
    let file = file(&raw, durability, around, findings);
    let otlp = match raw.otlp {
        Some(value) => Some(collector(value, around, findings)?),
        None => None,
    };
    Some(Audit {
        node: raw.node.filter(|node| !node.is_empty()).unwrap_or_else(host_name),
        file,
        durability,
        queue: raw.queue,
        signing_key,
        checkpoint_file: raw.checkpoint_file.map(|file| around.files.resolve(&file)),
        checkpoint_events: raw.checkpoint_events,
        checkpoint_interval: raw.checkpoint_seconds.map(Duration::from_secs),
        stderr_copy: raw.stderr_copy.unwrap_or(false),
        otlp,
    })
}

fn durability(word: Option<&str>, findings: &mut Findings) -> Option<Durability> {
    match word {
        Some("buffered") => Some(Durability::Buffered),
        None | Some("written") => Some(Durability::Written),
        Some("synced") => Some(Durability::Synced),
        Some(_) => {
            findings.problem("audit.durability", "expected `buffered`, `written` or `synced`")
        }
    }
}

/// The file, if there is one; settings of a file without one are problems.
fn file(
    raw: &RawAudit,
    durability: Durability,
    around: Around<'_>,
    findings: &mut Findings,
) -> Option<FileSettings> {
    if let Some(file) = &raw.file {
        return Some(FileSettings {
            path: around.files.resolve(file),
            max_bytes: raw.rotate_bytes,
            max_age: raw.rotate_hours.map(Duration::from_hours),
            keep: raw.keep,
        });
    }
    let of_file = [
        ("rotate_bytes", raw.rotate_bytes.is_some()),
        ("rotate_hours", raw.rotate_hours.is_some()),
        ("keep", raw.keep.is_some()),
        ("stderr_copy", raw.stderr_copy.is_some()),
        ("durability", durability == Durability::Synced),
    ];
    for (name, _) in of_file.iter().filter(|(_, given)| *given) {
        let text = "has no effect without `file`: events go to standard error";
        findings.problem::<()>(format!("audit.{name}"), text);
    }
    None
}

fn collector(value: Value, around: Around<'_>, findings: &mut Findings) -> Option<Collector> {
    let raw = Node::new("audit.otlp", value).read::<RawCollector>(findings)?;
    let endpoint = address("audit.otlp.endpoint", &raw.endpoint, findings)?;
    Some(Collector { endpoint, ca_file: raw.ca_file.map(|ca| around.files.resolve(&ca)) })
}

fn refuse_zeros(raw: &RawAudit, findings: &mut Findings) {
    for (name, is_zero) in [
        ("queue", raw.queue == Some(0)),
        ("rotate_bytes", raw.rotate_bytes == Some(0)),
        ("rotate_hours", raw.rotate_hours == Some(0)),
        ("checkpoint_events", raw.checkpoint_events == Some(0)),
        ("checkpoint_seconds", raw.checkpoint_seconds == Some(0)),
    ] {
        if is_zero {
            findings.problem::<()>(format!("audit.{name}"), "must be at least 1");
        }
    }
}

/// The name of this machine.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "kasbah".to_owned() } else { name.to_owned() }
}
