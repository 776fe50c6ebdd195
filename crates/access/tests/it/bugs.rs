//! What the platform does that is better done otherwise, and switches for more.

use kasbah_access::LocalOptions;
use serde_json::{Value, json};

use crate::policy::{decide, fqn, parse, permits, resource, shared};

const STRICT: LocalOptions = LocalOptions { strict_guards: true, nested_only: false };

fn permits_with(options: LocalOptions, claims: &Value, short: &str) -> bool {
    decide(&parse(&shared()), claims, &[resource(&[short])], options)[0].permit
}

fn is(selector: &str, operator: &str, value: &str) -> String {
    format!(
        "subject_mappings: [{{actions: [read], subject_sets: [{{groups: [{{operator: and, \
         conditions: [{{selector: '{selector}', operator: {operator}, values: ['{value}']}}]}}]}}]}}]"
    )
}

fn level(active: &str) -> String {
    format!(
        "attributes:
  - fqn: https://acme.test/attr/level
    rule: hierarchy
    values:
      - {{value: top, active: {active}, {}}}
      - {{value: mid}}
      - {{value: low, {}}}
",
        is(".rank", "in", "colonel"),
        is(".rank", "in", "private")
    )
}

#[test]
fn an_inactive_definition_denies_only_what_it_is_on() {
    let inactive = "  - {fqn: 'https://acme.test/attr/old', rule: any_of, active: false, \
                    values: [{value: x, MAPPING}]}\n";
    let inactive = inactive.replace("MAPPING", &is(".groups[]", "in", "red-team"));
    let policy = parse(&(shared() + &inactive));
    let claims = json!({"groups": ["red-team"]});
    assert!(!permits(&policy, &claims, &["old/x"]));
    assert!(!permits(&policy, &claims, &["t/red", "old/x"]));
    assert!(permits(&policy, &claims, &["t/red"]));
    let active = parse(&(shared() + &inactive.replace("false", "true")));
    assert!(permits(&active, &claims, &["old/x"]), "it is the flag that denies");
}

#[test]
fn an_inactive_namespace_denies_what_is_in_it() {
    let claims = json!({"groups": ["red-team"]});
    for (active, permitted) in [("true", true), ("false", false)] {
        let policy = format!("namespaces: [{{name: ACME.test, active: {active}}}]\n{}", shared());
        assert_eq!(permits(&parse(&policy), &claims, &["t/red"]), permitted);
    }
}

#[test]
fn an_inactive_value_is_unknown_and_entitles_to_nothing() {
    let colonel = json!({"rank": "colonel"});
    assert!(permits(&parse(&level("true")), &colonel, &["l/low"]));
    let policy = parse(&level("false"));
    for denied in ["l/top", "l/mid", "l/low"] {
        assert!(!permits(&policy, &colonel, &[denied]), "{denied}");
    }
}

#[test]
fn an_inactive_value_keeps_its_place() {
    let policy = parse(&level("true").replace("{value: mid}", "{value: mid, active: false}"));
    assert!(permits(&policy, &json!({"rank": "colonel"}), &["l/low"]));
    assert!(permits(&policy, &json!({"rank": "private"}), &["l/low"]));
    assert!(!permits(&policy, &json!({"rank": "private"}), &["l/top"]));
    assert!(!permits(&policy, &json!({"rank": "colonel"}), &["l/mid"]));
}

#[test]
fn null_claims_are_skipped() {
    let policy = parse(&shared());
    for claims in [
        json!({"groups": ["red-team"], "x": null}),
        json!({"groups": [null, "red-team"], "x": {"y": [null]}}),
    ] {
        assert!(permits(&policy, &claims, &["t/red"]), "{claims}");
    }
    assert!(!permits(&policy, &json!({"groups": null}), &["t/red"]));
}

#[test]
fn a_value_out_of_a_hierarchys_order_is_denied() {
    let policy = parse(&shared());
    for claims in [json!({"rank": "colonel"}), json!({"rank": "private"}), json!({})] {
        assert!(!permits(&policy, &claims, &["l/unlisted"]));
        assert!(!permits(&policy, &claims, &["l/low", "l/unlisted"]));
    }
}

#[test]
fn evaluating_changes_neither_policy_nor_question() {
    let policy = parse(&shared());
    let resources = [vec![fqn("t/red").to_uppercase()]];
    let before = (format!("{policy:?}"), resources.clone());
    for _ in 0..3 {
        let claims = json!({"groups": ["red-team"]});
        assert!(decide(&policy, &claims, &resources, LocalOptions::default())[0].permit);
    }
    assert_eq!((format!("{policy:?}"), resources), before);
}

