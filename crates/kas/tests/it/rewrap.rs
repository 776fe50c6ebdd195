//! What becomes of key access objects.

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_crypto::binding;
use kasbah_kas::{AuditOutcome, Limits};
use prost_types::value::Kind;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn every_key_algorithm_and_every_client_key_work_together() {
    let keys = [RSA, P256, P384, P521].map(|algorithm| key(algorithm.as_str(), algorithm));
    let server = Server::start(keys.to_vec()).await;
    for algorithm in [RSA, P256, P384, P521] {
        let session = Session::new(algorithm);
        let deks = keys.each_ref().map(|_| dek());
        let kaos: Vec<_> = keys
            .iter()
            .zip(&deks)
            .map(|(key, dek)| kao(key.kid.as_str(), key, dek, OPEN_POLICY))
            .collect();
        let kaos: Vec<_> = kaos.iter().collect();
        let request = body(&session.public_key(), &[entry("p", OPEN_POLICY, &kaos)]);
        let response = server.rewrap(&request).await.unwrap();
        assert_eq!(response.session_public_key.is_empty(), algorithm.is_rsa());
        for (outcome, dek) in outcomes(&response).into_iter().zip(&deks) {
            let opened = session.open(outcome.unwrap(), &response.session_public_key);
            assert_eq!(opened, dek.expose_secret(), "{algorithm}");
        }
    }
}

#[tokio::test]
async fn large_rsa_keys_work_on_both_sides() {
    let key = key("r4", kasbah_trust::Algorithm::Rsa4096);
    let server = Server::start(vec![key.clone()]).await;
    let session = Session::new(kasbah_trust::Algorithm::Rsa4096);
    let dek = dek();
    let outcome =
        server.rewrap_one(&session.public_key(), &kao("k", &key, &dek, OPEN_POLICY)).await;
    let wrapped = outcome.unwrap();
    assert_eq!(wrapped.len(), 512);
    assert_eq!(session.open(wrapped, ""), dek.expose_secret());
}

#[tokio::test]
async fn results_carry_obligations_and_permits_their_custody() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let good = kao("good", &key, &dek(), OPEN_POLICY);
    let mut bad = kao("bad", &key, &dek(), OPEN_POLICY);
    bad["keyAccessObject"]["kid"] = json!("r2");
    let session = Session::new(P256);
    let request = body(&session.public_key(), &[entry("p", OPEN_POLICY, &[&good, &bad])]);
    let response = server.rewrap(&request).await.unwrap();
    let results = &response.responses[0].results;
    for result in results {
        let obligations = result.metadata["X-Required-Obligations"].kind.clone().unwrap();
        assert_eq!(obligations, Kind::ListValue(prost_types::ListValue::default()));
    }
    let custody = results[0].metadata["X-Kasbah-Custody"].kind.clone();
    assert_eq!(custody, Some(Kind::StringValue("transient".into())));
    assert!(!results[1].metadata.contains_key("X-Kasbah-Custody"));
}

