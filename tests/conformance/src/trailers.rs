//! Trailers, which services of tonic cannot set: they put them among the headers.

use std::{future::ready, str::FromStr};

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt;

/// What the name of a trailer begins with among the headers.
pub(crate) const TRAILER: &str = "trailer-";

/// Moves trailers to where they belong, and a refusal with them, as from a service that had begun to
/// answer.
pub(crate) async fn at_the_end(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut trailers = take(&mut parts.headers, |name| name.strip_prefix(TRAILER));
    if trailers.is_empty() {
        return Response::from_parts(parts, body);
    }
    trailers.extend(take(&mut parts.headers, |name| name.starts_with("grpc-").then_some(name)));
    Response::from_parts(parts, Body::new(body.with_trailers(ready(Some(Ok(trailers))))))
}

/// Takes out the headers for whose name there is a new one.
fn take(headers: &mut HeaderMap, new_name: impl Fn(&str) -> Option<&str>) -> HeaderMap {
    let (mut taken, mut left) = (HeaderMap::new(), HeaderMap::new());
    for (name, value) in &*headers {
        match new_name(name.as_str()).map(HeaderName::from_str) {
            Some(Ok(new)) => taken.append(new, value.clone()),
            _ => left.append(name, value.clone()),
        };
    }
    *headers = left;
    taken
}
