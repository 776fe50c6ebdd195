//! Decisions on one resource, by the number of its attributes, the size of the policy and the size
//! of the claims.
//!
//! `cargo bench -p kasbah-access`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::{hint::black_box, sync::Arc, time::Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use kasbah_access::{Decisions, Entitlements, LocalDecisions, LocalOptions, Question, Subject};
use serde_json::json;

fn policy(definitions: usize) -> Entitlements {
    let value = |definition: usize, value: usize| {
        let group = format!("group-{}", (definition + value) % 5);
        json!({"value": format!("v{value}"), "subject_mappings": [{
            "actions": ["read"],
            "subject_sets": [{"groups": [{"operator": "and", "conditions": [
                {"selector": ".groups[]", "operator": "in", "values": [group]},
                {"selector": format!(".realm.d{definition}"), "operator": "not_in", "values": ["x"]},
            ]}]}],
        }]})
    };
    let definition = |index: usize| {
        let rule = ["any_of", "all_of", "hierarchy"][index % 3];
        let values: Vec<_> = (0..5).map(|number| value(index, number)).collect();
        json!({"fqn": format!("https://acme.test/attr/d{index}"), "rule": rule, "values": values})
    };
    let attributes: Vec<_> = (0..definitions).map(definition).collect();
    Entitlements::parse(&json!({"attributes": attributes}).to_string()).expect("a policy")
}

fn subject(groups: usize) -> Subject {
    let groups: Vec<_> = (0..groups).map(|number| format!("group-{number}")).collect();
    let claims = json!({
        "iss": "https://idp.test",
        "sub": "user",
        "aud": "kas",
        "exp": 1,
        "azp": "app",
        "groups": groups,
        "realm": {"roles": groups, "a": {"b": [1, 2, 3]}},
    });
    let claims = claims.as_object().cloned().expect("an object");
    Subject { claims: Arc::new(claims), client_id: "app".into(), token: Arc::new("".into()) }
}

/// Who decides, and on what.
fn measure(c: &mut Criterion, name: &str, decisions: &dyn Decisions, groups: usize, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let subject = subject(groups);
    let fqn = |index| format!("https://acme.test/attr/d{}/value/v{}", index % 10, index / 10);
    let resources = [(0..count).map(fqn).collect()];
    c.bench_function(name, |b| {
        b.iter(|| {
            let question = Question {
                subject: black_box(&subject),
                resources: black_box(&resources),
                fulfillable: &[],
                deadline: Instant::now(),
            };
            runtime.block_on(decisions.decide(question)).expect("decisions")
        });
    });
}

fn decide(c: &mut Criterion) {
    for definitions in [10, 1000] {
        let local = LocalDecisions::new(policy(definitions), LocalOptions::default());
        for groups in [5, 200] {
            for count in [0, 1, 10, 20] {
                let name =
                    format!("{count} attributes, {definitions} definitions, {groups} groups");
                measure(c, &name, &local, groups, count);
            }
        }
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
