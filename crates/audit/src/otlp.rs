//! A copy of the log for an OpenTelemetry collector: OTLP over gRPC. Best effort; nothing waits for it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use kasbah_http::{TlsError, Uri, authorities};
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
use secrecy::{ExposeSecret, SecretString};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::stats::{Counters, add};

/// Which collector gets a copy of every line.
pub struct OtlpSettings {
    /// Where it listens for OTLP over gRPC: `http` or `https`, a host, no path.
    pub endpoint: Uri,
    /// PEM certificates of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Headers to send, such as `authorization`.
    pub headers: Vec<(String, SecretString)>,
    /// How many lines may wait; what comes in beyond that is left out.
    pub queue: usize,
    /// How often lines are sent, unless many wait.
    pub delay: Duration,
    /// How long one call may take.
    pub timeout: Duration,
}

impl OtlpSettings {
    /// No headers, 4096 lines, once a second, 10 seconds per call.
    pub fn new(endpoint: Uri) -> Self {
        Self {
            endpoint,
            ca_file: None,
            headers: Vec::new(),
            queue: 4096,
            delay: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }
}

/// The collector cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A header that HTTP does not allow.
    #[error("the name or value of header `{0}` is not allowed in HTTP")]
    Header(String),
    /// Opened where no Tokio runtime is.
    #[error("an OpenTelemetry exporter needs a Tokio runtime")]
    NoRuntime,
    /// What the libraries say.
    #[error("the OpenTelemetry exporter cannot be made: {0}")]
    Setup(String),
    /// There is no TLS to call it with.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(OtlpError::NoRuntime);
        }
        let exporter = opentelemetry_otlp::LogExporter::builder()
            .with_tonic()
            .with_channel(channel(settings)?)
            .with_timeout(settings.timeout)
            .with_metadata(metadata(&settings.headers)?)
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

fn channel(settings: &OtlpSettings) -> Result<Channel, OtlpError> {
    let mut endpoint = Endpoint::from(settings.endpoint.clone())
        .connect_timeout(settings.timeout)
        .timeout(settings.timeout);
    if settings.endpoint.scheme_str() == Some("https") {
        let roots = authorities(settings.ca_file.as_deref())?;
        let tls = ClientTlsConfig::new().trust_anchors(roots.roots.iter().cloned());
        endpoint = endpoint.tls_config(tls).map_err(|error| TlsError::Settings(error.into()))?;
    }
    Ok(endpoint.connect_lazy())
}

fn metadata(headers: &[(String, SecretString)]) -> Result<MetadataMap, OtlpError> {
    let mut map = MetadataMap::new();
    for (name, value) in headers {
        let refuse = || OtlpError::Header(name.clone());
        let key = name.parse::<AsciiMetadataKey>().map_err(|_| refuse())?;
        let value = value.expose_secret().parse::<AsciiMetadataValue>();
        let mut value = value.map_err(|_| refuse())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

/// Lines in one call.
const BATCH: usize = 512;
