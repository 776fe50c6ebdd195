//! Every row of the signed request token's table: the call as a whole fails with code and text.

use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    OPEN_POLICY, RSA, Server, Session, body, dek, entry, jws, kao, key, now, request, srt, status,
};

fn two_lines(code: &str, desc: &str) -> String {
    format!("request error\nrpc error: code = {code} desc = {desc}")
}

/// A server and a sound body for it.
async fn sound() -> (Server, Value) {
    let key = key("r1", RSA);
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    (Server::start(vec![key]).await, body)
}

fn claims(body: &Value) -> Value {
    json!({ "requestBody": body.to_string(), "iat": now(), "exp": now() + 60 })
}

#[tokio::test]
async fn a_token_must_be_a_jws_with_an_asymmetric_algorithm() {
    let (server, body) = sound().await;
    let good = srt(&body);
    let parts: Vec<_> = good.split('.').collect();
    let header = |header: &Value| jws(header, &claims(&body));
    for token in [
        String::new(),
        "not a token".into(),
        body.to_string(),
        parts[..2].join("."),
        format!("{}.", parts[..2].join(".")),
        format!("{good}.{}", parts[2]),
        format!("{good}!"),
        format!("{}={}", parts[0], &good[parts[0].len()..]),
        header(&json!({})),
        header(&json!({ "alg": "none" })),
        header(&json!({ "alg": "HS256" })),
        header(&json!({ "alg": "ES256K" })),
        header(&json!({ "alg": "rs256" })),
        header(&json!({ "alg": 256 })),
        header(&json!({ "alg": "RS256", "crit": ["exp"] })),
        header(&json!(["RS256"])),
        jws(&json!({ "alg": "RS256" }), &json!("a string")),
        jws(&json!({ "alg": "RS256" }), &json!([claims(&body)])),
        jws(&json!({ "alg": "RS256" }), &json!({ "requestBody": "{}", "exp": "soon" })),
    ] {
        let outcome = status(server.send(request(&token)).await);
        let expected =
            (Code::Unauthenticated, two_lines("Unauthenticated", "could not parse token"));
        assert_eq!(outcome, expected, "{token}");
    }
    for algorithm in ["RS256", "RS512", "PS384", "ES256", "ES512", "EdDSA"] {
        let token = header(&json!({ "alg": algorithm }));
        assert!(server.send(request(&token)).await.is_ok(), "{algorithm}");
    }
}

#[tokio::test]
async fn times_are_checked_with_a_minute_of_tolerance() {
    let (server, body) = sound().await;
    let with = |name: &str, value: Value| {
        let mut claims = claims(&body);
        claims[name] = value;
        jws(&json!({ "alg": "ES256" }), &claims)
    };
    for (name, value, good) in [
        ("exp", json!(now() - 50), true),
        ("exp", json!(now() - 70), false),
        ("exp", json!(0), true),
        ("iat", json!(now() + 50), true),
        ("iat", json!(now() + 70), false),
        ("nbf", json!(now() + 50), true),
        ("nbf", json!(now() + 70), false),
        ("nbf", json!(now() - 1000), true),
        ("exp", Value::Null, true),
    ] {
        let outcome = server.send(request(&with(name, value.clone()))).await;
        if good {
            assert!(outcome.is_ok(), "{name} {value}: {outcome:?}");
        } else {
            let expected =
                (Code::Unauthenticated, two_lines("Unauthenticated", "could not parse token"));
            assert_eq!(status(outcome), expected, "{name} {value}");
        }
    }
}

