//! What telemetry says, and to whom. Telemetry starts once in a process, so these need a process each:
//! run them with nextest.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

mod figures;
mod otlp;
mod outage;
mod propagation;
mod scrape;

use std::time::{Duration, Instant};

use kasbah_telemetry::{Collector, Settings, Telemetry, Traces};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_mins(1);

fn collector(endpoint: &str) -> Collector {
    Collector {
        endpoint: endpoint.parse().unwrap(),
        ca_file: None,
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
    }
}

/// Metrics and all traces for a collector, as often as may be.
fn settings(collector: Collector) -> Settings {
    Settings {
        instance: "node-1".to_owned(),
        version: "1.2.3",
        prometheus: true,
        otlp: Some((collector, Duration::from_millis(50))),
        traces: Some(Traces { sample_ratio: 1.0 }),
    }
}

/// Starts telemetry and makes traces of the spans of this process.
fn start(settings: &Settings) -> Telemetry {
    let telemetry = Telemetry::start(settings).unwrap();
    tracing_subscriber::registry().with(telemetry.layer()).init();
    telemetry
}

async fn close(telemetry: Telemetry) {
    tokio::task::spawn_blocking(move || telemetry.close(LONG)).await.unwrap();
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
