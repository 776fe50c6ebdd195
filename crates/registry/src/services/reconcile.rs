//! What the registry and the devices disagree on.

use std::{collections::HashMap, sync::Arc};

use kasbah_proto::{
    kasbah::admin::v1::{Finding, finding::Kind},
    policy::KeyMode,
};
use kasbah_trust::{Deadline, NewKey as Made, PrivateKeyRef, PublicKey, StoredKey};

use super::{
    ControlPlane, PROBE_TIMEOUT,
    admin::{mode_of, new_key, of_device},
};
use crate::{
    Intent, Key, KeyQuery, Order, Page, Provider,
    actor::Sight,
    convert,
    error::{Error, Result},
    keys::KEY_ORDERS,
};

/// What the devices of all providers hold.
struct Devices {
    /// By id of the provider; an error is what keeps its device from answering.
    of_provider: HashMap<String, Result<Vec<StoredKey>, String>>,
}

impl ControlPlane {
    /// Everything that is not as it should be. Keys that a repair registers go into `registered`.
    pub(super) async fn compare(
        &self,
        repair: bool,
        sight: Sight,
        registered: &mut Vec<Key>,
    ) -> Result<Vec<Finding>> {
        let providers = self.registry.all_providers().await?;
        let intents = self.registry.interrupted_keys(|id| self.making().contains(id)).await?;
        let mut devices = self.ask_devices(&providers, sight).await?;
        let mut findings = Vec::new();
        for intent in &intents {
            let Some(provider) = providers.iter().find(|p| p.id == intent.provider_id) else {
                continue;
            };
            let repair = repair.then_some(&mut *registered);
            findings.push(self.settle(intent, provider, &devices, repair).await?);
        }
        if repair && !intents.is_empty() {
            devices = self.ask_devices(&providers, sight).await?;
        }
        let keys = self.all_keys().await?;
        for provider in &providers {
            let Some(held) = devices.of_provider.get(&provider.id) else { continue };
            match held {
                Ok(held) => findings.extend(differences(provider, held, &keys, &intents)),
                Err(why) => {
                    let detail = format!("its device cannot be asked: {why}");
                    findings.push(finding(Kind::ProviderUnavailable, "", provider, detail));
                }
            }
        }
        Ok(findings)
    }

    async fn all_keys(&self) -> Result<Vec<Key>> {
        let (mut keys, mut offset) = (Vec::new(), 0);
        loop {
            let order = Order::new(&KEY_ORDERS, 0, 0);
            let page = Page::new(0, offset)?;
            let listed = self.registry.list_keys(&KeyQuery::default(), order, page).await?;
            let next = listed.response().next_offset;
            keys.extend(listed.items);
            if next == 0 {
                return Ok(keys);
            }
            offset = next;
        }
    }

    /// Asks the devices of those providers whose manager this node has and that have one.
    async fn ask_devices(&self, providers: &[Provider], sight: Sight) -> Result<Devices> {
        let mut of_provider = HashMap::new();
        for provider in providers.iter().filter(|p| self.keys.has_manager(&p.manager)) {
            let config = Arc::new(convert::provider_config(provider)?);
            let held = match self.keys.manager_of(&config).await {
                Err(error) => Err(sight.of_error(&error)),
                Ok(manager) => match manager.key_store() {
                    None => continue,
                    Some(store) => store
                        .inventory(Deadline::after(PROBE_TIMEOUT))
                        .await
                        .map_err(|error| sight.of_error(&error)),
                },
            };
            of_provider.insert(provider.id.clone(), held);
        }
        Ok(Devices { of_provider })
    }

    /// What became of a key whose making was interrupted; ends it, if asked.
    async fn settle(
        &self,
        intent: &Intent,
        provider: &Provider,
        devices: &Devices,
        repair: Option<&mut Vec<Key>>,
    ) -> Result<Finding> {
        let held = match devices.of_provider.get(&provider.id) {
            Some(Ok(held)) => held,
            Some(Err(why)) => {
                let detail = format!(
                    "key {} was being made, and its device cannot be asked: {why}",
                    intent.kid
                );
                return Ok(finding(Kind::ProviderUnavailable, &intent.kid, provider, detail));
            }
            None => {
                let detail =
                    format!("key {} was being made by a manager this node lacks", intent.kid);
                return Ok(finding(Kind::ProviderUnavailable, &intent.kid, provider, detail));
            }
        };
        let stored = held.iter().find(|stored| stored.kid.as_str() == intent.kid);
        let is_remote = intent.mode == KeyMode::Remote as i32;
        let whole = stored.and_then(|stored| whole(stored, intent));
        let (kind, detail) = match (stored.filter(|_| is_remote), &whole) {
            (None, _) => (
                Kind::InterruptedBeforeKey,
                "its making was interrupted and nothing is in the device; a repair forgets it",
            ),
            (Some(_), Some(_)) => (
                Kind::InterruptedBeforeCommit,
                "its making was interrupted after the device had it; a repair registers it",
            ),
            (Some(_), None) => (
                Kind::HalfKey,
                "its making was interrupted with half of it in the device; a repair destroys that",
            ),
        };
        let mut found = finding(kind, &intent.kid, provider, detail.to_owned());
        if let Some(registered) = repair {
            match self.end(intent, provider, kind, whole).await {
                Ok(key) => {
                    found.repaired = true;
                    registered.extend(key);
                }
                Err(error) => found.detail = format!("{detail}; the repair failed: {error}"),
            }
        }
        Ok(found)
    }

