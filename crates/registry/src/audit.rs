//! Audit events of changes, in the shape of OpenTDF's `policy crud` records.
//!
//! Neither settings of providers nor wrapped private keys are in them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use kasbah_audit::Receipt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::Status;

use crate::{Error, Kas, Key, Provider, actor::Actor};

/// Takes audit events, after what they tell has been committed or refused. A call is answered once
/// its event is kept.
pub trait PolicyAudit: fmt::Debug + Send + Sync + 'static {
    /// Takes one event, without waiting; the receipt says when it is kept.
    fn record(&self, event: &Value) -> Receipt;
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
    fn record(&self, event: &Value) -> Receipt {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        Receipt::kept()
    }
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

/// What became of a call: the object before, and after where it was changed; or why it failed.
pub(crate) type Done<'a, T> = Result<(&'a T, Option<&'a T>), &'a Error>;

/// Of an object that is new, gone or as it was.
pub(crate) fn unchanged<T>(object: &T) -> (&T, Option<&T>) {
    (object, None)
}

/// Of an object before and after.
pub(crate) fn changed<T>((before, after): &(T, T)) -> (&T, Option<&T>) {
    (before, Some(after))
}

/// Makes events, and waits until they are kept.
#[derive(Debug, Clone)]
pub(crate) struct Audit(pub(crate) Arc<dyn PolicyAudit>);

/// An object as events show it.
struct Shown {
    id: String,
    original: Value,
    updated: Value,
}

impl Audit {
    /// # Errors
    /// As [`Audit::record`].
    pub(crate) async fn provider(
        &self,
        actor: &Actor,
        action: Action,
        done: Done<'_, Provider>,
    ) -> Result<(), Status> {
        let show = |p: &Provider| {
            let metadata = json!({ "labels": p.labels });
            json!({ "id": p.id, "name": p.name, "manager": p.manager, "metadata": metadata })
        };
        let shown = shown(done, |p| p.id.clone(), show);
        self.record(actor, action, "key_management_provider_config", shown).await
    }

    /// # Errors
    /// As [`Audit::record`].
    pub(crate) async fn kas(
        &self,
        actor: &Actor,
        action: Action,
        done: Result<&Kas, &Error>,
    ) -> Result<(), Status> {
        let show = |kas: &Kas| json!({ "id": kas.id, "uri": kas.uri, "name": kas.name });
        let shown = shown(done.map(|kas| (kas, None)), |kas| kas.id.clone(), show);
        self.record(actor, action, "kas_registry", shown).await
    }

    /// # Errors
    /// As [`Audit::record`].
    pub(crate) async fn key(
        &self,
        actor: &Actor,
        action: Action,
        done: Done<'_, Key>,
    ) -> Result<(), Status> {
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
        let shown = shown(done, |key| key.id.clone(), show);
        self.record(actor, action, "kas_registry_keys", shown).await
    }

    /// A document of entitlements that got this revision, which is its id.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub(crate) async fn entitlements(
        &self,
        actor: &Actor,
        document: &str,
        done: Result<u64, &Error>,
    ) -> Result<(), Status> {
        let sha256 = hex::encode(Sha256::digest(document));
        let shown = done.map(|revision| Shown {
            id: revision.to_string(),
            original: Value::Null,
            updated: json!({ "revision": revision, "sha256": sha256 }),
        });
        self.record(actor, Action::Update, "entitlements", shown).await
    }

    /// Records an event and waits until it is kept.
    ///
    /// # Errors
    /// `unavailable` when it is not.
    async fn record(
        &self,
        actor: &Actor,
        action: Action,
        object: &str,
        shown: Result<Shown, &Error>,
    ) -> Result<(), Status> {
        let outcome = shown.as_ref().err().map(|error| error.word());
        let is_change = outcome.is_none() && !matches!(action, Action::Read);
        let receipt = self.0.record(&event(actor, action, object, shown.ok(), outcome));
        receipt.wait().await.map_err(|error| {
            tracing::error!(%error, object, action = action.as_str(), "an audit event is lost");
            Status::unavailable(if is_change { CHANGED_UNKEPT } else { UNKEPT })
        })
    }
}

const UNKEPT: &str = "audit log unavailable";
const CHANGED_UNKEPT: &str = "audit log unavailable; the change has been made all the same";

fn shown<T>(
    done: Done<'_, T>,
    id: impl Fn(&T) -> String,
    show: impl Fn(&T) -> Value,
) -> Result<Shown, &Error> {
    let (original, updated) = done?;
    let updated = updated.map_or(Value::Null, &show);
    Ok(Shown { id: id(original), original: show(original), updated })
}

fn event(
    actor: &Actor,
    action: Action,
    object: &str,
    shown: Option<Shown>,
    outcome: Option<&str>,
) -> Value {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let address = actor.address.map(|address| address.to_string()).unwrap_or_default();
    let mut kasbah = json!({
        "issuer": actor.issuer,
        "client": actor.client,
        "proof": actor.proof.as_str(),
        "token_sha256": hex::encode(actor.token),
    });
    if let Some(outcome) = outcome {
        kasbah["outcome"] = outcome.into();
    }
    let result = if outcome.is_none() { "success" } else { "error" };
    let nothing = Shown { id: String::new(), original: Value::Null, updated: Value::Null };
    let Shown { id, original, updated } = shown.unwrap_or(nothing);
    json!({
        "time": now,
        "level": "AUDIT",
        "msg": "policy crud",
        "namespace": "policy",
        "audit": {
            "object": { "type": object, "id": id },
            "action": { "type": action.as_str(), "result": result },
            "actor": { "id": actor.subject, "attributes": [] },
            "eventMetaData": { "kasbah": kasbah },
            "clientInfo": {
                "platform": "policy", "userAgent": actor.user_agent, "requestIP": address,
            },
            "original": original,
            "updated": updated,
            "requestID": uuid::Uuid::new_v4().to_string(),
            "timestamp": now,
        },
    })
}