/// What a change of the one key access object leads to.
struct Case {
    name: &'static str,
    change: fn(&mut Value),
    desc: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "no key access object",
        change: |kao| kao["keyAccessObject"] = Value::Null,
        desc: "key access object is nil",
    },
    Case {
        name: "no wrapped key",
        change: |kao| kao["keyAccessObject"]["wrappedKey"] = Value::Null,
        desc: "wrapped key is empty",
    },
    Case {
        name: "empty wrapped key",
        change: |kao| kao["keyAccessObject"]["wrappedKey"] = json!(""),
        desc: "wrapped key is empty",
    },
    Case {
        name: "no type",
        change: |kao| kao["keyAccessObject"]["type"] = Value::Null,
        desc: "unsupported key type",
    },
    Case {
        name: "type remote",
        change: |kao| kao["keyAccessObject"]["type"] = json!("remote"),
        desc: "unsupported key type",
    },
    Case {
        name: "type eccWrapped",
        change: |kao| kao["keyAccessObject"]["type"] = json!("eccWrapped"),
        desc: "unsupported key type",
    },
    Case {
        name: "type hybrid-wrapped",
        change: |kao| kao["keyAccessObject"]["type"] = json!("hybrid-wrapped"),
        desc: "hybrid-wrapped not enabled",
    },
    Case {
        name: "type mlkem-wrapped",
        change: |kao| kao["keyAccessObject"]["type"] = json!("mlkem-wrapped"),
        desc: "mlkem-wrapped not enabled",
    },
    Case {
        name: "no binding",
        change: |kao| kao["keyAccessObject"]["policyBinding"] = Value::Null,
        desc: "missing policy binding",
    },
    Case {
        name: "binding of another algorithm",
        change: |kao| kao["keyAccessObject"]["policyBinding"]["alg"] = json!("HS512"),
        desc: "unsupported policy binding algorithm",
    },
    Case {
        name: "binding without a hash",
        change: |kao| kao["keyAccessObject"]["policyBinding"] = json!({}),
        desc: "bad request",
    },
    Case {
        name: "hash that is no base64",
        change: |kao| kao["keyAccessObject"]["policyBinding"]["hash"] = json!("%%%"),
        desc: "bad request",
    },
    Case {
        name: "hash of another policy",
        change: |kao| {
            let other = STANDARD.encode("00".repeat(32));
            kao["keyAccessObject"]["policyBinding"]["hash"] = json!(other);
        },
        desc: "bad request",
    },
    Case {
        name: "short hash",
        change: |kao| {
            let other = STANDARD.encode("00".repeat(31));
            kao["keyAccessObject"]["policyBinding"]["hash"] = json!(other);
        },
        desc: "bad request",
    },
    Case {
        name: "unknown kid",
        change: |kao| kao["keyAccessObject"]["kid"] = json!("nobody"),
        desc: "bad request",
    },
    Case {
        name: "damaged wrapped key",
        change: |kao| {
            let mut bytes = wrapped_key(kao);
            bytes[20] ^= 1;
            kao["keyAccessObject"]["wrappedKey"] = json!(STANDARD.encode(bytes));
        },
        desc: "bad request",
    },
    Case {
        name: "short wrapped key",
        change: |kao| kao["keyAccessObject"]["wrappedKey"] = json!("AA=="),
        desc: "bad request",
    },
    Case {
        name: "kid of a key of another kind",
        change: |kao| {
            let other = if kao["keyAccessObject"]["type"] == "wrapped" { "e1" } else { "r1" };
            kao["keyAccessObject"]["kid"] = json!(other);
        },
        desc: "bad request",
    },
];

fn wrapped_key(kao: &Value) -> Vec<u8> {
    STANDARD.decode(kao["keyAccessObject"]["wrappedKey"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn each_fault_of_a_key_access_object_has_its_text() {
    let keys = [key("r1", RSA), key("e1", P256)];
    let server = Server::start(keys.to_vec()).await;
    let client = Session::new(P256).public_key();
    for key in &keys {
        let sound = kao("k", key, &dek(), OPEN_POLICY);
        server.rewrap_one(&client, &sound).await.unwrap();
        for case in CASES {
            let mut changed = sound.clone();
            (case.change)(&mut changed);
            let outcome = server.rewrap_one(&client, &changed).await;
            assert_eq!(outcome, Err(invalid(case.desc)), "{} of {}", case.name, key.kid);
        }
    }
}

#[tokio::test]
async fn ephemeral_keys_must_be_points_of_the_keys_curve() {
    let key = key("e1", P256);
    let server = Server::start(vec![key.clone()]).await;
    let client = Session::new(P256).public_key();
    let sound = kao("k", &key, &dek(), OPEN_POLICY);
    let rsa = Session::new(RSA).public_key().to_pem();
    let p384 = Session::new(P384).public_key().to_pem();
    let stranger = Session::new(P256).public_key().to_pem();
    let pem = sound["keyAccessObject"]["ephemeralPublicKey"].as_str().unwrap();
    let truncated = pem.replacen("MFkw", "MFgw", 1);
    for (name, ephemeral, desc) in [
        ("absent", Value::Null, "invalid ephemeral public key"),
        ("empty", json!(""), "invalid ephemeral public key"),
        ("no PEM", json!("MFkw"), "invalid ephemeral public key"),
        ("no SPKI", json!(truncated), "invalid ephemeral public key"),
        ("RSA", json!(rsa), "invalid ephemeral public key"),
        ("Ed25519", json!(ED25519), "invalid ephemeral public key"),
        ("P-224", json!(P224), "invalid ephemeral public key"),
        ("another curve", json!(p384), "bad request"),
        ("another key", json!(stranger), "bad request"),
    ] {
        let mut changed = sound.clone();
        changed["keyAccessObject"]["ephemeralPublicKey"] = ephemeral;
        let outcome = server.rewrap_one(&client, &changed).await;
        assert_eq!(outcome, Err(invalid(desc)), "{name}");
    }
    let mut without_kid = sound.clone();
    without_kid["keyAccessObject"]["kid"] = json!("");
    assert_eq!(server.rewrap_one(&client, &without_kid).await, Err(BAD_REQUEST.into()));
}

#[tokio::test]
async fn bindings_are_taken_in_hex_and_raw_and_in_either_case() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let session = Session::new(P256);
    let dek = dek();
    let mac = *binding::compute(&dek, OPEN_POLICY);
    for hash in [
        STANDARD.encode(hex::encode(mac)),
        STANDARD.encode(hex::encode_upper(mac)),
        STANDARD.encode(mac),
    ] {
        for alg in [json!("HS256"), json!(""), Value::Null] {
            let mut kao = kao("k", &key, &dek, OPEN_POLICY);
            kao["keyAccessObject"]["policyBinding"] = json!({"alg": alg, "hash": hash});
            server.rewrap_one(&session.public_key(), &kao).await.unwrap();
        }
    }
}

#[tokio::test]
async fn policies_must_be_readable() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let client = Session::new(P256).public_key();
    for text in [
        String::new(),
        "e30".into(),
        "%%%".into(),
        STANDARD.encode("{"),
        STANDARD.encode("{}{}"),
        policy(&json!([])),
        policy(&json!({"uuid": ""})),
        policy(&json!({"uuid": "not-a-uuid"})),
        policy(&json!({"body": {"dataAttributes": "x"}})),
    ] {
        let kaos = ["a", "b"].map(|id| kao(id, &key, &dek(), &text));
        let request = body(&client, &[entry("p", &text, &[&kaos[0], &kaos[1]])]);
        let response = server.rewrap(&request).await.unwrap();
        assert_eq!(outcomes(&response), vec![Err(BAD_REQUEST.to_owned()); 2], "{text:?}");
    }
}

#[tokio::test]
async fn a_policy_that_was_changed_is_found_out() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let dek = dek();
    let bound = policy(&json!({"body": {"dataAttributes": [], "dissem": ["alice"]}}));
    let kao = kao("k", &key, &dek, &bound);
    let client = Session::new(RSA).public_key();
    // Another policy, and the same policy in other characters.
    for text in [OPEN_POLICY.to_owned(), format!("{bound}\n")] {
        let response = server.rewrap(&body(&client, &[entry("p", &text, &[&kao])])).await.unwrap();
        assert_eq!(outcomes(&response), [Err(BAD_REQUEST.to_owned())], "{text:?}");
    }
    let response = server.rewrap(&body(&client, &[entry("p", &bound, &[&kao])])).await.unwrap();
    assert!(outcomes(&response)[0].is_ok());
}

