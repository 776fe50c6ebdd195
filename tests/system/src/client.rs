//! A client that shares no code with the server: it writes its JSON by hand and opens answers
//! with the raw primitives.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    digest::{SHA256, digest},
    encoding::{AsDer, PublicKeyX509Der},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac,
    rsa::{
        KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        PrivateDecryptingKey, PublicEncryptingKey,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::Header;
use kasbah_proto::kas::{
    KeyAccessRewrapResult, RewrapRequest, RewrapResponse,
    access_service_client::AccessServiceClient, key_access_rewrap_result,
};
use serde_json::{Value, json};
use tonic::{Request, Response, Status, transport::Channel};

use crate::issuer::{Issuer, now};

/// base64 of a policy without attributes.
pub const POLICY: &str = "eyJ1dWlkIjoiMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1IiwiYm9keSI6eyJkYXRhQXR0cmlidXRlcyI6W10sImRpc3NlbSI6W119fQ==";

/// A session key.
pub enum SessionKey {
    /// P-256.
    Ec(PrivateKey),
    /// RSA-2048.
    Rsa(PrivateDecryptingKey),
}

impl SessionKey {
    /// A fresh RSA-2048 key.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn rsa() -> Self {
        Self::Rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key"))
    }

    /// A fresh P-256 key.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn ec() -> Self {
        Self::Ec(PrivateKey::generate(&ECDH_P256).expect("a key"))
    }

    /// PEM for `clientPublicKey`.
    ///
    /// # Panics
    /// When the key cannot be encoded.
    pub fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ec(key) => key.compute_public_key().expect("a public key").as_der(),
            Self::Rsa(key) => key.public_key().as_der(),
        }
        .expect("DER");
        pem(der.as_ref())
    }

    /// Opens a `kasWrappedKey`; `None` when it does not open.
    ///
    /// # Panics
    /// When an EC answer comes without a session public key.
    pub fn open(&self, wrapped: &[u8], session_public_key: &str) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                assert!(session_public_key.is_empty(), "an RSA client gets no session key");
                let key = OaepPrivateDecryptingKey::new(key.clone()).ok()?;
                let mut dek = vec![0; key.min_output_size()];
                Some(key.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut dek, None).ok()?.to_vec())
            }
            Self::Ec(key) => {
                let wrap_key = derive(key, &der(session_public_key));
                let (nonce, sealed) = wrapped.split_at(12);
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &wrap_key).ok()?);
                let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
                let mut dek = sealed.to_vec();
                Some(key.open_in_place(nonce, Aad::empty(), &mut dek).ok()?.to_vec())
            }
        }
    }
}

/// ECDH and HKDF as the TDF format has them; `peer` is DER.
fn derive(key: &PrivateKey, peer: &[u8]) -> [u8; 32] {
    struct Len;
    impl KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let peer = UnparsedPublicKey::new(key.algorithm(), peer);
    agreement::agree(key, peer, "no agreement", |secret| {
        let mut key = [0; 32];
        let salt = Salt::new(HKDF_SHA256, digest(&SHA256, b"TDF").as_ref());
        salt.extract(secret).expand(&[], Len).expect("32 bytes").fill(&mut key).expect("32 bytes");
        Ok(key)
    })
    .expect("agreement")
}

/// A random data key.
///
/// # Panics
/// When the system has no randomness.
pub fn random_dek() -> Vec<u8> {
    let mut dek = vec![0; 32];
    aws_lc_rs::rand::fill(&mut dek).expect("randomness");
    dek
}

/// A key access object for a data key, wrapped for the KAS key in `pem`.
///
/// # Panics
/// When the key cannot be used.
pub fn kao(kid: &str, pem: &str, dek: &[u8], policy: &str) -> Value {
    let spki = der(pem);
    let mut kao = if let Ok(key) = PublicEncryptingKey::from_der(&spki) {
        let key = OaepPublicEncryptingKey::new(key).expect("an RSA key");
        let mut wrapped = vec![0; key.ciphertext_size()];
        key.encrypt(&OAEP_SHA1_MGF1SHA1, dek, &mut wrapped, None).expect("encryption");
        json!({ "type": "wrapped", "wrappedKey": BASE64_STANDARD.encode(wrapped) })
    } else {
        let ephemeral = PrivateKey::generate(&ECDH_P256).expect("a key");
        let key = derive(&ephemeral, &spki);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("a key"));
        let mut blob = vec![7; 12];
        let nonce = Nonce::assume_unique_for_key([7; 12]);
        let mut body = dek.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::empty(), &mut body).expect("encryption");
        blob.extend(body);
        json!({
            "type": "ec-wrapped",
            "wrappedKey": BASE64_STANDARD.encode(blob),
            "ephemeralPublicKey": SessionKey::Ec(ephemeral).pem(),
        })
    };
    kao["kid"] = kid.into();
    kao["url"] = "http://localhost:8080".into();
    kao["protocol"] = "kas".into();
    kao["policyBinding"] = json!({ "alg": "HS256", "hash": binding(dek, policy) });
    kao
}

/// The binding as SDKs send it: base64 of the hexadecimal MAC.
pub fn binding(dek: &[u8], policy: &str) -> String {
    BASE64_STANDARD.encode(hex::encode(mac(dek, policy)))
}

