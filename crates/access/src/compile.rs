//! From what a file says to a policy that can be evaluated; all that is wrong is reported at once.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::{
    file::{self, Document, Joined},
    flatten::Selectors,
    fqn::{is_name, is_namespace, namespace_of},
    model::{
        Attribute, AttributeValue, Caution, Condition, Entitlements, Group, Mapping, Operator,
        Place, Trigger,
    },
};

/// Most problems that are reported.
const MAX_PROBLEMS: usize = 100;
/// Longest selector, in bytes.
const MAX_SELECTOR: usize = 1024;
/// Selectors of claims that no token presents that way.
const NEVER: [(&str, &str); 4] = [
    (".aud", "the audience is always an array; use `.aud[]`"),
    (".exp", "times of a token are not presented to mappings; use another claim"),
    (".iat", "times of a token are not presented to mappings; use another claim"),
    (".nbf", "times of a token are not presented to mappings; use another claim"),
];
const NAME: &str = "use 1 to 253 letters, digits, `-` and `_`, with a letter or digit at both ends";

/// A document that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct EntitlementsError {
    problems: Vec<String>,
    /// How many more there are.
    unreported: usize,
}

impl EntitlementsError {
    pub(crate) fn one(problem: String) -> Self {
        Self { problems: vec![problem], unreported: 0 }
    }

    /// What is wrong: each with its path in the document and what to do.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for EntitlementsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))?;
        match self.unreported {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// # Errors
/// Everything that is wrong.
pub(crate) fn compile(document: &Document) -> Result<Entitlements, EntitlementsError> {
    let mut compiler = Compiler::new(document);
    compiler.namespaces(&document.namespaces);
    compiler.attributes(&document.attributes);
    compiler.obligations(&document.obligations);
    match compiler.wrong {
        EntitlementsError { ref problems, .. } if problems.is_empty() => Ok(compiler.made),
        wrong => Err(wrong),
    }
}

struct Compiler<'a> {
    made: Entitlements,
    namespaces: HashMap<String, &'a file::Namespace>,
    obligations: HashSet<String>,
    wrong: EntitlementsError,
}

impl<'a> Compiler<'a> {
    fn new(document: &Document) -> Self {
        let values = document.attributes.iter().flat_map(|attribute| &attribute.values);
        let selectors = values
            .flat_map(|value| &value.subject_mappings)
            .flat_map(|mapping| &mapping.subject_sets)
            .flat_map(|set| &set.groups)
            .flat_map(|group| &group.conditions)
            .map(|condition| condition.selector.as_str());
        let selectors = Selectors::new(selectors);
        Self {
            made: Entitlements { selectors, ..Entitlements::default() },
            namespaces: HashMap::new(),
            obligations: HashSet::new(),
            wrong: EntitlementsError { problems: Vec::new(), unreported: 0 },
        }
    }

    fn wrong(&mut self, path: &str, what: impl fmt::Display) {
        if self.wrong.problems.len() < MAX_PROBLEMS {
            self.wrong.problems.push(format!("`{path}`: {what}"));
        } else {
            self.wrong.unreported += 1;
        }
    }

    fn not_empty<T>(&mut self, path: &str, list: &[T]) {
        if list.is_empty() {
            self.wrong(path, "is empty; give it at least one entry");
        }
    }

    fn keys(&mut self, path: &str, keys: &[String]) {
        let mut seen = HashSet::new();
        for (index, key) in keys.iter().enumerate() {
            if key.is_empty() || key.trim() != key {
                let what = "is no key id; use the id of a key, without spaces around it";
                self.wrong(&format!("{path}.keys[{index}]"), what);
            } else if !seen.insert(key) {
                let what = format!("`{key}` stands in the list already; remove one");
                self.wrong(&format!("{path}.keys[{index}]"), what);
            }
        }
    }

    /// The name in lower case.
    fn name(&mut self, path: &str, name: &str) -> String {
        if !is_name(name) {
            self.wrong(path, format_args!("`{}` is no name; {NAME}", shown(name)));
        }
        name.to_ascii_lowercase()
    }

    fn namespaces(&mut self, namespaces: &'a [file::Namespace]) {
        for (index, namespace) in namespaces.iter().enumerate() {
            let path = format!("namespaces[{index}]");
            let name = namespace.name.to_ascii_lowercase();
            if !is_namespace(&name) {
                let shown = shown(&name);
                let what =
                    format!("`{shown}` is no namespace; use a DNS name such as `example.com`");
                self.wrong(&format!("{path}.name"), what);
            }
            self.keys(&path, &namespace.keys);
            if self.namespaces.insert(name.clone(), namespace).is_some() {
                let what = format!("`{}` is listed twice; make it one entry", shown(&name));
                self.wrong(&format!("{path}.name"), what);
            }
        }
    }

