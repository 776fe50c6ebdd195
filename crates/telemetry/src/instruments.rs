use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use crate::{InFlight, Waiting};

/// Upper bounds of the buckets of a request, in seconds.
const REQUEST_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of the buckets of one step of a request, in seconds.
const STEP_SECONDS: [f64; 15] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1, 0.5, 2.5, 10.0,
];
/// Classes of failed calls to a token, see [`Instruments::token_error`].
const TOKEN_ERRORS: [&str; 4] = ["caller", "transient", "gone", "fatal"];

/// The instruments of this process; off until they are installed.
pub fn instruments() -> &'static Instruments {
    static OFF: Instruments = Instruments(None);
    INSTALLED.get().unwrap_or(&OFF)
}

static INSTALLED: OnceLock<Instruments> = OnceLock::new();

/// Makes [`instruments`] yield these, unless some were installed before.
#[cfg(feature = "export")]
pub(crate) fn install(instruments: Instruments) -> bool {
    INSTALLED.set(instruments).is_ok()
}

/// What is counted and timed. Every method may be called anywhere, blocks nowhere and fails never.
/// Durations are in seconds, names are those of OpenTelemetry; Prometheus adds `_seconds` and
/// `_total`.
#[derive(Debug)]
pub struct Instruments(Option<Box<Set>>);

#[derive(Debug)]
pub(crate) struct Set {
    rewraps: Counter<u64>,
    pub(crate) rewrap_duration: Histogram<f64>,
    pub(crate) rewraps_in_flight: UpDownCounter<i64>,
    pub(crate) queue_time: Histogram<f64>,
    pub(crate) queue_depth: UpDownCounter<i64>,
    execution_time: Histogram<f64>,
    refusals: Counter<u64>,
    token_errors: Counter<u64>,
    cache_lookups: Counter<u64>,
    stale_served: Counter<u64>,
    decisions: Counter<u64>,
    decision_duration: Histogram<f64>,
    calls: Counter<u64>,
    pub(crate) calls_in_flight: UpDownCounter<i64>,
    http_requests: Counter<u64>,
    http_duration: Histogram<f64>,
    failures: Counter<u64>,
}

/// What became of one key access object.
#[derive(Debug, Clone, Copy)]
pub struct Rewrap<'a> {
    /// The word of its audit event: `success`, `denied`, `tampered`, `busy`...
    pub outcome: &'static str,
    /// `rsa:2048`, `ec:secp256r1`...; `unknown` if it did not come to a key.
    pub key_type: &'static str,
    /// Kind of the key manager, `opentdf.io/hsm`; `none` if it did not come to one.
    pub manager: &'a str,
    /// `sealed` or `transient`; `none` if nothing was released.
    pub custody: &'static str,
}

impl Instruments {
    /// Instruments of `meter`.
    pub fn new(meter: &Meter) -> Self {
        let set = Set::new(meter);
        for class in TOKEN_ERRORS {
            set.token_errors.add(0, &[KeyValue::new("class", class)]);
        }
        Self(Some(Box::new(set)))
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn set(&self) -> Option<&Set> {
        self.0.as_deref()
    }

    /// Counts a key access object, or a request that was refused before it came to one:
    /// `kasbah_rewraps`.
    pub fn rewrap(&self, rewrap: Rewrap<'_>) {
        let Some(set) = self.set() else { return };
        let labels = [
            KeyValue::new("outcome", rewrap.outcome),
            KeyValue::new("key_type", rewrap.key_type),
            KeyValue::new("manager", rewrap.manager.to_owned()),
            KeyValue::new("custody", rewrap.custody),
        ];
        set.rewraps.add(1, &labels);
    }

    /// A rewrap request begins; it ends when the guard is dropped: `kasbah_rewrap_requests_in_flight`
    /// and `kasbah_rewrap_duration`, from `started`.
    pub fn rewrap_request(&self, started: Instant) -> InFlight<'_> {
        InFlight::rewrap(self.set(), started)
    }

