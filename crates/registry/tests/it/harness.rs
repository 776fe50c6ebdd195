use std::{borrow::Cow, collections::BTreeMap, future::pending, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_basic::{BasicFactory, MANAGER as BASIC, RootKeys, wrap_private_key};
use kasbah_crypto::{Algorithm, PrivateKeyParts, PublicKey, envelope::RootKey};
use kasbah_index::{CacheRules, CachedIndex};
use kasbah_proto::{
    buf::validate::Violations,
    google::rpc::Status as RpcStatus,
    kasbah::admin::v1::admin_service_client::AdminServiceClient,
    policy::{
        KasKey, KeyMode, PrivateKeyCtx, PublicKeyCtx,
        kasregistry::{
            CreateKeyAccessServerRequest, CreateKeyRequest, GetKeyRequest, get_key_request,
            key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
        },
        keymanagement::{
            CreateProviderConfigRequest, key_management_service_client::KeyManagementServiceClient,
        },
        r#unsafe::unsafe_service_client::UnsafeServiceClient,
    },
    wellknownconfiguration::well_known_service_client::WellKnownServiceClient,
};
use kasbah_registry::{
    Database, MemoryPolicyAudit, Registry, RegistrySource, SettingsCheck,
    services::{Callers, ControlPlane, Gate},
};
use kasbah_testkit::postgres::Postgres;
use kasbah_trust::{KeyManagers, KeyService, UnknownManager};
use prost::Message;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status, async_trait,
    metadata::MetadataMap,
    transport::{Channel, Server, server::TcpIncoming},
};

pub(crate) const KAS_URI: &str = "https://kas.example.com";
pub(crate) const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
pub(crate) const OTHER_ROOT: &str =
    "ff2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3eff";
/// A UUID that nothing has.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";
/// A manager that no node of these tests has.
pub(crate) const HSM: &str = "opentdf.io/hsm";

/// Where a test keeps its database.
#[derive(Debug)]
pub(crate) enum Store {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Store {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(Postgres::start())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(dir) => format!("sqlite:{}", dir.path().join("registry.db").display()),
            Self::Postgres(postgres) => postgres.url(),
        }
    }

    pub(crate) async fn open(&self) -> Database {
        Database::open(&self.url()).await.unwrap()
    }
}

/// A control plane behind a port.
pub(crate) struct Plane {
    pub(crate) registry: Registry,
    pub(crate) index: Arc<CachedIndex>,
    pub(crate) audit: Arc<MemoryPolicyAudit>,
    channel: Channel,
    pub(crate) store: Store,
}

/// Allows any settings but the word `forbidden`.
#[derive(Debug)]
struct AnySettings;

impl SettingsCheck for AnySettings {
    fn check(&self, _: &str, _: &str, json: &str) -> Result<(), Cow<'static, str>> {
        if json.contains("forbidden") { Err("config_json: forbidden".into()) } else { Ok(()) }
    }
}

/// The header is the subject.
#[derive(Debug)]
struct HeaderIsSubject;

#[async_trait]
impl Callers for HeaderIsSubject {
    async fn subject(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        header.map(str::to_owned).ok_or_else(|| Status::unauthenticated("unauthenticated"))
    }
}

pub(crate) async fn registry(store: &Store) -> Registry {
    let database = store.open().await;
    database.migrate().await.unwrap();
    over(database)
}

pub(crate) fn over(database: Database) -> Registry {
    Registry::new(database, Arc::new(AnySettings))
}

