//! A policy, ready to be evaluated: checked, in lower case, and found by hash.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{
    compile::{self, EntitlementsError},
    file,
    flatten::Selectors,
    local::LocalOptions,
};

/// Attribute definitions, who is entitled to their values, and what reading them obliges to.
///
/// FQNs, names, values and actions are in lower case. Never changes.
#[derive(Debug, Default)]
pub struct Entitlements {
    pub(crate) attributes: Vec<Attribute>,
    /// Index in `attributes` by FQN.
    pub(crate) definitions: HashMap<String, usize>,
    pub(crate) places: HashMap<String, Place>,
    pub(crate) selectors: Selectors,
    /// By the FQN of the attribute value. Those for every client come first, else as in the file.
    pub(crate) triggers: HashMap<String, Vec<Trigger>>,
    pub(crate) cautions: Vec<Caution>,
}

impl Entitlements {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// What is wrong, where in the document, and what to do about it. A document that does not have
    /// the form of one is refused at the first place; otherwise everything is reported.
    pub fn parse(text: &str) -> Result<Self, EntitlementsError> {
        let document = file::read(text).map_err(EntitlementsError::one)?;
        compile::compile(&document)
    }

    /// What may be used but is likely to surprise under `options`, each with its path in the
    /// document.
    pub fn warnings(&self, options: LocalOptions) -> Vec<String> {
        let matters = |caution: &&Caution| !(caution.guard && options.strict_guards);
        self.cautions.iter().filter(matters).map(|caution| caution.text.clone()).collect()
    }

    /// The definition with this FQN, in any case.
    pub fn definition(&self, fqn: &str) -> Option<&Attribute> {
        self.attributes.get(*self.definitions.get(&fqn.to_ascii_lowercase())?)
    }

    /// The definition of the attribute value with this FQN, in any case, and the value.
    pub fn value(&self, fqn: &str) -> Option<(&Attribute, &AttributeValue)> {
        let place = self.places.get(&fqn.to_ascii_lowercase())?;
        let attribute = self.attributes.get(place.attribute)?;
        Some((attribute, attribute.values.get(place.value)?))
    }
}

/// An attribute definition.
#[derive(Debug)]
pub struct Attribute {
    /// `https://<namespace>/attr/<name>`.
    pub fqn: String,
    /// How its values combine.
    pub rule: Rule,
    /// Whether it and its namespace are in use. If not, its values are as good as unknown.
    pub active: bool,
    /// Whether clients may encrypt with a value that it does not have. Nobody can decrypt that
    /// before the value exists.
    pub allow_traversal: bool,
    /// Ids of the keys to encrypt with: its own, or else its namespace's.
    pub keys: Vec<String>,
    /// All values, the highest first.
    pub values: Vec<AttributeValue>,
}

/// A value of an attribute.
#[derive(Debug)]
pub struct AttributeValue {
    /// `https://<namespace>/attr/<name>/value/<value>`.
    pub fqn: String,
    /// Whether it is in use. If not, it is as good as unknown, and entitles to nothing, but keeps
    /// its place in the order.
    pub active: bool,
    /// Ids of the keys to encrypt with: its own, or else its definition's, or else its namespace's.
    pub keys: Vec<String>,
    pub(crate) mappings: Vec<Mapping>,
}

/// How the values of one attribute on a resource combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// One must be entitled to all of them.
    AllOf,
    /// One must be entitled to at least one of them.
    AnyOf,
    /// One must be entitled to the highest of them, or to a value above it.
    Hierarchy,
}

/// Where a value is: an attribute, and a value of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) attribute: usize,
    pub(crate) value: usize,
}

/// Entitles those for whom all of `sets` hold to `actions`.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) actions: Vec<String>,
    /// Each a list of groups, all of which must hold.
    pub(crate) sets: Vec<Vec<Group>>,
}

#[derive(Debug)]
pub(crate) struct Group {
    /// Whether all conditions must hold, or any.
    pub(crate) all: bool,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) selector: usize,
    pub(crate) operator: Operator,
    /// Sorted.
    pub(crate) values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operator {
    In,
    NotIn,
    InContains,
}

/// Reading the value that it belongs to brings an obligation with it.
#[derive(Debug)]
pub(crate) struct Trigger {
    pub(crate) action: String,
    /// For these clients only; for all if `None`.
    pub(crate) clients: Option<Vec<String>>,
    /// FQN of the obligation value.
    pub(crate) obligation: String,
}

/// Something to warn of.
#[derive(Debug)]
pub(crate) struct Caution {
    pub(crate) text: String,
    /// Strict guards make it harmless.
    pub(crate) guard: bool,
}
