//! `policy.kasregistry.KeyAccessServerRegistryService`
#![expect(deprecated, reason = "old clients send these fields")]

use kasbah_proto::policy::{
    KeyAccessServer, KeyMode, SortDirection, SourceType,
    kasregistry::{
        CreateKeyAccessServerRequest, CreateKeyAccessServerResponse, CreateKeyRequest,
        CreateKeyResponse, DeleteKeyAccessServerRequest, DeleteKeyAccessServerResponse,
        GetBaseKeyRequest, GetBaseKeyResponse, GetKeyAccessServerRequest,
        GetKeyAccessServerResponse, GetKeyRequest, GetKeyResponse,
        ListKeyAccessServerGrantsRequest, ListKeyAccessServerGrantsResponse,
        ListKeyAccessServersRequest, ListKeyAccessServersResponse, ListKeyMappingsRequest,
        ListKeyMappingsResponse, ListKeysRequest, ListKeysResponse, RotateKeyRequest,
        RotateKeyResponse, SetBaseKeyRequest, SetBaseKeyResponse, SortKeyAccessServersType,
        UpdateKeyAccessServerRequest, UpdateKeyAccessServerResponse, UpdateKeyRequest,
        UpdateKeyResponse, get_key_request,
        key_access_server_registry_service_server::KeyAccessServerRegistryService,
        list_key_mappings_request, rotate_key_request, set_base_key_request,
    },
};
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::{
    ControlPlane, page,
    requests::{
        check_create_key, check_rotate_key, identified, kas_named, key_query, new_key, rotated_key,
        row_id, unnamed,
    },
};
use crate::{
    Kas, KasChange, KasName, Key, KeyName, Labels, NewKas, NewKey, Order,
    actor::{Actor, actor},
    audit::{Action, changed, unchanged},
    convert::{
        kas_message, key_message, label_change, labels, mapping_message, rotated_resources,
        simple_key,
    },
    error::{Error, Result},
    kas::KAS_ORDERS,
    model::Listed,
    validate::Check,
};

const CREATION: &str = "resource creation failed";
const RETRIEVAL: &str = "resource retrieval failed";
const LISTING: &str = "resource list retrieval failed";
const UPDATE: &str = "resource update failed";
const DELETION: &str = "resource deletion failed";
const ROTATION: &str = "key rotation failed";

#[async_trait]
impl KeyAccessServerRegistryService for ControlPlane {
    async fn list_key_access_servers(
        &self,
        request: Request<ListKeyAccessServersRequest>,
    ) -> Result<Response<ListKeyAccessServersResponse>, Status> {
        actor(&request)?;
        let request = request.into_inner();
        let sort = request.sort.first().copied().unwrap_or_default();
        let mut check = Check::default();
        check.at_most_one_item("sort", request.sort.len());
        for sort in &request.sort {
            check.defined("sort.field", SortKeyAccessServersType::try_from(sort.field).is_ok());
            check.defined("sort.direction", SortDirection::try_from(sort.direction).is_ok());
        }
        check.search(request.search.as_ref());
        check.done()?;
        let page = page(request.pagination).map_err(|error| error.status(LISTING))?;
        let order = Order::new(&KAS_ORDERS, sort.field, sort.direction);
        let term = request.search.map(|search| search.term).unwrap_or_default();
        let listed = self.registry.list_kas(&term, order, page).await;
        let listed = listed.map_err(|error| error.status(LISTING))?;
        let pagination = Some(listed.response());
        let mut key_access_servers = Vec::new();
        for kas in listed.items {
            let keys = self.keys_to_show(&kas.uri).await.map_err(|e| e.status(LISTING))?;
            key_access_servers.push(kas_message(kas, keys));
        }
        Ok(Response::new(ListKeyAccessServersResponse { key_access_servers, pagination }))
    }

    async fn get_key_access_server(
        &self,
        request: Request<GetKeyAccessServerRequest>,
    ) -> Result<Response<GetKeyAccessServerResponse>, Status> {
        actor(&request)?;
        let name = kas_named(request.into_inner())?;
        let kas = self.registry.kas(&name).await.map_err(|error| error.status(RETRIEVAL))?;
        let keys = self.keys_to_show(&kas.uri).await.map_err(|e| e.status(RETRIEVAL))?;
        let kas = kas_message(kas, keys);
        Ok(Response::new(GetKeyAccessServerResponse { key_access_server: Some(kas) }))
    }

