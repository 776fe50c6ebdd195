//! What a client of an `OpenID` provider does: it gets access tokens, holds the keys that they are
//! bound to, and asks for data keys with them.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use kasbah_proto::kas::RewrapResponse;
use kasbah_testkit::proofs::ProofSigner;
use serde_json::{Value, json};
use tonic::{Response, Status, transport::Channel};

use crate::{
    client::{Kas, POLICY, SessionKey, body, kao, random_dek, request_claims, results},
    issuer::{AUDIENCE, now},
};

/// A key that tokens may be bound to; signs proofs of possession and signed request tokens.
pub enum Holder {
    /// ES256.
    Ec(ProofSigner),
    /// RS256.
    Rsa(RsaKeyPair),
}

impl Holder {
    /// A fresh P-256 key.
    pub fn ec() -> Self {
        Self::Ec(ProofSigner::new())
    }

    /// A fresh RSA-2048 key.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))
    }

    /// Its name in the header of what it signs.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    /// RFC 7638 thumbprint, base64url.
    pub fn thumbprint(&self) -> String {
        match self {
            Self::Ec(signer) => signer.thumbprint(),
            Self::Rsa(_) => {
                let jwk = self.jwk();
                let (e, n) = (&jwk["e"], &jwk["n"]);
                sha256(&format!(r#"{{"e":{e},"kty":"RSA","n":{n}}}"#))
            }
        }
    }

    /// Claims of a proof of possession for a POST to `url`.
    pub fn claims(&self, url: &str) -> Value {
        let jti = encode(&random_dek());
        json!({ "jti": jti, "htm": "POST", "htu": url, "iat": now() })
    }

    /// Claims of a proof for a rewrap with this access token.
    pub fn rewrap_claims(&self, access_token: &str) -> Value {
        let mut claims = self.claims(&format!("{AUDIENCE}/kas.AccessService/Rewrap"));
        claims["ath"] = sha256(access_token).into();
        claims
    }

    /// A proof that says `claims`.
    pub fn proof(&self, claims: &Value) -> String {
        let header = json!({ "typ": "dpop+jwt", "alg": self.algorithm(), "jwk": self.jwk() });
        self.sign(&header, claims)
    }

    /// A proof for a rewrap with this access token.
    pub fn rewrap_proof(&self, access_token: &str) -> String {
        self.proof(&self.rewrap_claims(access_token))
    }

    fn jwk(&self) -> Value {
        match self {
            Self::Ec(signer) => signer.jwk(),
            Self::Rsa(key) => {
                let number = |bytes: &[u8]| encode(bytes);
                let key = key.public_key();
                let n = number(key.modulus().big_endian_without_leading_zero());
                let e = number(key.exponent().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "n": n, "e": e })
            }
        }
    }

    /// A compact JWS.
    ///
    /// # Panics
    /// When signing fails.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let key = match self {
            Self::Ec(signer) => return signer.sign(header, claims),
            Self::Rsa(key) => key,
        };
        let part = |value: &Value| encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("it signs");
        format!("{signed}.{}", encode(&signature))
    }
}

/// How a client shows its secret to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// In the header `authorization`.
    Basic,
    /// In the form.
    Form,
}

/// A client at the token endpoint of a provider.
#[derive(Debug)]
pub struct TokenClient {
    /// URL.
    pub endpoint: String,
    /// Of the client.
    pub id: String,
    /// Of the client: letters and digits, which no encoding changes.
    pub secret: String,
}

/// The answer of a token endpoint.
#[derive(Debug)]
pub struct TokenAnswer {
    /// HTTP status.
    pub status: u16,
    /// Its JSON.
    pub body: Value,
    /// `DPoP-Nonce`.
    pub nonce: Option<String>,
}

impl TokenClient {
    /// Asks for a token by client credentials.
    ///
    /// # Panics
    /// When nobody answers, or not with JSON.
    pub async fn ask(&self, secret: Secret, proof: Option<&str>) -> TokenAnswer {
        let mut request = Request::post(&self.endpoint)
            .header("content-type", "application/x-www-form-urlencoded");
        let mut form = "grant_type=client_credentials".to_owned();
        match secret {
            Secret::Basic => {
                let pair = BASE64_STANDARD.encode(format!("{}:{}", self.id, self.secret));
                request = request.header("authorization", format!("Basic {pair}"));
            }
            Secret::Form => {
                form = format!("{form}&client_id={}&client_secret={}", self.id, self.secret);
            }
        }
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let request = request.body(Full::new(Bytes::from(form))).expect("a request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("all of it").to_bytes();
        let nonce = head.headers.get("dpop-nonce").map(|nonce| nonce.to_str().expect("text"));
        TokenAnswer {
            status: head.status.as_u16(),
            body: serde_json::from_slice(&body).expect("JSON"),
            nonce: nonce.map(str::to_owned),
        }
    }

    /// An access token, bound to the key of `holder` if there is one; does what a provider wants
    /// that hands out nonces.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn token(&self, secret: Secret, holder: Option<&Holder>) -> String {
        let claims = holder.map(|holder| holder.claims(&self.endpoint));
        let sign = |claims: &Option<Value>| Some(holder?.proof(claims.as_ref()?));
        let mut answer = self.ask(secret, sign(&claims).as_deref()).await;
        if answer.body["error"] == "use_dpop_nonce" {
            let mut claims = holder.map(|holder| holder.claims(&self.endpoint));
            if let Some(claims) = &mut claims {
                claims["nonce"] = answer.nonce.as_deref().expect("a nonce").into();
            }
            answer = self.ask(secret, sign(&claims).as_deref()).await;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["access_token"].as_str().expect("a token").to_owned()
    }
}

/// Header and claims of a token, unverified.
///
/// # Panics
/// When it is no JSON Web Token.
pub fn read(token: &str) -> (Value, Value) {
    let part = |number| {
        let part = token.split('.').nth(number).expect("three parts");
        let part = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&part).expect("JSON")
    };
    (part(0), part(1))
}

