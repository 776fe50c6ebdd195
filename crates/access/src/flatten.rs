//! What selectors find in claims.
//!
//! Flattened, claims are a set of keys with values: `.name` for each step into an object, and for
//! each step into an array both `[<index>]` and `[]`, so that `{"a": [{"b": 1}]}` has `.a[0].b` and
//! `.a[].b`. Strings, numbers and booleans are values; `null`, `{}` and `[]` have no key. A selector
//! finds the values of the key that equals it.
//!
//! Only keys that some selector begins with are followed, so no more is made than is asked for.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use serde_json::Value;

use crate::record::Record;

/// Deepest nesting of claims that is looked into.
const MAX_DEPTH: usize = 64;
/// Most members and elements that are looked at in one record.
const MAX_STEPS: usize = 200_000;

/// The selectors of a policy, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors(Vec<Box<str>>);

impl Selectors {
    pub(crate) fn new<'a>(selectors: impl IntoIterator<Item = &'a str>) -> Self {
        let distinct: BTreeSet<_> = selectors.into_iter().collect();
        Self(distinct.into_iter().map(Box::from).collect())
    }

    /// The number by which [`Seen::values`] knows a selector.
    pub(crate) fn number(&self, selector: &str) -> Option<usize> {
        self.0.binary_search_by(|known| known.as_ref().cmp(selector)).ok()
    }
}

/// What the selectors of a policy find in one record.
#[derive(Debug)]
pub(crate) struct Seen<'r>(HashMap<usize, Vec<&'r Value>>);

impl<'r> Seen<'r> {
    /// Looks for all selectors. `None` when the claims are nested too deep or are too many, so that
    /// nobody knows what they hold.
    pub(crate) fn look(
        record: &'r Record<'_>,
        selectors: &Selectors,
        nested_only: bool,
    ) -> Option<Self> {
        let mut walk =
            Walk { selectors: &selectors.0, found: HashMap::new(), steps: 0, nested_only };
        let start = Prefix { of: 0..selectors.0.len(), length: 0 };
        for (name, value) in record.claims() {
            walk.member(&start, name, value, 0)?;
        }
        Some(Self(walk.found))
    }

    /// The values that a selector finds.
    pub(crate) fn values(&self, selector: usize) -> &[&'r Value] {
        self.0.get(&selector).map_or(&[], Vec::as_slice)
    }
}

/// A key under construction: its length in bytes, and the selectors that begin with it, of which
/// there is at least one.
struct Prefix {
    of: Range<usize>,
    length: usize,
}

struct Walk<'s, 'r> {
    selectors: &'s [Box<str>],
    found: HashMap<usize, Vec<&'r Value>>,
    steps: usize,
    nested_only: bool,
}

impl<'r> Walk<'_, 'r> {
    fn member(&mut self, at: &Prefix, name: &str, value: &'r Value, depth: usize) -> Option<()> {
        self.step()?;
        if self.nested_only && name.contains(['.', '[', ']']) {
            return Some(());
        }
        match self.extend(at, ".").and_then(|at| self.extend(&at, name)) {
            Some(at) => self.value(&at, value, depth),
            None => Some(()),
        }
    }

    fn value(&mut self, at: &Prefix, value: &'r Value, depth: usize) -> Option<()> {
        match value {
            Value::Null => {}
            Value::Object(members) => {
                let depth = deeper(depth)?;
                for (name, value) in members {
                    self.member(at, name, value, depth)?;
                }
            }
            Value::Array(elements) => self.elements(at, elements, deeper(depth)?)?,
            Value::String(_) | Value::Number(_) | Value::Bool(_) => self.leaf(at, value),
        }
        Some(())
    }

    fn elements(&mut self, at: &Prefix, elements: &'r [Value], depth: usize) -> Option<()> {
        let Some(open) = self.extend(at, "[") else { return Some(()) };
        let any = self.extend(&open, "]");
        let all_are_any = any.as_ref().is_some_and(|any| any.of == open.of);
        for (index, element) in elements.iter().enumerate() {
            self.step()?;
            if let Some(any) = &any {
                self.value(any, element, depth)?;
            }
            if !all_are_any && let Some(this) = self.extend(&open, &format!("{index}]")) {
                self.value(&this, element, depth)?;
            }
        }
        Some(())
    }

    /// The shortest of the selectors sorts first, so if any equals the key, it is that one.
    fn leaf(&mut self, at: &Prefix, value: &'r Value) {
        let first = at.of.start;
        if self.selectors.get(first).is_some_and(|selector| selector.len() == at.length) {
            self.found.entry(first).or_default().push(value);
        }
    }

    fn extend(&self, at: &Prefix, text: &str) -> Option<Prefix> {
        let selectors = self.selectors.get(at.of.clone())?;
        let text = text.as_bytes();
        let start = selectors.partition_point(|selector| after(selector, at.length) < text);
        let same = selectors
            .get(start..)?
            .partition_point(|selector| after(selector, at.length).starts_with(text));
        let start = at.of.start + start;
        (same > 0).then(|| Prefix { of: start..start + same, length: at.length + text.len() })
    }

    fn step(&mut self) -> Option<()> {
        self.steps += 1;
        (self.steps <= MAX_STEPS).then_some(())
    }
}

