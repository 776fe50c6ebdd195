//! Cases whose decisions are those of OpenTDF's platform.

use kasbah_access::{Category, Decision, Entity, LocalOptions, Record, Request};
use serde_json::{Value, json};

use crate::policy::{WM, obliged, parse, resource, shared};

/// What is asked: subjects unless said otherwise, one record each unless said otherwise.
struct Case {
    name: &'static str,
    policy: String,
    entities: Vec<(Category, Vec<Value>)>,
    action: &'static str,
    client: &'static str,
    resources: Vec<Vec<String>>,
    fulfillable: Vec<String>,
    expected: Vec<Decision>,
}

fn permit() -> Decision {
    Decision { permit: true, obligations: Vec::new() }
}

fn with_wm(permit: bool) -> Decision {
    Decision { permit, obligations: vec![WM.to_owned()] }
}

fn case(name: &'static str, claims: Value, fqns: &[&str], permitted: bool) -> Case {
    Case {
        name,
        policy: shared(),
        entities: vec![(Category::Subject, vec![claims])],
        action: "read",
        client: "app",
        resources: vec![resource(fqns)],
        fulfillable: Vec::new(),
        expected: vec![if permitted { permit() } else { Decision::deny() }],
    }
}

fn red() -> Value {
    json!({"groups": ["red-team"]})
}

fn rules() -> Vec<Case> {
    let upper = vec!["HTTPS://ACME.TEST/ATTR/TEAM/VALUE/RED".to_owned()];
    let rank = |rank: &str| json!({"rank": rank});
    vec![
        case("1", red(), &["t/red", "t/green"], true),
        case("2", json!({"groups": ["other"]}), &["t/red", "t/blue"], false),
        case("3", json!({"tags": ["alpha", "beta-reader"]}), &["n/alpha", "n/beta"], true),
        case("4", json!({"tags": ["alpha", "beta"]}), &["n/alpha", "n/beta"], false),
        case("5", rank("colonel"), &["l/low"], true),
        case("6", rank("private"), &["l/mid"], false),
        case("7a", rank("private"), &["l/mid", "l/low"], false),
        case("7b", rank("captain"), &["l/mid", "l/low"], true),
        case("8", json!({"groups": ["red-team"], "rank": "private"}), &["t/red", "l/top"], false),
        Case {
            resources: vec![resource(&["t/red", "t/purple"]), resource(&["t/red"])],
            expected: vec![Decision::deny(), permit()],
            ..case("9", red(), &[], true)
        },
        Case { resources: vec![upper.clone()], ..case("10", red(), &[], true) },
        Case { resources: vec![upper], action: "ReAd", ..case("10, action", red(), &[], true) },
        Case { action: "decrypt", ..case("10, no alias", red(), &["t/red"], false) },
        Case { action: "", ..case("10, no action", red(), &["t/red"], false) },
        case("11", json!({"groups": ["Red-Team"]}), &["t/red"], false),
        case("11b", json!({"groups": "red-team"}), &["t/red"], false),
    ]
}

fn operators() -> Vec<Case> {
    let age = || json!({"age": 42});
    vec![
        case("12", json!({"other": "x"}), &["m/a"], true),
        case("12, empty", json!({}), &["m/a"], true),
        case("12b", json!({"banned": "yes"}), &["m/a"], false),
        case("13b", age(), &["m/b"], false),
        case("13c", age(), &["m/c"], true),
        case("13d", age(), &["m/d"], true),
        case("14h", json!({"x": "1"}), &["m/h"], false),
        case("14h, both", json!({"x": "1", "y": "1"}), &["m/h"], true),
        case("14i", json!({"x": "1"}), &["m/i"], true),
    ]
}

fn entities() -> Vec<Case> {
    let zz = || vec![json!({"groups": ["zz"]})];
    let subject = || (Category::Subject, vec![red()]);
    let of = |name, entities, fqns: &[&str], permitted| Case {
        entities,
        ..case(name, json!({}), fqns, permitted)
    };
    let x = || json!({"x": "1"});
    let y = || json!({"y": "1"});
    vec![
        of("14b", vec![(Category::Subject, vec![x(), y()])], &["m/h"], false),
        of("14b, either", vec![(Category::Subject, vec![x(), y()])], &["m/i"], true),
        of(
            "14b, values of two records",
            vec![(
                Category::Subject,
                vec![json!({"tags": ["alpha"]}), json!({"tags": ["beta-reader"]})],
            )],
            &["n/alpha", "n/beta"],
            true,
        ),
        of("15", vec![subject(), (Category::Environment, zz())], &["t/red"], true),
        of("16", vec![subject(), (Category::Subject, zz())], &["t/red"], false),
        of(
            "16, the other way round",
            vec![(Category::Subject, zz()), subject()],
            &["t/red"],
            false,
        ),
        of("16, both", vec![subject(), subject()], &["t/red"], true),
        of(
            "16, not pooled",
            vec![
                (Category::Subject, vec![json!({"tags": ["alpha"]})]),
                (Category::Subject, vec![json!({"tags": ["beta-reader"]})]),
            ],
            &["n/alpha", "n/beta"],
            false,
        ),
        of("environment only", vec![(Category::Environment, vec![red()])], &["t/red"], false),
        of("nobody", vec![], &["t/red"], false),
        of("no record", vec![(Category::Subject, vec![])], &["m/a"], false),
    ]
}

