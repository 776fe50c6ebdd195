//! The token endpoint.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request,
    body::{Body, Bytes},
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{Issuer, dpop::GoodProof, endpoints::once, issuer::now, refusal::Refusal};

const BODY_BYTES: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const FORM: &str = "application/x-www-form-urlencoded";

/// Parameters; one of them may be a secret.
type Form = HashMap<String, Zeroizing<String>>;

/// A client that showed its secret.
struct Authenticated {
    id: String,
    claims: Map<String, Value>,
}

impl Issuer {
    /// RFC 6749, section 4.4: the body of the answer.
    pub(crate) async fn give_token<B>(&self, request: Request<B>) -> Result<Value, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let form = form(&head.headers, body).await?;
        let client = self.authenticate(&head.headers, &form)?;
        match form.get("grant_type").map(|value| value.as_str()) {
            Some("client_credentials") => {}
            Some(_) => return Err(Refusal::UnsupportedGrantType),
            None => return Err(Refusal::InvalidRequest("grant_type is missing")),
        }
        let bound_to = self.proven_key(&head.headers)?;
        let token = self.token(&client.id, client.claims, bound_to.as_deref());
        Ok(json!({
            "access_token": token.map_err(|_| Refusal::Failed)?,
            "token_type": if bound_to.is_some() { "DPoP" } else { "Bearer" },
            "expires_in": self.lifetime,
        }))
    }

    /// RFC 6749, section 2.3.1. Not every client encodes id and secret before it puts them into the
    /// header, as it should, so they are taken either way.
    fn authenticate(&self, headers: &HeaderMap, form: &Form) -> Result<Authenticated, Refusal> {
        let authorization = once(headers, "authorization", Refusal::InvalidClient)?;
        let (id, secret) = (form.get("client_id"), form.get("client_secret"));
        let Some(authorization) = authorization else {
            let (id, secret) = id.zip(secret).ok_or(Refusal::InvalidClient)?;
            return self.check(id, secret).ok_or(Refusal::InvalidClient);
        };
        if secret.is_some() {
            return Err(Refusal::InvalidRequest("the client authenticates in two ways"));
        }
        let pair = basic(authorization).ok_or(Refusal::InvalidClient)?;
        let (user, password) = pair.split_once(':').ok_or(Refusal::InvalidClient)?;
        let decoded = || self.check(&decoded(user), &Zeroizing::new(decoded(password)));
        let client = self.check(user, password).or_else(decoded).ok_or(Refusal::InvalidClient)?;
        if id.is_some_and(|id| **id != client.id) {
            return Err(Refusal::InvalidRequest("client_id is another than in the header"));
        }
        Ok(client)
    }

    fn check(&self, id: &str, secret: &str) -> Option<Authenticated> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let claims = clients.authenticate(id, secret)?;
        Some(Authenticated { id: id.to_owned(), claims })
    }

    /// Thumbprint of the key that the sender proves to have; `None` without a proof.
    fn proven_key(&self, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
        let unreadable = Refusal::InvalidProof("it is not one header of visible ASCII");
        let Some(proof) = once(headers, "dpop", unreadable)? else { return Ok(None) };
        let now = now();
        GoodProof::read(proof, self.token_url(), now)?.spend(&self.used, now).map(Some)
    }
}

async fn form<B>(headers: &HeaderMap, body: B) -> Result<Form, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kind = once(headers, "content-type", NOT_A_FORM)?.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(FORM) {
        return Err(NOT_A_FORM);
    }
    let body = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await;
    let body = body.map_err(|_| Refusal::TooSlow)?.map_err(|error| {
        let is_too_large = error.is::<LengthLimitError>();
        if is_too_large {
            Refusal::TooLarge
        } else {
            Refusal::InvalidRequest("the body breaks off")
        }
    })?;
    let mut form = Form::new();
    for (name, value) in form_urlencoded::parse(&body.to_bytes()) {
        if form.insert(name.into_owned(), Zeroizing::new(value.into_owned())).is_some() {
            return Err(Refusal::InvalidRequest("a parameter comes twice"));
        }
    }
    Ok(form)
}

/// `user:password` of an `Authorization` header (RFC 7617).
fn basic(authorization: &str) -> Option<Zeroizing<String>> {
    let (scheme, pair) = authorization.split_once(' ')?;
    let pair =
        STANDARD.decode(pair.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    String::from_utf8(pair).ok().map(Zeroizing::new)
}

/// Undoes `application/x-www-form-urlencoded` for one value.
fn decoded(text: &str) -> String {
    let text = Zeroizing::new(text.replace('&', "%26").replace('=', "%3D"));
    form_urlencoded::parse(text.as_bytes()).map(|(value, _)| value.into_owned()).collect()
}

const NOT_A_FORM: Refusal =
    Refusal::InvalidRequest("the body is not application/x-www-form-urlencoded");
