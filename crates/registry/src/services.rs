//! OpenTDF's services of the control plane, and ours, over gRPC.
//!
//! A gate in front of them has let the caller in ([`kasbah_auth::Gate`]); without it, calls are
//! refused. From there on they go the same way everywhere: who is it, is the request sound (in
//! `validate`), then the rules of [`Registry`], then audit.

mod admin;
mod finish;
mod kas_registry;
pub(crate) mod key_management;
mod reconcile;
pub(crate) mod requests;
mod unsafe_keys;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kasbah_proto::{
    kasbah::admin::v1::admin_service_server::{self, AdminServiceServer},
    policy::{
        KeyMode, PageRequest, SimpleKasKey,
        kasregistry::key_access_server_registry_service_server::{
            self, KeyAccessServerRegistryServiceServer,
        },
        keymanagement::key_management_service_server::{self, KeyManagementServiceServer},
        r#unsafe::unsafe_service_server::{self, UnsafeServiceServer},
    },
};
use kasbah_trust::{Custody, Deadline, KeyService, KeyStatus};
use tonic::service::Routes;

use self::finish::Finish;
use crate::{
    DocumentCheck, Key, Page, PolicyAudit, Registry,
    audit::Audit,
    convert,
    entitlements::MAX_DOCUMENT,
    error::{Error, Result},
};

/// Largest request: a few labels and a public key.
const MAX_REQUEST: usize = 1024 * 1024;
/// Largest request with a document of entitlements.
const MAX_ADMIN_REQUEST: usize = MAX_DOCUMENT + MAX_REQUEST;
/// How long all keys of a list together may take to prove themselves, the first time.
const PROOFS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one key may take to prove itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// The control plane of one node.
#[derive(Debug)]
pub struct ControlPlane {
    registry: Registry,
    keys: Arc<KeyService>,
    kas_uri: String,
    audit: Audit,
    documents: Arc<dyn DocumentCheck>,
    /// Intents this process works on.
    making: Mutex<HashSet<String>>,
}

impl ControlPlane {
    /// Full names of the services.
    pub const SERVICES: [&str; 4] = [
        admin_service_server::SERVICE_NAME,
        key_access_server_registry_service_server::SERVICE_NAME,
        key_management_service_server::SERVICE_NAME,
        unsafe_service_server::SERVICE_NAME,
    ];

    /// The services over `registry`, of a node that serves the keys of `kas_uri` with `keys`.
    /// Documents of entitlements must pass `documents`.
    pub fn new(
        registry: Registry,
        keys: Arc<KeyService>,
        kas_uri: String,
        audit: Arc<dyn PolicyAudit>,
        documents: Arc<dyn DocumentCheck>,
    ) -> Self {
        Self { registry, keys, kas_uri, audit: Audit(audit), documents, making: Mutex::default() }
    }

    /// All services. A call runs to its end, and is audited, also when its client goes away.
    pub fn routes(self: Arc<Self>) -> Routes {
        let max = MAX_REQUEST;
        let routes = Routes::new(
            KeyManagementServiceServer::from_arc(Arc::clone(&self)).max_decoding_message_size(max),
        )
        .add_service(
            KeyAccessServerRegistryServiceServer::from_arc(Arc::clone(&self))
                .max_decoding_message_size(max),
        )
        .add_service(
            UnsafeServiceServer::from_arc(Arc::clone(&self)).max_decoding_message_size(max),
        )
        .add_service(
            AdminServiceServer::new(admin::Admin(self))
                .max_decoding_message_size(MAX_ADMIN_REQUEST),
        );
        routes.into_axum_router().layer(Finish).into()
    }

    /// Proves a key that this node serves.
    ///
    /// # Errors
    /// As [`KeyService::prove`]; `None` for a key that is not this node's, or of an algorithm
    /// that no manager serves.
    async fn prove(&self, key: &Key) -> Result<Option<kasbah_trust::Result<Custody>>> {
        if key.kas_uri != self.kas_uri {
            return Ok(None);
        }
        let Some(details) = convert::key_details(key)? else { return Ok(None) };
        Ok(Some(self.keys.prove(&details, Deadline::after(PROBE_TIMEOUT)).await))
    }

    /// The base key, if clients may be given it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be asked.
    pub async fn base_key(&self) -> Result<Option<SimpleKasKey>> {
        match self.registry.base_key().await? {
            Some(key) if self.may_be_given(&key).await => Ok(Some(convert::simple_key(key))),
            _ => Ok(None),
        }
    }

    /// Whether clients may be given a key: it is active, and the private part is this node's.
    async fn may_be_given(&self, key: &Key) -> bool {
        key.status == status_number(KeyStatus::Active)
            && matches!(self.prove(key).await, Ok(Some(Ok(_))))
    }

    /// The keys of a key access server as clients may see them: of this node's, those that are
    /// proven. Of others nothing can be proven here; whoever uses them trusts their registration.
    async fn keys_to_show(&self, kas_uri: &str) -> Result<Vec<SimpleKasKey>> {
        let deadline = Deadline::after(PROOFS_TIMEOUT);
        let mut shown = Vec::new();
        for key in self.registry.keys_of(kas_uri).await? {
            if kas_uri == self.kas_uri && key.mode != KeyMode::PublicKeyOnly as i32 {
                let Some(details) = convert::key_details(&key)? else { continue };
                if self.keys.prove(&details, deadline).await.is_err() {
                    continue;
                }
            }
            shown.push(convert::simple_key(key));
        }
        Ok(shown)
    }

    /// Refuses a key whose private part is known not to fit. One whose device cannot be asked now
    /// is registered, and not given to clients before it is proven.
    async fn refuse_unfit(&self, key: &Key) -> Result<()> {
        use kasbah_trust::Error as Trust;
        let Some(Err(error)) = self.prove(key).await? else { return Ok(()) };
        match error {
            Trust::Decrypt => {
                Err(Error::invalid("the private key does not belong to public_key_ctx.pem"))
            }
            Trust::Internal(source) => {
                let source = &*source as &dyn std::error::Error;
                tracing::warn!(kid = key.kid, error = source, "a key was refused");
                Err(Error::invalid("private_key_ctx.wrapped_key does not open to the private key"))
            }
            Trust::NotFound(_) => {
                Err(Error::precondition("the key manager has no key of private_key_ctx.key_id"))
            }
            Trust::NotPermitted(text) | Trust::Unsupported(text) => Err(Error::precondition(text)),
            error @ (Trust::Busy | Trust::Unavailable(_) | Trust::Exists(_)) => {
                let source = &error as &dyn std::error::Error;
                tracing::warn!(
                    kid = key.kid,
                    error = source,
                    "key is registered but not proven; it is not given to clients until it is"
                );
                Ok(())
            }
        }
    }

    fn making(&self) -> MutexGuard<'_, HashSet<String>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status_number(status: KeyStatus) -> i32 {
    use kasbah_proto::policy::KeyStatus as Wire;
    match status {
        KeyStatus::Active => Wire::Active as i32,
        KeyStatus::Rotated => Wire::Rotated as i32,
        KeyStatus::Disabled => Wire::Disabled as i32,
        KeyStatus::Compromised => Wire::Compromised as i32,
    }
}

fn page(request: Option<PageRequest>) -> Result<Page> {
    let PageRequest { limit, offset } = request.unwrap_or_default();
    Page::new(limit, offset)
}
