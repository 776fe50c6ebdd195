//! What a server needs, and how it is seen whether it is there.
//!
//! *Down* is what makes every rewrap fail; it takes the node out of service. Everything else that is
//! amiss is *degraded*. A check must find out by itself that something is back, since nobody sends
//! requests to a node that is out of service.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use async_trait::async_trait;
use kasbah_access::{DecisionError, Decisions, Question, Subject};
use kasbah_audit::{AuditLog, Durability};
use kasbah_auth::{KeyState, Tokens};
use kasbah_health::{Finding, HealthCheck};
use kasbah_index::CachedIndex;
use kasbah_platform::PlatformDecisions;
use kasbah_registry::Database;
use kasbah_trust::{Deadline, Health, KeyFilter, KeyIndex, KeyService};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use crate::exit::sentence;

/// How long one question to a dependency may take; a check asks two at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a log that refused an event counts as one that refuses all.
const AUDIT_PAUSE: Duration = Duration::from_secs(20);

/// Those of many that do not work.
struct Lacking {
    /// Name, and why.
    which: Vec<(String, String)>,
    of: usize,
}

impl Lacking {
    /// All of them is down, some are degraded. `what` follows their names.
    fn finding(&self, what: &str) -> Finding {
        if self.which.is_empty() {
            return Finding::up();
        }
        let (detail, reason) = self.told(what);
        if self.which.len() == self.of {
            Finding::down(detail, reason)
        } else {
            Finding::degraded(detail, reason)
        }
    }

    /// Their names, and the reasons.
    fn told(&self, what: &str) -> (String, String) {
        let names: Vec<_> = self.which.iter().map(|(name, _)| name.as_str()).collect();
        let reasons: Vec<_> =
            self.which.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        (format!("{} {what}", names.join(", ")), reasons.join("; "))
    }
}

/// The key managers that were used, with their tokens.
pub(crate) struct KeyManagers(pub(crate) Arc<KeyService>);

#[async_trait]
impl HealthCheck for KeyManagers {
    fn name(&self) -> &'static str {
        "key-managers"
    }

    async fn check(&self) -> Finding {
        let all = self.0.health().await;
        let of = all.len();
        let unwell = all.into_iter().filter_map(|(designation, health)| match health {
            Health::Ready => None,
            Health::NotReady(why) => Some((designation.to_string(), why)),
        });
        Lacking { which: unwell.collect(), of }.finding("cannot be used")
    }
}

/// The database of a registry.
pub(crate) struct InDatabase {
    pub(crate) database: Database,
    pub(crate) index: Arc<dyn KeyIndex>,
    /// Whether every caller proves something that is remembered there.
    pub(crate) is_asked_by_all: bool,
}

#[async_trait]
impl HealthCheck for InDatabase {
    fn name(&self) -> &'static str {
        "database"
    }

    async fn check(&self) -> Finding {
        let revision = timeout(PATIENCE, self.database.revision()).await;
        // Read now and then, the list shows how long keys can be served without the database.
        let keys = self.index.list(KeyFilter::default(), Deadline::after(PATIENCE)).await;
        let reason = match revision {
            Ok(Ok(_)) => match keys {
                Ok(_) => return Finding::up(),
                Err(error) => {
                    let reason = sentence(&anyhow!(error));
                    return Finding::degraded("does not list its keys", reason);
                }
            },
            Ok(Err(error)) => sentence(&anyhow!(error)),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        match keys {
            Ok(_) if !self.is_asked_by_all => {
                let detail = "cannot be reached; keys that are known are served for a while";
                Finding::degraded(detail, reason)
            }
            Ok(_) => Finding::down("cannot be reached; proofs cannot be checked", reason),
            Err(_) => Finding::down("cannot be reached", reason),
        }
    }
}

/// A platform that keys come from.
pub(crate) struct OnPlatform {
    pub(crate) index: Arc<CachedIndex>,
    /// How old what was heard of it may be.
    pub(crate) ttl: Duration,
}

#[async_trait]
impl HealthCheck for OnPlatform {
    fn name(&self) -> &'static str {
        "platform"
    }

    async fn check(&self) -> Finding {
        let keys = self.index.list(KeyFilter::default(), Deadline::after(PATIENCE)).await;
        if let Err(error) = keys {
            return Finding::down("gives no keys", sentence(&anyhow!(error)));
        }
        let limit = self.ttl + PATIENCE;
        match self.index.stats().last_contact {
            Some(age) if age <= limit => Finding::up(),
            _ => Finding::degraded(
                "cannot be reached; keys that are known are served for a while",
                format!("nothing was heard of it for {limit:?}"),
            ),
        }
    }
}

