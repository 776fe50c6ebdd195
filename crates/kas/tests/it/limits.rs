//! Bounds: over one is a clear error, never a crash, never somebody else's failure.

use kasbah_kas::Limits;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    OPEN_POLICY, RSA, Server, Session, body, dek, entry, kao, key, outcomes, policy, request, srt,
    status,
};

fn exhausted(what: &str) -> String {
    format!("request error\nrpc error: code = ResourceExhausted desc = resource exhausted: {what}")
}

async fn limited(limits: Limits) -> (Server, kasbah_trust::KeyDetails) {
    let key = key("r1", RSA);
    let server = Server::with(vec![key.clone()], |builder| builder.limits(limits)).await;
    (server, key)
}

#[tokio::test]
async fn kaos_and_policies_are_counted() {
    let limits = Limits { kaos: 5, policies: 2, ..Limits::default() };
    let (server, key) = limited(limits).await;
    let client = Session::new(RSA).public_key();
    let kaos: Vec<Value> =
        (0..6).map(|n| kao(&format!("k{n}"), &key, &dek(), OPEN_POLICY)).collect();
    let refs: Vec<&Value> = kaos.iter().collect();
    let fits = server.rewrap(&body(&client, &[entry("p", OPEN_POLICY, &refs[..5])])).await.unwrap();
    assert!(outcomes(&fits).iter().all(Result::is_ok));
    let outcome = status(server.rewrap(&body(&client, &[entry("p", OPEN_POLICY, &refs)])).await);
    let expected = exhausted("too many key access objects in one request");
    assert_eq!(outcome, (Code::ResourceExhausted, expected));
    let entries: Vec<_> =
        (0..3).map(|n| entry(&format!("p{n}"), OPEN_POLICY, &refs[n..=n])).collect();
    let outcome = status(server.rewrap(&body(&client, &entries)).await);
    let expected = exhausted("too many policies in one request");
    assert_eq!(outcome, (Code::ResourceExhausted, expected));
}

#[tokio::test]
async fn thousands_of_kaos_are_refused_by_default_and_served_when_asked_for() {
    let key = key("r1", RSA);
    let client = Session::new(RSA).public_key();
    let one = kao("k", &key, &dek(), OPEN_POLICY);
    let many: Vec<Value> = (0..3000)
        .map(|n| {
            let mut kao = one.clone();
            kao["keyAccessObjectId"] = format!("k{n}").into();
            kao
        })
        .collect();
    let refs: Vec<&Value> = many.iter().collect();
    let request = body(&client, &[entry("p", OPEN_POLICY, &refs)]);
    let server = Server::start(vec![key.clone()]).await;
    assert_eq!(status(server.rewrap(&request).await).0, Code::ResourceExhausted);

    let limits = Limits { kaos: 3000, ..Limits::default() };
    let server = Server::with(vec![key], |builder| builder.limits(limits)).await;
    let response = server.rewrap(&request).await.unwrap();
    assert_eq!(outcomes(&response).iter().filter(|outcome| outcome.is_ok()).count(), 3000);
}

#[tokio::test]
async fn sizes_are_bounded() {
    let limits = Limits { message_bytes: 30_000, srt_bytes: 20_000, ..Limits::default() };
    let (server, key) = limited(limits).await;
    let client = Session::new(RSA).public_key();
    let padded = |bytes: usize| {
        let policy = policy(&json!({ "padding": "x".repeat(bytes) }));
        let kao = kao("k", &key, &dek(), &policy);
        srt(&body(&client, &[entry("p", &policy, &[&kao])]))
    };
    assert!(server.send(request(&padded(10))).await.is_ok());
    let outcome = status(server.send(request(&padded(11_500))).await);
    let expected = exhausted("signed request token too large");
    assert_eq!(outcome, (Code::ResourceExhausted, expected));
    let outcome = status(server.send(request(&padded(40_000))).await);
    assert_eq!(outcome.0, Code::ResourceExhausted, "the edge: {}", outcome.1);
    assert!(server.send(request(&padded(10))).await.is_ok(), "and others are served");
}

#[tokio::test]
async fn the_largest_token_is_one_of_the_size_that_is_allowed() {
    let key = key("r1", RSA);
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let token = srt(&body);
    for (srt_bytes, fits) in [(token.len(), true), (token.len() - 1, false)] {
        let limits = Limits { srt_bytes, ..Limits::default() };
        let server = Server::with(vec![key.clone()], |builder| builder.limits(limits)).await;
        assert_eq!(server.send(request(&token)).await.is_ok(), fits);
    }
}
