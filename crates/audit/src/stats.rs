use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a log did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequence of the last line.
    pub sequence: u64,
    /// It cannot be written at the moment: every event is refused.
    pub failed: bool,
    /// Events that were refused because too many waited.
    pub full: u64,
    /// Events that could not be written.
    pub lost: u64,
    /// Checkpoints in the log.
    pub checkpoints: u64,
    /// Attempts to export checkpoints that failed.
    pub export_failures: u64,
    /// Lines that a copy on standard error lacks.
    pub stderr_failures: u64,
    /// Lines handed to the OpenTelemetry exporter.
    pub otlp_offered: u64,
    /// Lines that the collector took.
    pub otlp_sent: u64,
    /// Lines that it did not take in time. What is neither sent nor failed waits, or was dropped because
    /// too many waited.
    pub otlp_failed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sequence: AtomicU64,
    pub(crate) failed: AtomicBool,
    pub(crate) full: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) export_failures: AtomicU64,
    pub(crate) stderr_failures: AtomicU64,
    pub(crate) otlp_offered: AtomicU64,
    pub(crate) otlp_sent: AtomicU64,
    pub(crate) otlp_failed: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            sequence: count(&self.sequence),
            failed: self.failed.load(Ordering::Relaxed),
            full: count(&self.full),
            lost: count(&self.lost),
            checkpoints: count(&self.checkpoints),
            export_failures: count(&self.export_failures),
            stderr_failures: count(&self.stderr_failures),
            otlp_offered: count(&self.otlp_offered),
            otlp_sent: count(&self.otlp_sent),
            otlp_failed: count(&self.otlp_failed),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
