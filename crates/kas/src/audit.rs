use std::{
    fmt,
    io::Write,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kasbah_audit::{NotKept, Receipt};
use kasbah_auth::Proof;
use kasbah_telemetry::{Rewrap, instruments};
use kasbah_trust::{Algorithm, Custody, Designation};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Takes audit events. Called once for each key access object, and for each request that did not
/// come to one, before the answer leaves.
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Takes one event. Must not block; a key is released when the receipt says that the event is
    /// kept.
    fn record(&self, event: &AuditEvent) -> Receipt;
}

/// What became of one key access object, or of a request that did not come to one.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// When it was decided.
    pub time: OffsetDateTime,
    /// UUID of the policy; nil when the policy could not be read.
    pub policy: Uuid,
    /// Attribute FQNs of the policy.
    pub attributes: Vec<String>,
    /// Obligations that access brings with it, or would.
    pub obligations: Vec<String>,
    /// Subject of the verified access token.
    pub actor: String,
    /// Issuer of that token.
    pub issuer: String,
    /// The client that asked for the token; may be empty.
    pub client: String,
    /// How well the sender proved that the token is theirs.
    pub proof: Proof,
    /// SHA-256 of the access token.
    pub token_fingerprint: [u8; 32],
    /// The kid the client named, or that of the legacy key which fitted; empty when there is none.
    pub kid: String,
    /// Algorithm of the key that was used; `None` when it did not come to that.
    pub algorithm: Option<Algorithm>,
    /// The policy binding as received.
    pub policy_binding: String,
    /// `user-agent` of the client.
    pub user_agent: String,
    /// Address of the connection.
    pub address: Option<IpAddr>,
    /// `x-request-id` if that is a UUID, else random.
    pub request: Uuid,
    /// What happened.
    pub outcome: AuditOutcome,
    /// Custody of the data key, on success.
    pub custody: Option<Custody>,
    /// The manager of the key; `None` when it did not come to that.
    pub manager: Option<Designation>,
    /// Time since the request arrived, in microseconds.
    pub latency_us: u64,
}

/// What happened to a key access object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// The key manager had no room.
    Busy,
    /// The request ended before the key access object was done.
    Cancelled,
    /// Access was denied.
    Denied,
    /// A defect on this side.
    Internal,
    /// The request is malformed, in a way that says nothing of secrets.
    Malformed,
    /// The key's attributes or its custody policy forbid it.
    NotPermitted,
    /// No such key.
    NotFound,
    /// Re-encrypted for the client.
    Success,
    /// Undecryptable, or not bound to the policy, or the policy is unreadable.
    Tampered,
    /// The key manager, or what it depends on, is down.
    Unavailable,
    /// The key manager does not do that.
    Unsupported,
}

impl AuditOutcome {
    /// The word in `eventMetaData.kasbah.outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Internal => "internal",
            Self::Malformed => "malformed",
            Self::NotFound => "not-found",
            Self::NotPermitted => "not-permitted",
            Self::Success => "success",
            Self::Tampered => "tampered",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }

    /// `action.result`: `success`, `cancel`, or `error` for denial and failure alike.
    fn result(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cancelled => "cancel",
            _ => "error",
        }
    }
}

impl AuditEvent {
    /// The event in the shape of OpenTDF's audit log, every key present; what is ours is under
    /// `audit.eventMetaData.kasbah`.
    pub fn to_json(&self) -> Value {
        json!({
            "time": rfc3339(self.time),
            "level": "AUDIT",
            "msg": "rewrap",
            "namespace": "kas",
            "audit": {
                "object": {
                    "type": "key_object",
                    "id": self.policy.to_string(),
                    "name": "",
                    "attributes": {
                        "assertions": [],
                        "attrs": self.attributes,
                        "permissions": [],
                    },
                },
                "action": { "type": "rewrap", "result": self.outcome.result() },
                "actor": { "id": self.actor, "attributes": [] },
                "eventMetaData": self.metadata(),
                "clientInfo": {
                    "userAgent": self.user_agent,
                    "platform": "kas",
                    "requestIP": self.address.map(|ip| ip.to_string()).unwrap_or_default(),
                },
                "original": null,
                "updated": null,
                "requestID": self.request.to_string(),
                "timestamp": rfc3339(self.time.replace_nanosecond(0).unwrap_or(self.time)),
            },
        })
    }

