//! An administrator of a server with a registry.

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_proto::{
    kas::{PublicKeyRequest, access_service_client::AccessServiceClient},
    kasbah::admin::v1::{
        Finding, GenerateKeyRequest, KeyState, ListKeyStatesRequest, ReconcileRequest,
        SetKeyStateRequest, admin_service_client::AdminServiceClient,
        set_key_state_request::Target,
    },
    policy::{
        KasKey, KeyMode, PrivateKeyCtx, PublicKeyCtx,
        kasregistry::{
            CreateKeyAccessServerRequest, CreateKeyRequest, GetKeyRequest, KasKeyIdentifier,
            SetBaseKeyRequest, get_key_request, kas_key_identifier,
            key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
            set_base_key_request,
        },
        keymanagement::{
            CreateProviderConfigRequest, key_management_service_client::KeyManagementServiceClient,
        },
        r#unsafe::unsafe_service_client::UnsafeServiceClient,
    },
};
use tonic::{Request, Status, metadata::AsciiMetadataValue, transport::Channel};

/// Subject whose access tokens say that it is an administrator.
pub const ADMIN: &str = "admin";

/// `policy.Algorithm` of RSA-2048.
pub const RSA_2048: i32 = 1;
/// `policy.Algorithm` of P-256.
pub const EC_P256: i32 = 3;

/// A connection of an administrator. Its shortcuts panic with the status when a call fails; the
/// clients are for everything else.
#[derive(Debug, Clone)]
pub struct Admin {
    channel: Channel,
    token: AsciiMetadataValue,
    /// URI of the key access server, as the configuration names it.
    pub kas_uri: String,
}

impl Admin {
    /// Connects when first used.
    ///
    /// # Panics
    /// When the URL or the token cannot be.
    pub fn new(url: String, token: &str, kas_uri: &str) -> Self {
        let channel = Channel::from_shared(url).expect("a URL").connect_lazy();
        let token = format!("Bearer {token}").parse().expect("a token");
        Self { channel, token, kas_uri: kas_uri.to_owned() }
    }

    /// A request with the access token.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    /// `KeyAccessServerRegistryService`
    pub fn registry(&self) -> KeyAccessServerRegistryServiceClient<Channel> {
        KeyAccessServerRegistryServiceClient::new(self.channel.clone())
    }

    /// `KeyManagementService`
    pub fn providers(&self) -> KeyManagementServiceClient<Channel> {
        KeyManagementServiceClient::new(self.channel.clone())
    }

    /// `UnsafeService`
    pub fn unsafe_keys(&self) -> UnsafeServiceClient<Channel> {
        UnsafeServiceClient::new(self.channel.clone())
    }

    /// `AdminService`
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Registers the key access server; its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_kas(&self) -> String {
        let uri = self.kas_uri.clone();
        let message = CreateKeyAccessServerRequest { uri, ..Default::default() };
        let made = self.registry().create_key_access_server(self.request(message)).await;
        made.expect("a new KAS").into_inner().key_access_server.expect("it").id
    }

