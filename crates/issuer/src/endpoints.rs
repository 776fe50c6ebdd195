use std::net::SocketAddr;

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{self, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use crate::{Issuer, dpop, refusal::Refusal};

/// An answer of the issuer.
pub type Answer = Response<Full<Bytes>>;

const REALM: &str = "/auth/realms/opentdf";
const DISCOVERY: &str = "/auth/realms/opentdf/.well-known/openid-configuration";
/// RFC 8414, section 3.1.
const METADATA: &str = "/.well-known/oauth-authorization-server/auth/realms/opentdf";
const AUTHORIZATION: &str = "/auth/realms/opentdf/protocol/openid-connect/auth";
const JWKS: &str = "/auth/realms/opentdf/protocol/openid-connect/certs";
const TOKEN: &str = "/auth/realms/opentdf/protocol/openid-connect/token";

/// What a page of any origin may do: it needs a client's secret in any case.
const CORS: [(HeaderName, &str); 5] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, dpop"),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "www-authenticate"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// URLs of an issuer.
pub(crate) struct Endpoints {
    pub(crate) issuer: String,
    pub(crate) jwks: String,
    pub(crate) token: String,
    authorization: String,
}

impl Endpoints {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let url = |path| format!("http://{address}{path}");
        Self {
            issuer: url(REALM),
            jwks: url(JWKS),
            token: url(TOKEN),
            authorization: url(AUTHORIZATION),
        }
    }

    /// The document of OIDC Discovery 1.0, section 3. There is nobody to log in, so there are no response
    /// types; the authorization endpoint is there because clients insist on its URL.
    fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": self.authorization,
            "token_endpoint": self.token,
            "jwks_uri": self.jwks,
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "dpop_signing_alg_values_supported": dpop::ALGORITHMS,
        })
    }
}

impl Issuer {
    /// The answer to one request of any path.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut answer = self.route(request).await;
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(CORS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        answer
    }

    async fn route<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let methods: &[Method] = match request.uri().path() {
            DISCOVERY | METADATA | JWKS | AUTHORIZATION => &[Method::GET, Method::HEAD],
            TOKEN => &[Method::POST],
            _ => return json_answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" })),
        };
        if request.method() == Method::OPTIONS {
            return empty(StatusCode::NO_CONTENT);
        }
        if !methods.contains(request.method()) {
            return not_allowed(methods);
        }
        match request.uri().path() {
            DISCOVERY | METADATA => json_answer(StatusCode::OK, &self.endpoints.discovery()),
            JWKS => json_answer(StatusCode::OK, &self.jwks()),
            AUTHORIZATION => {
                let error = json!({ "error": "unsupported_response_type" });
                json_answer(StatusCode::BAD_REQUEST, &error)
            }
            _ => match self.give_token(request).await {
                Ok(token) => json_answer(StatusCode::OK, &token),
                Err(refusal) => refused(refusal),
            },
        }
    }
}

/// The value of a header that may come once.
pub(crate) fn once<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
    otherwise: Refusal,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| otherwise),
        (Some(_), Some(_)) => Err(otherwise),
    }
}

fn refused(refusal: Refusal) -> Answer {
    tracing::info!(error = refusal.code(), reason = refusal.description(), "no token was given");
    let body = json!({ "error": refusal.code(), "error_description": refusal.description() });
    let mut answer = json_answer(refusal.status(), &body);
    if refusal == Refusal::InvalidClient {
        let challenge = HeaderValue::from_static(r#"Basic realm="opentdf""#);
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

fn not_allowed(methods: &[Method]) -> Answer {
    let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
    let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
    if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
        answer.headers_mut().insert(header::ALLOW, methods);
    }
    answer
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
