//! What reaches a key manager, and whose device the client's key is opened in.

use std::sync::{Arc, atomic::Ordering};

use kasbah_proto::kas::PublicKeyRequest;
use kasbah_trust::KeyDetails;
use serde_json::json;
use tonic::Code;

use crate::{
    harness::*,
    scripted::{BrokenIndex, Record, scripted, scripted_key},
};

async fn serve(keys: &[KeyDetails], record: &Arc<Record>) -> Server {
    Server::with(keys.to_vec(), scripted(record)).await
}

#[tokio::test]
async fn an_ec_client_is_opened_by_the_sole_manager_of_the_response() {
    let keys = [
        scripted_key("one", RSA, "hsm"),
        scripted_key("two", P256, "hsm"),
        scripted_key("three", RSA, "other"),
        key("four", P256),
    ];
    let record = Arc::default();
    let server = serve(&keys, &record).await;
    for (client, used, opened) in [
        (P256, &keys[..2], 1),
        (P256, &keys[..3], 0),
        (P256, &keys[1..], 0),
        (P256, &keys[3..], 0),
        (RSA, &keys[..2], 0),
    ] {
        record.opened.store(0, Ordering::SeqCst);
        let kaos: Vec<_> =
            used.iter().map(|key| kao(key.kid.as_str(), key, &dek(), OPEN_POLICY)).collect();
        let kaos: Vec<_> = kaos.iter().collect();
        let client = Session::new(client).public_key();
        let request = body(&client, &[entry("p", OPEN_POLICY, &kaos)]);
        let response = server.rewrap(&request).await.unwrap();
        assert!(outcomes(&response).iter().all(Result::is_ok));
        assert_eq!(record.opened.load(Ordering::SeqCst), opened, "{client:?} {}", used.len());
    }
}

#[tokio::test]
async fn a_denied_key_access_object_does_not_choose_the_session_key() {
    let keys = [scripted_key("one", RSA, "hsm"), key("two", RSA)];
    let record = Arc::default();
    let server = serve(&keys, &record).await;
    let attributes = policy(&json!({"body": {"dataAttributes": [{"attribute": "https://a.b"}]}}));
    let granted = kao("granted", &keys[0], &dek(), OPEN_POLICY);
    let denied = kao("denied", &keys[1], &dek(), &attributes);
    let entries =
        [entry("open", OPEN_POLICY, &[&granted]), entry("closed", &attributes, &[&denied])];
    server.rewrap(&body(&Session::new(P256).public_key(), &entries)).await.unwrap();
    assert_eq!(record.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_reaches_a_manager_without_a_decision() {
    let key = scripted_key("fine", RSA, "hsm");
    let record = Arc::default();
    let server = serve(std::slice::from_ref(&key), &record).await;
    let text = policy(&json!({"body": {"dataAttributes": [{"attribute": "https://a.b"}]}}));
    let kao = kao("k", &key, &dek(), &text);
    let request = body(&Session::new(P256).public_key(), &[entry("p", &text, &[&kao])]);
    assert!(outcomes(&server.rewrap(&request).await.unwrap())[0].is_err());
    assert_eq!(record.rewraps.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_legacy_key_that_cannot_be_tried_does_not_stop_the_others() {
    let fine = legacy(key("fine", RSA));
    for (other, expected) in [
        ("decrypt", BAD_REQUEST.to_owned()),
        ("unavailable", fault("Unavailable", "key manager unavailable")),
        ("panic", fault("Internal", "internal error")),
    ] {
        let first = legacy(scripted_key(other, RSA, "hsm"));
        let unplugged = legacy(scripted_key("unplugged", RSA, "down"));
        let server = serve(&[first, fine.clone()], &Arc::default()).await;
        let client = Session::new(P256).public_key();
        let mut good = kao("k", &fine, &dek(), OPEN_POLICY);
        good["keyAccessObject"]["kid"] = json!("");
        server.rewrap_one(&client, &good).await.unwrap();
        let mut stranger = kao("k", &key("stranger", RSA), &dek(), OPEN_POLICY);
        stranger["keyAccessObject"]["kid"] = json!("");
        assert_eq!(server.rewrap_one(&client, &stranger).await, Err(expected), "{other}");
        let server = serve(&[unplugged, fine.clone()], &Arc::default()).await;
        server.rewrap_one(&client, &good).await.unwrap();
        let unavailable = Err(fault("Unavailable", "key manager unavailable"));
        assert_eq!(server.rewrap_one(&client, &stranger).await, unavailable);
    }
}

#[tokio::test]
async fn an_index_that_is_down_is_not_tampering() {
    let server = Server::with(vec![], |builder| builder.key_index(Arc::new(BrokenIndex))).await;
    let client = Session::new(P256).public_key();
    let unavailable = Err(fault("Unavailable", "key manager unavailable"));
    let mut kao = kao("k", &key("r1", RSA), &dek(), OPEN_POLICY);
    assert_eq!(server.rewrap_one(&client, &kao).await, unavailable);
    kao["keyAccessObject"]["kid"] = json!("");
    assert_eq!(server.rewrap_one(&client, &kao).await, unavailable);
    let refused = server.client.clone().public_key(PublicKeyRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "key manager unavailable"));
}
