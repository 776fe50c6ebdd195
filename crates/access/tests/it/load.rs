//! Documents that are no policy, and ones that are.

use kasbah_access::Entitlements;

use crate::policy::{parse, permits, shared};

/// A document of which every part can be replaced.
const SOUND: &str = "\
namespaces:
  - name: acme.test
    active: true
    keys: [k0]
attributes:
  - fqn: https://acme.test/attr/team
    rule: any_of
    active: true
    allow_traversal: false
    keys: [k1]
    values:
      - value: red
        active: true
        keys: [k2]
        subject_mappings:
          - actions: [read]
            subject_sets:
              - groups:
                  - operator: and
                    conditions:
                      - {selector: '.groups[]', operator: in, values: [red-team]}
                      - {selector: .email, operator: in_contains, values: ['@acme.test']}
      - value: blue
obligations:
  - fqn: https://acme.test/obl/drm
    values:
      - value: wm
        triggers:
          - {action: read, attribute_value: 'https://acme.test/attr/team/value/red', clients: [app1]}
";

const MAPPING: &str = "attributes[0].values[0].subject_mappings[0]";
const CONDITION: &str =
    "attributes[0].values[0].subject_mappings[0].subject_sets[0].groups[0].conditions";
const TRIGGER: &str = "obligations[0].values[0].triggers[0]";

fn refused(document: &str) -> String {
    Entitlements::parse(document).expect_err(document).to_string()
}

/// What is replaced by what, the path of the problem, and a part of its text.
fn check(rows: &[(&str, &str, &str, &str)]) {
    parse(SOUND);
    for (old, new, path, text) in rows {
        assert!(SOUND.contains(old), "{old} is in the document");
        let error = refused(&SOUND.replacen(old, new, 1));
        assert!(error.starts_with(&format!("`{path}`: ")), "{new}: {path} is not in {error}");
        assert!(error.contains(text), "{new}: {text} is not in {error}");
    }
}

#[test]
fn what_has_not_the_form() {
    let condition_0 = format!("{CONDITION}[0]");
    let operator = "attributes[0].values[0].subject_mappings[0].subject_sets[0].groups[0].operator";
    let set = "attributes[0].values[0].subject_mappings[0].subject_sets[0]";
    check(&[
        ("obligations:", "obligation:", "obligation", "unknown field"),
        ("name: acme.test", "nam: acme.test", "namespaces[0].nam", "unknown field"),
        ("    keys: [k0]", "    key: [k0]", "namespaces[0].key", "unknown field"),
        ("rule:", "rules:", "attributes[0].rules", "unknown field"),
        ("allow_traversal:", "allowTraversal:", "attributes[0].allowTraversal", "unknown field"),
        (
            "- value: blue",
            "- {value: blue, fqn: x}",
            "attributes[0].values[1].fqn",
            "unknown field",
        ),
        ("actions:", "action:", &format!("{MAPPING}.action"), "unknown field"),
        ("- groups:", "- group:", &format!("{set}.group"), "unknown field"),
        ("{selector:", "{select:", &format!("{condition_0}.select"), "unknown field"),
        ("clients:", "client:", &format!("{TRIGGER}.client"), "unknown field"),
        ("    rule: any_of\n", "", "attributes[0]", "missing field `rule`"),
        (
            "  - fqn: https://acme.test/attr/team\n    rule",
            "  - rule",
            "attributes[0]",
            "missing field `fqn`",
        ),
        ("name: acme.test\n    active", "active", "namespaces[0]", "missing field `name`"),
        (
            "actions: [read]\n            subject_sets",
            "subject_sets",
            MAPPING,
            "missing field `actions`",
        ),
        ("operator: in, ", "", &condition_0, "missing field `operator`"),
        (", values: [red-team]", "", &condition_0, "missing field `values`"),
        ("action: read, ", "", TRIGGER, "missing field `action`"),
        ("any_of", "most_of", "attributes[0].rule", "unknown variant"),
        ("any_of", "ANY_OF", "attributes[0].rule", "unknown variant"),
        ("any_of", "[any_of]", "attributes[0].rule", "expected scalar"),
        ("operator: and", "operator: xor", operator, "unknown variant"),
        (
            "operator: in,",
            "operator: equals,",
            &format!("{condition_0}.operator"),
            "unknown variant",
        ),
        ("active: true", "active: yes", "namespaces[0].active", "true or false expected"),
        ("active: true", "active: 1", "namespaces[0].active", "true or false expected"),
        ("[k1]", "k1", "attributes[0].keys", "expected sequence"),
        ("[k1]", "[null]", "attributes[0].keys[0]", "null is not allowed here"),
        ("[k1]", "[[k1]]", "attributes[0].keys[0]", "expected string"),
        ("value: red", "value: {a: b}", "attributes[0].values[0].value", "expected string"),
        (
            "    active: true\n    allow",
            "    active: true\n    active: true\n    allow",
            "attributes[0].active",
            "is given twice; remove one, at line 9",
        ),
        (
            "{action: read,",
            "{action: read, action: read,",
            &format!("{TRIGGER}.action"),
            "is given twice",
        ),
        (
            "keys: [k2]",
            "keys: [k2]\n        keys: [k3]",
            "attributes[0].values[0].keys",
            "is given twice",
        ),
        ("[k1]", "&a [k1]", "attributes[0]", "anchors and aliases are not allowed; write out"),
        ("[k1]", "*a", "attributes[0]", ""),
    ]);
}