#[tokio::test]
async fn attributes_need_a_decision_service() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let client = Session::new(P256).public_key();
    let text = policy(&json!({"body": {"dataAttributes": [
        {"attribute": "https://example.com/attr/a/value/b"}
    ]}}));
    let sound = kao("sound", &key, &dek(), &text);
    // The decision comes before the key manager, so a damaged key looks no different.
    let mut damaged = kao("damaged", &key, &dek(), &text);
    damaged["keyAccessObject"]["wrappedKey"] = json!("AA==");
    let response =
        server.rewrap(&body(&client, &[entry("p", &text, &[&sound, &damaged])])).await.unwrap();
    let denied = fault(
        "PermissionDenied",
        "forbidden: no decision service is configured for policies with attributes",
    );
    assert_eq!(outcomes(&response), vec![Err(denied); 2]);
}

#[tokio::test]
async fn faults_stay_with_their_key_access_object_and_order_is_kept() {
    let keys = [key("r1", RSA), key("e1", P384)];
    let server = Server::start(keys.to_vec()).await;
    let session = Session::new(P521);
    let mut entries = Vec::new();
    let mut expected = Vec::new();
    for policy_index in 0..5 {
        let mut kaos = Vec::new();
        for index in 0..8 {
            let dek = dek();
            let id = format!("kao-{policy_index}-{index}");
            let mut kao = kao(&id, &keys[index % 2], &dek, OPEN_POLICY);
            let fails = (index + policy_index) % 3 == 0;
            if fails {
                kao["keyAccessObject"]["policyBinding"]["hash"] = json!(hash(&dek, "other"));
            }
            expected.push((id, (!fails).then(|| dek.expose_secret().to_vec())));
            kaos.push(kao);
        }
        let kaos: Vec<_> = kaos.iter().collect();
        // Ids whose sorted order is not the order of the request.
        entries.push(entry(&format!("policy-{}", 9 - policy_index), OPEN_POLICY, &kaos));
    }
    let response = server.rewrap(&body(&session.public_key(), &entries)).await.unwrap();
    let ids: Vec<_> = response.responses.iter().map(|policy| policy.policy_id.clone()).collect();
    assert_eq!(ids, ["policy-9", "policy-8", "policy-7", "policy-6", "policy-5"]);
    let results: Vec<_> = response.responses.iter().flat_map(|p| &p.results).collect();
    assert_eq!(results.len(), expected.len());
    for (result, (id, dek)) in results.into_iter().zip(expected) {
        assert_eq!(result.key_access_object_id, id);
        let opened =
            outcome(result).ok().map(|key| session.open(key, &response.session_public_key));
        assert_eq!(opened, dek, "{id}");
    }
}

