//! What workers are asked, and what they answer: plain values, so that the same job can cross to
//! another process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use kasbah_crypto::{
    Dek, PolicyBinding, PublicKey, WrappedDek, ec::EcPublicKey, rsa::RsaPublicKey,
};
use kasbah_telemetry::{Waiting, instruments};
use kasbah_trust::{Custody, Deadline, Error, KeyDetails, KeyId, KeyMode, Result, RewrappedKey};
use tokio::sync::oneshot;
use tracing::{Span, info_span};

use crate::{
    MANAGER,
    canary::Canary,
    module::lock,
    recipient::{HsmRecipient, WrapSlot},
    record::Record,
    selftest::Report,
    uri::KeyUri,
};

/// A key as a manager's workers know it: where it is, and what they found out about it.
#[derive(Debug)]
pub(crate) struct Key {
    /// Tells it from an earlier one of the same URI.
    pub(crate) serial: u64,
    pub(crate) kid: KeyId,
    pub(crate) place: Place,
    pub(crate) public: PublicKey,
    pub(crate) canary: Canary,
    report: Mutex<Option<(u64, Arc<Report>)>>,
}

/// Where the private part of a key is.
#[derive(Debug)]
pub(crate) enum Place {
    Token(KeyUri),
    /// Outside, wrapped.
    Stored(Record),
}

impl Place {
    pub(crate) fn is_wrapped(&self) -> bool {
        matches!(self, Self::Stored(_))
    }
}

/// One piece of work for one session.
#[derive(Debug)]
pub(crate) enum Job {
    /// Agree on a key with a peer and bring it to the host.
    Agree { key: Arc<Key>, peer: EcPublicKey },
    /// See whether the token is there.
    Check,
    /// Unwrap a data key to the host.
    Expose { key: Arc<Key>, wrapped: WrappedDek },
    /// Make the session key of a response.
    Open { client: EcPublicKey },
    /// Run the self-test of a key.
    Probe { key: Arc<Key> },
    /// Unwrap, check the binding, wrap.
    Rewrap(Rewrap),
}

/// [`Job::Rewrap`].
#[derive(Debug)]
pub(crate) struct Rewrap {
    pub(crate) key: Arc<Key>,
    pub(crate) wrapped: WrappedDek,
    pub(crate) policy: Box<str>,
    pub(crate) binding: PolicyBinding,
    pub(crate) target: Target,
}

/// Whom to wrap for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The session key in this manager's token.
    Device(Arc<WrapSlot>),
    /// Somebody whose session key is on the host: the data key must come there too.
    Host,
    /// A client's RSA key.
    Rsa(RsaPublicKey),
}

/// What became of a [`Job`].
pub(crate) enum Outcome {
    Checked,
    /// The data key itself, whose binding is still to be checked.
    Exposed(Dek, Custody),
    /// `None` when the token cannot hold session keys.
    Opened(Option<HsmRecipient>),
    Proven(Custody),
    Wrapped(RewrappedKey),
}

/// A job on its way, and where the answer goes.
pub(crate) struct Ticket {
    pub(crate) job: Job,
    pub(crate) deadline: Deadline,
    pub(crate) queued: Instant,
    /// `None` once a worker has taken it.
    pub(crate) wait: Option<Wait>,
    /// What it is done for.
    pub(crate) span: Span,
    /// Whether it was tried once already.
    pub(crate) again: bool,
    pub(crate) reply: oneshot::Sender<Result<Outcome>>,
}

/// A job's time in the queue, for whoever measures it.
pub(crate) struct Wait {
    figures: Waiting<'static>,
    span: Span,
}

impl Key {
    /// The key of `details`, whose private part is in `place`.
    pub(crate) fn new(details: &KeyDetails, place: Place) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            kid: details.kid.clone(),
            place,
            public: details.public_key.clone(),
            canary: Canary::default(),
            report: Mutex::default(),
        }
    }

    /// Whether this is the key of `details`, given that what names it there is the same.
    pub(crate) fn is(&self, details: &KeyDetails) -> bool {
        let same_place = match &self.place {
            Place::Token(_) => details.mode == KeyMode::Remote,
            Place::Stored(record) => {
                details.mode == KeyMode::ProviderRootKey
                    && details.private_key.key_id.as_deref() == Some(record.kek())
            }
        };
        same_place && self.kid == details.kid && self.public == details.public_key
    }

    /// What the self-test found in this generation of the token.
    pub(crate) fn report(&self, generation: u64) -> Option<Arc<Report>> {
        let report = lock(&self.report);
        report.as_ref().filter(|(made, _)| *made == generation).map(|(_, report)| report.clone())
    }

    pub(crate) fn set_report(&self, generation: u64, report: Arc<Report>) {
        *lock(&self.report) = Some((generation, report));
    }
}

impl Job {
    /// The key whose private part it uses.
    pub(crate) fn key(&self) -> Option<&Arc<Key>> {
        match self {
            Self::Agree { key, .. } | Self::Expose { key, .. } | Self::Probe { key } => Some(key),
            Self::Rewrap(rewrap) => Some(&rewrap.key),
            Self::Check | Self::Open { .. } => None,
        }
    }

    /// Its name in metrics and traces.
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::Agree { .. } => "agree",
            Self::Check => "check",
            Self::Expose { .. } => "decrypt",
            Self::Open { .. } => "open-recipient",
            Self::Probe { .. } => "probe",
            Self::Rewrap(_) => "rewrap",
        }
    }
}

impl Wait {
    /// Begins for a job of the current span.
    pub(crate) fn begin(job: &Job) -> Self {
        let operation = job.operation();
        let figures = instruments().queued(MANAGER, operation);
        if Span::current().is_disabled() {
            return Self { figures, span: Span::none() };
        }
        Self { figures, span: info_span!("key manager queue", manager = MANAGER, operation) }
    }

    fn end(self) {
        self.figures.taken();
        drop(self.span);
    }
}

impl Ticket {
    /// A worker begins with it: its wait is over. The span of the work.
    pub(crate) fn begin(&mut self) -> Span {
        if let Some(wait) = self.wait.take() {
            wait.end();
        }
        if self.span.is_disabled() {
            return Span::none();
        }
        let operation = self.job.operation();
        info_span!(parent: &self.span, "token", manager = MANAGER, operation)
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed() || self.deadline.has_passed()
    }

    /// Gives the answer; a caller who left in the meantime does not get it, and it is wiped.
    pub(crate) fn answer(self, outcome: Result<Outcome>) {
        drop(self.reply.send(outcome));
    }

    pub(crate) fn unavailable(self, why: &str) {
        self.answer(Err(Error::unavailable(why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An outcome can hold a data key.
    static_assertions::assert_not_impl_any!(Outcome: Clone, std::fmt::Debug);
}
