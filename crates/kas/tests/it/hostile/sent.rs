//! A request, good until it is changed.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    keys::{Keys, Signer, encode},
    rig::{AUDIENCE, CANARY, ISSUER_A, PATH, Wire},
};
use crate::harness::{URI, now};

/// Stands in a proof for the hash of the access token, which is known last.
const ATH: &str = "the hash of the access token";
const RAW: &str = "what is not JSON, or not as a library writes it";

type Edit<T> = Box<dyn Fn(T) -> T>;

/// A JWS, signed when it is sealed, so that only what is changed here is wrong with it.
pub(super) struct Part {
    pub(super) header: Value,
    pub(super) claims: Value,
    pub(super) signer: Arc<Signer>,
    pub(super) header_bytes: Edit<Vec<u8>>,
    pub(super) claims_bytes: Edit<Vec<u8>>,
    pub(super) signature: Edit<Vec<u8>>,
    /// What becomes of the whole, once it is signed.
    pub(super) text: Edit<String>,
}

impl Part {
    fn new(header: Value, claims: Value, signer: &Arc<Signer>) -> Self {
        Self {
            header,
            claims,
            signer: Arc::clone(signer),
            header_bytes: Box::new(|bytes| bytes),
            claims_bytes: Box::new(|bytes| bytes),
            signature: Box::new(|bytes| bytes),
            text: Box::new(|text| text),
        }
    }

    pub(super) fn without(&mut self, claim: &str) {
        self.claims.as_object_mut().unwrap().remove(claim).unwrap();
    }

    pub(super) fn without_header(&mut self, name: &str) {
        self.header.as_object_mut().unwrap().remove(name).unwrap();
    }

    /// Another key signs, and the header says so.
    pub(super) fn signed_as_said_by(&mut self, signer: &Arc<Signer>) {
        self.header["alg"] = json!(signer.alg);
        self.header["kid"] = json!(signer.kid);
        self.signer = Arc::clone(signer);
    }

    /// Another key signs, with its algorithm, under the same `kid`.
    pub(super) fn signed_by(&mut self, signer: &Arc<Signer>) {
        self.header["alg"] = json!(signer.alg);
        self.signer = Arc::clone(signer);
    }

    /// A claim of this text, JSON or not.
    pub(super) fn raw(&mut self, claim: &str, text: &'static str) {
        self.claims[claim] = json!(RAW);
        self.claims_bytes = replacing(&format!("\"{RAW}\""), text);
    }

    /// Writes members before those that are there.
    pub(super) fn claims_begin_with(&mut self, text: &'static str) {
        self.claims_bytes = replacing("{", &format!("{{{text},"));
    }

    pub(super) fn header_begins_with(&mut self, text: &'static str) {
        self.header_bytes = replacing("{", &format!("{{{text},"));
    }

    /// Changes the three parts after they were signed.
    pub(super) fn parts(&mut self, change: impl Fn([&str; 3]) -> String + 'static) {
        self.text = Box::new(move |text| {
            let (header, rest) = text.split_once('.').unwrap();
            let (claims, signature) = rest.split_once('.').unwrap();
            change([header, claims, signature])
        });
    }

    pub(super) fn seal(&self) -> String {
        let header = encode((self.header_bytes)(self.header.to_string().into_bytes()));
        let claims = encode((self.claims_bytes)(self.claims.to_string().into_bytes()));
        let signed = format!("{header}.{claims}");
        let signature = (self.signature)(self.signer.sign(signed.as_bytes()));
        (self.text)(format!("{signed}.{}", encode(signature)))
    }
}

/// Replaces the first `old`, which has to be there.
pub(super) fn replacing(old: &str, new: &str) -> Edit<Vec<u8>> {
    let (old, new) = (old.to_owned(), new.to_owned());
    Box::new(move |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(&old), "nothing to replace");
        text.replacen(&old, &new, 1).into_bytes()
    })
}