#[tokio::test]
async fn entries_without_a_policy_are_answered() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let client = Session::new(P256).public_key();
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let request = body(
        &client,
        &[
            json!({"keyAccessObjects": [kao]}),
            entry("", OPEN_POLICY, &[&kao]),
            entry("p", OPEN_POLICY, &[&kao]),
            json!({"policy": {"id": "none"}}),
        ],
    );
    let response = server.rewrap(&request).await.unwrap();
    let ids: Vec<_> = response.responses.iter().map(|policy| policy.policy_id.as_str()).collect();
    assert_eq!(ids, ["", "", "p", "none"]);
    let outcomes = outcomes(&response);
    assert_eq!(outcomes[0], Err(invalid("missing policy")));
    assert_eq!(outcomes[1], Err(invalid("missing policy id")));
    assert!(outcomes[2].is_ok());
    assert_eq!(outcomes.len(), 3);
}

#[tokio::test]
async fn duplicate_ids_fail_the_request() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let client = Session::new(P256).public_key();
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    for (entries, desc) in [
        (
            vec![entry("p", OPEN_POLICY, &[&kao]), entry("p", OPEN_POLICY, &[&kao])],
            "two policy entries have the same policy id",
        ),
        (
            vec![entry("p", OPEN_POLICY, &[&kao, &kao])],
            "two key access objects of one policy have the same id",
        ),
    ] {
        let (code, message) = status(server.rewrap(&body(&client, &entries)).await);
        assert_eq!(code, Code::InvalidArgument);
        let line = format!("request error\nrpc error: code = InvalidArgument desc = {desc}");
        assert_eq!(message, line);
    }
    // Nothing was started: there is one event for each request, and none for a key access object.
    let events = server.audit.take();
    let found: Vec<_> = events.iter().map(|event| (event.outcome, event.kid.as_str())).collect();
    assert_eq!(found, [(AuditOutcome::Malformed, ""); 2]);
}

#[tokio::test]
async fn a_curve_that_nothing_can_be_encrypted_to_fails_each_key_access_object() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let sound = kao("a", &key, &dek(), OPEN_POLICY);
    let mut faulty = kao("b", &key, &dek(), OPEN_POLICY);
    faulty["keyAccessObject"]["wrappedKey"] = json!("");
    let request = json!({
        "clientPublicKey": P224,
        "requests": [entry("p", OPEN_POLICY, &[&sound, &faulty])],
    });
    let response = server.rewrap(&request).await.unwrap();
    assert_eq!(outcomes(&response), vec![Err(invalid("invalid request")); 2]);
    assert_eq!(response.session_public_key, "");
}

#[tokio::test]
async fn an_ec_client_gets_a_session_key_even_when_everything_fails() {
    let server = Server::start(vec![]).await;
    let mut kao = kao("k", &key("r1", RSA), &dek(), OPEN_POLICY);
    kao["keyAccessObject"]["kid"] = json!("nobody");
    let session = Session::new(P256);
    let request = body(&session.public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let response = server.rewrap(&request).await.unwrap();
    assert!(response.session_public_key.starts_with("-----BEGIN PUBLIC KEY-----\n"));
}

#[tokio::test]
async fn a_kid_less_key_access_object_is_tried_against_legacy_keys() {
    let keys = [
        key("r1", RSA),
        legacy(key("old-ec", P256)),
        legacy(key("old-1", RSA)),
        legacy(key("old-2", RSA)),
        legacy(key("old-3", RSA)),
    ];
    let limits = Limits { legacy_keys: 2, ..Limits::default() };
    let server = Server::with(keys.to_vec(), |builder| builder.limits(limits)).await;
    let session = Session::new(RSA);
    for (key, found) in [(0, false), (2, true), (3, true), (4, false)] {
        let dek = dek();
        let mut kao = kao("k", &keys[key], &dek, OPEN_POLICY);
        kao["keyAccessObject"]["kid"] = json!("");
        let outcome = server.rewrap_one(&session.public_key(), &kao).await;
        match outcome {
            Ok(wrapped) if found => assert_eq!(session.open(wrapped, ""), dek.expose_secret()),
            outcome => assert_eq!((outcome, found), (Err(BAD_REQUEST.into()), false), "{key}"),
        }
        let event = server.audit.take().remove(0);
        assert_eq!(event.kid, if found { keys[key].kid.as_str() } else { "" });
    }
}

#[tokio::test]
async fn without_legacy_keys_a_kid_is_needed() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone(), legacy(crate::harness::key("e", P256))]).await;
    let mut kao = kao("k", &key, &dek(), OPEN_POLICY);
    kao["keyAccessObject"].as_object_mut().unwrap().remove("kid");
    let outcome = server.rewrap_one(&Session::new(P256).public_key(), &kao).await;
    assert_eq!(outcome, Err(invalid("no legacy key IDs found")));
}

