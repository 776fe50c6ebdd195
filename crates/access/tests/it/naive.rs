//! A second evaluator, written from the rules, for small policies: flat, slow and obvious.

use serde_json::Value;

#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) name: String,
    /// `all_of`, `any_of` or `hierarchy`.
    pub(crate) rule: &'static str,
    pub(crate) active: bool,
    pub(crate) values: Vec<Valued>,
}

#[derive(Debug, Clone)]
pub(crate) struct Valued {
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) mappings: Vec<Mapped>,
}

#[derive(Debug, Clone)]
pub(crate) struct Mapped {
    pub(crate) actions: Vec<String>,
    /// Sets of groups: `and` or `or`, and conditions.
    pub(crate) sets: Vec<Vec<(&'static str, Vec<Asked>)>>,
}

/// A selector, an operator, texts.
#[derive(Debug, Clone)]
pub(crate) struct Asked(pub(crate) String, pub(crate) &'static str, pub(crate) Vec<String>);

fn keys_of(key: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    if let Value::Object(members) = value {
        for (name, value) in members {
            keys_of(&format!("{key}.{name}"), value, found);
        }
    } else if let Value::Array(elements) = value {
        for (index, value) in elements.iter().enumerate() {
            keys_of(&format!("{key}[{index}]"), value, found);
            keys_of(&format!("{key}[]"), value, found);
        }
    } else if !value.is_null() {
        found.push((key.to_owned(), value.clone()));
    }
}

/// Only for numbers below a million.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn condition_holds(Asked(selector, operator, texts): &Asked, claims: &Value) -> bool {
    let mut keys = Vec::new();
    keys_of("", claims, &mut keys);
    let mut found = keys.iter().filter(|(key, _)| key == selector).map(|(_, value)| value);
    let is_listed = |value: &Value| texts.iter().any(|text| value == text.as_str());
    match *operator {
        "in" => found.any(is_listed),
        "not_in" => !found.any(is_listed),
        "in_contains" => found.any(|value| texts.iter().any(|text| text_of(value).contains(text))),
        other => panic!("no operator: {other}"),
    }
}

fn mapping_holds(mapping: &Mapped, claims: &Value) -> bool {
    for set in &mapping.sets {
        for (operator, conditions) in set {
            let true_ones = conditions.iter().filter(|one| condition_holds(one, claims)).count();
            let holds =
                if *operator == "and" { true_ones == conditions.len() } else { true_ones > 0 };
            if !holds {
                return false;
            }
        }
    }
    true
}

fn entitled(value: &Valued, action: &str, records: &[Value]) -> bool {
    value.active
        && records.iter().any(|claims| {
            value.mappings.iter().any(|mapping| {
                mapping.actions.iter().any(|name| name.to_lowercase() == action.to_lowercase())
                    && mapping_holds(mapping, claims)
            })
        })
}

/// `resource`: names of definitions and values.
pub(crate) fn permits(
    policy: &[Definition],
    subjects: &[Vec<Value>],
    action: &str,
    resource: &[(String, String)],
) -> bool {
    let known = |(definition, value): &(String, String)| {
        policy.iter().any(|one| {
            one.active
                && one.name == definition.to_lowercase()
                && one.values.iter().any(|one| one.active && one.name == value.to_lowercase())
        })
    };
    if resource.is_empty() || subjects.is_empty() || !resource.iter().all(known) {
        return false;
    }
    subjects.iter().all(|records| {
        policy.iter().all(|definition| {
            let asked: Vec<usize> = resource
                .iter()
                .filter(|(name, _)| name.to_lowercase() == definition.name)
                .map(|(_, value)| {
                    definition
                        .values
                        .iter()
                        .position(|one| one.name == value.to_lowercase())
                        .unwrap()
                })
                .collect();
            let has: Vec<bool> =
                definition.values.iter().map(|value| entitled(value, action, records)).collect();
            if asked.is_empty() {
                return true;
            }
            match definition.rule {
                "all_of" => asked.iter().filter(|index| !has[**index]).count() == 0,
                "any_of" => asked.iter().filter(|index| has[**index]).count() > 0,
                "hierarchy" => {
                    let resources = *asked.iter().min().unwrap();
                    has.iter().position(|has| *has).is_some_and(|first| first <= resources)
                }
                other => panic!("no rule: {other}"),
            }
        })
    })
}
