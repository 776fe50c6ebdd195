//! Who is let in, and with what proof, all the way to a key.

use std::{net::Ipv4Addr, sync::Arc};

use kasbah_auth::{DpopSettings, IssuerSettings, KeySource, Proof, TokenRules, Tokens};
use kasbah_issuer::{Issuer, Settings, SigningKeys};
use kasbah_kas::{AuditOutcome, KasBuilder, Limits, MinProof};
use kasbah_proto::kas::RewrapRequest;
use kasbah_testkit::proofs::ProofSigner;
use kasbah_trust::KeyDetails;
use serde_json::{Map, Value, json};
use tonic::{Code, Request, Status};

use crate::harness::*;

const URL: &str = "http://localhost:8080/kas.AccessService/Rewrap";

/// A server that takes the tokens of an issuer, with one key.
struct Rig {
    issuer: Issuer,
    server: Server,
    key: KeyDetails,
}

/// What a request is sent with.
struct Sent {
    authorization: Option<String>,
    proofs: Vec<String>,
    srt: String,
}

impl Rig {
    async fn new(dpop: DpopSettings, more: impl FnOnce(KasBuilder) -> KasBuilder) -> Self {
        let keys = SigningKeys::generate().unwrap();
        let settings = Settings::new((Ipv4Addr::LOCALHOST, 9).into(), vec!["kas".to_owned()], keys);
        let issuer = Issuer::new(settings).unwrap();
        let settings = IssuerSettings {
            issuer: issuer.url().to_owned(),
            audience: "kas".to_owned(),
            algorithms: Vec::new(),
            keys: KeySource::Jwks(issuer.jwks().to_string()),
        };
        let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
        let gate = gate(Arc::new(tokens), dpop).await;
        let key = key("r1", RSA);
        let server = Server::with(vec![key.clone()], |builder| more(builder.gate(gate))).await;
        Self { issuer, server, key }
    }

    fn token(&self, bound_to: Option<&ProofSigner>) -> String {
        let thumbprint = bound_to.map(ProofSigner::thumbprint);
        self.issuer.token("client", Map::new(), thumbprint.as_deref()).unwrap()
    }

    /// Claims of a signed request token around a sound body.
    fn request(&self) -> Value {
        let kao = kao("k", &self.key, &dek(), OPEN_POLICY);
        let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
        json!({ "requestBody": body.to_string(), "iat": now(), "exp": now() + 60 })
    }

    /// Everything as it has to be for a token bound to `signer`.
    fn bound(&self, signer: &ProofSigner) -> Sent {
        let token = self.token(Some(signer));
        Sent {
            proofs: vec![signer.proof("POST", URL, &token)],
            authorization: Some(format!("DPoP {token}")),
            srt: signer.sign(&json!({ "alg": "ES256" }), &self.request()),
        }
    }

    async fn send(&self, sent: &Sent) -> Result<Outcome, Status> {
        let mut request = Request::new(RewrapRequest { signed_request_token: sent.srt.clone() });
        let metadata = request.metadata_mut();
        if let Some(authorization) = &sent.authorization {
            metadata.insert("authorization", authorization.parse().unwrap());
        }
        for proof in &sent.proofs {
            metadata.append("dpop", proof.parse().unwrap());
        }
        Ok(outcomes(&self.server.send(request).await?).remove(0))
    }