#[test]
fn a_resource_without_values_is_denied() {
    let policy = parse(&shared());
    let resources = [vec![], resource(&["t/red"]), vec![]];
    let decisions =
        decide(&policy, &json!({"groups": ["red-team"]}), &resources, LocalOptions::default());
    assert_eq!(decisions.iter().map(|one| one.permit).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn strict_guards_compare_numbers_and_booleans() {
    let default = LocalOptions::default();
    for age in [json!(42), json!(42.0)] {
        let claims = json!({"age": age});
        assert!(!permits_with(default, &claims, "m/b"));
        assert!(permits_with(STRICT, &claims, "m/b"));
        assert!(permits_with(default, &claims, "m/d"), "fails open");
        assert!(!permits_with(STRICT, &claims, "m/d"));
    }
    assert!(permits_with(STRICT, &json!({"age": 41}), "m/d"));
    let policy = parse(&shared().replace("['yes']", "['true']"));
    for (options, permitted) in [(default, true), (STRICT, false)] {
        let decided = decide(&policy, &json!({"banned": true}), &[resource(&["m/a"])], options);
        assert_eq!(decided[0].permit, permitted);
    }
}

#[test]
fn strict_guards_want_the_claim() {
    for claims in [json!({}), json!({"banned": null}), json!({"banned": []}), json!({"banned": {}})]
    {
        assert!(permits_with(LocalOptions::default(), &claims, "m/a"), "{claims}");
        assert!(!permits_with(STRICT, &claims, "m/a"), "{claims}");
    }
    assert!(permits_with(STRICT, &json!({"banned": "no"}), "m/a"));
}

#[test]
fn guards_that_fail_open_are_warned_of() {
    let policy = parse(&shared());
    let warnings = policy.warnings(LocalOptions::default());
    let paths: Vec<_> = warnings.iter().map(|text| text.split('`').nth(1).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "attributes[3].values[0].subject_mappings[0]",
            "attributes[3].values[3].subject_mappings[0]"
        ]
    );
    assert!(warnings[0].contains("fails open when the claim is missing or a number"));
    assert_eq!(policy.warnings(STRICT), Vec::<String>::new());
}

#[test]
fn claims_that_are_never_presented_are_warned_of() {
    for selector in [".aud", ".exp", ".iat", ".nbf"] {
        let policy = parse(&shared().replace(".rank", selector));
        let warnings = policy.warnings(STRICT);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with(
            "`attributes[2].values[0].subject_mappings[0].subject_sets[0].groups[0].conditions[0]\
             .selector`"
        ));
    }
    assert!(parse(&shared().replace(".rank", ".aud[]")).warnings(STRICT).is_empty());
}

#[test]
fn upper_case_in_a_policy_still_entitles() {
    let policy = shared()
        .replace("https://acme.test/attr/team", "HTTPS://Acme.TEST/attr/Team")
        .replace("value: red", "value: Red")
        .replace("[read]", "[Read]");
    let policy = policy
        + "obligations: [{fqn: 'https://acme.test/OBL/Drm', values: [{value: WM, triggers: \
           [{action: READ, attribute_value: 'https://acme.test/attr/TEAM/value/RED'}]}]}]";
    let claims = json!({"groups": ["red-team"]});
    let decision =
        decide(&parse(&policy), &claims, &[resource(&["t/red"])], LocalOptions::default());
    assert_eq!(decision[0].obligations, [crate::policy::WM]);
}

#[test]
fn one_bad_resource_denies_only_itself() {
    let policy = parse(&shared());
    let many: Vec<_> = std::iter::repeat_n(fqn("t/red"), 200).collect();
    let long = format!("{}{}", fqn("t/red"), "d".repeat(100_000));
    let mut resources: Vec<Vec<String>> = [
        "",
        " ",
        "no uri",
        "https://acme.test/attr/team",
        "https://acme.test/attr/team/value/",
        "http://acme.test/attr/team/value/red",
        " https://acme.test/attr/team/value/red",
        "https://acme.test/attr/team/value/red/",
        "https://acme.test/attr/team/value/r%65d",
        // A Kelvin sign and a dotted capital I lower to ASCII in some libraries.
        "https://acme.test/attr/team/value/bl\u{212a}",
        &long,
    ]
    .iter()
    .map(|bad| vec![fqn("t/red"), (*bad).to_owned()])
    .collect();
    let bad = resources.len();
    resources.extend([many, resource(&["t/red"])]);
    let decisions =
        decide(&policy, &json!({"groups": ["red-team"]}), &resources, LocalOptions::default());
    let permitted: Vec<_> = decisions.iter().map(|one| one.permit).collect();
    assert_eq!(permitted, [vec![false; bad], vec![true, true]].concat());
}

#[test]
fn claims_beyond_the_bounds_entitle_to_nothing() {
    let mut deep = json!("x");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let selector = format!(".deep{}", "[]".repeat(100));
    let policy = shared().replace(".age", &selector);
    let claims = json!({"groups": ["red-team"], "deep": deep});
    assert!(!permits(&parse(&policy), &claims, &["m/d"]), "a guard does not fail open on it");
    assert!(!permits(&parse(&policy), &claims, &["t/red"]));
    assert!(permits(&parse(&shared()), &claims, &["t/red"]), "nothing looks there");
}

#[test]
fn dotted_names_merge_unless_only_nesting_counts() {
    let policy = parse(&shared().replace(".rank", ".army.rank"));
    let nested = json!({"army": {"rank": "colonel"}});
    let dotted = json!({"army.rank": "colonel"});
    for (nested_only, permitted) in [(false, true), (true, false)] {
        let options = LocalOptions { strict_guards: false, nested_only };
        let low = [resource(&["l/low"])];
        assert!(decide(&policy, &nested, &low, options)[0].permit);
        assert_eq!(decide(&policy, &dotted, &low, options)[0].permit, permitted);
    }
}

#[test]
fn a_value_that_clients_may_assume_is_denied_until_it_exists() {
    let policy =
        parse(&shared().replace("rule: any_of", "allow_traversal: true\n    rule: any_of"));
    assert!(!permits(&policy, &json!({"groups": ["red-team"]}), &["t/new"]));
    assert!(policy.definition("https://acme.test/attr/TEAM").unwrap().allow_traversal);
}