    /// A job enters the queue of `manager`; it leaves it when the guard is told so, or dropped:
    /// `kasbah_manager_queue_depth` and `kasbah_manager_queue_time`.
    pub fn queued(&self, manager: &'static str, operation: &'static str) -> Waiting<'_> {
        Waiting::new(self.set(), manager, operation)
    }

    /// How long a key manager worked on a job, without the time it waited:
    /// `kasbah_manager_execution_time`.
    pub fn executed(&self, manager: &'static str, operation: &'static str, time: Duration) {
        let Some(set) = self.set() else { return };
        let labels = [KeyValue::new("manager", manager), KeyValue::new("operation", operation)];
        set.execution_time.record(time.as_secs_f64(), &labels);
    }

    /// A key manager did not do a job: `busy`, its queue was full; `abandoned`, nobody waited for it
    /// any more. `kasbah_manager_refusals`.
    pub fn not_done(&self, manager: &'static str, reason: &'static str) {
        let Some(set) = self.set() else { return };
        let labels = [KeyValue::new("manager", manager), KeyValue::new("reason", reason)];
        set.refusals.add(1, &labels);
    }

    /// A call to a token failed: because of a `caller`'s input, a `transient` condition of session or
    /// login, because the device is `gone`, or for a `fatal` reason that no retry helps.
    /// `kasbah_token_errors`.
    pub fn token_error(&self, class: &'static str) {
        let Some(set) = self.set() else { return };
        set.token_errors.add(1, &[KeyValue::new("class", class)]);
    }

    /// A look into a cache, `keys` or `tokens`: `kasbah_cache_lookups`.
    pub fn cache_lookup(&self, cache: &'static str, is_hit: bool) {
        let Some(set) = self.set() else { return };
        let result = if is_hit { "hit" } else { "miss" };
        let labels = [KeyValue::new("cache", cache), KeyValue::new("result", result)];
        set.cache_lookups.add(1, &labels);
    }

    /// An answer of a cache that was known to be old, because there was none better:
    /// `kasbah_cache_stale_served`.
    pub fn stale_served(&self, cache: &'static str) {
        let Some(set) = self.set() else { return };
        set.stale_served.add(1, &[KeyValue::new("cache", cache)]);
    }

    /// What was decided on one policy: `permit`, `deny`, or why it was not decided.
    /// `kasbah_decisions`.
    pub fn decision(&self, result: &'static str) {
        let Some(set) = self.set() else { return };
        set.decisions.add(1, &[KeyValue::new("result", result)]);
    }

    /// How long whoever decides on access took to answer one question, `answered` or `failed`:
    /// `kasbah_decision_duration`.
    pub fn decided(&self, result: &'static str, time: Duration) {
        let Some(set) = self.set() else { return };
        set.decision_duration.record(time.as_secs_f64(), &[KeyValue::new("result", result)]);
    }

    /// What the gate did with a call: `admitted`, `public`, or why it was refused. `kasbah_calls`.
    pub fn call(&self, result: &'static str) {
        let Some(set) = self.set() else { return };
        set.calls.add(1, &[KeyValue::new("result", result)]);
    }

    /// A call is in the gate or behind it until the guard is dropped: `kasbah_calls_in_flight`.
    pub fn call_in_flight(&self) -> InFlight<'_> {
        InFlight::call(self.set())
    }

    /// An HTTP request was answered: `kasbah_http_requests`, and `kasbah_http_request_duration` by
    /// protocol alone. `protocol` is `grpc`, `grpc-web`, `connect`, `rest`...
    pub fn http(&self, protocol: &'static str, status: u16, time: Duration) {
        let Some(set) = self.set() else { return };
        let protocol = KeyValue::new("protocol", protocol);
        set.http_duration.record(time.as_secs_f64(), std::slice::from_ref(&protocol));
        set.http_requests.add(1, &[protocol, KeyValue::new("status", i64::from(status))]);
    }

    /// A batch of `metrics` or `traces` that the collector did not take:
    /// `kasbah_telemetry_failures`.
    pub fn export_failed(&self, signal: &'static str) {
        let Some(set) = self.set() else { return };
        set.failures.add(1, &[KeyValue::new("signal", signal)]);
    }
}

impl Set {
    fn new(meter: &Meter) -> Self {
        let counter = |name, about| meter.u64_counter(name).with_description(about).build();
        let gauge = |name, about| meter.i64_up_down_counter(name).with_description(about).build();
        let seconds = |name, about, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_description(about).with_unit("s");
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            rewraps: counter("kasbah_rewraps", "Key access objects by what became of them"),
            rewrap_duration: seconds(
                "kasbah_rewrap_duration",
                "Time of a rewrap request, from its arrival behind the gate to its answer",
                &REQUEST_SECONDS,
            ),
            rewraps_in_flight: gauge(
                "kasbah_rewrap_requests_in_flight",
                "Rewrap requests under way",
            ),
            queue_time: seconds(
                "kasbah_manager_queue_time",
                "Time that jobs waited for a worker of a key manager",
                &STEP_SECONDS,
            ),
            queue_depth: gauge("kasbah_manager_queue_depth", "Jobs that wait for a worker"),
            execution_time: seconds(
                "kasbah_manager_execution_time",
                "Time that workers of a key manager spent on jobs",
                &STEP_SECONDS,
            ),
            refusals: counter("kasbah_manager_refusals", "Jobs that a key manager did not do"),
            token_errors: counter("kasbah_token_errors", "Calls to a token that failed"),
            cache_lookups: counter("kasbah_cache_lookups", "Looks into a cache"),
            stale_served: counter("kasbah_cache_stale_served", "Old answers given for want of new"),
            decisions: counter("kasbah_decisions", "Policies by what was decided on them"),
            decision_duration: seconds(
                "kasbah_decision_duration",
                "Time that whoever decides on access took to answer",
                &STEP_SECONDS,
            ),
            calls: counter("kasbah_calls", "Calls by what the gate did with them"),
            calls_in_flight: gauge("kasbah_calls_in_flight", "Calls in the gate or behind it"),
            http_requests: counter("kasbah_http_requests", "HTTP requests that were answered"),
            http_duration: seconds(
                "kasbah_http_request_duration",
                "Time of an HTTP request, from its head to the head of its answer",
                &REQUEST_SECONDS,
            ),
            failures: counter(
                "kasbah_telemetry_failures",
                "Batches of metrics or traces that the collector did not take",
            ),
        }
    }
}
