//! Audit events of changes, in the shape of OpenTDF's `policy crud` records.
//!
//! Neither settings of providers nor wrapped private keys are in them.

use std::{
    fmt,
    io::Write,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Kas, Key, Provider};

/// Takes audit events, after what they tell has been committed or refused.
pub trait PolicyAudit: fmt::Debug + Send + Sync + 'static {
    /// Takes one event. Must not block for longer than a write to a log takes.
    fn record(&self, event: &Value);
}

/// Writes each event as a line to standard error.
#[derive(Debug, Clone, Copy, Default)]
pub struct StderrPolicyAudit;

impl PolicyAudit for StderrPolicyAudit {
    fn record(&self, event: &Value) {
        let line = format!("{event}\n");
        if let Err(error) = std::io::stderr().lock().write_all(line.as_bytes()) {
            tracing::error!(%error, "an audit event could not be written");
        }
    }
}

/// Keeps events in memory without bound; for tests.
#[derive(Debug, Default)]
pub struct MemoryPolicyAudit(Mutex<Vec<Value>>);

impl MemoryPolicyAudit {
    /// The events so far, the oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl PolicyAudit for MemoryPolicyAudit {
    fn record(&self, event: &Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}

/// Who made a call.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) subject: String,
    pub(crate) user_agent: String,
    pub(crate) address: Option<IpAddr>,
}

/// What was done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Create,
    Delete,
    Read,
    Rotate,
    Update,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Read => "read",
            Self::Rotate => "rotate",
            Self::Update => "update",
        }
    }
}

/// Makes events. An object that is `None` means that the call failed.
#[derive(Debug, Clone)]
pub(crate) struct Audit(pub(crate) Arc<dyn PolicyAudit>);

impl Audit {
    pub(crate) fn provider(
        &self,
        actor: &Actor,
        action: Action,
        original: Option<&Provider>,
        updated: Option<&Provider>,
    ) {
        let show = |p: &Provider| {
            let metadata = json!({ "labels": p.labels });
            json!({ "id": p.id, "name": p.name, "manager": p.manager, "metadata": metadata })
        };
        let id = original.map(|p| p.id.as_str());
        let objects = [original.map(show), updated.map(show)];
        self.record(actor, action, "key_management_provider_config", id, objects);
    }

    pub(crate) fn kas(&self, actor: &Actor, action: Action, original: Option<&Kas>) {
        let show = |kas: &Kas| json!({ "id": kas.id, "uri": kas.uri, "name": kas.name });
        let id = original.map(|kas| kas.id.as_str());
        self.record(actor, action, "kas_registry", id, [original.map(show), None]);
    }

    pub(crate) fn key(
        &self,
        actor: &Actor,
        action: Action,
        original: Option<&Key>,
        updated: Option<&Key>,
    ) {
        let show = |key: &Key| {
            let provider = key.provider.as_ref();
            let provider =
                provider.map(|p| json!({ "id": p.id, "name": p.name, "manager": p.manager }));
            json!({
                "id": key.id, "kas_id": key.kas_id, "kas_uri": key.kas_uri, "kid": key.kid,
                "algorithm": key.algorithm, "status": key.status, "mode": key.mode,
                "provider_config": provider, "metadata": { "labels": key.labels },
            })
        };
        let id = original.map(|key| key.id.as_str());
        let objects = [original.map(show), updated.map(show)];
        self.record(actor, action, "kas_registry_keys", id, objects);
    }

    fn record(
        &self,
        actor: &Actor,
        action: Action,
        object: &str,
        id: Option<&str>,
        [original, updated]: [Option<Value>; 2],
    ) {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let result = if id.is_some() { "success" } else { "error" };
        let address = actor.address.map(|address| address.to_string()).unwrap_or_default();
        self.0.record(&json!({
            "time": now,
            "level": "AUDIT",
            "msg": "policy crud",
            "namespace": "policy",
            "audit": {
                "object": { "type": object, "id": id.unwrap_or_default() },
                "action": { "type": action.as_str(), "result": result },
                "actor": { "id": actor.subject, "attributes": [] },
                "eventMetaData": null,
                "clientInfo": {
                    "platform": "policy", "userAgent": actor.user_agent, "requestIP": address,
                },
                "original": original,
                "updated": updated,
                "requestID": uuid::Uuid::new_v4().to_string(),
                "timestamp": now,
            },
        }));
    }
}
