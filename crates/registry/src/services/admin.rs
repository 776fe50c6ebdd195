//! `kasbah.admin.v1.AdminService`

use std::{sync::Arc, time::Duration};

use kasbah_proto::{
    kasbah::admin::v1::{
        Custody as CustodyMessage, GenerateKeyRequest, GenerateKeyResponse, GetEntitlementsRequest,
        GetEntitlementsResponse, KeyState as State, ListKeyStatesRequest, ListKeyStatesResponse,
        ListProviderHealthRequest, ListProviderHealthResponse, ProviderHealth, ReconcileRequest,
        ReconcileResponse, SetEntitlementsRequest, SetEntitlementsResponse, SetKeyStateRequest,
        SetKeyStateResponse, WrapKeysAgainRequest, WrapKeysAgainResponse,
        admin_service_server::AdminService, set_key_state_request::Target,
    },
    policy::KeyMode,
};
use kasbah_trust::{Custody, Deadline, Error as Trust, Health, KeyMode as Mode};
use tonic::{Request, Response, Status, async_trait};

use super::{ControlPlane, PROBE_TIMEOUT, page};
use crate::{
    Intent, Kas, KasName, Key, KeyName, KeyQuery, KeyState, Listed, NewKey, Order, Page,
    PrivateKey, Provider, ProviderName, Use,
    actor::{Actor, Sight, actor},
    audit::{Action, unchanged},
    convert::{self, key_message, provider_message},
    entitlements::{check_size, refusal},
    error::{Error, Result},
    keys::KEY_ORDERS,
    model::new_id,
    validate::Check,
};

/// How long a device may take to make a key. RSA-4096 takes small devices half a minute.
const GENERATE_TIMEOUT: Duration = Duration::from_secs(90);

/// The service: a type of its own, as the control plane has methods of the same names.
#[derive(Debug)]
pub(super) struct Admin(pub(super) Arc<ControlPlane>);

#[async_trait]
impl AdminService for Admin {
    async fn generate_key(
        &self,
        request: Request<GenerateKeyRequest>,
    ) -> Result<Response<GenerateKeyResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        check_generate(&request)?;
        let made = self.0.generate(request).await;
        self.0.audit.key(&actor, Action::Create, made.as_ref().map(unchanged)).await?;
        let key = made.map_err(|error| error.status("resource creation failed"))?;
        let proof = self.0.prove(&key).await.ok().flatten();
        let custody = proof.and_then(kasbah_trust::Result::ok).map(custody_message);
        let kas_key = Some(key_message(key, actor.sight));
        Ok(Response::new(GenerateKeyResponse { kas_key, custody }))
    }

    async fn reconcile(
        &self,
        request: Request<ReconcileRequest>,
    ) -> Result<Response<ReconcileResponse>, Status> {
        let actor = actor(&request)?;
        let mut registered = Vec::new();
        let repair = request.into_inner().repair;
        let findings = self.0.compare(repair, actor.sight, &mut registered).await;
        for key in &registered {
            self.0.audit.key(&actor, Action::Create, Ok((key, None))).await?;
        }
        let findings = findings.map_err(|error| error.status("resource retrieval failed"))?;
        Ok(Response::new(ReconcileResponse { findings }))
    }

    async fn list_key_states(
        &self,
        request: Request<ListKeyStatesRequest>,
    ) -> Result<Response<ListKeyStatesResponse>, Status> {
        let Actor { sight, .. } = actor(&request)?;
        let ListKeyStatesRequest { kas_id, pagination } = request.into_inner();
        let mut check = Check::default();
        check.uuid_if_set("kas_id", &kas_id);
        check.done()?;
        let failed = |error: Error| error.status("resource list retrieval failed");
        let page = page(pagination).map_err(failed)?;
        let listed = self.0.states(kas_id, page, sight).await.map_err(failed)?;
        let pagination = Some(listed.response());
        Ok(Response::new(ListKeyStatesResponse { keys: listed.items, pagination }))
    }

    async fn set_key_state(
        &self,
        request: Request<SetKeyStateRequest>,
    ) -> Result<Response<SetKeyStateResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let state = match Target::try_from(request.target) {
            Ok(Target::Enabled) => Some(KeyState::Enabled),
            Ok(Target::Disabled) => Some(KeyState::Disabled),
            Ok(Target::Compromised) => Some(KeyState::Compromised),
            _ => None,
        };
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.defined("target", state.is_some());
        check.done()?;
        let state = state.unwrap_or(KeyState::Disabled);
        let set = self.0.registry.set_key_state(&request.id, state).await;
        self.0.audit.key(&actor, Action::Update, set.as_ref().map(unchanged)).await?;
        let key = set.map_err(|error| error.status("resource update failed"))?;
        Ok(Response::new(SetKeyStateResponse { kas_key: Some(key_message(key, actor.sight)) }))
    }

    async fn wrap_keys_again(
        &self,
        request: Request<WrapKeysAgainRequest>,
    ) -> Result<Response<WrapKeysAgainResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.text("from", &request.from);
        check.text("to", &request.to);
        check.done()?;
        let key_ids = self.0.wrap_again(&actor, &request.from, &request.to).await?;
        Ok(Response::new(WrapKeysAgainResponse { key_ids }))
    }

    async fn list_provider_health(
        &self,
        request: Request<ListProviderHealthRequest>,
    ) -> Result<Response<ListProviderHealthResponse>, Status> {
        let Actor { sight, .. } = actor(&request)?;
        let all = self.0.registry.all_providers().await;
        let all = all.map_err(|error| error.status("resource list retrieval failed"))?;
        let mut providers = Vec::with_capacity(all.len());
        for provider in all {
            providers.push(self.0.health(provider, sight).await);
        }
        Ok(Response::new(ListProviderHealthResponse { providers }))
    }

    async fn set_entitlements(
        &self,
        request: Request<SetEntitlementsRequest>,
    ) -> Result<Response<SetEntitlementsResponse>, Status> {
        let actor = actor(&request)?;
        let SetEntitlementsRequest { document, expected_revision } = request.into_inner();
        let document: Arc<str> = document.into();
        let set = self.0.set_entitlements(&document, expected_revision).await;
        let told = set.as_ref().map(|(revision, _)| *revision);
        self.0.audit.entitlements(&actor, &document, told).await?;
        let (revision, warnings) = set.map_err(|error| error.status("resource update failed"))?;
        Ok(Response::new(SetEntitlementsResponse { revision, warnings }))
    }

    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        actor(&request)?;
        let found = self.0.registry.entitlements().await;
        let found = found.map_err(|error| error.status("resource retrieval failed"))?;
        let (document, revision) = found.unwrap_or_default();
        Ok(Response::new(GetEntitlementsResponse { document, revision }))
    }
}