impl Plane {
    pub(crate) async fn start(store: Store) -> Self {
        let registry = registry(&store).await;
        let source = RegistrySource::new(registry.clone(), KAS_URI.to_owned());
        let index = CachedIndex::new(Arc::new(source), CacheRules::default());
        let mut managers = KeyManagers::default();
        let keys = [("root", ROOT), ("other", OTHER_ROOT)];
        let keys: BTreeMap<_, _> =
            keys.map(|(name, hex)| (name.to_owned(), RootKey::from_hex(hex).unwrap())).into();
        let basic = BasicFactory::new(RootKeys::new("root".to_owned(), keys).unwrap());
        managers.register(BASIC, &kasbah_basic::ALGORITHMS, Arc::new(basic)).unwrap();
        let keys =
            KeyService::new(Arc::clone(&index) as _, managers, BASIC, UnknownManager::Refuse);
        let audit = Arc::new(MemoryPolicyAudit::default());
        let gate = Gate::new(Arc::new(HeaderIsSubject), ["admin".to_owned()]);
        let plane = ControlPlane::new(
            registry.clone(),
            Arc::new(keys.unwrap()),
            KAS_URI.to_owned(),
            gate,
            Arc::clone(&audit) as _,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Arc::new(plane).routes();
        tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            let server = Server::builder().add_routes(routes);
            server.serve_with_incoming_shutdown(incoming, pending()).await.unwrap();
        });
        let channel = Channel::from_shared(url).unwrap().connect_lazy();
        Self { registry, index, audit, channel, store }
    }

    /// Changes the database as somebody does who may write it.
    pub(crate) async fn meddle(&self, sql: String) {
        let mut connection = AnyConnection::connect(&self.store.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }

    pub(crate) fn kas(&self) -> KeyAccessServerRegistryServiceClient<Channel> {
        KeyAccessServerRegistryServiceClient::new(self.channel.clone())
    }

    pub(crate) fn providers(&self) -> KeyManagementServiceClient<Channel> {
        KeyManagementServiceClient::new(self.channel.clone())
    }

    pub(crate) fn unsafe_keys(&self) -> UnsafeServiceClient<Channel> {
        UnsafeServiceClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub(crate) fn well_known(&self) -> WellKnownServiceClient<Channel> {
        WellKnownServiceClient::new(self.channel.clone())
    }

    /// Registers the key access server of this node; its id.
    pub(crate) async fn own_kas(&self) -> String {
        self.new_kas(KAS_URI, "Main").await
    }

    pub(crate) async fn new_kas(&self, uri: &str, name: &str) -> String {
        let message = CreateKeyAccessServerRequest {
            uri: uri.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let made = self.kas().create_key_access_server(admin(message)).await.unwrap();
        made.into_inner().key_access_server.unwrap().id
    }

    /// A provider configuration of a manager that this node lacks; its id.
    pub(crate) async fn hsm(&self, name: &str) -> String {
        let made = self.providers().create_provider_config(admin(provider(name, HSM, "{}"))).await;
        made.unwrap().into_inner().provider_config.unwrap().id
    }

    /// Registers a key that this node can prove.
    pub(crate) async fn local_key(&self, kas_id: &str, kid: &str) -> KasKey {
        let made = self.kas().create_key(admin(local(kas_id, kid))).await.unwrap();
        made.into_inner().kas_key.unwrap()
    }

    /// Registers a key of a device that this node cannot reach.
    pub(crate) async fn remote_key(&self, kas_id: &str, kid: &str, provider: &str) -> KasKey {
        let made = self.kas().create_key(admin(remote(kas_id, kid, provider))).await.unwrap();
        made.into_inner().kas_key.unwrap()
    }

    pub(crate) async fn key(&self, id: &str) -> Result<KasKey, Status> {
        let identifier = Some(get_key_request::Identifier::Id(id.to_owned()));
        let found = self.kas().get_key(admin(GetKeyRequest { identifier })).await?;
        Ok(found.into_inner().kas_key.unwrap())
    }
}

/// A request of an administrator.
pub(crate) fn admin<T>(message: T) -> Request<T> {
    request("admin", message)
}

pub(crate) fn request<T>(subject: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", subject.parse().unwrap());
    request
}

pub(crate) fn provider(name: &str, manager: &str, json: &str) -> CreateProviderConfigRequest {
    CreateProviderConfigRequest {
        name: name.to_owned(),
        manager: manager.to_owned(),
        config_json: json.as_bytes().to_vec(),
        metadata: None,
    }
}

/// A P-256 key wrapped by the root key.
pub(crate) fn local(kas_id: &str, kid: &str) -> CreateKeyRequest {
    let key = PrivateKeyParts::generate(Algorithm::Ec(kasbah_crypto::Curve::P256)).unwrap();
    let wrapped = wrap_private_key(&RootKey::from_hex(ROOT).unwrap(), &key.to_pem().unwrap());
    CreateKeyRequest {
        kas_id: kas_id.to_owned(),
        key_id: kid.to_owned(),
        key_algorithm: 3,
        key_mode: KeyMode::ConfigRootKey as i32,
        public_key_ctx: Some(public(&key.public_key())),
        private_key_ctx: Some(private("root", &wrapped.unwrap())),
        ..Default::default()
    }
}

pub(crate) fn remote(kas_id: &str, kid: &str, provider: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        key_mode: KeyMode::Remote as i32,
        private_key_ctx: Some(private("pkcs11:object=x", "")),
        provider_config_id: provider.to_owned(),
        ..local(kas_id, kid)
    }
}

pub(crate) fn public_only(kas_id: &str, kid: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        key_mode: KeyMode::PublicKeyOnly as i32,
        private_key_ctx: None,
        ..local(kas_id, kid)
    }
}

pub(crate) fn public(key: &PublicKey) -> PublicKeyCtx {
    PublicKeyCtx { pem: BASE64_STANDARD.encode(key.to_pem()) }
}

pub(crate) fn private(key_id: &str, wrapped_key: &str) -> PrivateKeyCtx {
    PrivateKeyCtx { key_id: key_id.to_owned(), wrapped_key: wrapped_key.to_owned() }
}

pub(crate) fn id_of(key: &KasKey) -> String {
    key.key.as_ref().unwrap().id.clone()
}

pub(crate) fn status_of(key: &KasKey) -> i32 {
    key.key.as_ref().unwrap().key_status
}

/// What a call that must fail answered.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.map(|_| ()).unwrap_err();
    (status.code(), status.message().to_owned())
}

/// Ids of the rules that a request broke, which are in the text and in the detail alike.
pub(crate) fn broken(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().starts_with("validation error:\n - "), "{status:?}");
    let details = RpcStatus::decode(status.details()).unwrap();
    assert_eq!(details.message, status.message());
    let [detail] = &details.details[..] else { panic!("{details:?}") };
    assert_eq!(detail.type_url, "type.googleapis.com/buf.validate.Violations");
    let found = Violations::decode(&*detail.value).unwrap().violations;
    for violation in &found {
        let line = format!("{} [{}]", violation.message, violation.rule_id);
        assert!(status.message().contains(&line), "{line}: {status:?}");
    }
    found.into_iter().map(|violation| violation.rule_id).collect()
}

/// A module with the tests over SQLite, and one with the same over PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::harness::Store::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::harness::Store::postgres()).await;
            })+
        }
    };
}
pub(crate) use on_both;