/// Somebody who asks for data keys that are wrapped for one key of a KAS.
pub struct Asker {
    kas: Kas,
    client: SessionKey,
    signer: Holder,
    kid: String,
    pem: String,
}

impl Asker {
    /// Somebody who asks over `channel`.
    pub fn new(channel: Channel, kid: &str, pem: &str) -> Self {
        let (kid, pem) = (kid.to_owned(), pem.to_owned());
        let (client, signer) = (SessionKey::rsa(), Holder::ec());
        Self { kas: Kas::over(channel, String::new()), client, signer, kid, pem }
    }

    /// Somebody who asks at `url`.
    ///
    /// # Panics
    /// When it is no URL.
    pub fn at(url: String, kid: &str, pem: &str) -> Self {
        Self::new(Channel::from_shared(url).expect("a URL").connect_lazy(), kid, pem)
    }

    /// Asks with an access token and no proof; `Ok` once the data key is here.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When the call succeeds and the data key is refused.
    pub async fn bearer(&self, token: &str) -> Result<(), Status> {
        self.send(&format!("Bearer {token}"), &[], &self.signer).await.map(|opened| {
            opened.custody.expect("the data key");
        })
    }

    /// Asks with an access token that is bound to the key of `holder`, as RFC 9449 has it.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When the call succeeds and the data key is refused.
    pub async fn proven(&self, token: &str, holder: &Holder) -> Result<(), Status> {
        self.with_proof(token, &holder.rewrap_proof(token), holder).await.map(drop)
    }

    /// As [`Asker::proven`], with this proof; the nonce for the next one, if there is one.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When the call succeeds and the data key is refused.
    pub async fn with_proof(
        &self,
        token: &str,
        proof: &str,
        signer: &Holder,
    ) -> Result<Option<String>, Status> {
        let opened = self.send(&format!("DPoP {token}"), &[proof], signer).await?;
        opened.custody.expect("the data key");
        Ok(opened.nonce)
    }

    /// Asks with these headers, and a request signed by `signer`.
    ///
    /// # Errors
    /// The status of the call as a whole.
    ///
    /// # Panics
    /// When another data key comes back.
    pub async fn send(
        &self,
        authorization: &str,
        proofs: &[&str],
        signer: &Holder,
    ) -> Result<Opened, Status> {
        let dek = random_dek();
        let kao = kao(&self.kid, &self.pem, &dek, POLICY);
        let claims = request_claims(&body(&self.client, POLICY, &[kao]));
        let signed = signer.sign(&json!({ "alg": signer.algorithm(), "typ": "JWT" }), &claims);
        let answer = self.kas.send(signed, authorization, proofs).await?;
        let nonce = header(&answer, "dpop-nonce");
        let custody = results(&self.client, answer.get_ref()).remove(0).map(|rewrapped| {
            assert_eq!(rewrapped.dek, dek, "the data key is the one that was wrapped");
            rewrapped.custody
        });
        Ok(Opened { custody, nonce })
    }
}

/// What came of a call that was let in.
#[derive(Debug)]
pub struct Opened {
    /// Custody of the key, or why the data key was refused.
    pub custody: Result<String, String>,
    /// `DPoP-Nonce`.
    pub nonce: Option<String>,
}

/// The challenge of a refusal: `WWW-Authenticate` and `DPoP-Nonce`.
pub fn challenge(status: &Status) -> (Option<&str>, Option<&str>) {
    let text = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
    (text("www-authenticate"), text("dpop-nonce"))
}

fn header(answer: &Response<RewrapResponse>, name: &str) -> Option<String> {
    Some(answer.metadata().get(name)?.to_str().ok()?.to_owned())
}

fn sha256(text: &str) -> String {
    encode(digest(&SHA256, text.as_bytes()).as_ref())
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