/// Marks an intent as worked on by this process.
struct Making<'a> {
    plane: &'a ControlPlane,
    id: String,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.plane.making().remove(&self.id);
    }
}

impl ControlPlane {
    async fn generate(&self, request: GenerateKeyRequest) -> Result<Key> {
        let kas = self.own_kas(&request.kas_id).await?;
        let provider = self.registry.provider(&ProviderName::Id(request.provider_config_id)).await;
        let provider = provider.map_err(|error| match error {
            Error::NotFound => Error::Relation,
            other => other,
        })?;
        let intent = Intent {
            id: new_id(),
            kas_id: kas.id,
            kid: request.key_id,
            algorithm: request.key_algorithm,
            mode: request.key_mode,
            provider_id: provider.id.clone(),
            legacy: request.legacy,
            labels: request.labels.into_iter().collect(),
            rotates: Some(request.rotates).filter(|id| !id.is_empty()),
            created_at: 0,
        };
        self.make(intent, &provider).await
    }

    /// Makes the key in its device and registers it.
    async fn make(&self, intent: Intent, provider: &Provider) -> Result<Key> {
        let config = Arc::new(convert::provider_config(provider)?);
        let manager = self.keys.manager_of(&config).await.map_err(of_device)?;
        let store = manager.key_store().ok_or_else(|| {
            Error::precondition(format!("key manager {} makes no keys", provider.manager))
        })?;
        // What is there now was not made for this intent, whatever happens later.
        let deadline = Deadline::after(GENERATE_TIMEOUT);
        let kid = intent.kid.as_str().into();
        let name = KeyName::InKas(KasName::Id(intent.kas_id.clone()), intent.kid.clone());
        match self.registry.key(&name).await {
            Err(Error::NotFound) => {}
            Ok(_) => return Err(Error::Exists),
            Err(error) => return Err(error),
        }
        if store.holds(&kid, deadline).await.map_err(of_device)? {
            return Err(Error::precondition(format!(
                "the device holds a key named {} that is not registered; see `kasbah keys \
                 reconcile`",
                intent.kid
            )));
        }
        self.making().insert(intent.id.clone());
        let making = Making { plane: self, id: intent.id.clone() };
        let intent = self.registry.begin_key(intent).await?;
        let mode = mode_of(intent.mode);
        let algorithm = convert::algorithm(intent.algorithm)
            .ok_or_else(|| Error::invalid("key_algorithm is not one that a device makes"))?;
        let made = store.generate(&kid, algorithm, mode, deadline).await;
        let made = match made {
            Ok(made) => made,
            // Nobody knows what the device did. The intent stays, for a reconciliation.
            Err(error @ (Trust::Unavailable(_) | Trust::Internal(_))) => {
                return Err(of_device(error));
            }
            Err(error) => {
                self.registry.abandon_key(&intent).await?;
                return Err(of_device(error));
            }
        };
        let finished = self.registry.finish_key(&intent, &new_key(&intent, &made)).await;
        if let Err(Error::Exists | Error::Relation | Error::NotFound | Error::Precondition(_)) =
            &finished
        {
            // The registry will not have it, so nobody must find it.
            if mode == Mode::Remote {
                store.destroy(&kid, deadline).await.map_err(of_device)?;
            }
            self.registry.abandon_key(&intent).await?;
        }
        drop(making);
        finished
    }

