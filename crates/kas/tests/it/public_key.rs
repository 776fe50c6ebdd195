//! `PublicKey` and `LegacyPublicKey`.
#![expect(deprecated, reason = "old clients call LegacyPublicKey")]

use kasbah_proto::kas::{LegacyPublicKeyRequest, PublicKeyRequest};
use kasbah_trust::{KeyDetails, KeyStatus, PublicKey};
use serde_json::Value;
use tonic::Code;

use crate::harness::{P256, P384, P521, RSA, Server, key, legacy};

fn request(algorithm: &str, fmt: &str, v: &str) -> PublicKeyRequest {
    PublicKeyRequest { algorithm: algorithm.into(), fmt: fmt.into(), v: v.into() }
}

#[tokio::test]
async fn every_algorithm_is_served_as_pem_and_jwk() {
    let keys: Vec<_> = [RSA, P256, P384, P521].map(|a| key(a.as_str(), a)).into();
    let server = Server::start(keys.clone()).await;
    for key in &keys {
        let mut client = server.client.clone();
        for fmt in ["", "pkcs8"] {
            let answer =
                client.public_key(request(key.algorithm.as_str(), fmt, "2")).await.unwrap();
            let answer = answer.into_inner();
            assert_eq!(PublicKey::from_pem(&answer.public_key).unwrap(), key.public_key);
            assert_eq!(answer.kid, key.kid.as_str());
        }
        let answer = client.public_key(request(key.algorithm.as_str(), "jwk", "1")).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!(answer.kid, "", "v=1 hides the kid");
        let jwk: Value = serde_json::from_str(&answer.public_key).unwrap();
        let members: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: &[&str] =
            if key.algorithm.is_rsa() { &["e", "kty", "n"] } else { &["crv", "kty", "x", "y"] };
        assert_eq!(members, expected);

        let legacy = LegacyPublicKeyRequest { algorithm: key.algorithm.as_str().into() };
        let pem = client.legacy_public_key(legacy).await.unwrap().into_inner();
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), key.public_key);
    }
    let answer = server.client.clone().public_key(request("", "", "")).await.unwrap().into_inner();
    assert_eq!(answer.kid, "rsa:2048", "no algorithm means rsa:2048");
}

#[tokio::test]
async fn the_first_active_key_that_is_not_legacy_is_handed_out() {
    let rotated = KeyDetails { status: KeyStatus::Rotated, ..key("old", RSA) };
    let keys = vec![legacy(key("legacy", RSA)), rotated, key("new", RSA), key("newer", RSA)];
    let server = Server::start(keys).await;
    let answer = server.client.clone().public_key(request("", "", "")).await.unwrap().into_inner();
    assert_eq!(answer.kid, "new");
}

#[tokio::test]
async fn the_old_call_hands_out_a_legacy_key() {
    let rotated = KeyDetails { status: KeyStatus::Rotated, ..legacy(key("old", RSA)) };
    let active = legacy(key("legacy", RSA));
    let server = Server::start(vec![key("new", RSA), rotated, active.clone()]).await;
    for algorithm in ["", "rsa:2048"] {
        let request = LegacyPublicKeyRequest { algorithm: algorithm.into() };
        let pem = server.client.clone().legacy_public_key(request).await.unwrap().into_inner();
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), active.public_key, "it says no kid");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let empty = Server::start(Vec::new()).await;
    let some = Server::start(vec![key("e1", P256), legacy(key("l1", RSA))]).await;
    for (server, algorithm, fmt, message) in [
        (&empty, "", "", "invalid config\nno default keys configured"),
        (&some, "rsa:2048", "", "invalid config\nno default key for algorithm"),
        (&some, "rsa:4096", "", "invalid config\nno default key for algorithm"),
        (&some, "hpqt:xwing", "", "invalid config\nno default key for algorithm"),
        (&some, "nonsense", "", "invalid config\nno default key for algorithm"),
        (&some, "ec:secp256r1", "pem", "invalid algorithm or format"),
    ] {
        let status =
            server.client.clone().public_key(request(algorithm, fmt, "")).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, message),
            "{algorithm} {fmt}"
        );
    }
    let request = LegacyPublicKeyRequest { algorithm: "nonsense".into() };
    let status = some.client.clone().legacy_public_key(request).await.unwrap_err();
    let expected = (Code::NotFound, "invalid config\ninvalid algorithm");
    assert_eq!((status.code(), status.message()), expected);
}
