//! Trace context between processes, W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    global::get_text_map_propagator,
    propagation::{Extractor, Injector},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` a part of the trace that `traceparent` and `tracestate` of a request name. Does
/// nothing when there is no such header, it is malformed, or traces are off.
pub fn set_parent(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context = get_text_map_propagator(|propagator| propagator.extract(&From(headers)));
    // A span that is in no trace has no parent either.
    let _ = span.set_parent(context);
}

/// Adds `traceparent` and `tracestate` of the current span to the headers of a request; nothing when
/// traces are off.
pub fn inject(headers: &mut HeaderMap) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut Into(headers)));
}

struct From<'a>(&'a HeaderMap);

impl Extractor for From<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Into<'a>(&'a mut HeaderMap);

impl Injector for Into<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing.
        if value.is_empty() {
            return;
        }
        let (name, value) = (HeaderName::try_from(key), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            self.0.insert(name, value);
        }
    }
}
