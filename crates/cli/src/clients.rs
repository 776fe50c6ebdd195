//! What clients read before they encrypt: the well-known document, attributes, and the list of key
//! access servers of a node without a registry.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kasbah_access::LocalDecisions;
use kasbah_kas::{Attributes, BaseKey, Idp, Kas, OneKas, WellKnown};
use kasbah_proto::{
    policy::{
        SimpleKasKey, attributes::attributes_service_server::SERVICE_NAME as ATTRIBUTES,
        kasregistry::key_access_server_registry_service_server::SERVICE_NAME as KAS_REGISTRY,
    },
    wellknownconfiguration::well_known_service_server::SERVICE_NAME as WELL_KNOWN,
};
use kasbah_registry::services::ControlPlane;
use kasbah_trust::{Deadline, Error, KeyId};
use tonic::service::Routes;

use crate::config::Config;

/// What of a configuration clients are told.
pub(crate) struct Told {
    idp: Option<Idp>,
    proof_algorithms: Vec<String>,
    nonce_required: bool,
    /// How long a base key is told that cannot be read any more: as long as keys are used.
    stale_limit: Duration,
}

impl Told {
    pub(crate) fn of(config: &Config) -> Self {
        let dpop = &config.auth.dpop.settings;
        Self {
            idp: config.auth.idp.clone(),
            proof_algorithms: dpop.algorithms.clone(),
            nonce_required: dpop.require_nonce,
            stale_limit: config.cache.stale_limit,
        }
    }

    /// Serves it beside the keys of `kas`, with the base key if this node knows one, and with the
    /// attributes of `local` if this node decides.
    pub(crate) fn serve(
        self,
        kas: Kas,
        base_key: Option<Arc<dyn BaseKey>>,
        local: Option<Arc<LocalDecisions>>,
    ) -> Kas {
        let keys = kas.key_service();
        let mut known =
            WellKnown::new(Arc::clone(&keys)).dpop(self.proof_algorithms, self.nonce_required);
        if let Some(idp) = self.idp {
            known = known.idp(idp);
        }
        if let Some(base_key) = base_key {
            known = known.base_key(base_key, self.stale_limit);
        }
        let known = Arc::new(known);
        let kas = kas.beside(Routes::new(known.server()), &[WELL_KNOWN]).http(known.router());
        match local {
            Some(local) => {
                kas.beside(Routes::new(Attributes::new(local, keys).server()), &[ATTRIBUTES])
            }
            None => kas,
        }
    }
}

/// Serves the list of the one key access server that a node without a registry is; and where to ask
/// for its base key.
pub(crate) fn one_kas(kas: Kas, base_key: Option<KeyId>) -> (Kas, Arc<dyn BaseKey>) {
    let one = OneKas::new(kas.uri(), kas.key_service());
    let one = Arc::new(match base_key {
        Some(kid) => one.base_key_id(kid),
        None => one,
    });
    (kas.beside(Routes::new(one.server()), &[KAS_REGISTRY]), one)
}

/// The base key of a registry.
#[derive(Debug)]
pub(crate) struct OfRegistry(pub(crate) Arc<ControlPlane>);

#[async_trait]
impl BaseKey for OfRegistry {
    async fn base_key(&self, _: Deadline) -> kasbah_trust::Result<Option<SimpleKasKey>> {
        self.0.base_key().await.map_err(Error::unavailable)
    }
}