fn obligations() -> Vec<Case> {
    let on = |value: &str, clients: &str| {
        obliged(&format!(
            "{{action: read, attribute_value: 'https://acme.test/attr/team/value/{value}'{clients}}}"
        ))
    };
    let of = |name, claims, expected| Case {
        policy: on("red", ""),
        expected: vec![expected],
        ..case(name, claims, &["t/red"], true)
    };
    let scoped = |name, client, expected| Case {
        policy: on("red", ", clients: [app1]"),
        client,
        ..of(name, red(), expected)
    };
    vec![
        of("17", red(), with_wm(false)),
        Case {
            fulfillable: vec![WM.to_uppercase(), "https://acme.test/obl/x/value/y".to_owned()],
            ..of("18", red(), with_wm(true))
        },
        of("19", json!({"groups": ["zz"]}), Decision::deny()),
        scoped("20, app1", "app1", with_wm(false)),
        scoped("20, app2", "app2", permit()),
        scoped("20, APP1", "APP1", permit()),
        scoped("20, nameless", "", with_wm(false)),
        Case {
            policy: on("green", ""),
            resources: vec![resource(&["t/red", "t/green"]), resource(&["t/red"])],
            expected: vec![with_wm(false), permit()],
            ..case("21", red(), &[], true)
        },
        Case { action: "create", ..case("other action", red(), &["t/red"], false) },
    ]
}

#[test]
fn every_case() {
    let null = case(
        "22, which the platform does not decide",
        json!({"groups": ["red-team"], "mid": null}),
        &["t/red"],
        true,
    );
    let all = [rules(), operators(), entities(), obligations(), vec![null]];
    for case in all.into_iter().flatten() {
        let policy = parse(&case.policy);
        let record = |claims: &'_ Value| claims.as_object().unwrap().clone();
        let claims: Vec<Vec<_>> =
            case.entities.iter().map(|(_, records)| records.iter().map(record).collect()).collect();
        let entities: Vec<_> = case
            .entities
            .iter()
            .zip(&claims)
            .map(|((category, _), claims)| Entity {
                category: *category,
                records: claims.iter().map(Record::new).collect(),
            })
            .collect();
        let request = Request {
            entities: &entities,
            action: case.action,
            client_id: case.client,
            resources: &case.resources,
            fulfillable: &case.fulfillable,
        };
        let decisions = policy.decide(&request, LocalOptions::default());
        assert_eq!(decisions, case.expected, "case {}", case.name);
    }
}

#[test]
fn required_obligations_are_in_order_and_once() {
    let obligation = |name: &str, triggers: &[(&str, &str)]| {
        let triggers: Vec<_> = triggers
            .iter()
            .map(|(value, more)| {
                format!(
                    "{{action: READ, attribute_value: 'https://acme.test/attr/team/value/{value}'{more}}}"
                )
            })
            .collect();
        format!("{{value: {name}, triggers: [{}]}}", triggers.join(", "))
    };
    let values = [
        obligation("scoped", &[("red", ", clients: [app]")]),
        obligation("Second", &[("red", ""), ("green", "")]),
        obligation("first", &[("green", "")]),
        obligation("other", &[("blue", "")]),
    ];
    let policy = format!(
        "{}obligations: [{{fqn: 'HTTPS://acme.test/obl/DRM', values: [{}]}}]",
        shared(),
        values.join(", ")
    );
    let required = |fqns: &[&str]| {
        let decided = crate::policy::decide(
            &parse(&policy),
            &red(),
            &[resource(fqns)],
            LocalOptions::default(),
        );
        let obligations = decided[0].obligations.iter();
        obligations.map(|fqn| fqn.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(required(&["t/green", "t/red", "t/red"]), ["second", "first", "scoped"]);
    assert_eq!(required(&["t/red", "t/green"]), ["second", "scoped", "first"]);
}
