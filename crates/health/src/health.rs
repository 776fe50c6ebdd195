use std::{any::Any, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::async_trait;

use crate::{
    Finding, State,
    report::{Asked, Report},
};

/// Looks at something that a server needs.
#[async_trait]
pub trait HealthCheck: Send + Sync + 'static {
    /// What it is, in lower case: `database`. Neither `all` nor `kas`, which stand for everything.
    fn name(&self) -> &'static str;

    /// Looks. May be dropped when it takes too long.
    async fn check(&self) -> Finding;
}

/// How often to look, and for how long at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time from the end of one look to the beginning of the next.
    pub interval: Duration,
    /// What has not answered within this time is down.
    pub timeout: Duration,
}

impl Default for Pace {
    /// 5 seconds each.
    fn default() -> Self {
        let seconds = Duration::from_secs(5);
        Self { interval: seconds, timeout: seconds }
    }
}

/// Whether a server can do its work, as far as was seen last.
///
/// Every check runs by itself, so that one that hangs keeps no other from being seen. It logs each
/// change once.
pub struct Health {
    checks: Vec<Arc<dyn HealthCheck>>,
    /// Full names of the services that are ready when the server is.
    services: Vec<&'static str>,
    pace: Pace,
    report: watch::Sender<Report>,
    pub(crate) watchers: Arc<Semaphore>,
}

/// Clients of `Watch` at the same time.
const WATCHERS: usize = 256;

/// What stands for everything, for clients of `/healthz` and `Check`.
const EVERYTHING: [&str; 2] = ["all", "kas"];

impl Health {
    /// The health of a server of `services`, which needs what `checks` look at. Nobody looks before
    /// [`Health::run_in`].
    pub fn new(
        checks: Vec<Arc<dyn HealthCheck>>,
        services: &[&'static str],
        pace: Pace,
    ) -> Arc<Self> {
        let report = Report::new(checks.iter().map(|check| check.name()));
        Arc::new(Self {
            checks,
            services: services.to_vec(),
            pace,
            report: watch::Sender::new(report),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
        })
    }

    /// Looks again and again, in tasks that end when the server is told to stop: what ends then is no
    /// news.
    pub fn run_in(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        for (place, check) in self.checks.iter().enumerate() {
            let (health, check) = (Arc::clone(self), Arc::clone(check));
            tasks.spawn(async move {
                loop {
                    let finding = health.look(check.as_ref()).await;
                    if health.report.borrow().draining {
                        return;
                    }
                    health.note(place, check.name(), &finding);
                    sleep(health.pace.interval).await;
                }
            });
        }
    }

    /// Says that the server was told to stop: it is not ready any more, but alive.
    pub fn drain(&self) {
        self.report.send_modify(|report| report.draining = true);
    }

    /// Whether requests are served.
    pub fn is_ready(&self) -> bool {
        self.report.borrow().is_serving(Asked::Ready)
    }

    pub(crate) fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// What a name asks about; `None` for a name of nothing.
    pub(crate) fn asked(&self, name: &str) -> Option<Asked> {
        if name.is_empty() {
            return Some(Asked::Alive);
        }
        if EVERYTHING.contains(&name) || self.services.contains(&name) {
            return Some(Asked::Ready);
        }
        self.checks.iter().position(|check| check.name() == name).map(Asked::Part)
    }

    async fn look(&self, check: &dyn HealthCheck) -> Finding {
        let looking = AssertUnwindSafe(check.check()).catch_unwind();
        match timeout(self.pace.timeout, looking).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(panic)) => Finding::down("cannot be looked at", words(panic.as_ref())),
            Err(_) => {
                let limit = self.pace.timeout;
                Finding::down("does not answer in time", format!("no answer within {limit:?}"))
            }
        }
    }

    fn note(&self, place: usize, dependency: &str, finding: &Finding) {
        let mut before = None;
        self.report.send_if_modified(|report| {
            before = report.take_on(place, finding);
            before.is_some()
        });
        let Some(before) = before else { return };
        let Finding { state, detail, reason } = finding;
        match state {
            State::Up if before == State::Unknown => tracing::debug!(dependency, "works"),
            State::Up => tracing::info!(dependency, "works again"),
            _ => tracing::warn!(dependency, state = state.as_str(), reason, "{detail}"),
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("report", &*self.report.borrow()).finish_non_exhaustive()
    }
}

/// What somebody who panicked said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("its check panicked: {}", text.as_deref().unwrap_or("without words"))
}