    fn attributes(&mut self, attributes: &[file::Attribute]) {
        for (index, attribute) in attributes.iter().enumerate() {
            self.attribute(index, attribute);
        }
    }

    fn attribute(&mut self, index: usize, attribute: &file::Attribute) {
        let path = format!("attributes[{index}]");
        let fqn = attribute.fqn.to_ascii_lowercase();
        let namespace = self.definition(&path, &fqn, "attr");
        let namespace = namespace.and_then(|name| self.namespaces.get(name).copied());
        self.keys(&path, &attribute.keys);
        if self.made.definitions.insert(fqn.clone(), index).is_some() {
            let what = format!("`{}` is defined twice; make it one entry", shown(&fqn));
            self.wrong(&format!("{path}.fqn"), what);
        }
        let of_namespace = namespace.map_or(&[][..], |namespace| &namespace.keys);
        let keys = first_of(&attribute.keys, of_namespace);
        let mut values = Vec::with_capacity(attribute.values.len());
        for (value_index, value) in attribute.values.iter().enumerate() {
            let path = format!("{path}.values[{value_index}]");
            let value = self.value(&path, &fqn, &keys, value);
            let place = Place { attribute: index, value: value_index };
            if self.made.places.insert(value.fqn.clone(), place).is_some() {
                let what = format!("`{}` is defined twice; make it one entry", shown(&value.fqn));
                self.wrong(&format!("{path}.value"), what);
            }
            values.push(value);
        }
        self.made.attributes.push(Attribute {
            fqn,
            rule: attribute.rule,
            active: attribute.active && namespace.is_none_or(|namespace| namespace.active),
            allow_traversal: attribute.allow_traversal,
            keys,
            values,
        });
    }