    /// The key access server of this id, or the one this node serves, which it must be.
    async fn own_kas(&self, id: &str) -> Result<Kas> {
        let name = match id {
            "" => KasName::Uri(self.kas_uri.clone()),
            id => KasName::Id(id.to_owned()),
        };
        let kas = self.registry.kas(&name).await.map_err(|error| match error {
            Error::NotFound if id.is_empty() => Error::precondition(format!(
                "{} is not registered; create it with `kasbah kas create`",
                self.kas_uri
            )),
            other => other,
        })?;
        if kas.uri != self.kas_uri {
            return Err(Error::precondition(format!(
                "this node serves {} and not {}; ask a node that does",
                self.kas_uri, kas.uri
            )));
        }
        Ok(kas)
    }

    async fn states(&self, kas_id: String, page: Page, sight: Sight) -> Result<Listed<State>> {
        let is_own = kas_id.is_empty();
        let kas = if is_own { KasName::Uri(self.kas_uri.clone()) } else { KasName::Id(kas_id) };
        let query = KeyQuery { kas: Some(kas), ..KeyQuery::default() };
        let order = Order::new(&KEY_ORDERS, 0, 0);
        let listed = match self.registry.list_keys(&query, order, page).await {
            // Nobody has registered this node yet.
            Err(Error::NotFound) if is_own => Listed { items: Vec::new(), total: 0, page },
            other => other?,
        };
        let base = self.registry.base_key().await?.map(|key| key.id);
        let uses = self.registry.uses().await?;
        let mut states = Vec::new();
        for key in listed.items {
            let Use { count, last } = uses.get(&key.id).copied().unwrap_or_default();
            let (state, custody) = self.state(&key, sight).await?;
            states.push(State {
                state,
                custody,
                uses: count.unsigned_abs(),
                last_used: (count > 0).then(|| convert::timestamp(last)),
                is_base_key: base.as_ref() == Some(&key.id),
                kas_key: Some(key_message(key, sight)),
            });
        }
        Ok(Listed { items: states, total: listed.total, page })
    }

    async fn state(&self, key: &Key, sight: Sight) -> Result<(String, Option<CustodyMessage>)> {
        if key.mode == KeyMode::PublicKeyOnly as i32 {
            return Ok(("public key only".to_owned(), None));
        }
        Ok(match self.prove(key).await? {
            None => ("not served by this node".to_owned(), None),
            Some(Ok(custody)) => ("ready".to_owned(), Some(custody_message(custody))),
            Some(Err(Trust::Decrypt)) => {
                ("the private key does not belong to the public key".to_owned(), None)
            }
            Some(Err(error)) => (sight.of_error(&error), None),
        })
    }

    async fn wrap_again(&self, actor: &Actor, from: &str, to: &str) -> Result<Vec<String>, Status> {
        let failed = |error: Error| error.status("resource update failed");
        let mut done = Vec::new();
        for key in self.registry.keys_of(&self.kas_uri).await.map_err(failed)? {
            let is_from = key.private_key.as_ref().is_some_and(|private| private.key_id == from);
            if key.mode != KeyMode::ConfigRootKey as i32 || !is_from {
                continue;
            }
            if self.wrap_one_again(&key, to).await.map_err(failed)? {
                self.audit.key(actor, Action::Update, Ok((&key, None))).await?;
                done.push(key.kid);
            }
        }
        Ok(done)
    }

