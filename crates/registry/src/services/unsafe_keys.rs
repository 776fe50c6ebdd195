//! `policy.unsafe.UnsafeService`, as far as it is about keys.

use kasbah_proto::policy::{
    AsymmetricKey, KasKey, KeyMode,
    r#unsafe::{
        UnsafeDeleteKasKeyRequest, UnsafeDeleteKasKeyResponse, UnsafeUpdateKeyRequest,
        UnsafeUpdateKeyResponse, unsafe_service_server::UnsafeService,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::ControlPlane;
use crate::{
    UnsafeChange,
    actor::actor,
    audit::{Action, changed, unchanged},
    convert::key_message,
    validate::Check,
};

#[async_trait]
impl UnsafeService for ControlPlane {
    async fn unsafe_update_key(
        &self,
        request: Request<UnsafeUpdateKeyRequest>,
    ) -> Result<Response<UnsafeUpdateKeyResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.rule(
            "target_key_mode",
            "enum.in",
            [KeyMode::Unspecified, KeyMode::Remote, KeyMode::PublicKeyOnly]
                .iter()
                .any(|mode| *mode as i32 == request.target_key_mode),
            "value must be in list [KEY_MODE_UNSPECIFIED, KEY_MODE_REMOTE, \
             KEY_MODE_PUBLIC_KEY_ONLY]",
        );
        check.uuid_if_set("provider_config_id", &request.provider_config_id);
        check.done()?;
        let change = UnsafeChange {
            mode: request.target_key_mode,
            provider_id: &request.provider_config_id,
        };
        let updated = self.registry.unsafe_update_key(&request.id, change).await;
        self.audit.key(&actor, Action::Update, updated.as_ref().map(changed)).await?;
        let (_, after) = updated.map_err(|error| error.status("resource update failed"))?;
        Ok(Response::new(UnsafeUpdateKeyResponse { key: Some(key_message(after, actor.sight)) }))
    }

    async fn unsafe_delete_kas_key(
        &self,
        request: Request<UnsafeDeleteKasKeyRequest>,
    ) -> Result<Response<UnsafeDeleteKasKeyResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        let mut check = Check::default();
        check.uuid("id", &request.id);
        check.required("kid", !request.kid.is_empty());
        check.required("kas_uri", !request.kas_uri.is_empty());
        check.done()?;
        let deleted = self.registry.delete_key(&request.id, &request.kid, &request.kas_uri).await;
        self.audit.key(&actor, Action::Delete, deleted.as_ref().map(unchanged)).await?;
        let key = deleted.map_err(|error| error.status("resource deletion failed"))?;
        let key = KasKey {
            kas_uri: key.kas_uri,
            kas_id: String::new(),
            key: Some(AsymmetricKey { id: key.id, key_id: key.kid, ..AsymmetricKey::default() }),
        };
        Ok(Response::new(UnsafeDeleteKasKeyResponse { key: Some(key) }))
    }
}
