use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    sync::Arc,
};

use async_trait::async_trait;
use kasbah_index::KeySource;
use kasbah_proto::policy::{
    KasKey, KeyProviderConfig, PageRequest,
    kasregistry::{
        GetKeyRequest, KasKeyIdentifier, ListKeysRequest, ListKeysResponse, get_key_request,
        kas_key_identifier,
        key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
        list_keys_request,
    },
};
use kasbah_trust::{KeyDetails, KeyId, Result};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    ConvertError, PlatformConfig, SetupError,
    convert::key_details,
    error::PlatformError,
    link::{CallError, Link},
};

/// The keys that an OpenTDF platform has registered for one KAS, over gRPC.
///
/// It cannot tell when keys change, so its revision is `None`. A key of an algorithm that no
/// manager here serves does not exist; a key that makes no sense is an error when asked for, and is
/// left out of the list with a warning.
#[derive(Debug)]
pub struct PlatformSource {
    link: Link,
    config: PlatformConfig,
}

impl PlatformSource {
    /// Connects when first used, so the platform need not be up. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: PlatformConfig) -> Result<Self, SetupError> {
        config.check()?;
        let link = Link::new(&config.connection(), config.request_timeout)?;
        Ok(Self { link, config })
    }

    /// The key of `kid` as the platform has it.
    async fn get(&self, kid: &str) -> Result<Option<KasKey>, PlatformError> {
        let uri = kas_key_identifier::Identifier::Uri(self.config.kas_uri.to_string());
        let key = KasKeyIdentifier { identifier: Some(uri), kid: kid.to_owned() };
        let request = GetKeyRequest { identifier: Some(get_key_request::Identifier::Key(key)) };
        let call = async |channel, request| client(channel).get_key(request).await;
        let Some(answer) = self.call("GetKey", request, call).await? else { return Ok(None) };
        let key = answer.kas_key.ok_or(ConvertError::Empty)?;
        self.check_owner(&key)?;
        match &key.key {
            Some(content) if content.key_id == kid => Ok(Some(key)),
            Some(content) => Err(foreign(&key, &content.key_id)),
            None => Err(ConvertError::Empty.into()),
        }
    }

    /// All keys as the platform lists them, newest first. A key made while the pages were read may
    /// be missing.
    async fn pages(&self) -> Result<Vec<KasKey>, PlatformError> {
        let distrust =
            |reason| PlatformError::Paging { endpoint: Arc::clone(self.link.endpoint()), reason };
        let mut keys = Vec::new();
        let mut offset = 0;
        loop {
            let page = self.page(offset).await?;
            let (next, total) = page.pagination.map_or((0, 0), |p| (p.next_offset, p.total));
            let is_empty = page.kas_keys.is_empty();
            keys.extend(page.kas_keys);
            if keys.len() > MOST_KEYS {
                return Err(distrust(format!("it has more than {MOST_KEYS} keys")));
            }
            if next == 0 {
                // An empty page says 0.
                return match usize::try_from(total) {
                    Ok(total) if keys.len() >= total => Ok(keys),
                    _ => Err(distrust(format!("it has {total} keys and sent {}", keys.len()))),
                };
            }
            if next <= offset || is_empty {
                return Err(distrust(format!("offset {offset} is followed by {next}")));
            }
            offset = next;
        }
    }

    async fn page(&self, offset: i32) -> Result<ListKeysResponse, PlatformError> {
        let request = ListKeysRequest {
            kas_filter: Some(list_keys_request::KasFilter::KasUri(self.config.kas_uri.to_string())),
            pagination: Some(PageRequest { limit: self.config.page_size.into(), offset }),
            ..ListKeysRequest::default()
        };
        let call = async |channel, request| client(channel).list_keys(request).await;
        let answer = self.call("ListKeys", request, call).await?;
        Ok(answer.unwrap_or_else(|| {
            tracing::warn!(
                endpoint = %self.link.endpoint(), kas_uri = %self.config.kas_uri,
                "the platform has no KAS of this URI, so there are no keys; register it or correct kas_uri"
            );
            ListKeysResponse::default()
        }))
    }

    /// The answer of the platform; `None` when it has no such thing.
    async fn call<Q: Clone, A>(
        &self,
        method: &'static str,
        message: Q,
        call: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<Option<A>, PlatformError> {
        let endpoint = self.link.endpoint();
        match timeout(self.config.request_timeout, self.link.call(message, call)).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(CallError::Status(status))) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(CallError::Status(status))) => Err(PlatformError::of(&status, method, endpoint)),
            Ok(Err(CallError::Token(error))) => Err(error.into()),
            Err(_) => Err(PlatformError::Timeout { method, endpoint: Arc::clone(endpoint) }),
        }
    }

    fn check_owner(&self, key: &KasKey) -> Result<(), PlatformError> {
        if *key.kas_uri == *self.config.kas_uri {
            return Ok(());
        }
        Err(foreign(key, key.key.as_ref().map_or("", |content| &content.key_id)))
    }
}

