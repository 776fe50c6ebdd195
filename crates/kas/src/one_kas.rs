//! `policy.kasregistry.KeyAccessServerRegistryService` of a node without a registry: one key access
//! server, which is this one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kasbah_auth::Caller;
use kasbah_proto::policy::{
    KeyAccessServer, PageResponse, SimpleKasKey, SourceType,
    kasregistry::{
        GetBaseKeyRequest, GetBaseKeyResponse, GetKeyAccessServerRequest,
        GetKeyAccessServerResponse, ListKeyAccessServersRequest, ListKeyAccessServersResponse,
        get_key_access_server_request::Identifier,
        key_access_server_registry_service_server::{
            KeyAccessServerRegistryService, KeyAccessServerRegistryServiceServer,
        },
    },
};
use kasbah_trust::{Deadline, Error, KeyFilter, KeyId, KeyService, Result};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};
use uuid::Builder;

use crate::{
    BaseKey,
    edge::{missing_access_token, report},
    hand_out,
};

/// Largest request.
const MAX_REQUEST: usize = 64 * 1024;
/// Most entries of a page.
const MAX_LIMIT: i32 = 2500;
/// How long all keys together may take to prove themselves, the first time.
const PROOFS_TIMEOUT: Duration = Duration::from_secs(10);

/// The list of key access servers that clients trust, where nobody keeps one. Answers
/// `ListKeyAccessServers`, `GetKeyAccessServer` and `GetBaseKey`; every other call is
/// `unimplemented`.
#[derive(Debug)]
pub struct OneKas {
    uri: String,
    /// Made of the URI, so that it is always the same.
    id: String,
    keys: Arc<KeyService>,
    base_key: Option<KeyId>,
}

impl OneKas {
    /// The key access server at `uri` with the keys of `keys`, of which clients get those that are
    /// proven.
    pub fn new(uri: &str, keys: Arc<KeyService>) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(uri)[..16]);
        let id = Builder::from_custom_bytes(bytes).into_uuid().to_string();
        Self { uri: uri.to_owned(), id, keys, base_key: None }
    }

    /// Names its base key.
    #[must_use]
    pub fn base_key_id(self, kid: KeyId) -> Self {
        Self { base_key: Some(kid), ..self }
    }

    /// The service over gRPC.
    pub fn server(self: &Arc<Self>) -> KeyAccessServerRegistryServiceServer<Self> {
        let server = KeyAccessServerRegistryServiceServer::from_arc(Arc::clone(self));
        server.max_decoding_message_size(MAX_REQUEST)
    }

    async fn message(&self) -> Result<KeyAccessServer, Status> {
        let deadline = Deadline::after(PROOFS_TIMEOUT);
        let listed = self.keys.index().list(KeyFilter::default(), deadline).await;
        let mut kas_keys = Vec::new();
        for key in listed.map_err(|error| retrieval(&error))? {
            match self.keys.prove(&key, deadline).await {
                Ok(_) => kas_keys.push(hand_out::simple_key(&key, &self.id)),
                Err(error) => hand_out::unproven(&key, &error),
            }
        }
        Ok(KeyAccessServer {
            id: self.id.clone(),
            uri: self.uri.clone(),
            source_type: SourceType::Internal as i32,
            kas_keys,
            ..KeyAccessServer::default()
        })
    }

    /// Whether a request means this one. It has no name.
    fn is_meant(&self, identifier: &Identifier) -> bool {
        match identifier {
            Identifier::KasId(id) => id.eq_ignore_ascii_case(&self.id),
            Identifier::Uri(uri) => *uri == self.uri,
            Identifier::Name(_) => false,
        }
    }
}

#[async_trait]
impl BaseKey for OneKas {
    async fn base_key(&self, deadline: Deadline) -> Result<Option<SimpleKasKey>> {
        let Some(kid) = &self.base_key else { return Ok(None) };
        match hand_out::key_of_id(&self.keys, kid, &self.id, deadline).await {
            // Its manager may be optional, and be away for long; the index is at hand.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%kid, error, "the base key is not handed out: it is not proven");
                Ok(None)
            }
            found => found,
        }
    }
}

#[async_trait]
impl KeyAccessServerRegistryService for OneKas {
    async fn list_key_access_servers(
        &self,
        request: Request<ListKeyAccessServersRequest>,
    ) -> Result<Response<ListKeyAccessServersResponse>, Status> {
        request.extensions().get::<Caller>().ok_or_else(missing_access_token)?;
        let request = request.into_inner();
        let page = request.pagination.unwrap_or_default();
        if page.limit > MAX_LIMIT || page.offset < 0 {
            return Err(Status::invalid_argument(
                "the requested page is too large or begins before the list",
            ));
        }
        let term = request.search.unwrap_or_default().term.to_lowercase();
        let is_found = self.uri.to_lowercase().contains(&term);
        let mut key_access_servers = Vec::new();
        if is_found && page.offset == 0 {
            key_access_servers.push(self.message().await?);
        }
        let pagination =
            PageResponse { current_offset: page.offset, next_offset: 0, total: is_found.into() };
        let pagination = Some(pagination);
        Ok(Response::new(ListKeyAccessServersResponse { key_access_servers, pagination }))
    }

    #[expect(deprecated, reason = "old clients send the id in another field")]
    async fn get_key_access_server(
        &self,
        request: Request<GetKeyAccessServerRequest>,
    ) -> Result<Response<GetKeyAccessServerResponse>, Status> {
        request.extensions().get::<Caller>().ok_or_else(missing_access_token)?;
        let GetKeyAccessServerRequest { id, identifier } = request.into_inner();
        let identifier = match (identifier, id.is_empty()) {
            (Some(identifier), true) => identifier,
            (None, false) => Identifier::KasId(id),
            _ => {
                let text = "validation error: exactly one of id, kas_id, name and uri must be set";
                return Err(Status::invalid_argument(text));
            }
        };
        if !self.is_meant(&identifier) {
            return Err(Status::not_found("resource not found"));
        }
        let key_access_server = Some(self.message().await?);
        Ok(Response::new(GetKeyAccessServerResponse { key_access_server }))
    }

    async fn get_base_key(
        &self,
        request: Request<GetBaseKeyRequest>,
    ) -> Result<Response<GetBaseKeyResponse>, Status> {
        request.extensions().get::<Caller>().ok_or_else(missing_access_token)?;
        let base_key = self.base_key(Deadline::after(PROOFS_TIMEOUT)).await;
        let base_key = base_key.map_err(|error| retrieval(&error))?;
        Ok(Response::new(GetBaseKeyResponse { base_key }))
    }
}

fn retrieval(error: &Error) -> Status {
    report(error);
    match error {
        Error::Busy | Error::Unavailable(_) => Status::unavailable("the keys cannot be listed now"),
        _ => Status::internal("resource retrieval failed"),
    }
}
