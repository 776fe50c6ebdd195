//! What a collector gets.

use kasbah_telemetry::{StartError, Telemetry, instruments};
use kasbah_testkit::collector::{self, text};
use secrecy::SecretString;
use tracing::{Level, info_span, span};

use crate::{close, collector, settings, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_metrics_and_traces() {
    let (received, address) = collector::Collector::start().await.unwrap();
    let mut to = collector(&format!("http://{address}"));
    to.headers = vec![("authorization".to_owned(), SecretString::from("Bearer t"))];
    let telemetry = start(&settings(to));
    instruments().decision("permit");
    {
        let outer = info_span!("outer", kid = "r1", secret = tracing::field::Empty);
        let _in_outer = outer.enter();
        // An event is for the log, and so are spans of others and of lower levels.
        tracing::error!("an event");
        let _other = span!(target: "hyper", Level::INFO, "of another").entered();
        let _debug = span!(target: "kasbah_x", Level::DEBUG, "debug").entered();
        let _inner = span!(target: "kasbah_x", Level::INFO, "inner").entered();
    }
    close(telemetry).await;
    assert_eq!(received.authorization(), ["Bearer t".to_owned()].into());
    assert_eq!(received.services(), ["kasbah/node-1".to_owned()].into());
    assert!(received.metrics().iter().any(|metric| metric.name == "kasbah_decisions"));
    let spans = received.spans();
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    // The targets of the tests are not those of the code base.
    assert_eq!(names, ["inner"]);
    assert!(spans[0].events.is_empty() && text(&spans[0].attributes, "kid").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_cannot_be_sent_are_refused_without_their_value() {
    let mut wrong = collector("http://127.0.0.1:1");
    let value = SecretString::from("line\nfeed");
    wrong.headers = vec![("authorization".to_owned(), value)];
    let error = Telemetry::start(&settings(wrong)).unwrap_err();
    assert!(matches!(error, StartError::Collector(_)));
    assert_eq!(
        error.to_string(),
        "the name or value of header `authorization` is not allowed in HTTP"
    );
}

#[test]
fn a_collector_needs_a_runtime() {
    let error = Telemetry::start(&settings(collector("http://127.0.0.1:1"))).unwrap_err();
    assert_eq!(error.to_string(), "an OpenTelemetry exporter needs a Tokio runtime");
}
