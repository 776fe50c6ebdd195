//! Trace context between processes.

use http::{HeaderMap, HeaderValue};
use kasbah_telemetry::{inject, set_parent};
use kasbah_testkit::collector;
use tracing::{Level, Span, span};

use crate::{close, collector, settings, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn headers(traceparent: &str) -> HeaderMap {
    [("traceparent", traceparent), ("tracestate", "vendor=1")]
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .into_iter()
        .collect()
}

fn request(name: &'static str, headers: &HeaderMap) -> HeaderMap {
    let span = span!(target: "kasbah_x", Level::INFO, "request", otel.name = name);
    set_parent(&span, headers);
    let mut onward = HeaderMap::new();
    span.in_scope(|| inject(&mut onward));
    onward
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_through() {
    let (received, address) = collector::Collector::start().await.unwrap();
    let telemetry = start(&settings(collector(&format!("http://{address}"))));
    let sampled = headers(&format!("00-{TRACE}-{PARENT}-01"));
    let onward = request("continued", &sampled);
    let parent = onward["traceparent"].to_str().unwrap();
    let (trace, span) = (&parent[3..35], &parent[36..52]);
    assert_eq!((trace, &parent[53..]), (TRACE, "01"));
    assert_ne!(span, PARENT);
    assert_eq!(onward["tracestate"], "vendor=1");
    // The client does not want it traced, and says so on to others.
    let unsampled = request("unsampled", &headers(&format!("00-{TRACE}-{PARENT}-00")));
    assert!(unsampled["traceparent"].to_str().unwrap().ends_with("-00"));
    for (index, malformed) in [
        String::new(),
        "00".to_owned(),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        "a".repeat(10_000),
    ]
    .iter()
    .enumerate()
    {
        let onward = request("malformed", &headers(malformed));
        let begun = onward["traceparent"].to_str().unwrap();
        assert!(!begun.contains(TRACE), "{index}: {begun}");
    }
    close(telemetry).await;
    let spans = received.spans();
    let continued: Vec<_> = spans.iter().filter(|span| span.name == "continued").collect();
    let [continued] = continued.as_slice() else { panic!("{spans:?}") };
    assert_eq!(hex::encode(&continued.trace_id), TRACE);
    assert_eq!(hex::encode(&continued.parent_span_id), PARENT);
    assert!(spans.iter().all(|span| span.name != "unsampled"));
    let begun = spans.iter().filter(|span| span.name == "malformed");
    assert_eq!(begun.filter(|span| span.parent_span_id.is_empty()).count(), 7);
}

#[test]
fn without_traces_nothing_is_said() {
    let mut onward = HeaderMap::new();
    set_parent(&Span::current(), &headers(&format!("00-{TRACE}-{PARENT}-01")));
    inject(&mut onward);
    assert!(onward.is_empty());
}