    /// Ends it; the key, if it is registered now.
    async fn end(
        &self,
        intent: &Intent,
        provider: &Provider,
        kind: Kind,
        whole: Option<Made>,
    ) -> Result<Option<Key>> {
        match (kind, whole) {
            (Kind::InterruptedBeforeCommit, Some(made)) => {
                match self.registry.finish_key(intent, &new_key(intent, &made)).await {
                    // What it was to replace is replaced by now, or the like.
                    Err(Error::Exists | Error::Relation | Error::Precondition(_)) => {}
                    other => return other.map(Some),
                }
            }
            (Kind::HalfKey, _) => {}
            _ => return self.registry.abandon_key(intent).await.map(|()| None),
        }
        let config = Arc::new(convert::provider_config(provider)?);
        let manager = self.keys.manager_of(&config).await.map_err(of_device)?;
        if let Some(store) = manager.key_store() {
            let kid = intent.kid.as_str().into();
            store.destroy(&kid, Deadline::after(PROBE_TIMEOUT)).await.map_err(of_device)?;
        }
        self.registry.abandon_key(intent).await.map(|()| None)
    }
}

/// The key of an intent, if all of it is there.
fn whole(stored: &StoredKey, intent: &Intent) -> Option<Made> {
    let fits = stored.has_private_key && stored.algorithm == convert::algorithm(intent.algorithm);
    let public_key = stored.public_key.clone().filter(|_| fits)?;
    debug_assert_eq!(mode_of(intent.mode), kasbah_trust::KeyMode::Remote);
    let key_id = Some(stored.key_id.clone()?);
    Some(Made { public_key, private_key: PrivateKeyRef { key_id, wrapped_key: None } })
}

fn differences(
    provider: &Provider,
    held: &[StoredKey],
    keys: &[Key],
    intents: &[Intent],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let holds = |public: &PublicKey| held.iter().any(|h| h.public_key.as_ref() == Some(public));
    let remote = |key: &&Key| {
        key.mode == KeyMode::Remote as i32
            && key.provider.as_ref().is_some_and(|of| of.id == provider.id)
    };
    for key in keys.iter().filter(remote) {
        let Ok(public) = PublicKey::from_pem(&key.public_pem) else { continue };
        if holds(&public) {
            continue;
        }
        let same_name = held.iter().any(|stored| stored.kid.as_str() == key.kid);
        let (kind, detail) = if same_name {
            (Kind::PublicKeyDiffers, "the registered public key is not the one in the device")
        } else {
            (Kind::MissingInDevice, "it is registered, but not in the device; restore the device")
        };
        findings.push(finding(kind, &key.kid, provider, detail.to_owned()));
    }
    let registered: Vec<_> =
        keys.iter().filter_map(|key| PublicKey::from_pem(&key.public_pem).ok()).collect();
    for stored in held {
        let is_known = stored.public_key.as_ref().is_some_and(|public| registered.contains(public))
            || intents.iter().any(|intent| intent.kid == stored.kid.as_str())
            || keys.iter().filter(remote).any(|key| key.kid == stored.kid.as_str());
        if !is_known {
            let detail = "it is in the device, but not registered; import it with `kasbah keys \
                          import`, or leave it to whoever uses it";
            let kid = stored.kid.as_str();
            findings.push(finding(Kind::NotRegistered, kid, provider, detail.to_owned()));
        }
    }
    findings
}

fn finding(kind: Kind, kid: &str, provider: &Provider, detail: String) -> Finding {
    Finding {
        kind: kind as i32,
        kid: kid.to_owned(),
        provider: format!("{}#{}", provider.manager, provider.name),
        detail,
        repaired: false,
    }
}
