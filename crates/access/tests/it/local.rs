//! The question of a KAS.

use std::{sync::Arc, time::Instant};

use kasbah_access::{
    Decision, Decisions, Entitlements, LocalDecisions, LocalOptions, Question, Rule, Subject,
};
use serde_json::{Value, json};

use crate::policy::{WM, obliged, parse, resource, shared};

async fn ask(local: &LocalDecisions, claims: Value, client: &str, short: &str) -> Decision {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let subject = Subject {
        claims: Arc::new(claims),
        client_id: client.to_owned(),
        token: Arc::new(String::new().into()),
    };
    let resources = [resource(&[short])];
    let question = Question {
        subject: &subject,
        resources: &resources,
        fulfillable: &[],
        deadline: Instant::now(),
    };
    let mut decisions = local.decide(question).await.unwrap();
    assert_eq!(decisions.len(), 1);
    decisions.remove(0)
}

fn local(policy: &str) -> LocalDecisions {
    LocalDecisions::new(parse(policy), LocalOptions::default())
}

#[tokio::test]
async fn claims_are_presented_as_claims_mode_does() {
    for (selector, claims, permitted) in [
        (".aud[]", json!({"aud": "colonel"}), true),
        (".aud[]", json!({"aud": ["x", "colonel"]}), true),
        (".aud", json!({"aud": "colonel"}), false),
        (".sub", json!({"sub": "colonel"}), true),
        (".azp", json!({"azp": "colonel"}), true),
        (".exp", json!({"exp": "colonel"}), false),
    ] {
        let local = local(&shared().replace(".rank", selector));
        assert_eq!(ask(&local, claims, "", "l/top").await.permit, permitted, "{selector}");
    }
    let malformed = json!({"sub": 1, "rank": "colonel"});
    assert!(!ask(&local(&shared()), malformed, "", "l/top").await.permit);
    assert!(!ask(&local(&shared()), json!({"aud": {}}), "", "m/a").await.permit);
}

#[tokio::test]
async fn the_client_and_the_options_count() {
    let red = || json!({"groups": ["red-team"]});
    let local = local(&obliged(
        "{action: read, attribute_value: 'https://acme.test/attr/team/value/red', clients: [app1]}",
    ));
    assert_eq!(ask(&local, red(), "app1", "t/red").await.obligations, [WM]);
    assert!(ask(&local, red(), "app2", "t/red").await.permit);
    let strict = LocalOptions { strict_guards: true, nested_only: false };
    let strict = LocalDecisions::new(parse(&shared()), strict);
    assert!(ask(&local, json!({}), "app2", "m/a").await.permit);
    assert!(!ask(&strict, json!({}), "app2", "m/a").await.permit);
}

#[tokio::test]
async fn entitlements_are_replaced_whole() {
    let local = local(&shared());
    let before = local.entitlements();
    let red = || json!({"groups": ["red-team"]});
    assert!(ask(&local, red(), "", "t/red").await.permit);
    local.replace(Entitlements::default());
    assert!(!ask(&local, red(), "", "t/red").await.permit);
    assert!(before.value("https://acme.test/attr/team/value/red").is_some());
    assert!(local.entitlements().value("https://acme.test/attr/team/value/red").is_none());
}

#[test]
fn definitions_can_be_read() {
    let policy = parse(
        "namespaces: [{name: acme.test, keys: [of-namespace]}]
attributes:
  - {fqn: 'https://acme.test/attr/a', rule: hierarchy, keys: [of-attribute], values: [{value: x, keys: [of-value, two]}, {value: Y, active: false}]}
  - {fqn: 'https://acme.test/attr/b', rule: all_of, values: [{value: x}]}
  - {fqn: 'https://other.test/attr/b', rule: any_of, values: [{value: x}]}
",
    );
    let keys = |fqn: &str| policy.value(fqn).unwrap().1.keys.clone();
    assert_eq!(keys("https://acme.test/attr/a/value/x"), ["of-value", "two"]);
    assert_eq!(keys("HTTPS://ACME.test/attr/A/value/y"), ["of-attribute"]);
    assert_eq!(keys("https://acme.test/attr/b/value/x"), ["of-namespace"]);
    assert_eq!(keys("https://other.test/attr/b/value/x"), Vec::<String>::new());
    let definition = policy.definition("https://acme.test/attr/a").unwrap();
    assert_eq!(definition.rule, Rule::Hierarchy);
    let values: Vec<_> =
        definition.values.iter().map(|value| (value.fqn.as_str(), value.active)).collect();
    assert_eq!(
        values,
        [("https://acme.test/attr/a/value/x", true), ("https://acme.test/attr/a/value/y", false)]
    );
    assert!(policy.definition("https://acme.test/attr/c").is_none());
    assert!(policy.value("https://acme.test/attr/a/value/z").is_none());
}