    async fn create_key_access_server(
        &self,
        request: Request<CreateKeyAccessServerRequest>,
    ) -> Result<Response<CreateKeyAccessServerResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.kas_uri("uri", &request.uri);
        check.defined("source_type", SourceType::try_from(request.source_type).is_ok());
        check.kas_name("name", &request.name);
        if let Some(metadata) = &request.metadata {
            check.labels(&metadata.labels);
        }
        check.done()?;
        let new = NewKas {
            uri: request.uri,
            name: request.name,
            source_type: request.source_type,
            public_key: request.public_key.unwrap_or_default().encode_to_vec(),
            labels: labels(request.metadata),
        };
        let created = self.registry.create_kas(new).await;
        self.audit.kas(&actor, Action::Create, created.as_ref()).await?;
        let kas = created.map_err(|error| error.status(CREATION))?;
        let mut kas = kas_message(kas, Vec::new());
        // As upstream answers: neither times nor the deprecated key.
        kas.public_key = None;
        if let Some(metadata) = &mut kas.metadata {
            (metadata.created_at, metadata.updated_at) = (None, None);
        }
        Ok(Response::new(CreateKeyAccessServerResponse { key_access_server: Some(kas) }))
    }

    async fn update_key_access_server(
        &self,
        request: Request<UpdateKeyAccessServerRequest>,
    ) -> Result<Response<UpdateKeyAccessServerResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.optional_kas_uri("uri", &request.uri);
        check.defined("source_type", SourceType::try_from(request.source_type).is_ok());
        check.kas_name("name", &request.name);
        if let Some(metadata) = &request.metadata {
            check.labels(&metadata.labels);
        }
        check.done()?;
        let behavior = request.metadata_update_behavior;
        let mentions_labels = request.metadata.is_some() || behavior != 0;
        let labels = label_change(request.metadata, behavior).map_err(|e| e.status(UPDATE))?;
        let change = KasChange {
            uri: request.uri,
            name: request.name,
            source_type: request.source_type,
            public_key: request.public_key.map(|key| key.encode_to_vec()),
            labels,
            mentions_labels,
        };
        let updated = self.registry.update_kas(&request.id, change).await;
        self.audit.kas(&actor, Action::Update, updated.as_ref()).await?;
        updated.map_err(|error| error.status(UPDATE))?;
        let kas = KeyAccessServer { id: request.id, ..KeyAccessServer::default() };
        Ok(Response::new(UpdateKeyAccessServerResponse { key_access_server: Some(kas) }))
    }

    async fn delete_key_access_server(
        &self,
        request: Request<DeleteKeyAccessServerRequest>,
    ) -> Result<Response<DeleteKeyAccessServerResponse>, Status> {
        let actor = actor(&request)?;
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.uuid("id", &id);
        check.done()?;
        let deleted = self.forget_kas(&id).await;
        self.audit.kas(&actor, Action::Delete, deleted.as_ref()).await?;
        deleted.map_err(|error| error.status(DELETION))?;
        let kas = KeyAccessServer { id, ..KeyAccessServer::default() };
        Ok(Response::new(DeleteKeyAccessServerResponse { key_access_server: Some(kas) }))
    }

    /// Grants are no longer made, so there are none.
    async fn list_key_access_server_grants(
        &self,
        request: Request<ListKeyAccessServerGrantsRequest>,
    ) -> Result<Response<ListKeyAccessServerGrantsResponse>, Status> {
        actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.optional_uuid("kas_id", &request.kas_id);
        check.optional_kas_uri("kas_uri", &request.kas_uri);
        check.kas_name_format("kas_name", &request.kas_name);
        check.done()?;
        let page = page(request.pagination).map_err(|error| error.status(LISTING))?;
        let none = Listed::<()> { items: Vec::new(), total: 0, page };
        let pagination = Some(none.response());
        Ok(Response::new(ListKeyAccessServerGrantsResponse { grants: Vec::new(), pagination }))
    }

    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        check_create_key(&request)?;
        let created = self.register(request).await;
        self.audit.key(&actor, Action::Create, created.as_ref().map(unchanged)).await?;
        let key = created.map_err(|error| error.status(CREATION))?;
        Ok(Response::new(CreateKeyResponse { kas_key: Some(key_message(key, actor.sight)) }))
    }

    async fn get_key(
        &self,
        request: Request<GetKeyRequest>,
    ) -> Result<Response<GetKeyResponse>, Status> {
        use get_key_request::Identifier;
        let actor = actor(&request)?;
        let identifier = request.into_inner().identifier;
        let mut check = Check::default();
        check.one_of("identifier", identifier.is_some());
        let name = match identifier {
            Some(Identifier::Id(id)) => Some(row_id(&mut check, id)),
            Some(Identifier::Key(key)) => identified(&mut check, "key", key),
            None => None,
        };
        check.done()?;
        let name = name.ok_or_else(unnamed)?;
        let found = self.registry.key(&name).await;
        self.audit.key(&actor, Action::Read, found.as_ref().map(unchanged)).await?;
        let key = found.map_err(|error| error.status(RETRIEVAL))?;
        Ok(Response::new(GetKeyResponse { kas_key: Some(key_message(key, actor.sight)) }))
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let Actor { sight, .. } = actor(&request)?;
        let (query, order, page) = key_query(request.into_inner())?;
        let listed = self.registry.list_keys(&query, order, page).await;
        let listed = listed.map_err(|error| error.status(LISTING))?;
        let pagination = Some(listed.response());
        let kas_keys = listed.items.into_iter().map(|key| key_message(key, sight)).collect();
        Ok(Response::new(ListKeysResponse { kas_keys, pagination }))
    }

    async fn update_key(
        &self,
        request: Request<UpdateKeyRequest>,
    ) -> Result<Response<UpdateKeyResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let behavior = request.metadata_update_behavior;
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.rule(
            "",
            "metadata_update_behavior",
            request.metadata.is_none() || behavior != 0,
            "Metadata update behavior must be either APPEND or REPLACE, when updating metadata.",
        );
        if let Some(metadata) = &request.metadata {
            check.labels(&metadata.labels);
        }
        check.done()?;
        let labels = label_change(request.metadata, behavior).map_err(|e| e.status(UPDATE))?;
        let updated = self.registry.update_key(&request.id, labels).await;
        self.audit.key(&actor, Action::Update, updated.as_ref().map(changed)).await?;
        let (_, key) = updated.map_err(|error| error.status(UPDATE))?;
        Ok(Response::new(UpdateKeyResponse { kas_key: Some(key_message(key, actor.sight)) }))
    }

    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        let actor = actor(&request)?;
        let (old, new) = check_rotate_key(request.into_inner())?;
        let rotated = self.rotate(&old, new).await;
        let told = rotated.as_ref().map(|rotation| (&rotation.old, Some(&rotation.new)));
        self.audit.key(&actor, Action::Rotate, told).await?;
        let rotation = rotated.map_err(|error| error.status(ROTATION))?;
        let kas_key = Some(key_message(rotation.new.clone(), actor.sight));
        let rotated_resources = Some(rotated_resources(rotation, actor.sight));
        Ok(Response::new(RotateKeyResponse { kas_key, rotated_resources }))
    }

    async fn set_base_key(
        &self,
        request: Request<SetBaseKeyRequest>,
    ) -> Result<Response<SetBaseKeyResponse>, Status> {
        use set_base_key_request::ActiveKey;
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.one_of("active_key", request.active_key.is_some());
        let name = match request.active_key {
            Some(ActiveKey::Id(id)) => Some(row_id(&mut check, id)),
            Some(ActiveKey::Key(key)) => identified(&mut check, "key", key),
            None => None,
        };
        check.done()?;
        let set = self.make_base_key(&name.ok_or_else(unnamed)?).await;
        let told = set.as_ref().map(|(new, previous)| (new, previous.as_ref()));
        self.audit.key(&actor, Action::Update, told).await?;
        let (new, previous) = set.map_err(|error| error.status(UPDATE))?;
        Ok(Response::new(SetBaseKeyResponse {
            new_base_key: Some(simple_key(new)),
            previous_base_key: previous.map(simple_key),
        }))
    }

    async fn get_base_key(
        &self,
        request: Request<GetBaseKeyRequest>,
    ) -> Result<Response<GetBaseKeyResponse>, Status> {
        actor(&request)?;
        let base_key = self.base_key().await.map_err(|error| error.status(RETRIEVAL))?;
        Ok(Response::new(GetBaseKeyResponse { base_key }))
    }

    async fn list_key_mappings(
        &self,
        request: Request<ListKeyMappingsRequest>,
    ) -> Result<Response<ListKeyMappingsResponse>, Status> {
        use list_key_mappings_request::Identifier;
        actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        let name = match request.identifier {
            Some(Identifier::Id(id)) => Some(row_id(&mut check, id)),
            Some(Identifier::Key(key)) => identified(&mut check, "key", key),
            None => None,
        };
        check.done()?;
        let page = page(request.pagination).map_err(|error| error.status(RETRIEVAL))?;
        let listed = self.registry.list_mappings(name.as_ref(), page).await;
        let listed = listed.map_err(|error| error.status(RETRIEVAL))?;
        let pagination = Some(listed.response());
        let key_mappings = listed.items.into_iter().map(mapping_message).collect();
        Ok(Response::new(ListKeyMappingsResponse { key_mappings, pagination }))
    }
}

