//! What holds for all policies, claims and questions.

use kasbah_access::{Category, Entitlements, Entity, LocalOptions, Record, Request};
use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};

use crate::naive::{self, Asked, Definition, Mapped, Valued};

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(vec!["1", "2", "a", "true"]).prop_map(str::to_owned), 1..4)
}

fn condition() -> impl Strategy<Value = Asked> {
    let selectors = vec![".x", ".x", ".y", ".l[]", ".l[]", ".l[0]", ".l[][]", ".o.x", ".o.l[]"];
    (select(selectors), select(vec!["in", "in", "not_in", "in_contains"]), texts())
        .prop_map(|(selector, operator, texts)| Asked(selector.to_owned(), operator, texts))
}

fn group() -> impl Strategy<Value = (&'static str, Vec<Asked>)> {
    (select(vec!["and", "or"]), prop::collection::vec(condition(), 1..3))
}

/// One, or now and then two.
fn few<T: Strategy>(of: impl Fn() -> T) -> impl Strategy<Value = Vec<T::Value>> {
    use prop::collection::vec;
    prop_oneof![3 => vec(of(), 1), 1 => vec(of(), 2)]
}

fn mapping() -> impl Strategy<Value = Mapped> {
    let sets = few(|| few(group));
    let actions = select(vec![
        vec!["read"],
        vec!["Read"],
        vec!["read"],
        vec!["create"],
        vec!["create", "READ"],
    ]);
    (actions, sets).prop_map(|(actions, sets)| Mapped {
        actions: actions.into_iter().map(str::to_owned).collect(),
        sets,
    })
}

fn definition(name: &'static str) -> impl Strategy<Value = Definition> {
    let value = (prop::bool::weighted(0.9), prop::collection::vec(mapping(), 0..5));
    let rules = select(vec!["all_of", "any_of", "hierarchy"]);
    (rules, prop::bool::weighted(0.95), prop::collection::vec(value, 2..4)).prop_map(
        move |(rule, active, values)| Definition {
            name: name.to_owned(),
            rule,
            active,
            values: values
                .into_iter()
                .enumerate()
                .map(|(index, (active, mappings))| Valued {
                    name: format!("v{index}"),
                    active,
                    mappings,
                })
                .collect(),
        },
    )
}

fn policy() -> impl Strategy<Value = Vec<Definition>> {
    (definition("d0"), definition("d1"), definition("d2")).prop_map(|(a, b, c)| vec![a, b, c])
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => select(vec!["1", "2", "a", "ab", "true", ""]).prop_map(Value::from),
        1 => select(vec![json!(1), json!(2), json!(12), json!(true), json!(null)]),
    ]
}

fn claims() -> impl Strategy<Value = Value> {
    let list = || {
        let element = prop_oneof![
            3 => leaf(),
            1 => prop::collection::vec(leaf(), 0..3).prop_map(Value::from)
        ];
        prop::collection::vec(element, 1..4).prop_map(Value::from)
    };
    let object = (leaf(), list()).prop_map(|(x, l)| json!({"x": x, "l": l}));
    (leaf(), leaf(), list(), object, select(vec![0, 5, 10, 14, 15, 15, 15, 15])).prop_map(
        |(x, y, l, o, which)| {
            let all = [("x", x), ("y", y), ("l", l), ("o", o)];
            let kept = all.into_iter().enumerate().filter(|(index, _)| which >> index & 1 == 1);
            Value::Object(kept.map(|(_, (name, value))| (name.to_owned(), value)).collect())
        },
    )
}

/// Names of definitions and values; few of them unknown.
fn resource() -> impl Strategy<Value = Vec<(String, String)>> {
    let definitions = select(vec!["d0", "d0", "d1", "d1", "d2", "D2"]);
    let values = select(vec!["v0", "v0", "v0", "v0", "V0", "v1", "v1", "v1", "v2"]);
    let one = (definitions, values).prop_map(|(d, v)| (d.to_owned(), v.to_owned()));
    prop::collection::vec(one, 1..4)
}

fn written(policy: &[Definition]) -> String {
    let condition = |Asked(selector, operator, texts): &Asked| json!({"selector": selector, "operator": operator, "values": texts});
    let group = |(operator, conditions): &(&str, Vec<Asked>)| {
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        json!({"operator": operator, "conditions": conditions})
    };
    let mapping = |mapping: &Mapped| {
        let sets: Vec<_> = mapping
            .sets
            .iter()
            .map(|set| json!({"groups": set.iter().map(group).collect::<Vec<_>>()}))
            .collect();
        json!({"actions": mapping.actions, "subject_sets": sets})
    };
    let value = |value: &Valued| {
        let mappings: Vec<_> = value.mappings.iter().map(mapping).collect();
        json!({"value": value.name, "active": value.active, "subject_mappings": mappings})
    };
    let definition = |one: &Definition| {
        json!({
            "fqn": format!("https://acme.test/attr/{}", one.name),
            "rule": one.rule,
            "active": one.active,
            "values": one.values.iter().map(value).collect::<Vec<_>>(),
        })
    };
    json!({"attributes": policy.iter().map(definition).collect::<Vec<_>>()}).to_string()
}