#[tokio::test]
async fn bodies_must_be_readable() {
    let (server, body) = sound().await;
    let token = |claims: Value| jws(&json!({ "alg": "ES256" }), &claims);
    let outcome = status(server.send(request(&token(json!({ "exp": now() + 60 })))).await);
    assert_eq!(outcome.1, two_lines("InvalidArgument", "missing request body"));
    for claim in [json!(7), body.clone(), json!(["{}"])] {
        let outcome = server.send(request(&token(json!({ "requestBody": claim })))).await;
        assert_eq!(status(outcome).1, two_lines("InvalidArgument", "invalid request body"));
    }
    let text = body.to_string();
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(4000), "]".repeat(4000));
    for bad in [
        "",
        "null",
        "[]",
        "{",
        &text[..text.len() - 1],
        &format!("{text}{text}"),
        &text.replacen("\"requests\":[", "\"requests\":[7,", 1),
        &text.replacen("\"requests\":", "\"requests\":[],\"requests\":", 1),
        &text.replacen("\"type\":", "\"key_type\":\"wrapped\",\"type\":", 1),
        &text.replacen("\"wrappedKey\":\"", "\"wrappedKey\":\"!", 1),
        &text.replacen("\"policyBinding\":{", "\"policyBinding\":\"x\",\"y\":{", 1),
        &text.replacen("\"kid\":\"r1\"", "\"kid\":1", 1),
        &deep,
    ] {
        let outcome = server.send(request(&token(json!({ "requestBody": bad })))).await;
        let outcome = status(outcome);
        assert_eq!(outcome.0, Code::InvalidArgument, "{bad}");
        assert_eq!(outcome.1, two_lines("InvalidArgument", "invalid request body"), "{bad}");
    }
    for good in [
        text.replacen("\"type\":", "\"key_type\":", 1),
        text.replacen("\"wrappedKey\":", "\"wrapped_key\":", 1),
        text.replacen("\"requests\":", "\"unknown\":[{}],\"requests\":", 1),
    ] {
        let response = server.send(request(&token(json!({ "requestBody": good })))).await.unwrap();
        assert_eq!(response.responses[0].results[0].status, "permit", "{good}");
    }
}

#[tokio::test]
async fn client_keys_must_be_usable() {
    let (server, body) = sound().await;
    let pem = |der: &str| format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
    let ed25519 = pem("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    let rsa_1024 = pem(
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDGyGACqFbFbPcVvjHYAUELx5pZ7NBIzwNBJcTxSZsGkNP5XRRC\
         bqJpD9kZZoUdOpPRKRBvvMKrLdQlqvA/WQzHgLwUZ0D9nmS/LJJBPGE0gSkvGX1ORz9tDxKxWSNKf7HqF4E0H+FC\
         iDqUfmJ3xmbZMPxnRSjzLtwVXRpHcnqhBwIDAQAB",
    );
    for (key, desc) in [
        (json!(""), "clientPublicKey failure"),
        (Value::Null, "clientPublicKey failure"),
        (json!("MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"), "clientPublicKey failure"),
        (json!(pem("AAAA")), "clientPublicKey parse failure"),
        (json!(pem("MAA=")), "clientPublicKey parse failure"),
        (json!(ed25519), "clientPublicKey unsupported type"),
        (json!(rsa_1024), "clientPublicKey refused: the modulus must have 2048 to 8192 bits"),
    ] {
        let mut body = body.clone();
        body["clientPublicKey"] = key.clone();
        let outcome = status(server.rewrap(&body).await);
        assert_eq!(outcome.0, Code::InvalidArgument, "{key}");
        assert_eq!(outcome.1, two_lines("InvalidArgument", desc), "{key}");
    }
    let mut crlf = body.clone();
    let text = body["clientPublicKey"].as_str().unwrap().replace('\n', "\r\n");
    crlf["clientPublicKey"] = text.into();
    assert!(server.rewrap(&crlf).await.is_ok());
}

#[tokio::test]
async fn the_context_header_must_be_readable() {
    let (server, body) = sound().await;
    let context = |header: &str| {
        let mut request = request(&srt(&body));
        let header = header.parse().unwrap();
        request.metadata_mut().insert("x-rewrap-additional-context", header);
        request
    };
    let encode = |json: Value| crate::harness::policy(&json);
    for good in [
        String::new(),
        encode(json!({})),
        encode(json!({ "obligations": null })),
        encode(json!({ "obligations": { "fulfillableFQNs": null } })),
        encode(
            json!({ "obligations": { "fulfillableFQNs": [" https://ns.example/obl/drm/value/w "] } }),
        ),
    ] {
        assert!(server.send(context(&good)).await.is_ok(), "{good}");
    }
    for bad in [
        "!".to_owned(),
        "e30".to_owned(),
        encode(json!([])),
        encode(json!({ "obligations": { "fulfillableFQNs": ["not a fqn"] } })),
        encode(json!({ "obligations": { "fulfillableFQNs": ["http://ns.example/obl/a"] } })),
        encode(json!({ "obligations": { "fulfillableFQNs": "https://ns.example/obl/a" } })),
    ] {
        let outcome = status(server.send(context(&bad)).await);
        let expected = two_lines("InvalidArgument", "failed to get additional rewrap context");
        assert_eq!(outcome, (Code::InvalidArgument, expected), "{bad}");
    }
}