fn after(selector: &str, length: usize) -> &[u8] {
    selector.as_bytes().get(length..).unwrap_or_default()
}

fn deeper(depth: usize) -> Option<usize> {
    (depth < MAX_DEPTH).then_some(depth + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What each of `selectors` finds.
    fn found(claims: &Value, selectors: &[&str], nested_only: bool) -> Option<Vec<Vec<Value>>> {
        let record = Record::new(claims.as_object().unwrap());
        let known = Selectors::new(selectors.iter().copied());
        let seen = Seen::look(&record, &known, nested_only)?;
        let values = |selector: &&str| {
            let number = known.number(selector).unwrap();
            seen.values(number).iter().map(|value| (*value).clone()).collect()
        };
        Some(selectors.iter().map(values).collect())
    }

    #[test]
    fn keys_of_claims() {
        for (claims, selector, values) in [
            (json!({"a": "s"}), ".a", json!(["s"])),
            (json!({"a": "s"}), "a", json!([])),
            (json!({"a": "s"}), ".A", json!([])),
            (json!({"a": "s"}), ".a[]", json!([])),
            (json!({"a": "s"}), ".a.b", json!([])),
            (json!({"ab": "s"}), ".a", json!([])),
            (json!({"o": {"p": {"q": "z"}}}), ".o.p.q", json!(["z"])),
            (json!({"o": {"p": {"q": "z"}}}), ".o.p", json!([])),
            (json!({"g": ["x", "y"]}), ".g[]", json!(["x", "y"])),
            (json!({"g": ["x", "y"]}), ".g[0]", json!(["x"])),
            (json!({"g": ["x", "y"]}), ".g[1]", json!(["y"])),
            (json!({"g": ["x", "y"]}), ".g[2]", json!([])),
            (json!({"g": ["x", "y"]}), ".g[01]", json!([])),
            (json!({"g": ["x", "y"]}), ".g", json!([])),
            (json!({"u": [{"k": "1"}, {"k": "2"}]}), ".u[].k", json!(["1", "2"])),
            (json!({"u": [{"k": "1"}, {"k": "2"}]}), ".u[1].k", json!(["2"])),
            (json!({"nn": [["d"]]}), ".nn[0][0]", json!(["d"])),
            (json!({"nn": [["d"]]}), ".nn[0][]", json!(["d"])),
            (json!({"nn": [["d"]]}), ".nn[][0]", json!(["d"])),
            (json!({"nn": [["d"]]}), ".nn[][]", json!(["d"])),
            (json!({"https://x.test/c": "v"}), ".https://x.test/c", json!(["v"])),
            (json!({"dot.ted": "w", "dot": {"ted": "v"}}), ".dot.ted", json!(["v", "w"])),
            (json!({"g[]": "w", "g": ["v"]}), ".g[]", json!(["v", "w"])),
            (json!({"n": 42, "b": true}), ".n", json!([42])),
            (json!({"n": 42, "b": true}), ".b", json!([true])),
            (json!({"n": null, "l": [null, "x"]}), ".n", json!([])),
            (json!({"n": null, "l": [null, "x"]}), ".l[]", json!(["x"])),
            (json!({"n": null, "l": [null, "x"]}), ".l[1]", json!(["x"])),
            (json!({"e": {}, "l": []}), ".e", json!([])),
            (json!({"e": {}, "l": []}), ".l[]", json!([])),
            (json!({"": "x"}), ".", json!(["x"])),
            (json!({"é": ["ü"]}), ".é[]", json!(["ü"])),
        ] {
            let alone = found(&claims, &[selector], false).unwrap();
            assert_eq!(json!(alone), json!([values]), "{claims} {selector}");
            // Others that begin alike, or that it begins with, change nothing.
            let others = [".a", ".a.b", ".g[]", ".g[0]", ".g[00]", ".u", ".u[]", ".nn[", ".nn[0]["];
            let others: Vec<_> = others.into_iter().filter(|other| *other != selector).collect();
            let among = found(&claims, &[&[selector], &others[..]].concat(), false).unwrap();
            assert_eq!(json!(among[0]), values, "{claims} {selector}");
        }
    }

    #[test]
    fn names_that_look_like_paths_can_be_left_out() {
        let claims = json!({"a.b": "w", "a": {"b": "v", "c.d": "w"}, "g[]": "w", "g": ["v"]});
        let selectors = [".a.b", ".a.c.d", ".g[]"];
        assert_eq!(json!(found(&claims, &selectors, true)), json!([["v"], [], ["v"]]),);
    }

    #[test]
    fn arrays_of_arrays_cost_no_more_than_what_is_selected() {
        let mut value = json!("x");
        for _ in 0..MAX_DEPTH {
            value = json!([value]);
        }
        let all = format!(".a{}", "[]".repeat(MAX_DEPTH));
        let one = format!(".a{}", "[0]".repeat(MAX_DEPTH));
        assert_eq!(json!(found(&json!({"a": value}), &[&all, &one], false)), json!([["x"], ["x"]]));
    }

    #[test]
    fn what_is_nested_too_deep_is_not_half_seen() {
        let mut value = json!("x");
        for _ in 0..=MAX_DEPTH {
            value = json!([value]);
        }
        let selector = format!(".a{}", "[]".repeat(MAX_DEPTH + 1));
        let claims = json!({"a": value, "b": "y"});
        assert_eq!(found(&claims, &[".b", &selector], false), None);
        assert_eq!(json!(found(&claims, &[".b"], false)), json!([["y"]]), "nobody looks there");
    }

    #[test]
    fn what_is_too_much_is_not_half_seen() {
        let claims = |length: usize| json!({"a": vec!["x"; length]});
        let selectors = [".a[]"];
        assert!(found(&claims(MAX_STEPS - 1), &selectors, false).is_some());
        assert!(found(&claims(MAX_STEPS), &selectors, false).is_none());
    }

    /// Every key, as it is defined.
    fn flatten(key: &str, value: &Value, keys: &mut Vec<(String, Value)>) {
        match value {
            Value::Null => {}
            Value::Object(members) => {
                for (name, value) in members {
                    flatten(&format!("{key}.{name}"), value, keys);
                }
            }
            Value::Array(elements) => {
                for (index, value) in elements.iter().enumerate() {
                    flatten(&format!("{key}[{index}]"), value, keys);
                    flatten(&format!("{key}[]"), value, keys);
                }
            }
            leaf => keys.push((key.to_owned(), leaf.clone())),
        }
    }

    fn claims() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        let name = prop_oneof!["[ab.]{0,2}", Just("a[]".to_owned()), ".{0,3}"];
        let inner = name.clone();
        let value = leaf.prop_recursive(4, 40, 4, move |value| {
            prop_oneof![
                prop::collection::vec(value.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(inner.clone(), value, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        prop::collection::btree_map(name, value, 0..5)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    fn sorted(mut values: Vec<Value>) -> Vec<String> {
        values.sort_by_key(Value::to_string);
        values.iter().map(Value::to_string).collect()
    }

    proptest! {
        #[test]
        fn selecting_is_the_same_as_flattening(claims in claims(), others in prop::collection::vec("\\PC{0,6}", 0..4)) {
            let mut keys = Vec::new();
            flatten("", &claims, &mut keys);
            let mut selectors: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
            selectors.extend(others.iter().map(String::as_str));
            let found = found(&claims, &selectors, false).unwrap();
            for (selector, found) in selectors.iter().zip(found) {
                let expected = keys.iter().filter(|(key, _)| key == selector);
                let expected = expected.map(|(_, value)| value.clone()).collect();
                prop_assert_eq!(sorted(found), sorted(expected), "{}", selector);
            }
        }
    }
}