    /// Whether it could be, which a key that this version cannot serve cannot.
    async fn wrap_one_again(&self, key: &Key, to: &str) -> Result<bool> {
        let Some(details) = convert::key_details(key)? else { return Ok(false) };
        let manager = self.keys.manager_for(&details).await.map_err(of_device)?;
        let store = manager.key_store().ok_or_else(|| {
            Error::precondition(format!("the key manager of {} wraps no keys", key.kid))
        })?;
        let wrapped = store.wrap_again(&details, to, Deadline::after(PROBE_TIMEOUT)).await;
        let wrapped = wrapped.map_err(of_device)?;
        let new = PrivateKey {
            key_id: wrapped.key_id.unwrap_or_else(|| to.to_owned()),
            wrapped_key: wrapped.wrapped_key,
        };
        self.registry.replace_private_key(key, &new).await?;
        Ok(true)
    }

    /// The new revision, and what the author should know.
    async fn set_entitlements(
        &self,
        document: &Arc<str>,
        expected: Option<u64>,
    ) -> Result<(u64, Vec<String>)> {
        check_size(document)?;
        let (check, text) = (Arc::clone(&self.documents), Arc::clone(document));
        // A long document takes a while to read.
        let checked = tokio::task::spawn_blocking(move || check.check(&text)).await;
        let warnings = checked.map_err(Error::internal)?.map_err(refusal)?;
        Ok((self.registry.set_entitlements(document, expected).await?, warnings))
    }

    async fn health(&self, provider: Provider, sight: Sight) -> ProviderHealth {
        let health = match convert::provider_config(&provider) {
            Ok(config) => match self.keys.manager_of(&Arc::new(config)).await {
                Ok(manager) => match manager.health().await {
                    Health::Ready => Health::Ready,
                    Health::NotReady(why) => Health::NotReady(sight.of_state(why)),
                },
                Err(error) => Health::NotReady(sight.of_error(&error)),
            },
            Err(error) => Health::NotReady(error.to_string()),
        };
        let (ready, detail) = match health {
            Health::Ready => (true, String::new()),
            Health::NotReady(why) => (false, why),
        };
        ProviderHealth {
            manager_registered: self.keys.has_manager(&provider.manager),
            ready,
            detail,
            file: provider.file.clone().unwrap_or_default(),
            provider_config: Some(provider_message(provider, sight)),
        }
    }
}

fn check_generate(request: &GenerateKeyRequest) -> Result<(), Status> {
    let mut check = Check::default();
    check.uuid_if_set("kas_id", &request.kas_id);
    check.kid("key_id", &request.key_id);
    let is_made = convert::algorithm(request.key_algorithm).is_some();
    let text = "The key_algorithm must be one that a device makes: RSA or EC.";
    check.rule("key_algorithm", "key_algorithm_defined", is_made, text);
    let modes = [KeyMode::ProviderRootKey as i32, KeyMode::Remote as i32];
    let text = "The key_mode must be KEY_MODE_REMOTE or KEY_MODE_PROVIDER_ROOT_KEY.";
    check.rule("key_mode", "key_mode_defined", modes.contains(&request.key_mode), text);
    check.uuid("provider_config_id", &request.provider_config_id);
    check.uuid_if_set("rotates", &request.rotates);
    check.labels(&request.labels);
    check.done()
}

/// What is registered of a key that a device made.
pub(super) fn new_key(intent: &Intent, made: &kasbah_trust::NewKey) -> NewKey {
    NewKey {
        kid: intent.kid.clone(),
        algorithm: intent.algorithm,
        mode: intent.mode,
        public_pem: made.public_key.to_pem(),
        private_key: made
            .private_key
            .key_id
            .clone()
            .map(|key_id| PrivateKey { key_id, wrapped_key: made.private_key.wrapped_key.clone() }),
        provider_id: Some(intent.provider_id.clone()),
        legacy: intent.legacy,
        labels: intent.labels.clone(),
    }
}

pub(super) fn mode_of(number: i32) -> Mode {
    if number == KeyMode::ProviderRootKey as i32 { Mode::ProviderRootKey } else { Mode::Remote }
}

/// What a device answered.
pub(super) fn of_device(error: Trust) -> Error {
    match error {
        Trust::Exists(_) => Error::Exists,
        Trust::NotFound(kid) => Error::precondition(format!("the device has no key {kid}")),
        Trust::NotPermitted(text) | Trust::Unsupported(text) => Error::precondition(text),
        Trust::Decrypt => Error::precondition("the stored private key does not open"),
        Trust::Busy | Trust::Unavailable(_) => {
            Error::Unavailable { what: "the key manager is unavailable", source: error.into() }
        }
        Trust::Internal(source) => Error::Internal(source),
    }
}

fn custody_message(custody: Custody) -> CustodyMessage {
    CustodyMessage {
        level: custody.level.to_string(),
        enforced_by_key: custody.enforced_by_key,
        boundary: custody.boundary.as_str().to_owned(),
    }
}
