//! A copy of the log for an OpenTelemetry collector: OTLP over gRPC. Best effort; nothing waits for it.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use kasbah_telemetry::{Collector, CollectorError};
use opentelemetry::{
    KeyValue,
    logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity},
};
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{
        BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, SdkLogger, SdkLoggerProvider,
    },
};

use crate::stats::{Counters, add};

/// Lines in one call.
const BATCH: usize = 512;

/// Which collector gets a copy of every line.
pub struct OtlpSettings {
    /// Where it is.
    pub collector: Collector,
    /// How many lines may wait; what comes in beyond that is left out.
    pub queue: usize,
    /// How often lines are sent, unless many wait.
    pub delay: Duration,
}

impl OtlpSettings {
    /// 4096 lines, once a second.
    pub fn new(collector: Collector) -> Self {
        Self { collector, queue: 4096, delay: Duration::from_secs(1) }
    }
}

/// The copy cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The collector cannot be called.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// What the libraries say.
    #[error("the OpenTelemetry exporter cannot be made: {0}")]
    Setup(String),
}

/// Hands lines to the exporter.
pub(crate) struct Otlp {
    provider: SdkLoggerProvider,
    logger: SdkLogger,
    counters: Arc<Counters>,
}

impl Otlp {
    pub(crate) fn new(
        settings: &OtlpSettings,
        node: &str,
        counters: Arc<Counters>,
    ) -> Result<Self, OtlpError> {
        let exporter = opentelemetry_otlp::LogExporter::builder()
            .with_tonic()
            .with_channel(settings.collector.channel()?)
            .with_timeout(settings.collector.timeout)
            .with_metadata(settings.collector.metadata()?)
            .build()
            .map_err(|error| OtlpError::Setup(error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(settings.delay)
            .build();
        let counted = Counted { exporter, counters: Arc::clone(&counters) };
        let processor = BatchLogProcessor::builder(counted).with_batch_config(batches).build();
        let resource = Resource::builder()
            .with_service_name("kasbah")
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .build();
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(processor)
            .with_resource(resource)
            .build();
        let logger = provider.logger("kasbah.audit");
        Ok(Self { provider, logger, counters })
    }

    /// Hands over a line without its end: it becomes the body of a record, with its sequence beside it.
    pub(crate) fn send(&self, line: &[u8], sequence: u64) {
        let mut record = self.logger.create_log_record();
        record.set_timestamp(SystemTime::now());
        // OpenTDF's AUDIT has the number of INFO2.
        record.set_severity_number(Severity::Info2);
        record.set_severity_text("AUDIT");
        record.set_body(AnyValue::from(String::from_utf8_lossy(line).into_owned()));
        record.add_attribute("kasbah.sequence", i64::try_from(sequence).unwrap_or(i64::MAX));
        self.logger.emit(record);
        add(&self.counters.otlp_offered, 1);
    }

    /// Sends what waits.
    pub(crate) fn close(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the collector did not get all audit events");
        }
    }
}

/// Counts what an exporter does.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    counters: Arc<Counters>,
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        let sent = self.exporter.export(batch).await;
        let counter: &AtomicU64 = match &sent {
            Ok(()) => &self.counters.otlp_sent,
            Err(error) => {
                tracing::warn!(%error, count, "a collector did not take audit events");
                &self.counters.otlp_failed
            }
        };
        add(counter, count);
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
