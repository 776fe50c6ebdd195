//! One event for each key access object, in the shape that other tools parse.

use kasbah_kas::AuditOutcome;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    OPEN_POLICY, P256, RSA, Server, Session, body, dek, entry, kao, key, policy, request, srt,
};

#[tokio::test]
async fn every_outcome_is_an_event_with_every_key_present() {
    let (rsa, ec) = (key("r1", RSA), key("e1", P256));
    let server = Server::start(vec![rsa.clone(), ec.clone()]).await;
    let uuid = "1bcef444-883a-4f13-a74c-511ba5ef8647";
    let attribute = "https://ns.example/attr/a/value/b";
    let with_attributes = policy(&json!({
        "uuid": uuid, "body": { "dataAttributes": [{ "attribute": attribute }], "dissem": [] },
    }));
    let good = kao("good", &rsa, &dek(), OPEN_POLICY);
    let mut tampered = kao("tampered", &ec, &dek(), OPEN_POLICY);
    tampered["keyAccessObject"]["policyBinding"]["hash"] = crate::harness::hash(&dek(), "x").into();
    let denied = kao("denied", &rsa, &dek(), &with_attributes);
    let malformed = json!({ "keyAccessObjectId": "malformed", "keyAccessObject": { "type": "x" } });
    let body = body(
        &Session::new(RSA).public_key(),
        &[
            entry("p1", OPEN_POLICY, &[&good, &tampered, &malformed]),
            entry("p2", &with_attributes, &[&denied]),
            entry("p3", "!", &[&kao("policy", &rsa, &dek(), OPEN_POLICY)]),
        ],
    );
    let mut request = request(&srt(&body));
    let id = Uuid::new_v4();
    request.metadata_mut().insert("x-request-id", id.to_string().parse().unwrap());
    request.metadata_mut().insert("x-forwarded-actor-id", "mallory".parse().unwrap());
    request.metadata_mut().insert("x-forwarded-request-ip", "203.0.113.9".parse().unwrap());
    server.send(request).await.unwrap();
    let events = server.audit.take();
    let outcomes: Vec<_> = events.iter().map(|event| event.outcome).collect();
    let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
    assert_eq!(events.len(), 5, "{outcomes:?}");
    assert_eq!(count(AuditOutcome::Success), 1);
    assert_eq!(count(AuditOutcome::Tampered), 2, "a binding and a policy: {outcomes:?}");
    assert_eq!(count(AuditOutcome::Denied), 1);
    assert_eq!(count(AuditOutcome::Malformed), 1);

    for event in &events {
        let line = event.to_json();
        shape(&line);
        assert_eq!(line["audit"]["actor"]["id"], "dev", "the actor is the verified one");
        assert_eq!(line["audit"]["clientInfo"]["requestIP"], "127.0.0.1", "not what a header says");
        assert_eq!(line["audit"]["requestID"], id.to_string());
        let text = line.to_string();
        assert!(!text.contains("Bearer") && !text.contains("anything"), "a token: {text}");
    }
    let success = events.iter().find(|e| e.outcome == AuditOutcome::Success).unwrap().to_json();
    let kasbah = &success["audit"]["eventMetaData"]["kasbah"];
    assert_eq!(kasbah["custody"], "transient");
    assert_eq!(kasbah["enforced_by_key"], false);
    assert_eq!(kasbah["boundary"], "same-process");
    assert_eq!(kasbah["manager"], "opentdf.io/basic");
    assert_eq!(success["audit"]["eventMetaData"]["algorithm"], "rsa:2048");
    let denied = events.iter().find(|e| e.outcome == AuditOutcome::Denied).unwrap().to_json();
    assert_eq!(denied["audit"]["object"]["id"], uuid);
    assert_eq!(denied["audit"]["object"]["attributes"]["attrs"], json!([attribute]));
    assert_eq!(denied["audit"]["action"]["result"], "error");
}

/// Keys as upstream's log has them, always all of them.
fn shape(line: &Value) {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(keys(line), ["audit", "level", "msg", "namespace", "time"]);
    assert_eq!(
        (&line["level"], &line["msg"], &line["namespace"]),
        (&json!("AUDIT"), &json!("rewrap"), &json!("kas"))
    );
    let audit = &line["audit"];
    assert_eq!(
        keys(audit),
        [
            "action",
            "actor",
            "clientInfo",
            "eventMetaData",
            "object",
            "original",
            "requestID",
            "timestamp",
            "updated"
        ]
    );
    assert_eq!(keys(&audit["object"]), ["attributes", "id", "name", "type"]);
    assert_eq!(keys(&audit["object"]["attributes"]), ["assertions", "attrs", "permissions"]);
    assert_eq!(keys(&audit["action"]), ["result", "type"]);
    assert_eq!(audit["action"]["type"], "rewrap");
    assert_eq!(keys(&audit["actor"]), ["attributes", "id"]);
    assert_eq!(keys(&audit["clientInfo"]), ["platform", "requestIP", "userAgent"]);
    assert_eq!(audit["clientInfo"]["platform"], "kas");
    for name in ["algorithm", "kasbah", "keyID", "policyBinding", "tdfFormat"] {
        assert!(audit["eventMetaData"].get(name).is_some(), "{name} in {audit}");
    }
}

#[tokio::test]
async fn events_never_hold_tokens_or_keys() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let dek = dek();
    let kao = kao("k", &key, &dek, OPEN_POLICY);
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let token = srt(&body);
    let mut request = request(&token);
    request.metadata_mut().insert("authorization", "Bearer very-secret-token".parse().unwrap());
    server.send(request).await.unwrap();
    let event = server.audit.take().remove(0);
    let text = format!("{}{event:?}", event.to_json());
    for secret in ["very-secret-token", &token, &hex::encode(dek.expose_secret())] {
        assert!(!text.contains(secret));
    }
    assert!(!text.contains(kao["keyAccessObject"]["wrappedKey"].as_str().unwrap()));
}

#[tokio::test]
async fn a_request_id_that_is_no_uuid_is_replaced() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let mut request = request(&srt(&body));
    request.metadata_mut().insert("x-request-id", "forged\\nline".parse().unwrap());
    server.send(request).await.unwrap();
    assert_eq!(server.audit.take()[0].request.get_version_num(), 4);
}
