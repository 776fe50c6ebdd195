//! Entitlements as an administrator sends them, and a decision by them.
#![no_main]

use kasbah_access::{Category, Entitlements, Entity, LocalOptions, Record, Request};

libfuzzer_sys::fuzz_target!(|input: (&str, &str, &str)| {
    let (document, claims, fqn) = input;
    let Ok(entitlements) = Entitlements::parse(document) else { return };
    let claims = serde_json::from_str(claims).unwrap_or_default();
    let records = Record::of_token(&claims).into_iter().collect();
    let request = Request {
        entities: &[Entity { category: Category::Subject, records }],
        action: "read",
        client_id: "client",
        resources: &[vec![fqn.to_owned()]],
        fulfillable: &[],
    };
    for strict_guards in [false, true] {
        let options = LocalOptions { strict_guards, nested_only: strict_guards };
        assert_eq!(entitlements.decide(&request, options).len(), 1);
    }
});