#[tokio::test]
async fn rotated_keys_still_decrypt() {
    let mut rotated = key("r1", RSA);
    rotated.status = kasbah_trust::KeyStatus::Rotated;
    let server = Server::start(vec![rotated.clone()]).await;
    let kao = kao("k", &rotated, &dek(), OPEN_POLICY);
    server.rewrap_one(&Session::new(P256).public_key(), &kao).await.unwrap();
}

fn v1(client: &Session, kao: &Value, policy: &str) -> Value {
    json!({
        "clientPublicKey": client.public_key().to_pem(),
        "policy": policy,
        "algorithm": "RS256",
        "keyAccess": kao["keyAccessObject"],
        "authToken": "ignored",
    })
}

#[tokio::test]
async fn version_1_is_answered_in_both_places() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    for algorithm in [RSA, P256] {
        let session = Session::new(algorithm);
        let dek = dek();
        let mut kao = kao("ignored", &key, &dek, OPEN_POLICY);
        for binding in [json!({"alg": "HS256", "hash": hash(&dek, OPEN_POLICY)}), {
            json!(hash(&dek, OPEN_POLICY))
        }] {
            kao["keyAccessObject"]["policyBinding"] = binding;
            let response = server.rewrap(&v1(&session, &kao, OPEN_POLICY)).await.unwrap();
            assert_eq!(response.responses[0].policy_id, "policy-1");
            assert_eq!(response.responses[0].results[0].key_access_object_id, "kao-0");
            #[expect(deprecated, reason = "that is what version 1 is about")]
            let wrapped = response.entity_wrapped_key.clone();
            assert_eq!(outcomes(&response), [Ok(wrapped.clone())]);
            assert_eq!(session.open(wrapped, &response.session_public_key), dek.expose_secret());
        }
    }
}

#[tokio::test]
async fn version_1_faults_are_faults_of_the_request() {
    let key = key("r1", RSA);
    let server = Server::start(vec![key.clone()]).await;
    let session = Session::new(RSA);
    let attributes = policy(&json!({"body": {"dataAttributes": [{"attribute": "https://a.b"}]}}));
    for (change, policy, code, desc) in [
        (json!({"wrappedKey": ""}), OPEN_POLICY, Code::InvalidArgument, "wrapped key is empty"),
        (json!({"type": "remote"}), OPEN_POLICY, Code::InvalidArgument, "unsupported key type"),
        (json!({"policyBinding": null}), OPEN_POLICY, Code::InvalidArgument, "bad request"),
        (json!({"policyBinding": "%"}), OPEN_POLICY, Code::InvalidArgument, "bad request"),
        (json!({"kid": "nobody"}), OPEN_POLICY, Code::InvalidArgument, "bad request"),
        (json!({}), "", Code::InvalidArgument, "bad request"),
        (
            json!({}),
            &attributes,
            Code::PermissionDenied,
            "forbidden: no decision service is configured for policies with attributes",
        ),
    ] {
        let mut kao = kao("ignored", &key, &dek(), policy);
        for (name, value) in change.as_object().unwrap() {
            kao["keyAccessObject"][name] = value.clone();
        }
        let got = status(server.rewrap(&v1(&session, &kao, policy)).await);
        let message = format!("request error\nrpc error: code = {code:?} desc = {desc}");
        assert_eq!(got, (code, message), "{change}");
    }
}

/// SPKI of a P-224 key: an EC key that ECDH here does not support.
pub(crate) const P224: &str = "-----BEGIN PUBLIC KEY-----
ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEtw4MvWuyEyhPSYTTfBs6fhhR4BkqkTr8
o9FxRDvCyS0P1RK0uUbR3isTZ7YmWlpqbd2fSdYs8Yk=
-----END PUBLIC KEY-----
";

/// SPKI of an Ed25519 key.
pub(crate) const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
