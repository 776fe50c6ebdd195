//! Health as plain HTTP, which needs no token.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderName, StatusCode, header::CACHE_CONTROL, header::CONTENT_TYPE},
    routing::get,
};
use serde_json::{Value, json};

use crate::{Health, report::Asked};

/// An answer in JSON that nobody may keep.
type Answer = (StatusCode, [(HeaderName, &'static str); 2], String);

impl Health {
    /// `GET /healthz[?service=NAME]` and `GET /readyz`.
    ///
    /// `/healthz` answers `{"status": "SERVING"}`; for `all` or `kas` or a service when the server is
    /// ready, and for the name of a dependency when that is. Otherwise 503 and `NOT_SERVING`, or
    /// `UNKNOWN` for a name of nothing.
    ///
    /// `/readyz` answers 200 or 503 with `status` (`up`, `degraded`, `unknown`, `down` or `draining`)
    /// and `dependencies`: by name `status`, `since` (RFC 3339), and `detail` unless it is up.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(Arc::clone(self))
    }
}

async fn healthz(State(health): State<Arc<Health>>, RawQuery(query): RawQuery) -> Answer {
    let query = query.unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let name = pairs.find(|(key, _)| key == "service").map(|(_, name)| name).unwrap_or_default();
    let serving = health.asked(&name).map(|asked| health.report().borrow().is_serving(asked));
    let status = match serving {
        Some(true) => "SERVING",
        Some(false) => "NOT_SERVING",
        None => "UNKNOWN",
    };
    answer(serving == Some(true), &json!({ "status": status }))
}

async fn readyz(State(health): State<Arc<Health>>) -> Answer {
    let report = health.report();
    let report = report.borrow();
    answer(report.is_serving(Asked::Ready), &report.json())
}

fn answer(fine: bool, body: &Value) -> Answer {
    let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string())
}