/// The MAC under a binding.
pub fn mac(dek: &[u8], policy: &str) -> Vec<u8> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, dek), policy.as_bytes());
    tag.as_ref().to_vec()
}

/// A version 2 body with one policy.
pub fn body(client: &SessionKey, policy: &str, kaos: &[Value]) -> Value {
    let kaos: Vec<_> = kaos.iter().enumerate().map(|(index, kao)| {
        json!({ "keyAccessObjectId": format!("kao-{index}"), "keyAccessObject": kao })
    }).collect();
    let policy = json!({ "id": "policy", "body": policy });
    json!({
        "clientPublicKey": client.pem(),
        "requests": [{ "policy": policy, "keyAccessObjects": kaos }],
    })
}

/// A version 1 body.
pub fn body_v1(client: &SessionKey, policy: &str, kao: &Value) -> Value {
    json!({ "clientPublicKey": client.pem(), "policy": policy, "keyAccess": kao })
}

/// Claims of a signed request token, good for a minute.
pub fn request_claims(body: &Value) -> Value {
    let now = now();
    json!({ "requestBody": body.to_string(), "iat": now, "exp": now + 60 })
}

/// A connection with a token.
#[derive(Clone)]
pub struct Kas {
    rpc: AccessServiceClient<Channel>,
    token: String,
}

impl Kas {
    /// Connects to `url`.
    ///
    /// # Panics
    /// When nobody answers there.
    pub async fn connect(url: String, token: String) -> Self {
        let rpc = AccessServiceClient::connect(url).await.expect("the server answers");
        Self { rpc, token }
    }

    /// A connection over a channel.
    pub fn over(channel: Channel, token: String) -> Self {
        Self { rpc: AccessServiceClient::new(channel), token }
    }

    /// Rewraps.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When the token is no header value.
    pub async fn rewrap(&self, body: &Value) -> Result<RewrapResponse, Status> {
        let header = Header::new(jsonwebtoken::Algorithm::ES256);
        let signed = Issuer::new().sign(&header, &request_claims(body));
        let authorization = format!("Bearer {}", self.token);
        Ok(self.send(signed, &authorization, &[]).await?.into_inner())
    }

    /// Sends a signed request token with these headers `authorization` and `dpop`.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When they are no header values.
    pub async fn send(
        &self,
        signed_request_token: String,
        authorization: &str,
        proofs: &[&str],
    ) -> Result<Response<RewrapResponse>, Status> {
        let mut request = Request::new(RewrapRequest { signed_request_token });
        let headers = request.metadata_mut();
        headers.insert("authorization", authorization.parse().expect("a header value"));
        for proof in proofs {
            headers.append("dpop", proof.parse().expect("a header value"));
        }
        self.rpc.clone().rewrap(request).await
    }

    /// Rewraps one key access object.
    ///
    /// # Errors
    /// The text of its failure.
    ///
    /// # Panics
    /// When the call as a whole fails.
    pub async fn rewrap_one(
        &self,
        client: &SessionKey,
        policy: &str,
        kao: &Value,
    ) -> Result<Rewrapped, String> {
        let response = self.rewrap(&body(client, policy, std::slice::from_ref(kao))).await;
        let response = response.expect("the call as a whole succeeds");
        results(client, &response).remove(0)
    }
}

impl Kas {
    /// Rewraps a fresh data key that is wrapped for the KAS key in `pem`; at which custody.
    ///
    /// # Errors
    /// The text of its failure.
    ///
    /// # Panics
    /// When the call as a whole fails, or another data key comes back.
    pub async fn try_key(
        &self,
        client: &SessionKey,
        kid: &str,
        pem: &str,
    ) -> Result<String, String> {
        let dek = random_dek();
        let kao = kao(kid, pem, &dek, POLICY);
        let answer = self.rewrap_one(client, POLICY, &kao).await?;
        assert_eq!(answer.dek, dek, "{kid}");
        Ok(answer.custody)
    }
}

/// A data key as the client has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// The data key.
    pub dek: Vec<u8>,
    /// `X-Kasbah-Custody`.
    pub custody: String,
}

/// The results of a response in order.
///
/// # Panics
/// When a permitted key does not open, or ids are not in order.
pub fn results(client: &SessionKey, response: &RewrapResponse) -> Vec<Result<Rewrapped, String>> {
    let results = response.responses.iter().flat_map(|policy| &policy.results).enumerate();
    let open = |(index, result): (usize, &KeyAccessRewrapResult)| {
        assert_eq!(result.key_access_object_id, format!("kao-{index}"), "order is kept");
        match result.result.as_ref().expect("a result") {
            key_access_rewrap_result::Result::Error(error) => Err(error.clone()),
            key_access_rewrap_result::Result::KasWrappedKey(wrapped) => {
                let dek = client.open(wrapped, &response.session_public_key).expect("it opens");
                Ok(Rewrapped { dek, custody: custody(result) })
            }
        }
    };
    results.map(open).collect()
}

fn custody(result: &KeyAccessRewrapResult) -> String {
    let value = &result.metadata["X-Kasbah-Custody"];
    format!("{:?}", value.kind).split('"').nth(1).expect("a string").to_owned()
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64_STANDARD.decode(body).expect("PEM")
}
