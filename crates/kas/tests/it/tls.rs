//! TLS, and access tokens that are bound to the certificate of a client (RFC 8705).

use std::{net::Ipv4Addr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kasbah_auth::{DpopSettings, IssuerSettings, KeySource, Proof, TokenRules, Tokens};
use kasbah_issuer::{Issuer, Settings, SigningKeys};
use kasbah_kas::{Kas, Keyring, MemorySink, MinProof, Tls, TlsMaterial};
use kasbah_proto::kas::{RewrapRequest, access_service_client::AccessServiceClient};
use kasbah_trust::Algorithm;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::harness::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of `authority`: its PEM, its key's PEM, its SHA-256.
fn certificate(
    authority: &Authority,
    purpose: ExtendedKeyUsagePurpose,
) -> (String, String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![purpose];
    let certificate = params.signed_by(&key, authority).unwrap();
    let fingerprint = URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.der()));
    (certificate.pem(), key.serialize_pem(), fingerprint)
}

/// Whether the connection ended before anybody answered; which code that gets depends on how far
/// the handshake had come.
fn is_cut_off(status: &Status) -> bool {
    std::error::Error::source(status)
        .is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>)
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_needs_that_certificate() {
    let (ours, theirs) = (authority(), authority());
    let (server_pem, server_key, _) = certificate(&ours, ExtendedKeyUsagePurpose::ServerAuth);
    let keys = SigningKeys::generate().unwrap();
    let settings = Settings::new((Ipv4Addr::LOCALHOST, 9).into(), vec!["kas".to_owned()], keys);
    let issuer = Issuer::new(settings).unwrap();
    let settings = IssuerSettings {
        issuer: issuer.url().to_owned(),
        audience: "kas".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(issuer.jwks().to_string()),
    };
    let tokens = Arc::new(Tokens::new(vec![settings], TokenRules::default()).unwrap());
    let key = key("r1", RSA);
    let audit = Arc::new(MemorySink::default());
    let min_proof =
        MinProof { keys: [("r1".to_owned(), Proof::Mtls)].into(), ..MinProof::default() };
    let material = TlsMaterial {
        certificates: server_pem,
        private_key: server_key.into(),
        client_authorities: Some(ours.pem()),
    };
    let tls = Tls::new(Arc::new(material), false).unwrap();
    let kas = Kas::builder()
        .uri(URI)
        .key_manager(BASIC, &Algorithm::ALL, basic())
        .default_manager(BASIC)
        .key_index(Arc::new(Keyring::new(URI, vec![key.clone()]).unwrap()))
        .gate(gate(tokens, DpopSettings::default()).await)
        .min_proof(min_proof)
        .audit(audit.clone())
        .build()
        .unwrap()
        .tls(tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(kas.serve(listener, std::future::pending()));

    let connect = |identity: Option<(String, String)>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ours.pem()));
        if let Some((pem, key)) = identity {
            tls = tls.identity(Identity::from_pem(pem, key));
        }
        let endpoint = Channel::from_shared(url.clone()).unwrap().tls_config(tls).unwrap();
        AccessServiceClient::new(endpoint.connect_lazy())
    };
    let now = now();
    let token = |fingerprint: &str| {
        let claims = json!({
            "iss": issuer.url(), "aud": "kas", "sub": "client", "iat": now, "exp": now + 300,
            "cnf": { "x5t#S256": fingerprint },
        });
        issuer.sign(claims.as_object().unwrap()).unwrap()
    };
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let ask = async |mut client: AccessServiceClient<Channel>, token: &str| {
        let mut request = Request::new(RewrapRequest { signed_request_token: srt(&body) });
        let authorization = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", authorization);
        client.rewrap(request).await.map(|response| outcomes(&response.into_inner()).remove(0))
    };

    let client_auth = ExtendedKeyUsagePurpose::ClientAuth;
    let (pem, private, fingerprint) = certificate(&ours, client_auth.clone());
    let good = ask(connect(Some((pem.clone(), private.clone()))), &token(&fingerprint)).await;
    assert!(good.unwrap().is_ok());
    assert_eq!(audit.take()[0].proof, Proof::Mtls);

    let (other_pem, other_private, other) = certificate(&ours, client_auth.clone());
    for (name, identity, fingerprint) in [
        ("none", None, &fingerprint),
        ("another", Some((other_pem, other_private)), &fingerprint),
        ("a token for another", Some((pem, private)), &other),
    ] {
        let status = ask(connect(identity), &token(fingerprint)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{name}: {status}");
    }

    // One that only somebody else vouches for does not get as far as a token.
    let (pem, private, fingerprint) = certificate(&theirs, client_auth);
    let status = ask(connect(Some((pem, private))), &token(&fingerprint)).await.unwrap_err();
    assert!(is_cut_off(&status), "{status}");
    // And one without any binding does not open a key that needs one.
    let claims = json!({
        "iss": issuer.url(), "aud": "kas", "sub": "client", "iat": now, "exp": now + 300,
    });
    let unbound = issuer.sign(claims.as_object().unwrap()).unwrap();
    let refused = ask(connect(None), &unbound).await.unwrap().unwrap_err();
    assert!(refused.contains("bound to a client certificate"), "{refused}");
}
