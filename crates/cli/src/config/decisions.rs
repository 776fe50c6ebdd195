//! `decisions`: who decides on access to data.

use std::{path::PathBuf, time::Duration};

use kasbah_access::{Entitlements, LocalOptions};
use kasbah_platform::{Connection, DecisionSettings, PlatformConfig};
use serde::Deserialize;

use super::{Files, node::Node, problems::Findings};

/// How access to data is decided.
#[derive(Debug)]
pub(crate) struct Decisions {
    pub(crate) by: Decider,
    pub(crate) deny_without_attributes: bool,
    pub(crate) check_binding_after_denial: bool,
}

/// Who decides on policies with attributes.
#[derive(Debug)]
pub(crate) enum Decider {
    /// Nobody: they are denied.
    Nobody,
    /// This node, by a file.
    File { file: PathBuf, entitlements: Box<Entitlements>, options: LocalOptions },
    /// This node, by what is in the registry.
    Registry(LocalOptions),
    /// An OpenTDF platform.
    Platform(Box<Connection>, DecisionSettings),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDecisions {
    mode: Option<String>,
    file: Option<PathBuf>,
    from: Option<String>,
    strict_guards: Option<bool>,
    nested_claims_only: Option<bool>,
    without_attributes: Option<String>,
    check_binding_after_denial: Option<bool>,
    timeout_ms: Option<u64>,
}

/// What `decisions` may name.
pub(super) struct Around<'a> {
    pub(super) files: &'a Files,
    pub(super) platform: Option<&'a PlatformConfig>,
    pub(super) has_registry: bool,
}

/// Reads `decisions`; without it policies with attributes are denied.
pub(super) fn decisions(
    node: Option<Node>,
    around: &Around<'_>,
    findings: &mut Findings,
) -> Option<Decisions> {
    let raw = match node {
        Some(node) => node.read::<RawDecisions>(findings)?,
        None => RawDecisions::default(),
    };
    let deny_without_attributes = match raw.without_attributes.as_deref() {
        None | Some("permit") => false,
        Some("deny") => true,
        Some(_) => {
            return findings.problem("decisions.without_attributes", "expected `permit` or `deny`");
        }
    };
    let check_binding_after_denial = raw.check_binding_after_denial.unwrap_or(false);
    let by = match raw.mode.as_deref() {
        None | Some("deny") => Some(Decider::Nobody),
        Some("local") => local(&raw, around, findings),
        Some("platform") => platform(&raw, around, findings),
        Some(_) => findings.problem("decisions.mode", "expected `local`, `platform` or `deny`"),
    };
    let is_local = matches!(by, Some(Decider::File { .. } | Decider::Registry(_)) | None);
    let is_remote = matches!(by, Some(Decider::Platform(..)) | None);
    for (name, given) in [
        ("file", raw.file.is_some() && !is_local),
        ("from", raw.from.is_some() && !is_local),
        ("strict_guards", raw.strict_guards.is_some() && !is_local),
        ("nested_claims_only", raw.nested_claims_only.is_some() && !is_local),
        ("timeout_ms", raw.timeout_ms.is_some() && !is_remote),
    ] {
        if given {
            findings.problem::<()>(format!("decisions.{name}"), "has no effect with this `mode`");
        }
    }
    Some(Decisions { by: by?, deny_without_attributes, check_binding_after_denial })
}

fn local(raw: &RawDecisions, around: &Around<'_>, findings: &mut Findings) -> Option<Decider> {
    let options = LocalOptions {
        strict_guards: raw.strict_guards.unwrap_or(false),
        nested_only: raw.nested_claims_only.unwrap_or(false),
    };
    match (&raw.file, raw.from.as_deref()) {
        (Some(file), None) => {
            let text = around.files.text("decisions.file", file, findings)?;
            let entitlements = Entitlements::parse(&text)
                .map_err(|error| findings.problem::<()>("decisions.file", error))
                .ok()?;
            for warning in entitlements.warnings(options) {
                findings.warn("decisions.file", warning);
            }
            let file = around.files.resolve(file);
            Some(Decider::File { file, entitlements: Box::new(entitlements), options })
        }
        (None, Some("registry")) if around.has_registry => Some(Decider::Registry(options)),
        (None, Some("registry")) => {
            findings.problem("decisions.from", "needs `kas.key_index: registry`")
        }
        (None, Some(_)) => findings.problem("decisions.from", "expected `registry`"),
        _ => findings.problem(
            "decisions.file",
            "set exactly one of `file`, a file of entitlements, and `from: registry`",
        ),
    }
}

fn platform(raw: &RawDecisions, around: &Around<'_>, findings: &mut Findings) -> Option<Decider> {
    let Some(platform) = around.platform else {
        return findings.problem(
            "platform.endpoint",
            "is missing; `decisions.mode: platform` needs the address of the platform",
        );
    };
    let mut settings = DecisionSettings::default();
    match raw.timeout_ms {
        Some(0) => return findings.problem("decisions.timeout_ms", "must be at least 1"),
        Some(milliseconds) => settings.timeout = Duration::from_millis(milliseconds),
        None => {}
    }
    Some(Decider::Platform(Box::new(platform.connection()), settings))
}
