use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_auth::{
    DpopSettings, Gate, GateLayer, MemoryReplay, Proofs, Refusal, RolePolicy, TokenVerifier,
    VerifiedToken,
};
use kasbah_basic::{BasicFactory, MANAGER as BASIC, RootKeys, wrap_private_key};
use kasbah_crypto::{Algorithm, PrivateKeyParts, PublicKey, envelope::RootKey};
use kasbah_index::{CacheRules, CachedIndex};
use kasbah_kas::{BaseKey, WellKnown};
use kasbah_proto::{
    buf::validate::Violations,
    google::rpc::Status as RpcStatus,
    kasbah::admin::v1::admin_service_client::AdminServiceClient,
    policy::{
        KasKey, KeyMode, PrivateKeyCtx, PublicKeyCtx, SimpleKasKey,
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
    Database, DocumentCheck, MemoryPolicyAudit, PolicyAudit, Registry, RegistrySource,
    SettingsCheck, services::ControlPlane,
};
use kasbah_testkit::postgres::Postgres;
use kasbah_trust::{Deadline, KeyManagers, KeyService, UnknownManager};
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status, async_trait,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    service::Routes,
    transport::{Channel, Server, server::TcpIncoming},
};

use crate::device::{DEVICE, Devices};

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
    pub(crate) documents: Arc<AnyDocument>,
    channel: Channel,
    pub(crate) store: Store,
}

/// Allows any settings but the word `forbidden`, and none but `{}` for the manager [`PICKY`].
#[derive(Debug)]
struct AnySettings;

/// A manager whose settings are refused by quoting them.
pub(crate) const PICKY: &str = "test/picky";

impl SettingsCheck for AnySettings {
    fn check(&self, _: &str, manager: &str, json: &str) -> Result<(), Cow<'static, str>> {
        if manager == PICKY && json != "{}" {
            return Err(format!("config_json: {json} is not empty").into());
        }
        if json.contains("forbidden") { Err("config_json: forbidden".into()) } else { Ok(()) }
    }
}

