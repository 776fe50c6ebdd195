//! The audit log of a server: from its configuration, and for both planes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use kasbah_audit::{
    AuditLog, Collector, FileSink, OpenError, OtlpSettings, Receipt, Settings, SigningKey,
    StderrSink,
};
use kasbah_kas::{AuditEvent, AuditOutcome, AuditSink};
use kasbah_registry::{PolicyAudit, Uses};
use serde_json::Value;

use crate::{
    config::Audit,
    exit::{Exit, Failure, OrExit},
};

/// How long one call of a collector may take.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last events may take when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the log.
pub(crate) fn open(audit: &Audit) -> Result<AuditLog, Failure> {
    let mut settings = match &audit.file {
        Some(file) => Settings::new(&audit.node, FileSink::new(file.clone())),
        None => Settings::new(&audit.node, StderrSink),
    };
    settings.durability = audit.durability;
    settings.stderr_copy = audit.stderr_copy;
    settings.checkpoint_file.clone_from(&audit.checkpoint_file);
    settings.queue = audit.queue.unwrap_or(settings.queue);
    settings.checkpoint_events = audit.checkpoint_events.unwrap_or(settings.checkpoint_events);
    settings.checkpoint_interval =
        audit.checkpoint_interval.unwrap_or(settings.checkpoint_interval);
    if let Some((name, source)) = &audit.signing_key {
        let pem = source.read().with_context(|| format!("secrets.{name}")).or_exit(Exit::Usage)?;
        let key = SigningKey::from_pem(&pem).with_context(|| format!("secrets.{name}"));
        settings.signing_key = Some(key.or_exit(Exit::Usage)?);
    }
    if let Some(collector) = &audit.otlp {
        settings.otlp = Some(OtlpSettings::new(Collector {
            endpoint: collector.endpoint.clone(),
            ca_file: collector.ca_file.clone(),
            headers: Vec::new(),
            timeout: COLLECTOR_TIMEOUT,
        }));
    }
    AuditLog::open(settings).map_err(|error| {
        let exit = match &error {
            OpenError::Sink(_) | OpenError::Thread(_) => Exit::Unavailable,
            _ => Exit::Usage,
        };
        Failure::new(exit, anyhow!(error).context("audit"))
    })
}

/// Writes what is left, and ends. Blocks as long as that takes.
pub(crate) async fn close(log: AuditLog) {
    let closed = tokio::task::spawn_blocking(move || log.close(CLOSE_TIMEOUT)).await;
    if !matches!(closed, Ok(Ok(()))) {
        tracing::error!("the audit log did not end well");
    }
}

/// Hands the events of both planes to the log.
#[derive(Debug)]
pub(crate) struct ToLog {
    log: AuditLog,
    /// Counts uses of keys, if there is a registry to tell.
    uses: Option<Arc<Uses>>,
}

impl ToLog {
    pub(crate) fn new(log: AuditLog, uses: Option<Arc<Uses>>) -> Self {
        Self { log, uses }
    }
}

impl AuditSink for ToLog {
    fn record(&self, event: &AuditEvent) -> Receipt {
        if let Some(uses) = &self.uses
            && event.outcome == AuditOutcome::Success
        {
            uses.count(&event.kid);
        }
        self.log.append(event.to_json())
    }
}

impl PolicyAudit for ToLog {
    fn record(&self, event: &Value) -> Receipt {
        self.log.append(event.clone())
    }
}
