//! A collector that is not there.

use std::{
    io,
    net::TcpListener as Listener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kasbah_telemetry::{Telemetry, instruments};
use kasbah_testkit::collector;
use tokio::net::TcpListener;
use tracing::{Level, span};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use crate::{LONG, close, collector, settings, until};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().unwrap();
        String::from_utf8_lossy(&lines).lines().filter(|line| line.contains(text)).count()
    }
}

/// As a server logs: at `INFO`, what the libraries say too.
fn log_to(lines: &Lines, telemetry: &Telemetry) {
    let writer = lines.clone();
    let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let log =
        tracing_subscriber::Layer::with_filter(log, tracing::level_filters::LevelFilter::INFO);
    tracing_subscriber::registry().with(telemetry.layer()).with(log).init();
}

fn work() {
    instruments().decision("permit");
    drop(span!(target: "kasbah_x", Level::INFO, "work").entered());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_and_so_is_its_end() {
    let (received, address) = collector::Collector::start().await.unwrap();
    received.refuse(true);
    let telemetry = Telemetry::start(&settings(collector(&format!("http://{address}")))).unwrap();
    let lines = Lines::default();
    log_to(&lines, &telemetry);
    let refused = || {
        let text = telemetry.figures().unwrap().text().unwrap();
        let line = "kasbah_telemetry_failures_total{signal=\"metrics\"} ";
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    work();
    until("several batches are refused", || refused() >= 5).await;
    let told = "does not take telemetry signal=\"metrics\"";
    assert_eq!(lines.count(told), 1);
    assert_eq!(lines.count("ERROR"), 0, "the libraries are quiet");
    received.refuse(false);
    until("metrics are taken", || !received.metrics().is_empty()).await;
    until("that is told", || lines.count("takes telemetry again signal=\"metrics\"") == 1).await;
    received.refuse(true);
    until("the next outage is told", || lines.count(told) == 2).await;
    close(telemetry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_collector_that_does_not_answer() {
    // Takes connections and never says a word.
    let silent = Listener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let telemetry = Telemetry::start(&settings(collector(&format!("http://{address}")))).unwrap();
    log_to(&Lines::default(), &telemetry);
    let started = Instant::now();
    // Many more spans than may wait.
    for _ in 0..20_000 {
        work();
    }
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    let closing = Instant::now();
    tokio::task::spawn_blocking(move || telemetry.close(Duration::from_millis(200))).await.unwrap();
    assert!(closing.elapsed() < LONG / 2, "{:?}", closing.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_may_come_later() {
    let place = Listener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let telemetry = Telemetry::start(&settings(collector(&format!("http://{address}")))).unwrap();
    log_to(&Lines::default(), &telemetry);
    work();
    let received = collector::Collector::default();
    received.listen(TcpListener::bind(address).await.unwrap());
    until("metrics come", || !received.metrics().is_empty()).await;
    work();
    close(telemetry).await;
    assert!(!received.spans().is_empty());
}