    /// Creates a provider configuration; its id.
    ///
    /// # Errors
    /// The server's answer.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn create_provider(
        &self,
        name: &str,
        manager: &str,
        config_json: &str,
    ) -> Result<String, Status> {
        let message = CreateProviderConfigRequest {
            name: name.to_owned(),
            manager: manager.to_owned(),
            config_json: config_json.as_bytes().to_vec(),
            metadata: None,
        };
        let made = self.providers().create_provider_config(self.request(message)).await?;
        Ok(made.into_inner().provider_config.expect("it").id)
    }

    /// Has the device of a provider make a key.
    ///
    /// # Errors
    /// The server's answer.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn generate(
        &self,
        provider_id: &str,
        kid: &str,
        algorithm: i32,
        mode: KeyMode,
        rotates: &str,
    ) -> Result<KasKey, Status> {
        let message = GenerateKeyRequest {
            key_id: kid.to_owned(),
            key_algorithm: algorithm,
            key_mode: mode as i32,
            provider_config_id: provider_id.to_owned(),
            rotates: rotates.to_owned(),
            ..Default::default()
        };
        let made = self.admin().generate_key(self.request(message)).await?;
        Ok(made.into_inner().kas_key.expect("it"))
    }

    /// Registers a key whose private half is stored wrapped by a root key.
    ///
    /// # Errors
    /// The server's answer.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn create_wrapped(
        &self,
        kas_id: &str,
        kid: &str,
        algorithm: i32,
        public_pem: &str,
        (root_key, wrapped_key): (&str, &str),
    ) -> Result<KasKey, Status> {
        let message = CreateKeyRequest {
            kas_id: kas_id.to_owned(),
            key_id: kid.to_owned(),
            key_algorithm: algorithm,
            key_mode: KeyMode::ConfigRootKey as i32,
            public_key_ctx: Some(PublicKeyCtx { pem: BASE64_STANDARD.encode(public_pem) }),
            private_key_ctx: Some(PrivateKeyCtx {
                key_id: root_key.to_owned(),
                wrapped_key: wrapped_key.to_owned(),
            }),
            ..Default::default()
        };
        let made = self.registry().create_key(self.request(message)).await?;
        Ok(made.into_inner().kas_key.expect("it"))
    }

    /// The record of a key.
    ///
    /// # Errors
    /// The server's answer.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn key(&self, kid: &str) -> Result<KasKey, Status> {
        let identifier = Some(kas_key_identifier::Identifier::Uri(self.kas_uri.clone()));
        let key = KasKeyIdentifier { identifier, kid: kid.to_owned() };
        let message = GetKeyRequest { identifier: Some(get_key_request::Identifier::Key(key)) };
        let found = self.registry().get_key(self.request(message)).await?;
        Ok(found.into_inner().kas_key.expect("it"))
    }

    /// Makes a key the base key.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn set_base(&self, id: &str) -> Result<(), Status> {
        let active_key = Some(set_base_key_request::ActiveKey::Id(id.to_owned()));
        let message = SetBaseKeyRequest { active_key };
        self.registry().set_base_key(self.request(message)).await.map(drop)
    }

    /// Takes a key out of use, or back.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn set_state(&self, id: &str, target: Target) -> Result<(), Status> {
        let message = SetKeyStateRequest { id: id.to_owned(), target: target as i32 };
        self.admin().set_key_state(self.request(message)).await.map(drop)
    }

    /// What registry and devices disagree on.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn reconcile(&self, repair: bool) -> Vec<Finding> {
        let compared = self.admin().reconcile(self.request(ReconcileRequest { repair })).await;
        compared.expect("a comparison").into_inner().findings
    }

    /// The states of all keys.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn states(&self) -> Vec<KeyState> {
        let message = ListKeyStatesRequest::default();
        let states = self.admin().list_key_states(self.request(message)).await;
        states.expect("states").into_inner().keys
    }

    /// Kid and PEM of the key that clients are given.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn public_key(&self, algorithm: &str) -> Result<(String, String), Status> {
        let message = PublicKeyRequest {
            algorithm: algorithm.to_owned(),
            fmt: String::new(),
            v: "2".to_owned(),
        };
        let answer = AccessServiceClient::new(self.channel.clone()).public_key(message).await?;
        let answer = answer.into_inner();
        Ok((answer.kid, answer.public_key))
    }
}

/// Id of the record of a key.
///
/// # Panics
/// When it is empty.
pub fn id_of(key: &KasKey) -> String {
    key.key.as_ref().expect("a key").id.clone()
}

/// PEM text of a key.
///
/// # Panics
/// When it has none.
pub fn pem_of(key: &KasKey) -> String {
    let context = key.key.as_ref().and_then(|key| key.public_key_ctx.as_ref()).expect("a key");
    let pem = BASE64_STANDARD.decode(&context.pem).expect("base64");
    String::from_utf8(pem).expect("PEM")
}
