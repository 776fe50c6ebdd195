//! The log, on standard error.

use std::io::{self, IsTerminal};

use kasbah_telemetry::Telemetry;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

/// How lines of the log look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object on each line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// Unless `RUST_LOG` says otherwise.
    pub(crate) level: Level,
    pub(crate) format: Format,
}

impl Log {
    /// Starts logging, and tracing if there are to be traces.
    pub(crate) fn start(self, telemetry: Option<&Telemetry>) {
        // Of a misbehaving client h2 warns at each reset: lines that anybody could write.
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(format!("{},h2=error", self.level)));
        let traces = telemetry.and_then(Telemetry::layer);
        subscriber(traces, filter, self.format, io::stderr, io::stderr().is_terminal()).init();
    }
}

fn subscriber<W>(
    traces: Option<impl Layer<Registry> + Send + Sync>,
    filter: EnvFilter,
    format: Format,
    writer: W,
    ansi: bool,
) -> impl Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(ansi);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    // Without the hint every span and event of the transport, at every level, would be looked at.
    let told = filter_fn(|metadata| may_be_told(metadata) && is_for_lines(metadata));
    let filter = filter.and(told.with_max_level_hint(LevelFilter::TRACE));
    registry().with(traces).with(lines.with_filter(filter))
}

/// Our spans are for traces; in front of every line of a request they would be in the way.
fn is_for_lines(metadata: &Metadata<'_>) -> bool {
    !(metadata.is_span() && metadata.target().starts_with("kasbah"))
}

/// The PKCS#11 binding logs what tokens answer, so no setting may turn it on.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next();
    !matches!(root, Some("cryptoki" | "cryptoki_sys"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

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

    fn logged(filter: &str, format: Format, events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let filter = EnvFilter::new(filter);
        let traces = None::<LevelFilter>;
        let subscriber = subscriber(traces, filter, format, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_setting_turns_the_binding_on() {
        for filter in ["trace", "cryptoki=trace", "cryptoki::session=trace,cryptoki_sys=trace"] {
            let log = logged(filter, Format::Text, || {
                tracing::error!(target: "cryptoki", "secret");
                tracing::error!(target: "cryptoki::session::session_management", "secret");
                tracing::error!(target: "cryptoki_sys", "secret");
            });
            assert_eq!(log, "", "{filter}");
        }
        let log = logged("info", Format::Text, || tracing::info!("a word"));
        assert!(log.contains(" INFO ") && log.contains("a word"), "{log}");
        assert_eq!(logged("info", Format::Text, || tracing::debug!("a word")), "");
    }

    #[test]
    fn what_nobody_reads_costs_nothing() {
        let traced = || fmt::layer().with_writer(io::sink).with_filter(LevelFilter::INFO);
        for traces in [None, Some(traced())] {
            let filter = EnvFilter::new("info");
            let subscriber = subscriber(traces, filter, Format::Text, io::sink, false);
            assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::INFO));
        }
    }

    #[test]
    fn json_is_one_object_on_each_line() {
        let log = logged("info", Format::Json, || {
            tracing::info!(kid = "r1", "first");
            tracing::warn!("second\nline");
        });
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["kid"], &lines[0]["message"]), (&"r1".into(), &"first".into()));
        assert_eq!((&lines[1]["level"], lines.len()), (&"WARN".into(), 2));
    }
}
