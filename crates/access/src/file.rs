//! The file format, as it is written.
//!
//! YAML, of which JSON is a part. Unknown and repeated keys are errors, anchors and aliases are not
//! allowed, and the document is bounded.

use serde::Deserialize;
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MergeKeyPolicy, Options, UserMessageFormatter, budget,
    budget::BudgetBreach, options,
};

use crate::model::{Operator, Rule};

/// Largest document, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Deepest nesting; the format needs twelve levels.
const MAX_DEPTH: usize = 32;
/// Most nodes.
const MAX_NODES: usize = 4_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) namespaces: Vec<Namespace>,
    #[serde(default)]
    pub(crate) attributes: Vec<Attribute>,
    #[serde(default)]
    pub(crate) obligations: Vec<Obligation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    #[serde(default = "yes")]
    pub(crate) active: bool,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    pub(crate) fqn: String,
    pub(crate) rule: Rule,
    #[serde(default = "yes")]
    pub(crate) active: bool,
    #[serde(default)]
    pub(crate) allow_traversal: bool,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
    #[serde(default)]
    pub(crate) values: Vec<AttributeValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributeValue {
    pub(crate) value: String,
    #[serde(default = "yes")]
    pub(crate) active: bool,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
    #[serde(default)]
    pub(crate) subject_mappings: Vec<Mapping>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mapping {
    pub(crate) actions: Vec<String>,
    pub(crate) subject_sets: Vec<SubjectSet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubjectSet {
    pub(crate) groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) operator: Joined,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Joined {
    And,
    Or,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condition {
    pub(crate) selector: String,
    pub(crate) operator: Operator,
    pub(crate) values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Obligation {
    pub(crate) fqn: String,
    #[serde(default)]
    pub(crate) values: Vec<ObligationValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObligationValue {
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) triggers: Vec<Trigger>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trigger {
    pub(crate) action: String,
    pub(crate) attribute_value: String,
    pub(crate) clients: Option<Vec<String>>,
}

fn yes() -> bool {
    true
}

/// Reads the document; what it says is not looked at yet.
///
/// # Errors
/// The first thing that does not have the form, with its path, line and column.
pub(crate) fn read(text: &str) -> Result<Document, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the document is larger than {MAX_BYTES} bytes; split the policy"));
    }
    let mut path = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, rules(), |document| {
        serde_path_to_error::deserialize(document).map_err(|error| {
            path = Some(error.path().to_string());
            error.into_inner()
        })
    });
    read.map_err(|error| explain(error.without_snippet(), path.as_deref()))
}

fn explain(error: &Error, path: Option<&str>) -> String {
    let path = path.unwrap_or(".");
    match error {
        Error::DuplicateMappingKey { key, location } => {
            // The path ends in `?` where the key is not read yet.
            let path = path.strip_suffix('?').unwrap_or(path);
            let key = key.as_deref().unwrap_or("?");
            let (line, column) = (location.line(), location.column());
            format!("`{path}{key}`: is given twice; remove one, at line {line}, column {column}")
        }
        Error::Budget {
            breach: BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. },
            location,
        } => {
            let (line, column) = (location.line(), location.column());
            format!(
                "`{path}`: anchors and aliases are not allowed; write out what they stand for, \
                 at line {line}, column {column}"
            )
        }
        _ => format!("`{path}`: {}", error.render_with_formatter(&UserMessageFormatter)),
    }
}

fn rules() -> Options {
    options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        budget: budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_anchors: 0,
            max_aliases: 0,
            max_documents: 1,
        },
    }
}
