//! The policy that the cases share, and short ways to ask.

use kasbah_access::{Category, Decision, Entitlements, Entity, LocalOptions, Record, Request};
use serde_json::Value;

/// `team`, `need`, `level` and `misc` of `acme.test`.
pub(crate) fn shared() -> String {
    let one = |actions: &str, selector: &str, operator: &str, value: &str| {
        format!(
            "{{actions: [{actions}], subject_sets: [{{groups: [{{operator: and, conditions: \
             [{{selector: '{selector}', operator: {operator}, values: ['{value}']}}]}}]}}]}}"
        )
    };
    let value = |name: &str, mappings: &[String]| {
        format!("      - value: {name}\n        subject_mappings: [{}]\n", mappings.join(", "))
    };
    let is = |selector: &str, text: &str| one("read", selector, "in", text);
    let misc = |name: &str, selector: &str, operator: &str, text: &str| {
        value(name, &[one("read", selector, operator, text)])
    };
    let condition =
        |selector: &str| format!("{{selector: {selector}, operator: in, values: ['1']}}");
    let (x, y) = (condition(".x"), condition(".y"));
    let attribute = |name: &str, rule: &str, values: &[String]| {
        format!(
            "  - fqn: https://acme.test/attr/{name}\n    rule: {rule}\n    values:\n{}",
            values.concat()
        )
    };
    [
        "attributes:\n".to_owned(),
        attribute(
            "team",
            "any_of",
            &[
                value("red", &[is(".groups[]", "red-team")]),
                value("blue", &[is(".groups[]", "blue-team")]),
                value("green", &[]),
            ],
        ),
        attribute(
            "need",
            "all_of",
            &[
                value("alpha", &[one("READ", ".tags[]", "in", "alpha")]),
                value(
                    "beta",
                    &[one("create", ".tags[]", "in", "beta"), is(".tags[]", "beta-reader")],
                ),
            ],
        ),
        attribute(
            "level",
            "hierarchy",
            &[
                value("top", &[is(".rank", "colonel")]),
                value("mid", &[is(".rank", "captain")]),
                value("low", &[is(".rank", "private")]),
            ],
        ),
        attribute(
            "misc",
            "any_of",
            &[
                misc("a", ".banned", "not_in", "yes"),
                misc("b", ".age", "in", "42"),
                misc("c", ".age", "in_contains", "42"),
                misc("d", ".age", "not_in", "42"),
                value(
                    "h",
                    &[format!(
                        "{{actions: [read], subject_sets: [\
                         {{groups: [{{operator: and, conditions: [{x}]}}]}}, \
                         {{groups: [{{operator: and, conditions: [{y}]}}]}}]}}"
                    )],
                ),
                value(
                    "i",
                    &[format!(
                        "{{actions: [read], subject_sets: [\
                         {{groups: [{{operator: or, conditions: [{x}, {y}]}}]}}]}}"
                    )],
                ),
            ],
        ),
    ]
    .concat()
}

/// The shared policy with an obligation that `trigger` brings.
pub(crate) fn obliged(trigger: &str) -> String {
    format!(
        "{}obligations:\n  - fqn: https://acme.test/obl/drm\n    values: [{{value: wm, \
         triggers: [{trigger}]}}]\n",
        shared()
    )
}

/// The obligation of [`obliged`].
pub(crate) const WM: &str = "https://acme.test/obl/drm/value/wm";

/// The FQN that `t/red` is short for.
pub(crate) fn fqn(short: &str) -> String {
    let (attribute, value) = short.split_once('/').unwrap();
    let attribute = match attribute {
        "t" => "team",
        "n" => "need",
        "l" => "level",
        "m" => "misc",
        other => other,
    };
    format!("https://acme.test/attr/{attribute}/value/{value}")
}

/// The FQNs of a resource.
pub(crate) fn resource(shorts: &[&str]) -> Vec<String> {
    shorts.iter().map(|short| fqn(short)).collect()
}

pub(crate) fn parse(text: &str) -> Entitlements {
    Entitlements::parse(text).unwrap()
}

/// Decisions on one subject with one record.
pub(crate) fn decide(
    policy: &Entitlements,
    claims: &Value,
    resources: &[Vec<String>],
    options: LocalOptions,
) -> Vec<Decision> {
    let records = vec![Record::new(claims.as_object().unwrap())];
    let entities = [Entity { category: Category::Subject, records }];
    let request = Request {
        entities: &entities,
        action: "read",
        client_id: "app",
        resources,
        fulfillable: &[],
    };
    policy.decide(&request, options)
}

/// Whether one resource is permitted.
pub(crate) fn permits(policy: &Entitlements, claims: &Value, shorts: &[&str]) -> bool {
    decide(policy, claims, &[resource(shorts)], LocalOptions::default())[0].permit
}
