//! `policy.keymanagement.KeyManagementService`
#![expect(deprecated, reason = "old clients send these fields")]

use kasbah_proto::policy::{
    KeyProviderConfig,
    keymanagement::{
        CreateProviderConfigRequest, CreateProviderConfigResponse, DeleteProviderConfigRequest,
        DeleteProviderConfigResponse, GetProviderConfigRequest, GetProviderConfigResponse,
        ListProviderConfigsRequest, ListProviderConfigsResponse, UpdateProviderConfigRequest,
        UpdateProviderConfigResponse, get_provider_config_request::Identifier,
        key_management_service_server::KeyManagementService,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::{ControlPlane, page};
use crate::{
    NewProvider, ProviderChange, ProviderName,
    actor::{Actor, actor},
    audit::{Action, changed, unchanged},
    convert::{label_change, labels, provider_message},
    error::Error,
    validate::Check,
};

const CREATION: &str = "resource creation failed";
const RETRIEVAL: &str = "resource retrieval failed";
const UPDATE: &str = "resource update failed";
const DELETION: &str = "resource deletion failed";

impl ControlPlane {
    fn warn_unregistered(&self, manager: &str) {
        if !self.keys.has_manager(manager) {
            tracing::warn!(manager, "a provider configuration names a manager this node lacks");
        }
    }
}

#[async_trait]
impl KeyManagementService for ControlPlane {
    async fn create_provider_config(
        &self,
        request: Request<CreateProviderConfigRequest>,
    ) -> Result<Response<CreateProviderConfigResponse>, Status> {
        let actor = actor(&request)?;
        let new = new_provider(request.into_inner())?;
        let created = self.registry.create_provider(new).await;
        self.audit.provider(&actor, Action::Create, created.as_ref().map(unchanged)).await?;
        let provider = created.map_err(|error| error.status(CREATION))?;
        self.warn_unregistered(&provider.manager);
        let provider_config = Some(provider_message(provider, actor.sight));
        Ok(Response::new(CreateProviderConfigResponse { provider_config }))
    }

    async fn get_provider_config(
        &self,
        request: Request<GetProviderConfigRequest>,
    ) -> Result<Response<GetProviderConfigResponse>, Status> {
        let Actor { sight, .. } = actor(&request)?;
        let identifier = request.into_inner().identifier;
        let mut check = Check::default();
        check.one_of("identifier", identifier.is_some());
        match &identifier {
            Some(Identifier::Id(id)) => check.uuid("id", id),
            Some(Identifier::Name(name)) => check.at_least_one("name", name),
            Some(Identifier::NameManager(pair)) => {
                check.text("name_manager.name", &pair.name);
                check.text("name_manager.manager", &pair.manager);
            }
            None => {}
        }
        check.done()?;
        let name = match identifier {
            Some(Identifier::Id(id)) => ProviderName::Id(id),
            Some(Identifier::NameManager(pair)) => {
                ProviderName::Pair { name: pair.name, manager: pair.manager }
            }
            _ => return Err(Error::invalid("identifier is deprecated").status(RETRIEVAL)),
        };
        let provider = self.registry.provider(&name).await;
        let provider = provider.map_err(|error| error.status(RETRIEVAL))?;
        let provider_config = Some(provider_message(provider, sight));
        Ok(Response::new(GetProviderConfigResponse { provider_config }))
    }

    async fn list_provider_configs(
        &self,
        request: Request<ListProviderConfigsRequest>,
    ) -> Result<Response<ListProviderConfigsResponse>, Status> {
        let Actor { sight, .. } = actor(&request)?;
        let page = page(request.into_inner().pagination).map_err(|e| e.status(RETRIEVAL))?;
        let listed = self.registry.list_providers(page).await;
        let listed = listed.map_err(|error| error.status(RETRIEVAL))?;
        let pagination = Some(listed.response());
        let shown = listed.items.into_iter().map(|provider| provider_message(provider, sight));
        let provider_configs = shown.collect();
        Ok(Response::new(ListProviderConfigsResponse { provider_configs, pagination }))
    }

    async fn update_provider_config(
        &self,
        request: Request<UpdateProviderConfigRequest>,
    ) -> Result<Response<UpdateProviderConfigResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.provider_name("name", &request.name);
        check.provider_name("manager", &request.manager);
        check.config_json(&request.config_json);
        if let Some(metadata) = &request.metadata {
            check.labels(&metadata.labels);
        }
        check.done()?;
        let labels = label_change(request.metadata, request.metadata_update_behavior);
        let change = ProviderChange {
            name: request.name,
            manager: request.manager,
            config_json: request.config_json,
            labels: labels.map_err(|error| error.status(UPDATE))?,
        };
        let updated = self.registry.update_provider(&request.id, change).await;
        self.audit.provider(&actor, Action::Update, updated.as_ref().map(changed)).await?;
        let updated = updated.map_err(|error| actor.sight.of_refusal(error));
        let (_, after) = updated.map_err(|error| error.status(UPDATE))?;
        self.warn_unregistered(&after.manager);
        let provider_config = Some(provider_message(after, actor.sight));
        Ok(Response::new(UpdateProviderConfigResponse { provider_config }))
    }

    async fn delete_provider_config(
        &self,
        request: Request<DeleteProviderConfigRequest>,
    ) -> Result<Response<DeleteProviderConfigResponse>, Status> {
        let actor = actor(&request)?;
        let id = request.into_inner().id;
        let mut check = Check::default();
        check.uuid("id", &id);
        check.done()?;
        let deleted = self.registry.delete_provider(&id).await;
        self.audit.provider(&actor, Action::Delete, deleted.as_ref().map(unchanged)).await?;
        deleted.map_err(|error| error.status(DELETION))?;
        let provider_config = Some(KeyProviderConfig { id, ..KeyProviderConfig::default() });
        Ok(Response::new(DeleteProviderConfigResponse { provider_config }))
    }
}

pub(crate) fn new_provider(request: CreateProviderConfigRequest) -> Result<NewProvider, Status> {
    let mut check = Check::default();
    check.required("name", !request.name.is_empty());
    check.provider_name("name", &request.name);
    check.required("config_json", !request.config_json.is_empty());
    check.config_json(&request.config_json);
    check.required("manager", !request.manager.is_empty());
    check.provider_name("manager", &request.manager);
    if let Some(metadata) = &request.metadata {
        check.labels(&metadata.labels);
    }
    check.done()?;
    Ok(NewProvider {
        name: request.name,
        manager: request.manager,
        config_json: request.config_json,
        labels: labels(request.metadata),
    })
}
