//! Which pages of other origins may call (Fetch standard, CORS protocol).

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Which pages of other origins may call, and what they may send and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins such as `https://app.example`, compared without regard to case; `*` alone is any
    /// origin, without credentials.
    pub origins: Vec<String>,
    /// Request headers beside those that OpenTDF's clients send.
    pub headers: Vec<HeaderName>,
    /// Response headers beside those that OpenTDF's clients read.
    pub exposed_headers: Vec<HeaderName>,
    /// Whether browsers may send cookies and client certificates; access tokens need no such
    /// thing.
    pub credentials: bool,
    /// How long a browser may remember the answer.
    pub max_age: Duration,
}

/// What OpenTDF's clients, Connect and gRPC-Web send.
const HEADERS: [HeaderName; 17] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    HeaderName::from_static("dpop"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("x-rewrap-additional-context"),
    HeaderName::from_static("x-virtrupubkey"),
];

/// What they read.
const EXPOSED: [HeaderName; 7] = [
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("dpop-nonce"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-status-details-bin"),
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

impl Cors {
    /// Pages of these origins, without credentials.
    pub fn of_origins(origins: impl IntoIterator<Item = String>) -> Self {
        Self {
            origins: origins.into_iter().collect(),
            headers: Vec::new(),
            exposed_headers: Vec::new(),
            credentials: false,
            max_age: Duration::from_hours(1),
        }
    }

    pub(crate) fn layer(&self) -> CorsLayer {
        let headers: Vec<_> = HEADERS.iter().chain(&self.headers).cloned().collect();
        let exposed: Vec<_> = EXPOSED.iter().chain(&self.exposed_headers).cloned().collect();
        let any = self.origins.iter().any(|origin| origin == "*");
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
            .allow_headers(headers)
            .expose_headers(exposed)
            .max_age(self.max_age);
        if any {
            return layer.allow_origin(AllowOrigin::any());
        }
        let origins: Vec<_> = self.origins.iter().map(|origin| origin.to_lowercase()).collect();
        let is_allowed = move |origin: &HeaderValue, _: &http::request::Parts| {
            let origin = origin.to_str().map(str::to_lowercase).unwrap_or_default();
            origins.contains(&origin)
        };
        layer.allow_origin(AllowOrigin::predicate(is_allowed)).allow_credentials(self.credentials)
    }
}