/// Takes any document but one with the word `wrong`, and warns of the word `odd`.
#[derive(Debug, Default)]
pub(crate) struct AnyDocument {
    /// Where to say that a check has begun, and where to wait before it ends.
    pub(crate) pause: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl DocumentCheck for AnyDocument {
    fn check(&self, document: &str) -> Result<Vec<String>, String> {
        if let Some((begun, end)) = self.pause.lock().unwrap().take() {
            begun.send(()).unwrap();
            end.recv().unwrap();
        }
        if document.contains("wrong") {
            return Err("line 1: wrong".to_owned());
        }
        Ok(document.contains("odd").then(|| "line 1: odd".to_owned()).into_iter().collect())
    }
}

/// The token is the subject, and says which group it is in.
#[derive(Debug)]
struct TokenIsSubject;

#[async_trait]
impl TokenVerifier for TokenIsSubject {
    async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal> {
        let group = match token {
            "admin" => "opentdf-admin",
            "standard" => "opentdf-standard",
            other => other,
        };
        let claims =
            json!({ "sub": token, "azp": "a-client", "realm_access": { "roles": [group] } });
        Ok(Arc::new(VerifiedToken {
            issuer: "https://idp.example.com".to_owned(),
            subject: token.to_owned(),
            claims: Arc::new(claims.as_object().unwrap().clone()),
            confirmation: None,
            expires: u64::MAX,
            text: Arc::new(token.to_owned().into()),
            fingerprint: Sha256::digest(token).into(),
        }))
    }
}

/// May change everything, and see nothing private.
const WRITERS: &str = "
p, role:writer, policy.kasregistry.*, *, allow
p, role:writer, policy.keymanagement.*, *, allow
p, role:writer, policy.unsafe.*, *, allow
p, role:writer, kasbah.admin.v1.*, *, allow
g, writer, role:writer
";

async fn gate() -> Gate {
    let settings = DpopSettings { origins: vec![KAS_URI.to_owned()], ..Default::default() };
    let proofs = Proofs::new(settings, Arc::new(MemoryReplay::default())).unwrap();
    Gate::new(Arc::new(TokenIsSubject), proofs, RolePolicy::built_in(WRITERS).await.unwrap())
}

pub(crate) async fn registry(store: &Store) -> Registry {
    let database = store.open().await;
    database.migrate().await.unwrap();
    over(database)
}

pub(crate) fn over(database: Database) -> Registry {
    Registry::new(database, Arc::new(AnySettings))
}

/// The services of a node, without a gate.
fn control_plane(
    registry: &Registry,
    audit: Arc<dyn PolicyAudit>,
    documents: Arc<AnyDocument>,
) -> (Routes, Arc<CachedIndex>) {
    let source = RegistrySource::new(registry.clone(), KAS_URI.to_owned());
    let index = CachedIndex::new(Arc::new(source), CacheRules::default());
    let mut managers = KeyManagers::default();
    let keys = [("root", ROOT), ("other", OTHER_ROOT)];
    let keys: BTreeMap<_, _> =
        keys.map(|(name, hex)| (name.to_owned(), RootKey::from_hex(hex).unwrap())).into();
    let basic = BasicFactory::new(RootKeys::new("root".to_owned(), keys).unwrap());
    managers.register(BASIC, &kasbah_basic::ALGORITHMS, Arc::new(basic)).unwrap();
    managers.register(DEVICE, &kasbah_basic::ALGORITHMS, Arc::new(Devices)).unwrap();
    let keys = KeyService::new(Arc::clone(&index) as _, managers, BASIC, UnknownManager::Refuse);
    let keys = Arc::new(keys.unwrap());
    let known = WellKnown::new(Arc::clone(&keys));
    let plane = ControlPlane::new(registry.clone(), keys, KAS_URI.to_owned(), audit, documents);
    let plane = Arc::new(plane);
    let base_key = Arc::new(BaseKeyOf(Arc::clone(&plane)));
    let known = Arc::new(known.base_key(base_key, Duration::ZERO));
    (plane.routes().add_service(known.server()), index)
}

/// What a node tells of the base key.
#[derive(Debug)]
struct BaseKeyOf(Arc<ControlPlane>);

#[async_trait]
impl BaseKey for BaseKeyOf {
    async fn base_key(&self, _: Deadline) -> kasbah_trust::Result<Option<SimpleKasKey>> {
        self.0.base_key().await.map_err(kasbah_trust::Error::unavailable)
    }
}

/// Serves until the test ends.
async fn serve(gate: Option<Gate>, routes: Routes) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let incoming = TcpIncoming::from(listener);
        let served = if let Some(gate) = gate {
            let mut server = Server::builder().layer(GateLayer::new(Arc::new(gate)));
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, pending()).await
        } else {
            let mut server = Server::builder();
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, pending()).await
        };
        served.unwrap();
    });
    Channel::from_shared(url).unwrap().connect_lazy()
}

impl Plane {
    pub(crate) async fn start(store: Store) -> Self {
        let audit = Arc::new(MemoryPolicyAudit::default());
        Self::start_with(store, Arc::clone(&audit) as _, audit).await
    }

    /// With a log of its own; `audit` is what the test looks into.
    pub(crate) async fn start_with(
        store: Store,
        log: Arc<dyn PolicyAudit>,
        audit: Arc<MemoryPolicyAudit>,
    ) -> Self {
        let registry = registry(&store).await;
        let documents = Arc::<AnyDocument>::default();
        let (routes, index) = control_plane(&registry, log, Arc::clone(&documents));
        let channel = serve(Some(gate().await), routes).await;
        Self { registry, index, audit, documents, channel, store }
    }

    /// The same services with no gate in front of them.
    pub(crate) async fn ungated(&self) -> Channel {
        let (routes, _) =
            control_plane(&self.registry, Arc::clone(&self.audit) as _, Arc::default());
        serve(None, routes).await
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
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
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(32 << 20)
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

pub(crate) fn request<T>(subject: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let authorization = format!("Bearer {subject}").parse().unwrap();
    request.metadata_mut().insert("authorization", authorization);
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

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// Calls `rpc`, for example `kas.AccessService/Rewrap`, with an encoded message; the answer as it
/// came.
pub(crate) async fn call(
    channel: Channel,
    subject: Option<&str>,
    rpc: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let message = match subject {
        Some(subject) => request(subject, message),
        None => Request::new(message),
    };
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = format!("/{rpc}").parse().unwrap();
    Ok(client.unary(message, path, Raw).await?.into_inner())
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