pub(super) fn decode(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

pub(super) fn hash(text: &str) -> String {
    encode(Sha256::digest(text))
}

/// What headers become of a token.
type Carry<T> = Box<dyn Fn(&str) -> Vec<T>>;

/// All of a request.
pub(super) struct Sent {
    pub(super) keys: Arc<Keys>,
    /// A good request that was let in already.
    pub(super) before: Option<Wire>,
    pub(super) token: Part,
    pub(super) proof: Part,
    pub(super) srt: Part,
    /// The headers that carry the access token.
    pub(super) authorization: Carry<(&'static str, Vec<u8>)>,
    /// The headers that carry the proof.
    pub(super) proofs: Carry<Vec<u8>>,
    pub(super) method: &'static str,
    /// The path and the query, for an access token.
    pub(super) path: Box<dyn Fn(&str) -> String>,
}

impl Sent {
    /// A request for `body`, with a token of issuer A that is bound to the client's key.
    pub(super) fn new(keys: &Arc<Keys>, body: &str, nonce: Option<&str>) -> Self {
        let (now, client) = (now(), &keys.client);
        let [key, ..] = &keys.a;
        let token = json!({
            "iss": ISSUER_A, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 300,
            "sub": CANARY, "azp": CANARY, "preferred_username": CANARY, "jti": CANARY,
            "cnf": { "jkt": client.thumbprint() },
            // The question marks become `_`, of which base64 has two alphabets.
            "note": { "deep": [CANARY, "?????????"] },
        });
        let mut proof = json!({
            "jti": format!("{CANARY}-{}", Uuid::new_v4()), "htm": "POST", "iat": now, "ath": ATH,
            "htu": format!("{URI}{PATH}?{CANARY}#{CANARY}"),
        });
        if let Some(nonce) = nonce {
            proof["nonce"] = json!(nonce);
        }
        let srt = json!({ "requestBody": body, "iat": now, "exp": now + 60, "note": CANARY });
        let token_header = json!({ "typ": "at+jwt", "alg": key.alg, "kid": key.kid });
        let proof_header = json!({
            "typ": "dpop+jwt", "alg": client.alg, "jwk": client.jwk, "kid": CANARY,
        });
        let srt_header = json!({ "typ": "JWT", "alg": client.alg, "kid": CANARY });
        let mut this = Self {
            keys: Arc::clone(keys),
            before: None,
            token: Part::new(token_header, token, key),
            proof: Part::new(proof_header, proof, client),
            srt: Part::new(srt_header, srt, client),
            authorization: Box::new(|_| Vec::new()),
            proofs: Box::new(|proof| vec![proof.into()]),
            method: "POST",
            path: Box::new(|_| PATH.to_owned()),
        };
        this.scheme(|token| format!("DPoP {token}"));
        this
    }

    /// Sends this as the one `authorization` header.
    pub(super) fn scheme(&mut self, header: impl Fn(&str) -> String + 'static) {
        self.schemes(move |token| vec![header(token)]);
    }

    /// Sends these `authorization` headers.
    pub(super) fn schemes(&mut self, headers: impl Fn(&str) -> Vec<String> + 'static) {
        self.authorization = Box::new(move |token| {
            headers(token).into_iter().map(|value| ("authorization", value.into_bytes())).collect()
        });
    }

    /// Sends this path, and proves it unless the proof is changed too.
    pub(super) fn to(&mut self, path: &'static str) {
        self.path = Box::new(|_| path.to_owned());
        self.proof.claims["htu"] = json!(format!("{URI}{path}"));
    }

    /// Binds the token to another key, and proves that with it.
    pub(super) fn bound_to(&mut self, jwk: &Value) {
        self.token.claims["cnf"] = json!({ "jkt": super::keys::thumbprint(jwk) });
        self.proof.header["jwk"] = jwk.clone();
    }

    /// Signs everything.
    pub(super) fn seal(mut self) -> Wire {
        let token = self.token.seal();
        if self.proof.claims["ath"] == ATH {
            self.proof.claims["ath"] = json!(hash(&token));
        }
        let proofs = (self.proofs)(&self.proof.seal());
        let mut headers = (self.authorization)(&token);
        headers.extend(proofs.into_iter().map(|proof| ("dpop", proof)));
        Wire { method: self.method, path: (self.path)(&token), headers, srt: self.srt.seal() }
    }
}