#[test]
fn what_makes_no_sense() {
    let set = format!("{MAPPING}.subject_sets[0]");
    let group = format!("{set}.groups[0]");
    let whole_sets =
        SOUND.split("subject_sets:").nth(1).unwrap().split("      - value: blue").next().unwrap();
    let groups = whole_sets.split("groups:").nth(1).unwrap();
    let conditions = whole_sets.split("conditions:").nth(1).unwrap();
    let long = format!(".{}", "a".repeat(1024));
    check(&[
        ("name: acme.test", "name: acme", "namespaces[0].name", "use a DNS name"),
        ("name: acme.test", "name: https://acme.test", "namespaces[0].name", "use a DNS name"),
        (
            "  - name: acme.test",
            "  - name: ACME.test\n  - name: acme.test",
            "namespaces[1].name",
            "twice",
        ),
        ("[k0]", "['']", "namespaces[0].keys[0]", "is no key id"),
        ("[k1]", "[k0, ' k1']", "attributes[0].keys[1]", "is no key id"),
        ("[k2]", "[k2, k1, k2]", "attributes[0].values[0].keys[2]", "remove one"),
        (
            "/attr/team",
            "/attr/te am",
            "attributes[0].fqn",
            "is malformed; use `https://<namespace>/attr/<name>`",
        ),
        ("/attr/team", "/attr/team/value/red", "attributes[0].fqn", "is malformed"),
        ("/attr/team", "/obl/team", "attributes[0].fqn", "is malformed"),
        ("https://acme.test/attr", "http://acme.test/attr", "attributes[0].fqn", "is malformed"),
        ("https://acme.test/attr", "https://acme/attr", "attributes[0].fqn", "is malformed"),
        (
            "attributes:\n",
            "attributes:\n  - {fqn: 'https://ACME.test/attr/Team', rule: all_of}\n",
            "attributes[1].fqn",
            "twice",
        ),
        ("value: blue", "value: RED", "attributes[0].values[1].value", "twice"),
        (
            "value: blue",
            "value: -blue",
            "attributes[0].values[1].value",
            "is no name; use 1 to 253",
        ),
        ("value: blue", "value: ''", "attributes[0].values[1].value", "is no name"),
        ("value: blue", "value: a/b", "attributes[0].values[1].value", "is no name"),
        ("[read]", "[]", &format!("{MAPPING}.actions"), "is empty"),
        ("[read]", "[read, 'do it']", &format!("{MAPPING}.actions[1]"), "is no name"),
        (whole_sets, " []\n", &format!("{MAPPING}.subject_sets"), "is empty"),
        (groups, " []\n", &format!("{set}.groups"), "is empty"),
        (conditions, " []\n", &format!("{group}.conditions"), "is empty"),
        ("[red-team]", "[]", &format!("{CONDITION}[0].values"), "is empty"),
        (
            "['@acme.test']",
            "[x, '']",
            &format!("{CONDITION}[1].values[1]"),
            "which every claim contains",
        ),
        (".email", "email", &format!("{CONDITION}[1].selector"), "begin with a dot"),
        (".email", "''", &format!("{CONDITION}[1].selector"), "begin with a dot"),
        (".email", ".", &format!("{CONDITION}[1].selector"), "begin with a dot"),
        (".email", &long, &format!("{CONDITION}[1].selector"), "is longer than 1024 bytes"),
        (
            "/obl/drm",
            "/attr/drm",
            "obligations[0].fqn",
            "is malformed; use `https://<namespace>/obl/<name>`",
        ),
        (
            "obligations:\n",
            "obligations:\n  - fqn: https://acme.test/obl/DRM\n",
            "obligations[1].fqn",
            "twice",
        ),
        (
            "      - value: wm\n",
            "      - value: WM\n      - value: wm\n",
            "obligations[0].values[1].value",
            "twice",
        ),
        ("value: wm", "value: w_", "obligations[0].values[0].value", "is no name"),
        ("action: read,", "action: '', ", &format!("{TRIGGER}.action"), "is no name"),
        (
            "value/red",
            "value/pink",
            &format!("{TRIGGER}.attribute_value"),
            "define it or correct the FQN",
        ),
        ("/attr/team/value/red", "/attr/team", &format!("{TRIGGER}.attribute_value"), "define it"),
        ("[app1]", "[]", &format!("{TRIGGER}.clients"), "leave it out to mean every client"),
        ("[app1]", "[app1, ' ']", &format!("{TRIGGER}.clients[1]"), "use the id of a client"),
    ]);
}