    fn count(&self) {
        instruments().rewrap(Rewrap {
            outcome: self.outcome.as_str(),
            key_type: self.algorithm.map_or("unknown", Algorithm::as_str),
            manager: self.manager.as_ref().map_or("none", |manager| &manager.manager),
            custody: self.custody.map_or("none", |custody| custody.level.as_str()),
        });
    }

    fn metadata(&self) -> Value {
        let manager = self.manager.as_ref();
        json!({
            "algorithm": self.algorithm.map_or("", Algorithm::as_str),
            "keyID": self.kid,
            "policyBinding": self.policy_binding,
            "tdfFormat": "tdf3",
            "kasbah": {
                "custody": self.custody.map(|custody| custody.level.as_str()),
                "enforced_by_key": self.custody.map(|custody| custody.enforced_by_key),
                "boundary": self.custody.map(|custody| custody.boundary.as_str()),
                "manager": manager.map(|manager| &manager.manager),
                "provider": manager.map(|manager| &manager.name),
                "outcome": self.outcome.as_str(),
                "issuer": self.issuer,
                "client": self.client,
                "proof": self.proof.as_str(),
                "token_sha256": hex::encode(self.token_fingerprint),
                "required_obligations": self.obligations,
                "latency_us": self.latency_us,
            },
        })
    }
}

/// Writes events to standard error, one JSON object per line.
#[derive(Debug, Default)]
pub struct StderrSink;

impl AuditSink for StderrSink {
    fn record(&self, event: &AuditEvent) -> Receipt {
        let line = format!("{}\n", event.to_json());
        match std::io::stderr().lock().write_all(line.as_bytes()) {
            Ok(()) => Receipt::kept(),
            Err(error) => {
                tracing::error!(%error, "an audit event could not be written");
                Receipt::not_kept(NotKept::Failed)
            }
        }
    }
}

/// Keeps events in memory without bound; for tests, never for a server that stays up.
#[derive(Debug, Default)]
pub struct MemorySink(Mutex<Vec<AuditEvent>>);

impl MemorySink {
    /// Takes out what was recorded so far, oldest first.
    pub fn take(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AuditSink for MemorySink {
    fn record(&self, event: &AuditEvent) -> Receipt {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        Receipt::kept()
    }
}

/// An event that is still open. Dropped unfinished, because the client has gone or a panic
/// unwinds, it is recorded as cancelled: no key access object goes unrecorded.
pub(crate) struct OpenEvent {
    sink: Arc<dyn AuditSink>,
    started: Instant,
    event: AuditEvent,
    recorded: bool,
}

impl OpenEvent {
    pub(crate) fn new(sink: Arc<dyn AuditSink>, started: Instant, event: AuditEvent) -> Self {
        Self { sink, started, event, recorded: false }
    }

    /// Obligations that access brings with it.
    pub(crate) fn obliged(&mut self, obligations: &[String]) {
        self.event.obligations = obligations.to_vec();
    }

    /// Which key is used, and by which manager.
    pub(crate) fn used(&mut self, kid: &str, algorithm: Algorithm, manager: Designation) {
        kid.clone_into(&mut self.event.kid);
        self.event.algorithm = Some(algorithm);
        self.event.manager = Some(manager);
    }

    /// Closes the event and has it recorded.
    pub(crate) fn finish(mut self, outcome: AuditOutcome, custody: Option<Custody>) -> Receipt {
        self.event.outcome = outcome;
        self.event.custody = custody;
        self.record()
    }

    fn record(&mut self) -> Receipt {
        self.recorded = true;
        self.event.time = OffsetDateTime::now_utc();
        self.event.latency_us =
            u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.event.count();
        self.sink.record(&self.event)
    }
}

impl Drop for OpenEvent {
    fn drop(&mut self) {
        if !self.recorded {
            // Nobody is left to be told whether it is kept.
            let _ = self.record();
        }
    }
}

fn rfc3339(time: OffsetDateTime) -> String {
    // Only years beyond 9999 cannot be formatted.
    time.format(&Rfc3339).unwrap_or_default()
}
