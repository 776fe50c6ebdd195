//! The REST routes of old clients, which OpenTDF no longer has.
//!
//! Each becomes a call in Connect's JSON, and its answer what the gateway of the time gave.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    response::IntoResponse,
    routing::{get, post},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use kasbah_edge::{AsSent, Call, WholeMessages};
use serde_json::{Map, Value, json};

/// When the routes were deprecated (RFC 9745), 2025-03-25.
const DEPRECATION: HeaderValue = HeaderValue::from_static("@1742860800");

/// What the routes need.
#[derive(Debug, Clone)]
struct Rest {
    call: Call,
    message_bytes: usize,
}

/// The routes below `prefix`.
pub(crate) fn router(call: Call, prefix: &str, message_bytes: usize) -> Router {
    Router::new()
        .route(&format!("{prefix}/v2/rewrap"), post(rewrap))
        .route(&format!("{prefix}/v2/kas_public_key"), get(public_key))
        .route(&format!("{prefix}/kas_public_key"), get(legacy_public_key))
        .with_state(Rest { call, message_bytes })
}

async fn rewrap(State(rest): State<Rest>, request: Request<Body>) -> Response<Body> {
    rest.forward("/kas.AccessService/Rewrap", request).await
}

async fn public_key(State(rest): State<Rest>, request: Request<Body>) -> Response<Body> {
    rest.query("/kas.AccessService/PublicKey", &["algorithm", "fmt", "v"], request).await
}

async fn legacy_public_key(State(rest): State<Rest>, request: Request<Body>) -> Response<Body> {
    rest.query("/kas.AccessService/LegacyPublicKey", &["algorithm"], request).await
}

impl Rest {
    /// Calls with the members of the query string that the method knows.
    async fn query(
        &self,
        path: &'static str,
        known: &[&str],
        request: Request<Body>,
    ) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let members: Map<String, Value> = form_urlencoded::parse(query)
            .filter(|(name, _)| known.contains(&name.as_ref()))
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect();
        let body = Value::Object(members).to_string();
        self.forward(path, request.map(|_| Body::from(body))).await
    }

    async fn forward(&self, path: &'static str, request: Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let sent = AsSent { method: parts.method, path: parts.uri.path().to_owned() };
        parts.extensions.insert(sent);
        parts.extensions.insert(WholeMessages);
        parts.method = Method::POST;
        parts.uri = Uri::from_static(path);
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        parts.headers.remove(header::CONTENT_LENGTH);
        let answer = self.call.call(Request::from_parts(parts, body)).await;
        let mut answer =
            if answer.status() == StatusCode::OK { answer } else { self.refusal(answer).await };
        answer.headers_mut().insert(HeaderName::from_static("deprecation"), DEPRECATION);
        answer
    }

    /// `google.rpc.Status` as the gateway wrote it: the code is a number.
    async fn refusal(&self, answer: Response<Body>) -> Response<Body> {
        let (mut parts, body) = answer.into_parts();
        let body = to_bytes(body, self.message_bytes).await.unwrap_or_default();
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let body =
            json!({ "code": number(text("code")), "message": text("message"), "details": [] });
        parts.headers.remove(header::CONTENT_LENGTH);
        (parts, body.to_string()).into_response()
    }
}

/// The number of a code, from its name in Connect.
fn number(code: &str) -> u8 {
    match code {
        "canceled" => 1,
        "invalid_argument" => 3,
        "deadline_exceeded" => 4,
        "not_found" => 5,
        "already_exists" => 6,
        "permission_denied" => 7,
        "resource_exhausted" => 8,
        "failed_precondition" => 9,
        "aborted" => 10,
        "out_of_range" => 11,
        "unimplemented" => 12,
        "internal" => 13,
        "unavailable" => 14,
        "data_loss" => 15,
        "unauthenticated" => 16,
        _ => 2,
    }
}
