use std::time::Instant;

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, UpDownCounter},
};

use crate::instruments::Set;

/// Something under way, which ends when this is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct InFlight<'a> {
    gauge: Option<&'a UpDownCounter<i64>>,
    timed: Option<(&'a Histogram<f64>, Instant)>,
}

impl<'a> InFlight<'a> {
    pub(crate) fn rewrap(set: Option<&'a Set>, started: Instant) -> Self {
        let timed = set.map(|set| (&set.rewrap_duration, started));
        Self::begin(set.map(|set| &set.rewraps_in_flight), timed)
    }

    pub(crate) fn call(set: Option<&'a Set>) -> Self {
        Self::begin(set.map(|set| &set.calls_in_flight), None)
    }

    fn begin(
        gauge: Option<&'a UpDownCounter<i64>>,
        timed: Option<(&'a Histogram<f64>, Instant)>,
    ) -> Self {
        if let Some(gauge) = gauge {
            gauge.add(1, &[]);
        }
        Self { gauge, timed }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge {
            gauge.add(-1, &[]);
        }
        if let Some((histogram, started)) = self.timed {
            histogram.record(started.elapsed().as_secs_f64(), &[]);
        }
    }
}

/// A job in a queue. Dropped without [`Waiting::taken`], it left the queue undone.
#[derive(Debug)]
#[must_use = "the job leaves the queue when this is dropped"]
pub struct Waiting<'a> {
    set: Option<&'a Set>,
    labels: [KeyValue; 2],
    since: Instant,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(
        set: Option<&'a Set>,
        manager: &'static str,
        operation: &'static str,
    ) -> Self {
        let labels = [KeyValue::new("manager", manager), KeyValue::new("operation", operation)];
        if let Some(set) = set {
            set.queue_depth.add(1, &labels[..1]);
        }
        Self { set, labels, since: Instant::now() }
    }

    /// A worker took the job.
    pub fn taken(self) {
        if let Some(set) = self.set {
            set.queue_time.record(self.since.elapsed().as_secs_f64(), &self.labels);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(set) = self.set {
            set.queue_depth.add(-1, &self.labels[..1]);
        }
    }
}
