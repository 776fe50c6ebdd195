//! A call in JSON: the body of a POST, or the query of a GET.
#![no_main]

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use kasbah_fuzz::{PATHS, call};
use serde_json::Value;

libfuzzer_sys::fuzz_target!(
    init: {
        let (status, answer) = post(PATHS[0], br#"{"algorithm":"ec:secp256r1"}"#);
        assert_eq!((status, &*answer), (StatusCode::OK, &br#"{"publicKey":"ec:secp256r1"}"#[..]));
        let twice = br#"{"algorithm":"a","\u0061lgorithm":"b"}"#;
        assert_eq!(post(PATHS[0], twice).0, StatusCode::BAD_REQUEST);
    },
    |bytes: &[u8]| {
        let Some((choice, text)) = bytes.split_first() else { return };
        let path = PATHS[usize::from(choice % 4)];
        if choice & 4 != 0 {
            get(path, text);
            return;
        }
        let (status, answer) = post(path, text);
        if status == StatusCode::OK {
            as_asked(path, text, &answer);
        }
    }
);

fn post(path: &str, body: &[u8]) -> (StatusCode, Vec<u8>) {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    call(request.body(Body::from(body.to_vec())).expect("a request"))
}

fn get(path: &str, query: &[u8]) {
    let Ok(query) = str::from_utf8(query) else { return };
    let request = Request::builder().method(Method::GET).uri(format!("{path}?{query}"));
    if let Ok(request) = request.body(Body::empty()) {
        call(request);
    }
}

/// What was taken was JSON without a member that is there twice, and was taken as it reads.
fn as_asked(path: &str, text: &[u8], answer: &[u8]) {
    let asked: Value = serde_json::from_slice(text).expect("it was taken for JSON");
    assert_eq!(members(&asked), colons(text), "a member is there twice");
    let answer: Value = serde_json::from_slice(answer).expect("the answer is JSON");
    if path == PATHS[0] {
        assert_eq!(word(&asked["algorithm"]), word(&answer["publicKey"]));
    }
    if path == PATHS[2] {
        let names = ["signedRequestToken", "signed_request_token"];
        let given: Vec<_> = names.iter().filter_map(|name| asked.get(*name)).collect();
        assert!(given.len() < 2, "it is there twice, under two names");
        let token = given.first().map_or("", |token| word(token));
        assert_eq!(token, word(&answer["sessionPublicKey"]));
    }
}

/// A text; what is absent or null is empty.
fn word(value: &Value) -> &str {
    match value {
        Value::Null => "",
        other => other.as_str().expect("a field that is a text"),
    }
}

fn members(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(members).sum::<usize>(),
        Value::Array(list) => list.iter().map(members).sum(),
        _ => 0,
    }
}

/// Colons outside of texts: one for each member.
fn colons(json: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b':' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}