    async fn refusal(&self, sent: &Sent) -> (Code, String) {
        let status = self.send(sent).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

fn unauthenticated(text: &str) -> (Code, String) {
    (Code::Unauthenticated, text.to_owned())
}

fn unable() -> (Code, String) {
    unauthenticated(
        "request error\nrpc error: code = Unauthenticated desc = unable to verify request token",
    )
}

fn plain() -> DpopSettings {
    DpopSettings::default()
}

#[tokio::test]
async fn bearer_tokens_are_let_in_under_both_schemes_and_others_are_not() {
    let rig = Rig::new(plain(), |builder| builder).await;
    let token = rig.token(None);
    let srt = srt_of(&rig);
    for scheme in ["Bearer", "DPoP"] {
        let authorization = Some(format!("{scheme} {token}"));
        let sent = Sent { authorization, proofs: Vec::new(), srt: srt.clone() };
        assert!(rig.send(&sent).await.unwrap().is_ok(), "{scheme}");
    }
    let mut forged = token.clone();
    forged.replace_range(token.len() - 8..token.len() - 4, "AAAA");
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "bearer x",
        &token,
        &format!("Basic {token}"),
        "Bearer x.y.z",
        &format!("Bearer {forged}"),
        &format!("Bearer {token}.x"),
    ] {
        let authorization = Some(authorization.to_owned());
        let sent = Sent { authorization, proofs: Vec::new(), srt: srt.clone() };
        assert_eq!(rig.refusal(&sent).await, unauthenticated("unauthenticated"));
    }
    let sent = Sent { authorization: None, proofs: Vec::new(), srt };
    assert_eq!(rig.refusal(&sent).await, unauthenticated("missing authorization header"));
    let outcomes: Vec<_> = rig.server.audit.take().iter().map(|event| event.outcome).collect();
    assert_eq!(outcomes, [AuditOutcome::Success; 2], "who is not let in leaves no event");
}

/// Signed by anybody: with a bearer token it is not verified.
fn srt_of(rig: &Rig) -> String {
    jws(&json!({ "alg": "RS256" }), &rig.request())
}

#[tokio::test]
async fn a_bound_token_comes_with_a_proof_and_a_request_signed_by_its_key() {
    let rig = Rig::new(plain(), |builder| builder).await;
    let (signer, other) = (ProofSigner::new(), ProofSigner::new());
    let sent = rig.bound(&signer);
    assert!(rig.send(&sent).await.unwrap().is_ok());
    let event = rig.server.audit.take().remove(0);
    assert_eq!((event.proof, event.client.as_str()), (Proof::Dpop, "client"));
    assert_eq!(rig.refusal(&sent).await, unauthenticated("unauthenticated"), "replayed");

    let none = Sent { proofs: Vec::new(), ..rig.bound(&signer) };
    assert_eq!(rig.refusal(&none).await, unauthenticated("unauthenticated"));
    let (mut two, more) = (rig.bound(&signer), rig.bound(&signer));
    two.proofs.extend(more.proofs);
    assert_eq!(rig.refusal(&two).await, unauthenticated("unauthenticated"));
    let theirs = Sent { proofs: rig.bound(&other).proofs, ..rig.bound(&signer) };
    assert_eq!(rig.refusal(&theirs).await, unauthenticated("unauthenticated"));

    // The proof is good, and somebody else made the request.
    for srt in [
        srt_of(&rig),
        other.sign(&json!({ "alg": "ES256" }), &rig.request()),
        signer.sign(&json!({ "alg": "RS256" }), &rig.request()),
    ] {
        let sent = Sent { srt, ..rig.bound(&signer) };
        assert_eq!(rig.refusal(&sent).await, unable());
    }
}

#[tokio::test]
async fn a_signed_request_says_how_long_it_is_good() {
    let rig = Rig::new(plain(), |builder| builder).await;
    let signer = ProofSigner::new();
    for (name, claims, good) in [
        ("iat and exp", json!({ "iat": now(), "exp": now() + 60 }), true),
        ("iat", json!({ "iat": now() }), true),
        ("exp", json!({ "exp": now() + 60 }), true),
        ("neither", json!({}), false),
        ("expired", json!({ "exp": now() - 61 }), false),
        ("to come", json!({ "iat": now() + 90 }), false),
        ("as otdf-python has it", json!({ "iat": now(), "exp": now() + 7200 }), true),
        ("two hours old", json!({ "iat": now() - 7261 }), false),
        ("for too long", json!({ "exp": now() + 7300 }), false),
        ("not text", json!({ "exp": "soon" }), false),
    ] {
        let mut request = json!({ "requestBody": rig.request()["requestBody"] });
        request.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let srt = signer.sign(&json!({ "alg": "ES256" }), &request);
        let outcome = rig.send(&Sent { srt, ..rig.bound(&signer) }).await;
        assert_eq!(outcome.is_ok(), good, "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn nonces_are_asked_for_and_handed_out() {
    let rig = Rig::new(DpopSettings { require_nonce: true, ..plain() }, |builder| builder).await;
    let signer = ProofSigner::new();
    let status = rig.send(&rig.bound(&signer)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let header = |name: &str| status.metadata().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("www-authenticate"), r#"DPoP error="use_dpop_nonce""#);
    let nonce = header("dpop-nonce");

    let token = rig.token(Some(&signer));
    let mut claims = signer.claims("POST", URL, &token);
    claims["nonce"] = nonce.into();
    let sent = Sent {
        proofs: vec![signer.proof_of(&claims)],
        authorization: Some(format!("DPoP {token}")),
        srt: signer.sign(&json!({ "alg": "ES256" }), &rig.request()),
    };
    let mut request = Request::new(RewrapRequest { signed_request_token: sent.srt.clone() });
    let metadata = request.metadata_mut();
    metadata.insert("authorization", sent.authorization.as_ref().unwrap().parse().unwrap());
    metadata.insert("dpop", sent.proofs[0].parse().unwrap());
    let response = rig.server.client.clone().rewrap(request).await.unwrap();
    assert!(response.metadata().get("dpop-nonce").is_some());

    let status = rig.send(&sent).await.unwrap_err();
    let challenge = status.metadata().get("www-authenticate").unwrap().to_str().unwrap();
    assert_eq!(challenge, r#"DPoP error="invalid_dpop_proof""#, "replayed");
}

#[tokio::test]
async fn a_key_or_its_provider_can_need_more_than_a_bearer_token() {
    let needs = |proof| MinProof { keys: [("r1".to_owned(), proof)].into(), ..MinProof::default() };
    for (min_proof, for_bearer, for_bound) in [
        (MinProof::default(), true, true),
        (needs(Proof::Dpop), false, true),
        (needs(Proof::Mtls), false, false),
        (
            MinProof { keys: [("r2".to_owned(), Proof::Mtls)].into(), ..MinProof::default() },
            true,
            true,
        ),
    ] {
        let rig = Rig::new(plain(), |builder| builder.min_proof(min_proof.clone())).await;
        let authorization = Some(format!("Bearer {}", rig.token(None)));
        let bearer = Sent { authorization, proofs: Vec::new(), srt: srt_of(&rig) };
        let found = [
            rig.send(&bearer).await.unwrap(),
            rig.send(&rig.bound(&ProofSigner::new())).await.unwrap(),
        ];
        assert_eq!(found.each_ref().map(Result::is_ok), [for_bearer, for_bound], "{min_proof:?}");
        for error in found.into_iter().filter_map(Result::err) {
            assert!(
                error.contains("code = PermissionDenied desc = forbidden: this key needs"),
                "{error}"
            );
        }
        let refused = rig.server.audit.take();
        let refused = refused.iter().filter(|event| event.outcome == AuditOutcome::Denied);
        assert!(refused.clone().all(|event| event.manager.is_none()), "the key was used");
    }
}

#[tokio::test]
async fn a_server_can_want_a_proof_of_everybody() {
    let rig = Rig::new(DpopSettings { enforce: true, ..plain() }, |builder| builder).await;
    let authorization = Some(format!("Bearer {}", rig.token(None)));
    let bearer = Sent { authorization, proofs: Vec::new(), srt: srt_of(&rig) };
    assert_eq!(rig.refusal(&bearer).await, unauthenticated("unauthenticated"));
    assert!(rig.send(&rig.bound(&ProofSigner::new())).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_proof_is_for_our_origin_and_path_whatever_the_host_header_says() {
    let rig = Rig::new(plain(), |builder| builder).await;
    let signer = ProofSigner::new();
    for (url, good) in [
        (URL, true),
        ("HTTP://LOCALHOST:8080/kas.AccessService/Rewrap?x#y", true),
        ("/kas.AccessService/Rewrap", true),
        ("http://127.0.0.1:8080/kas.AccessService/Rewrap", false),
        ("https://localhost:8080/kas.AccessService/Rewrap", false),
        ("http://localhost:8080/kas.AccessService/PublicKey", false),
    ] {
        let token = rig.token(Some(&signer));
        let sent = Sent {
            proofs: vec![signer.proof("POST", url, &token)],
            authorization: Some(format!("DPoP {token}")),
            ..rig.bound(&signer)
        };
        assert_eq!(rig.send(&sent).await.is_ok(), good, "{url}");
    }
}

#[tokio::test]
async fn what_was_refused_for_want_of_room_is_recorded() {
    let limits = Limits { kaos: 1, ..Limits::default() };
    let rig = Rig::new(plain(), |builder| builder.limits(limits)).await;
    let kao = kao("k", &rig.key, &dek(), OPEN_POLICY);
    let mut other = kao.clone();
    other["keyAccessObjectId"] = "other".into();
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao, &other])]);
    let authorization = Some(format!("Bearer {}", rig.token(None)));
    let sent = Sent { authorization, proofs: Vec::new(), srt: srt(&body) };
    assert_eq!(rig.send(&sent).await.unwrap_err().code(), Code::ResourceExhausted);
    let events = rig.server.audit.take();
    assert_eq!(events.iter().map(|event| event.outcome).collect::<Vec<_>>(), [AuditOutcome::Busy]);
}
