use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};

use crate::instruments;

/// An exporter that says once that an outage begins, and once that it ends. The libraries would log
/// every batch.
#[derive(Debug)]
pub(crate) struct Quiet<E> {
    exporter: E,
    /// What it exports.
    signal: &'static str,
    is_down: AtomicBool,
}

impl<E> Quiet<E> {
    pub(crate) fn new(exporter: E, signal: &'static str) -> Self {
        Self { exporter, signal, is_down: AtomicBool::new(false) }
    }

    fn note(&self, exported: OTelSdkResult) {
        let signal = self.signal;
        match exported {
            Ok(()) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!(signal, "the collector takes telemetry again");
                }
            }
            Err(error) => {
                instruments().export_failed(signal);
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(signal, %error, "the collector does not take telemetry");
                }
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Quiet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.note(self.exporter.export(batch).await);
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Quiet<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.note(self.exporter.export(metrics).await);
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
