//! Where figures and traces go: a Prometheus endpoint, an OpenTelemetry collector.

mod endpoint;
mod quiet;

use std::{sync::mpsc::channel, thread, time::Duration};

use opentelemetry::{KeyValue, global, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_prometheus::exporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use prometheus::{Registry, TextEncoder};
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    registry::LookupSpan,
};

pub use self::endpoint::serve_metrics;
use self::quiet::Quiet;
use crate::{Collector, CollectorError, Instruments, instruments::install};

/// Spans that may wait for the collector; what ends beyond that is left out.
const SPANS_WAITING: usize = 4096;
/// Spans in one call.
const SPANS_AT_ONCE: usize = 512;
/// How often spans are sent, unless many wait.
const SPANS_DELAY: Duration = Duration::from_secs(2);
const NAME: &str = "kasbah";

/// What is recorded, and where it goes.
#[derive(Default)]
pub struct Settings {
    /// Name of this node, `service.instance.id`.
    pub instance: String,
    /// Version of the program, `service.version`.
    pub version: &'static str,
    /// Whether figures can be read with [`Telemetry::figures`].
    pub prometheus: bool,
    /// Which collector gets them, and how often.
    pub otlp: Option<(Collector, Duration)>,
    /// Which traces go to that collector; none without one.
    pub traces: Option<Traces>,
}

/// Which requests are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traces {
    /// Share of the requests, 0 to 1, whose client does not say whether they are traced.
    pub sample_ratio: f64,
}

/// Telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The collector cannot be called.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// Something in this process records already.
    #[error("telemetry was started before in this process")]
    Started,
    /// What the libraries say.
    #[error("telemetry cannot be set up: {0}")]
    Setup(String),
}

/// What records, until it is closed.
#[derive(Debug)]
pub struct Telemetry {
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
    registry: Option<Registry>,
}

impl Telemetry {
    /// Makes [`crate::instruments`] record, and prepares traces. Needs a Tokio runtime for a
    /// collector, which is connected to when there is something to send. Once in a process.
    ///
    /// # Errors
    /// When a setting is impossible, or it was started before.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let resource = Resource::builder()
            .with_service_name(NAME)
            .with_attribute(KeyValue::new("service.version", settings.version))
            .with_attribute(KeyValue::new("service.instance.id", settings.instance.clone()))
            .build();
        let (meters, registry) = meters(settings, resource.clone())?;
        let tracers = match (&settings.otlp, settings.traces) {
            (Some((collector, _)), Some(traces)) => Some(tracers(collector, traces, resource)?),
            _ => None,
        };
        if !install(Instruments::new(&meters.meter(NAME))) {
            return Err(StartError::Started);
        }
        if tracers.is_some() {
            global::set_text_map_propagator(TraceContextPropagator::new());
        }
        Ok(Self { meters, tracers, registry })
    }

    /// The layer that makes traces of spans, if there are to be any: spans of this code base of level
    /// `INFO` and above. Events stay in the log.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer: SdkTracer = self.tracers.as_ref()?.tracer(NAME);
        let layer = OpenTelemetryLayer::new(tracer)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(is_traced).with_max_level_hint(LevelFilter::INFO)))
    }

    /// What [`serve_metrics`] serves, if it is to be served.
    pub fn figures(&self) -> Option<Figures> {
        self.registry.clone().map(Figures)
    }

    /// Sends what was recorded, if a collector takes it within `limit`. Blocks; the Tokio runtime
    /// must be running.
    pub fn close(self, limit: Duration) {
        let (done, closed) = channel();
        // The libraries do not keep to a limit for figures.
        let closing = thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            let traces = self.tracers.map(|tracers| tracers.shutdown_with_timeout(limit));
            let figures = self.meters.shutdown_with_timeout(limit);
            // Whoever waited may have left.
            let _ = done.send(figures.is_ok() && traces.is_none_or(|closed| closed.is_ok()));
        });
        if closing.is_err() || closed.recv_timeout(limit) != Ok(true) {
            tracing::warn!("the collector did not get the last metrics and traces in time");
        }
    }
}

fn meters(
    settings: &Settings,
    resource: Resource,
) -> Result<(SdkMeterProvider, Option<Registry>), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    let mut meters = SdkMeterProvider::builder().with_resource(resource);
    let mut registry = None;
    if settings.prometheus {
        let figures = registry.insert(Registry::new()).clone();
        let reader = exporter().with_registry(figures).scope_info_enabled(false).build();
        meters = meters.with_reader(reader.map_err(|error| failed(&error))?);
    }
    if let Some((collector, interval)) = &settings.otlp {
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .with_channel(collector.channel()?)
            .with_timeout(collector.timeout)
            .with_metadata(collector.metadata()?)
            .build()
            .map_err(|error| failed(&error))?;
        let exporter = Quiet::new(exporter, "metrics");
        meters =
            meters.with_reader(PeriodicReader::builder(exporter).with_interval(*interval).build());
    }
    Ok((meters.build(), registry))
}

fn tracers(
    collector: &Collector,
    traces: Traces,
    resource: Resource,
) -> Result<SdkTracerProvider, StartError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(collector.channel()?)
        .with_timeout(collector.timeout)
        .with_metadata(collector.metadata()?)
        .build()
        .map_err(|error| StartError::Setup(error.to_string()))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(SPANS_WAITING)
        .with_max_export_batch_size(SPANS_AT_ONCE)
        .with_scheduled_delay(SPANS_DELAY)
        .build();
    let processor = BatchSpanProcessor::builder(Quiet::new(exporter, "traces"));
    let sampler = Sampler::TraceIdRatioBased(traces.sample_ratio);
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor.with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource)
        .build())
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() <= tracing::Level::INFO
        && metadata.target().starts_with(NAME)
}

/// Figures as Prometheus reads them.
#[derive(Debug, Clone)]
pub struct Figures(Registry);

impl Figures {
    /// All figures in the text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    /// When two of them cannot stand beside each other, which would be a defect.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}