fn permits(policy: &[Definition], subjects: &[Vec<Value>], resource: &[(String, String)]) -> bool {
    let policy = Entitlements::parse(&written(policy)).unwrap();
    let maps = |records: &Vec<Value>| -> Vec<Map<String, Value>> {
        records.iter().map(|claims| claims.as_object().unwrap().clone()).collect()
    };
    let subjects: Vec<_> = subjects.iter().map(maps).collect();
    let entities: Vec<_> = subjects
        .iter()
        .map(|records| Entity {
            category: Category::Subject,
            records: records.iter().map(Record::new).collect(),
        })
        .collect();
    let fqns = resource
        .iter()
        .map(|(definition, value)| format!("https://acme.test/attr/{definition}/value/{value}"))
        .collect();
    let request = Request {
        entities: &entities,
        action: "read",
        client_id: "",
        resources: &[fqns],
        fulfillable: &[],
    };
    policy.decide(&request, LocalOptions::default())[0].permit
}

fn one(claims: &Value) -> Vec<Vec<Value>> {
    vec![vec![claims.clone()]]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_naive_evaluator_agrees(
        policy in policy(),
        subjects in prop::collection::vec(prop::collection::vec(claims(), 0..3), 0..3),
        resource in resource(),
    ) {
        let naive = naive::permits(&policy, &subjects, "read", &resource);
        prop_assert_eq!(permits(&policy, &subjects, &resource), naive);
    }

    #[test]
    fn a_naive_evaluator_agrees_on_one_caller(
        policy in policy(),
        claims in claims(),
        resource in resource(),
    ) {
        let naive = naive::permits(&policy, &one(&claims), "read", &resource);
        prop_assert_eq!(permits(&policy, &one(&claims), &resource), naive);
    }

    #[test]
    fn order_means_nothing(
        (policy, shuffled) in policy().prop_flat_map(|policy| (Just(policy.clone()), Just(policy).prop_shuffle())),
        claims in claims(),
        (resource, mixed) in resource().prop_flat_map(|fqns| (Just(fqns.clone()), Just(fqns).prop_shuffle())),
    ) {
        let before = permits(&policy, &one(&claims), &resource);
        prop_assert_eq!(permits(&policy, &one(&claims), &mixed), before);
        prop_assert_eq!(permits(&shuffled, &one(&claims), &resource), before);
    }

    #[test]
    fn an_unknown_value_permits_nothing(
        policy in policy(),
        claims in claims(),
        mut resource in resource(),
        at in any::<prop::sample::Index>(),
        unknown in select(vec![("d0", "v9"), ("d9", "v0"), ("d1", ""), ("", "")]),
    ) {
        let at = at.index(resource.len() + 1);
        resource.insert(at, (unknown.0.to_owned(), unknown.1.to_owned()));
        prop_assert!(!permits(&policy, &one(&claims), &resource));
    }

    #[test]
    fn hierarchies_are_monotone(definition in definition("d0"), claims in claims()) {
        let definition = Definition {
            rule: "hierarchy",
            active: true,
            values: definition.values.into_iter().map(|one| Valued { active: true, ..one }).collect(),
            ..definition
        };
        let count = definition.values.len();
        let policy = [definition];
        let may: Vec<bool> = (0..count)
            .map(|index| permits(&policy, &one(&claims), &[("d0".to_owned(), format!("v{index}"))]))
            .collect();
        prop_assert!(may.is_sorted(), "who may read the higher may read the lower: {:?}", may);
    }

    #[test]
    fn parsing_is_total(text in any::<String>()) {
        let _ = Entitlements::parse(&text);
    }

    #[test]
    fn parsing_what_is_nearly_a_document_is_total(
        policy in policy(),
        at in any::<prop::sample::Index>(),
        length in 0_usize..20,
        new in "[\\[\\]{}:,&*!|>'\"#%@` \n\ta-z0-9-]{0,8}",
    ) {
        let mut text: Vec<char> = written(&policy).chars().collect();
        let at = at.index(text.len());
        text.splice(at..(at + length).min(text.len()), new.chars());
        let _ = Entitlements::parse(&text.into_iter().collect::<String>());
    }
}

/// The properties would say little if random questions were all denied.
#[test]
fn random_questions_are_both_permitted_and_denied() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut permitted = 0;
    for _ in 0..200 {
        let (policy, claims, resource) =
            (policy(), claims(), resource()).new_tree(&mut runner).unwrap().current();
        permitted += usize::from(permits(&policy, &one(&claims), &resource));
    }
    assert!((30..170).contains(&permitted), "{permitted} of 200");
}