#[async_trait]
impl KeySource for PlatformSource {
    async fn find(&self, kid: &KeyId) -> Result<Option<KeyDetails>> {
        // PostgreSQL stores no text with a NUL, and answers it like a failure.
        if kid.as_str().is_empty() || kid.as_str().contains('\0') {
            return Ok(None);
        }
        let Some(key) = self.get(kid.as_str()).await? else { return Ok(None) };
        let details = key_details(&key).map_err(PlatformError::from)?;
        if details.is_none() {
            tracing::debug!(%kid, "no manager here serves the algorithm of this key");
        }
        Ok(details)
    }

    async fn list(&self) -> Result<Vec<KeyDetails>> {
        let mut completion = Completion { source: self, providers: HashMap::new() };
        let mut seen = HashSet::new();
        let mut listed = Vec::new();
        for key in self.pages().await? {
            if let Err(foreign) = self.check_owner(&key) {
                return Err(kasbah_trust::Error::unavailable(foreign));
            }
            match completion.details(key).await {
                Ok(Some(details)) if seen.insert(details.kid.clone()) => listed.push(details),
                // Listed twice, because a key was made while the pages were read.
                Ok(Some(_)) => {}
                Ok(None) => tracing::debug!("left out a key that no manager here serves"),
                Err(error @ (PlatformError::Convert(_) | PlatformError::Foreign { .. })) => {
                    let error = &error as &dyn StdError;
                    tracing::warn!(error, "left out a key of the platform that makes no sense");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(listed)
    }

    async fn revision(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Fills in what a list by the platform leaves out: the manager of a provider configuration. One
/// key of each configuration is asked for.
struct Completion<'a> {
    source: &'a PlatformSource,
    /// By id.
    providers: HashMap<String, KeyProviderConfig>,
}

impl Completion<'_> {
    async fn details(&mut self, mut key: KasKey) -> Result<Option<KeyDetails>, PlatformError> {
        let kid = match key_details(&key) {
            Err(ConvertError::NoManager { kid, .. }) => kid,
            details => return Ok(details?),
        };
        let listed = key.key.as_mut().and_then(|content| content.provider_config.as_mut());
        if let Some(config) = listed
            && let Some(known) = self.providers.get(&config.id)
        {
            *config = known.clone();
            return Ok(key_details(&key)?);
        }
        // Gone since it was listed.
        let Some(key) = self.source.get(&kid).await? else { return Ok(None) };
        let complete = key.key.as_ref().and_then(|content| content.provider_config.as_ref());
        if let Some(config) = complete.filter(|config| !config.id.is_empty()) {
            self.providers.insert(config.id.clone(), config.clone());
        }
        Ok(key_details(&key)?)
    }
}

fn client(channel: Channel) -> KeyAccessServerRegistryServiceClient<Channel> {
    KeyAccessServerRegistryServiceClient::new(channel).max_decoding_message_size(PAGE_BYTES)
}

fn foreign(key: &KasKey, kid: &str) -> PlatformError {
    PlatformError::Foreign { kid: kid.to_owned(), kas_uri: key.kas_uri.clone() }
}

/// Memory that a list may take, roughly: some KiB per key. A KAS has thousands.
const MOST_KEYS: usize = 1_000_000;

/// 2500 keys of RSA-4096 with their wrapped private keys and configurations.
const PAGE_BYTES: usize = 32 * 1024 * 1024;
