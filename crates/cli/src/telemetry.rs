//! Figures and traces of a server: from its configuration to where they go.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use kasbah_telemetry::{Collector, Settings, Telemetry, Traces, serve_metrics};
use tokio::net::TcpListener;

use crate::{
    config::{Config, Otlp},
    exit::{Exit, Failure, OrExit},
    server::listen,
};

/// How long the last figures and traces may take when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server is to tell of itself.
pub(crate) struct Wanted {
    node: String,
    /// Where Prometheus finds figures.
    metrics: Option<SocketAddr>,
    otlp: Option<Box<Otlp>>,
    sample_ratio: Option<f64>,
}

impl Wanted {
    /// What a configuration wants; `None` if that is nothing.
    pub(crate) fn take(config: &mut Config) -> Option<Self> {
        let telemetry = std::mem::take(&mut config.telemetry);
        let wanted = Self {
            node: config.audit.node.clone(),
            metrics: config.server.metrics,
            otlp: telemetry.otlp,
            sample_ratio: telemetry.sample_ratio,
        };
        (wanted.metrics.is_some() || wanted.otlp.is_some()).then_some(wanted)
    }

    /// Starts to record, and to listen for Prometheus. Reads the secrets of headers. Must be called on a
    /// Tokio runtime.
    pub(crate) fn start(self) -> Result<Telemetry, Failure> {
        let otlp = match self.otlp {
            Some(otlp) => Some((collector(&otlp)?, otlp.interval)),
            None => None,
        };
        let settings = Settings {
            instance: self.node,
            version: env!("CARGO_PKG_VERSION"),
            prometheus: self.metrics.is_some(),
            otlp,
            traces: self.sample_ratio.map(|sample_ratio| Traces { sample_ratio }),
        };
        let listener = match self.metrics {
            Some(address) => {
                Some(TcpListener::from_std(listen(address)?).or_exit(Exit::Unavailable)?)
            }
            None => None,
        };
        let telemetry = Telemetry::start(&settings).context("telemetry").or_exit(Exit::Usage)?;
        if let (Some(figures), Some(listener)) = (telemetry.figures(), listener) {
            tokio::spawn(serve_metrics(figures, listener));
        }
        Ok(telemetry)
    }
}

/// Sends what is left, if it is taken in time.
pub(crate) fn close(telemetry: Telemetry) {
    telemetry.close(CLOSE_TIMEOUT);
}

fn collector(otlp: &Otlp) -> Result<Collector, Failure> {
    let mut headers = Vec::new();
    for (header, name, source) in &otlp.headers {
        let value = source.read().with_context(|| format!("secrets.{name}"));
        headers.push((header.clone(), value.or_exit(Exit::Usage)?));
    }
    Ok(Collector {
        endpoint: otlp.collector.endpoint.clone(),
        ca_file: otlp.collector.ca_file.clone(),
        headers,
        timeout: otlp.timeout,
    })
}