    /// The namespace in the FQN of a definition.
    fn definition<'f>(&mut self, path: &str, fqn: &'f str, kind: &str) -> Option<&'f str> {
        let namespace = namespace_of(fqn, kind);
        if namespace.is_none() {
            let shown = shown(fqn);
            let what = format!("`{shown}` is malformed; use `https://<namespace>/{kind}/<name>`");
            self.wrong(&format!("{path}.fqn"), what);
        }
        namespace
    }

    fn value(
        &mut self,
        path: &str,
        definition: &str,
        inherited: &[String],
        value: &file::AttributeValue,
    ) -> AttributeValue {
        let name = self.name(&format!("{path}.value"), &value.value);
        self.keys(path, &value.keys);
        let mappings = value.subject_mappings.iter().enumerate();
        AttributeValue {
            fqn: format!("{definition}/value/{name}"),
            active: value.active,
            keys: first_of(&value.keys, inherited),
            mappings: mappings
                .map(|(index, mapping)| {
                    self.mapping(&format!("{path}.subject_mappings[{index}]"), mapping)
                })
                .collect(),
        }
    }

    fn mapping(&mut self, path: &str, mapping: &file::Mapping) -> Mapping {
        self.not_empty(&format!("{path}.actions"), &mapping.actions);
        self.not_empty(&format!("{path}.subject_sets"), &mapping.subject_sets);
        let mut actions = Vec::with_capacity(mapping.actions.len());
        for (index, action) in mapping.actions.iter().enumerate() {
            actions.push(self.name(&format!("{path}.actions[{index}]"), action));
        }
        let mut sets = Vec::with_capacity(mapping.subject_sets.len());
        for (index, set) in mapping.subject_sets.iter().enumerate() {
            let path = format!("{path}.subject_sets[{index}]");
            self.not_empty(&format!("{path}.groups"), &set.groups);
            let groups = set.groups.iter().enumerate();
            sets.push(
                groups
                    .map(|(index, group)| self.group(&format!("{path}.groups[{index}]"), group))
                    .collect(),
            );
        }
        self.guard(path, mapping);
        Mapping { actions, sets }
    }

    /// Warns of a mapping that a missing claim makes true.
    fn guard(&mut self, path: &str, mapping: &file::Mapping) {
        let groups = mapping.subject_sets.iter().flat_map(|set| &set.groups);
        let mut conditions = groups.flat_map(|group| &group.conditions);
        if conditions.any(|condition| condition.operator == Operator::NotIn) {
            let text = format!(
                "`{path}`: `not_in` fails open when the claim is missing or a number; \
                 set strict guards or also ask for a claim that must be there"
            );
            self.made.cautions.push(Caution { text, guard: true });
        }
    }

    fn group(&mut self, path: &str, group: &file::Group) -> Group {
        self.not_empty(&format!("{path}.conditions"), &group.conditions);
        let conditions = group.conditions.iter().enumerate();
        Group {
            all: group.operator == Joined::And,
            conditions: conditions
                .filter_map(|(index, condition)| {
                    self.condition(&format!("{path}.conditions[{index}]"), condition)
                })
                .collect(),
        }
    }

    /// `None` cannot happen: every selector of the document has a number.
    fn condition(&mut self, path: &str, condition: &file::Condition) -> Option<Condition> {
        self.selector(&format!("{path}.selector"), &condition.selector);
        self.not_empty(&format!("{path}.values"), &condition.values);
        if condition.operator == Operator::InContains {
            for (index, _) in condition.values.iter().enumerate().filter(|(_, v)| v.is_empty()) {
                let what = "is empty, which every claim contains; say what must be contained";
                self.wrong(&format!("{path}.values[{index}]"), what);
            }
        }
        let mut values = condition.values.clone();
        values.sort_unstable();
        let selector = self.made.selectors.number(&condition.selector)?;
        Some(Condition { selector, operator: condition.operator, values })
    }

    fn selector(&mut self, path: &str, selector: &str) {
        if selector.len() > MAX_SELECTOR {
            self.wrong(path, format_args!("is longer than {MAX_SELECTOR} bytes; shorten it"));
        } else if !selector.starts_with('.') || selector.len() < 2 {
            let what = "selects nothing; begin with a dot, such as `.groups[]` or `.email`";
            self.wrong(path, what);
        } else if let Some((_, why)) = NEVER.iter().find(|(never, _)| *never == selector) {
            let text = format!("`{path}`: `{selector}` selects nothing: {why}");
            self.made.cautions.push(Caution { text, guard: false });
        }
    }

    fn obligations(&mut self, obligations: &[file::Obligation]) {
        for (index, obligation) in obligations.iter().enumerate() {
            let path = format!("obligations[{index}]");
            let fqn = obligation.fqn.to_ascii_lowercase();
            self.definition(&path, &fqn, "obl");
            self.first_obligation(&format!("{path}.fqn"), &fqn);
            for (index, value) in obligation.values.iter().enumerate() {
                let path = format!("{path}.values[{index}]");
                let name = self.name(&format!("{path}.value"), &value.value);
                let fqn = format!("{fqn}/value/{name}");
                self.first_obligation(&format!("{path}.value"), &fqn);
                for (index, trigger) in value.triggers.iter().enumerate() {
                    self.trigger(&format!("{path}.triggers[{index}]"), &fqn, trigger);
                }
            }
        }
        for triggers in self.made.triggers.values_mut() {
            triggers.sort_by_key(|trigger| trigger.clients.is_some());
        }
    }

    fn first_obligation(&mut self, path: &str, fqn: &str) {
        if !self.obligations.insert(fqn.to_owned()) {
            let what = format!("`{}` is defined twice; make it one entry", shown(fqn));
            self.wrong(path, what);
        }
    }

    fn trigger(&mut self, path: &str, obligation: &str, trigger: &file::Trigger) {
        let action = self.name(&format!("{path}.action"), &trigger.action);
        let value = trigger.attribute_value.to_ascii_lowercase();
        if !self.made.places.contains_key(&value) {
            let what = format!(
                "`{}` is no value of an attribute of this document; define it or correct the FQN",
                shown(&value)
            );
            self.wrong(&format!("{path}.attribute_value"), what);
        }
        if let Some(clients) = &trigger.clients {
            if clients.is_empty() {
                let what = "is empty; name a client, or leave it out to mean every client";
                self.wrong(&format!("{path}.clients"), what);
            }
            for (index, _) in clients.iter().enumerate().filter(|(_, id)| id.trim().is_empty()) {
                let what = "is empty; use the id of a client";
                self.wrong(&format!("{path}.clients[{index}]"), what);
            }
        }
        self.made.triggers.entry(value).or_default().push(Trigger {
            action,
            clients: trigger.clients.clone(),
            obligation: obligation.to_owned(),
        });
    }
}

fn first_of(own: &[String], inherited: &[String]) -> Vec<String> {
    if own.is_empty() { inherited.to_vec() } else { own.to_vec() }
}

/// The beginning of a text that may have any length.
fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(300).map_or(text.len(), |(end, _)| end);
    text.get(..end).unwrap_or_default()
}