#[test]
fn all_that_makes_no_sense_is_reported_at_once() {
    let document = SOUND
        .replace("[k1]", "['']")
        .replace("value: blue", "value: 'b l'")
        .replace("['@acme.test']", "['']")
        .replace("[app1]", "[]");
    let error = Entitlements::parse(&document).unwrap_err();
    let paths: Vec<_> =
        error.problems().iter().map(|problem| problem.split('`').nth(1).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "attributes[0].keys[0]",
            &format!("{CONDITION}[1].values[0]"),
            "attributes[0].values[1].value",
            &format!("{TRIGGER}.clients"),
        ]
    );
    assert_eq!(error.to_string().lines().count(), 4);
}

#[test]
fn problems_are_bounded() {
    let names = "'a b', ".repeat(150);
    let error = Entitlements::parse(&SOUND.replace("[read]", &format!("[{names}]"))).unwrap_err();
    assert_eq!(error.problems().len(), 100);
    assert!(error.to_string().ends_with("\nand 50 more"), "{error}");
}

#[test]
fn texts_of_claims_are_not_quoted() {
    for (old, new) in [
        ("[red-team]", "{secret-group: x}"),
        ("red-team]", "secret-group, {}]"),
        ("[red-team]", "secret-group"),
    ] {
        let error = refused(&SOUND.replace(old, new));
        assert!(!error.contains("secret-group"), "{error}");
    }
}

#[test]
fn documents_are_bounded() {
    let nested = format!("attributes: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let laugh = |level: usize| format!("- &a{} [*a{level}, *a{level}]\n", level + 1);
    let laughs = format!(
        "namespaces:\n- &a0 {{name: acme.test}}\n{}",
        (0..40).map(laugh).collect::<Vec<_>>().concat()
    );
    let block = |level: usize| format!("{}a:\n", " ".repeat(level));
    let blocks = (0..200).map(block).collect::<Vec<_>>().concat();
    let merged = "attributes: [{<<: {fqn: 'https://acme.test/attr/a'}, rule: any_of}]".to_owned();
    let many = format!("attributes: [{}]", "1,".repeat(5_000_000));
    for document in [nested, laughs, blocks, merged, many] {
        Entitlements::parse(&document).unwrap_err();
    }
    let error = refused(&format!("{SOUND}#{}", " ".repeat(16 * 1024 * 1024)));
    assert!(error.contains("is larger than 16777216 bytes"), "{error}");
}

#[test]
fn what_is_no_document() {
    for document in [
        "[]",
        "text",
        "1",
        "{",
        "attributes: [",
        "attributes: {}",
        "a: b: c",
        "\u{0}",
        "--- {}\n--- {}\n",
        "!!x {}\n...\n{}",
    ] {
        Entitlements::parse(document).expect_err(document);
    }
}

#[test]
fn json_is_a_document() {
    let json = "{\n\t\"attributes\": [\n\t\t{\"fqn\": \"https:\\/\\/acme.test/attr/a\", \"rule\": \"any_of\",\n\t\t \"values\": [{\"value\": \"x\", \"subject_mappings\": [{\"actions\": [\"read\"], \"subject_sets\": [{\"groups\": [{\"operator\": \"and\", \"conditions\": [{\"selector\": \".a\", \"operator\": \"in\", \"values\": [\"\\u00e9\\ud83d\\ude00\"]}]}]}]}]}]}\n\t]\n}\n";
    let policy = parse(json);
    let claims = serde_json::json!({"a": "é😀"});
    assert!(permits(&policy, &claims, &["a/x"]));
    parse("{}");
    parse(&shared());
}

#[test]
fn scalars_are_texts_as_they_are_written() {
    for (written, claim) in [
        ("042", "042"),
        ("1e3", "1e3"),
        ("0x1F", "0x1F"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("1.50", "1.50"),
        ("true", "true"),
        ("2020-01-01", "2020-01-01"),
    ] {
        let policy = parse(&SOUND.replace("[red-team]", &format!("[{written}]")));
        let claims = serde_json::json!({"groups": [claim], "email": "x@acme.test"});
        assert!(permits(&policy, &claims, &["t/red"]), "{written}");
    }
}
