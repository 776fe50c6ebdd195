//! Audit events of changes, in the shape of OpenTDF's `policy crud` records.
//!
//! Neither settings of providers nor wrapped private keys are in them.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Kas, Key, Provider};

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

/// A provider configuration: `original` is `None` when the call failed.
pub(crate) fn provider(
    actor: &str,
    action: Action,
    original: Option<&Provider>,
    updated: Option<&Provider>,
) {
    let show = |p: &Provider| json!({"id": p.id, "name": p.name, "manager": p.manager, "metadata": {"labels": p.labels}});
    let event = Event {
        actor,
        action,
        object: "key_management_provider_config",
        id: original.map(|p| p.id.as_str()),
        original: original.map(show),
        updated: updated.map(show),
    };
    event.write();
}

/// A key access server: `original` is `None` when the call failed.
pub(crate) fn kas(actor: &str, action: Action, original: Option<&Kas>) {
    let show = |kas: &Kas| json!({"id": kas.id, "uri": kas.uri, "name": kas.name});
    let event = Event {
        actor,
        action,
        object: "kas_registry",
        id: original.map(|kas| kas.id.as_str()),
        original: original.map(show),
        updated: None,
    };
    event.write();
}

/// A key: `original` is `None` when the call failed.
pub(crate) fn key(actor: &str, action: Action, original: Option<&Key>, updated: Option<&Key>) {
    let show = |key: &Key| {
        let provider = key.provider.as_ref();
        json!({
            "id": key.id, "kas_id": key.kas_id, "kas_uri": key.kas_uri, "kid": key.kid,
            "algorithm": key.algorithm, "status": key.status, "mode": key.mode,
            "provider_config": provider.map(|p| json!({"id": p.id, "name": p.name, "manager": p.manager})),
            "metadata": {"labels": key.labels},
        })
    };
    let event = Event {
        actor,
        action,
        object: "kas_registry_keys",
        id: original.map(|key| key.id.as_str()),
        original: original.map(show),
        updated: updated.map(show),
    };
    event.write();
}

struct Event<'a> {
    actor: &'a str,
    action: Action,
    object: &'static str,
    /// `None` when it failed.
    id: Option<&'a str>,
    original: Option<Value>,
    updated: Option<Value>,
}

impl Event<'_> {
    /// One line to standard error, where the events of rewraps go too.
    fn write(self) {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let result = if self.id.is_some() { "success" } else { "error" };
        let event = json!({
            "time": now,
            "level": "AUDIT",
            "msg": "policy crud",
            "namespace": "policy",
            "audit": {
                "object": {"type": self.object, "id": self.id.unwrap_or_default()},
                "action": {"type": self.action.as_str(), "result": result},
                "actor": {"id": self.actor, "attributes": []},
                "eventMetaData": null,
                "clientInfo": {"platform": "policy", "userAgent": "", "requestIP": ""},
                "original": self.original,
                "updated": self.updated,
                "requestID": uuid::Uuid::new_v4().to_string(),
                "timestamp": now,
            },
        });
        eprintln!("{event}");
    }
}