impl ControlPlane {
    async fn forget_kas(&self, id: &str) -> Result<Kas> {
        let kas = self.registry.kas(&KasName::Id(id.to_owned())).await?;
        self.registry.delete_kas(id).await?;
        Ok(kas)
    }

    async fn register(&self, request: CreateKeyRequest) -> Result<Key> {
        let kas_id = request.kas_id.clone();
        let new = new_key(request)?;
        self.refuse_unfit_new(&KasName::Id(kas_id.clone()), &new).await?;
        self.registry.create_key(&kas_id, &new).await
    }

    async fn rotate(
        &self,
        old: &KeyName,
        new: rotate_key_request::NewKey,
    ) -> Result<crate::Rotation> {
        let new = rotated_key(new)?;
        let kas = KasName::Id(self.registry.key(old).await?.kas_id);
        self.refuse_unfit_new(&kas, &new).await?;
        self.registry.rotate_key(old, &new).await
    }

    /// Proves a key before there is a record of it. What the record would refer to in vain is
    /// left to the database to refuse.
    async fn refuse_unfit_new(&self, kas: &KasName, new: &NewKey) -> Result<()> {
        let kas = match self.registry.kas(kas).await {
            Err(Error::NotFound) => return Err(Error::Relation),
            other => other?,
        };
        let provider = match &new.provider_id {
            None => None,
            Some(id) => match self.registry.provider(&crate::ProviderName::Id(id.clone())).await {
                Err(Error::NotFound) => return Err(Error::Relation),
                other => Some(other?),
            },
        };
        if new.mode == KeyMode::PublicKeyOnly as i32 {
            return Ok(());
        }
        let taken = KeyName::InKas(KasName::Id(kas.id.clone()), new.kid.clone());
        match self.registry.key(&taken).await {
            Err(Error::NotFound) => {}
            Ok(_) => return Err(Error::Exists),
            Err(error) => return Err(error),
        }
        self.refuse_unfit(&Key {
            id: String::new(),
            kas_id: kas.id,
            kas_uri: kas.uri,
            kid: new.kid.clone(),
            algorithm: new.algorithm,
            status: kasbah_proto::policy::KeyStatus::Active as i32,
            mode: new.mode,
            public_pem: new.public_pem.clone(),
            private_key: new.private_key.clone(),
            provider,
            legacy: new.legacy,
            labels: Labels::default(),
            created_at: 0,
            updated_at: 0,
        })
        .await
    }

    /// Clients of all nodes will use it, so it must be proven, and only the node that serves it
    /// can do that.
    async fn make_base_key(&self, name: &KeyName) -> Result<(Key, Option<Key>)> {
        let key = self.registry.key(name).await?;
        match self.prove(&key).await? {
            Some(Err(error)) if key.mode != KeyMode::PublicKeyOnly as i32 => {
                let source = &error as &dyn std::error::Error;
                tracing::warn!(kid = key.kid, error = source, "a base key was refused");
                Err(Error::precondition(format!(
                    "the private key of {} is not proven on this node: {error}",
                    key.kid
                )))
            }
            None if key.mode != KeyMode::PublicKeyOnly as i32 => Err(Error::precondition(format!(
                "key {} belongs to {}; only a node that serves it can make it the base key",
                key.kid, key.kas_uri
            ))),
            _ => self.registry.set_base_key(name).await,
        }
    }
}