/// Those who issue tokens.
pub(crate) struct Issuers(pub(crate) Arc<Tokens>);

impl Issuers {
    /// Issuers whose keys are missing, and those whose keys are old.
    fn lacking(&self) -> [Lacking; 2] {
        let all = self.0.issuers();
        [(KeyState::Missing, "it was never reached"), (KeyState::Stale, "no age")].map(
            |(state, none)| {
                let of_state = all.iter().filter(|issuer| issuer.keys == state);
                let reason = |age: Duration| format!("its keys are {} s old", age.as_secs());
                let which = of_state.map(|issuer| {
                    (issuer.issuer.clone(), issuer.age.map_or_else(|| none.to_owned(), reason))
                });
                Lacking { which: which.collect(), of: all.len() }
            },
        )
    }
}

#[async_trait]
impl HealthCheck for Issuers {
    fn name(&self) -> &'static str {
        "issuers"
    }

    async fn check(&self) -> Finding {
        const LOOK: Duration = Duration::from_millis(50);
        let begun = Instant::now();
        self.0.prefetch();
        // Keys that have just become old are being fetched.
        let [missing, stale] = loop {
            let lacking = self.lacking();
            let is_well = lacking.iter().all(|lacking| lacking.which.is_empty());
            if is_well || begun.elapsed() >= PATIENCE {
                break lacking;
            }
            sleep(LOOK).await;
        };
        if missing.which.is_empty() && !stale.which.is_empty() {
            // They are used for as long as they may.
            let (detail, reason) = stale.told("cannot be reached; its keys are old");
            return Finding::degraded(detail, reason);
        }
        missing.finding("gives no keys, so its tokens cannot be checked")
    }
}

/// A platform that decides.
pub(crate) struct Decider(pub(crate) Arc<PlatformDecisions>);

#[async_trait]
impl HealthCheck for Decider {
    fn name(&self) -> &'static str {
        "decisions"
    }

    /// A platform that is left alone is asked here, in the place of a caller: no caller comes here
    /// while it is.
    async fn check(&self) -> Finding {
        if !self.0.state().open {
            return Finding::up();
        }
        let resources = [vec!["https://kasbah.invalid/attr/health/value/check".to_owned()]];
        let question = Question {
            subject: &nobody(),
            resources: &resources,
            fulfillable: &[],
            deadline: Instant::now() + PATIENCE,
        };
        match self.0.decide(question).await {
            // That it does not know the caller is an answer.
            Ok(_) | Err(DecisionError::Refused(_)) => Finding::up(),
            Err(error) => Finding::down("does not answer", error.to_string()),
        }
    }
}

/// A caller whose token is none.
fn nobody() -> Subject {
    let token = Arc::new(SecretString::from("no-token"));
    Subject { claims: Arc::default(), client_id: String::new(), token }
}

/// The audit log.
pub(crate) struct Audit {
    log: AuditLog,
    /// Whether an event that is not written keeps a key from being released.
    is_waited_for: bool,
    /// Events that were refused, and when that number last changed.
    seen: Mutex<(u64, Option<Instant>)>,
}

impl Audit {
    pub(crate) fn new(log: AuditLog, durability: Durability) -> Self {
        let is_waited_for = durability != Durability::Buffered;
        Self { log, is_waited_for, seen: Mutex::default() }
    }

    /// Whether events were refused in the last moments.
    fn refuses(&self, refused: u64) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != refused {
            *seen = (refused, Some(Instant::now()));
        }
        seen.1.is_some_and(|at| at.elapsed() < AUDIT_PAUSE)
    }
}

#[async_trait]
impl HealthCheck for Audit {
    fn name(&self) -> &'static str {
        "audit"
    }

    /// A log that failed is only tried again when there is an event. So that there is one, it counts as
    /// one that refuses everything only while it has just done so.
    async fn check(&self) -> Finding {
        let stats = self.log.stats();
        let refused = stats.lost + stats.full;
        let reason = || format!("{refused} events were refused so far");
        match (self.refuses(refused), stats.failed) {
            (true, true) if self.is_waited_for => {
                Finding::down("cannot be written, so no key is released", reason())
            }
            (_, true) => Finding::degraded("could not be written when it was last tried", reason()),
            (true, false) => Finding::degraded("refused events a moment ago", reason()),
            (false, false) => Finding::up(),
        }
    }
}
