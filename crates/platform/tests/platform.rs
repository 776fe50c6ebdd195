//! The source against a scripted platform and identity provider, both real servers: doubles,
//! because only those lie about their pages and refuse tokens on demand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod issuer;

use std::{
    error::Error as StdError,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_crypto::{Algorithm, Curve, PrivateKey};
use kasbah_index::{CacheRules, CachedIndex, KeySource};
use kasbah_platform::{
    ClientCredentials, ConvertError, PlatformConfig, PlatformSource, SetupError, Uri, key_details,
};
use kasbah_proto::{
    common::Metadata,
    policy::{
        AsymmetricKey, KasKey, KeyProviderConfig, PageResponse, PrivateKeyCtx, PublicKeyCtx,
        kasregistry::{
            GetKeyRequest, GetKeyResponse, ListKeysRequest, ListKeysResponse, get_key_request,
            kas_key_identifier,
            key_access_server_registry_service_server::{
                KeyAccessServerRegistryService, KeyAccessServerRegistryServiceServer,
            },
            list_keys_request,
        },
    },
};
use kasbah_trust::{Deadline, Error, KeyDetails, KeyIndex, KeyMode, KeyStatus, SecretSource};
use prost_types::Timestamp;
use tokio::{net::TcpListener, runtime::Runtime, time};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::issuer::Issuer;

const KAS: &str = "https://kas.example";
const SECRET: &str = "hunter2&more";

/// What the platform answers.
#[derive(Debug, Default)]
struct Script {
    keys: Vec<KasKey>,
    /// Every answer is this.
    fail: Option<(Code, &'static str)>,
    hangs: bool,
    /// Replaces `next_offset`, `total` of every page.
    next_offset: Option<i32>,
    total: Option<i32>,
    /// Tokens that are accepted; all are when there is none.
    tokens: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Platform {
    script: Arc<Mutex<Script>>,
    gets: Arc<AtomicUsize>,
    lists: Arc<AtomicUsize>,
}

impl Platform {
    fn with(keys: impl IntoIterator<Item = KasKey>) -> Self {
        let platform = Self::default();
        platform.edit().keys.extend(keys);
        platform
    }

    fn edit(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    async fn begin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.edit().hangs {
            std::future::pending::<()>().await;
        }
        let script = self.edit();
        if let Some((code, message)) = script.fail {
            return Err(Status::new(code, message));
        }
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        if script.tokens.is_empty() {
            return Ok(());
        }
        let is_accepted =
            |header: &str| script.tokens.iter().any(|t| header == format!("Bearer {t}"));
        if header.is_some_and(is_accepted) { Ok(()) } else { Err(Status::unauthenticated(SECRET)) }
    }

    fn serve_on(&self, listener: TcpListener, tls: Option<Identity>) -> Served {
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(identity) = tls {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let service = KeyAccessServerRegistryServiceServer::new(self.clone());
        let serving =
            server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { serving.await.unwrap() });
        Served { address }
    }

    async fn serve(&self) -> Served {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None)
    }

    fn gets(&self) -> usize {
        self.gets.load(SeqCst)
    }

    fn lists(&self) -> usize {
        self.lists.load(SeqCst)
    }
}

struct Served {
    address: SocketAddr,
}

impl Served {
    fn config(&self) -> PlatformConfig {
        PlatformConfig::new(uri(&format!("http://{}", self.address)), KAS)
    }

    fn source(&self) -> PlatformSource {
        PlatformSource::new(self.config()).unwrap()
    }
}

#[tonic::async_trait]
impl KeyAccessServerRegistryService for Platform {
    async fn get_key(
        &self,
        request: Request<GetKeyRequest>,
    ) -> Result<Response<GetKeyResponse>, Status> {
        self.gets.fetch_add(1, SeqCst);
        self.begin(&request).await?;
        let Some(get_key_request::Identifier::Key(key)) = request.into_inner().identifier else {
            return Err(Status::invalid_argument("not by kid"));
        };
        assert_eq!(key.identifier, Some(kas_key_identifier::Identifier::Uri(KAS.to_owned())));
        let script = self.edit();
        let mut all = script.keys.iter();
        let found = all.find(|k| k.key.as_ref().is_some_and(|content| content.key_id == key.kid));
        let found = found.ok_or_else(|| Status::not_found("resource not found"))?;
        Ok(Response::new(GetKeyResponse { kas_key: Some(found.clone()) }))
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        self.lists.fetch_add(1, SeqCst);
        self.begin(&request).await?;
        let request = request.into_inner();
        assert_eq!(request.kas_filter, Some(list_keys_request::KasFilter::KasUri(KAS.to_owned())));
        let page = request.pagination.unwrap();
        let script = self.edit();
        let start = usize::try_from(page.offset).unwrap();
        let total = i32::try_from(script.keys.len()).unwrap();
        let kas_keys: Vec<_> = script
            .keys
            .iter()
            .skip(start)
            .take(usize::try_from(page.limit).unwrap())
            .cloned()
            .map(without_manager)
            .collect();
        let next = page.offset + page.limit;
        let pagination = PageResponse {
            current_offset: page.offset,
            next_offset: script.next_offset.unwrap_or(if next < total { next } else { 0 }),
            total: script.total.unwrap_or(if kas_keys.is_empty() { 0 } else { total }),
        };
        Ok(Response::new(ListKeysResponse { kas_keys, pagination: Some(pagination) }))
    }
}

/// As the platform lists keys.
fn without_manager(mut key: KasKey) -> KasKey {
    if let Some(config) = key.key.as_mut().and_then(|content| content.provider_config.as_mut()) {
        config.manager.clear();
    }
    key
}

fn pem() -> String {
    let key = PrivateKey::generate(Algorithm::Ec(Curve::P256)).unwrap();
    STANDARD.encode(key.public_key().to_pem())
}

fn key(kid: &str) -> KasKey {
    KasKey {
        kas_id: "1".to_owned(),
        kas_uri: KAS.to_owned(),
        key: Some(AsymmetricKey {
            key_id: kid.to_owned(),
            key_algorithm: 3,
            key_status: 1,
            key_mode: 1,
            public_key_ctx: Some(PublicKeyCtx { pem: pem() }),
            private_key_ctx: Some(PrivateKeyCtx {
                key_id: "root1".to_owned(),
                wrapped_key: "c2VhbGVk".to_owned(),
            }),
            ..AsymmetricKey::default()
        }),
    }
}

fn edited(mut key: KasKey, edit: impl FnOnce(&mut AsymmetricKey)) -> KasKey {
    edit(key.key.as_mut().unwrap());
    key
}

fn in_hsm(kid: &str, provider: &str) -> KasKey {
    edited(key(kid), |key| {
        key.key_mode = 3;
        key.provider_config = Some(KeyProviderConfig {
            id: format!("id of {provider}"),
            name: provider.to_owned(),
            manager: "opentdf.io/hsm".to_owned(),
            config_json: b"{}".to_vec(),
            metadata: None,
        });
    })
}

fn many(count: usize) -> Vec<KasKey> {
    let one = key("");
    (0..count).map(|n| edited(one.clone(), |key| key.key_id = format!("k{n}"))).collect()
}

fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

/// The error and its causes.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(answer: Result<T, Error>, says: &str) {
    let error = answer.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(text(&error).contains(says), "{}", text(&error));
    assert!(!format!("{error:?} {}", text(&error)).contains(SECRET), "{error:?}");
}

fn kids(keys: &[KeyDetails]) -> Vec<&str> {
    keys.iter().map(|key| key.kid.as_str()).collect()
}

#[tokio::test]
async fn a_key_is_found_by_kid() {
    let source = Platform::with([key("r1"), in_hsm("h1", "main")]).serve().await.source();
    let found = source.find(&"h1".into()).await.unwrap().unwrap();
    assert_eq!((found.kid.as_str(), &*found.kas_uri), ("h1", KAS));
    assert_eq!(found.provider.unwrap().manager, "opentdf.io/hsm");
    assert!(source.find(&"nobody".into()).await.unwrap().is_none());
    assert!(source.revision().await.unwrap().is_none());
}

#[tokio::test]
async fn kids_that_no_database_stores_are_not_asked_for() {
    let platform = Platform::with([]);
    let source = platform.serve().await.source();
    for kid in ["", "a\0b"] {
        assert!(source.find(&kid.into()).await.unwrap().is_none());
    }
    assert_eq!(platform.gets(), 0);
}

#[tokio::test]
async fn all_pages_are_read_in_order() {
    for (count, pages) in [(0, 1), (1, 1), (10, 1), (11, 2), (35, 4)] {
        let platform = Platform::with(many(count));
        let served = platform.serve().await;
        let config = PlatformConfig { page_size: 10, ..served.config() };
        let listed = PlatformSource::new(config).unwrap().list().await.unwrap();
        let expected: Vec<_> = (0..count).map(|n| format!("k{n}")).collect();
        assert_eq!(kids(&listed), expected);
        assert_eq!(platform.lists(), pages, "{count} keys");
    }
}

#[tokio::test]
async fn pages_that_do_not_add_up_are_refused() {
    for (next_offset, total) in
        [(Some(5), None), (Some(-1), None), (Some(0), Some(99)), (None, Some(-1))]
    {
        let platform = Platform::with(many(25));
        let served = platform.serve().await;
        {
            let mut script = platform.edit();
            (script.next_offset, script.total) = (next_offset, total);
        }
        let config = PlatformConfig { page_size: 10, ..served.config() };
        let listed = PlatformSource::new(config).unwrap().list().await;
        assert_unavailable(listed, "cannot be trusted to be complete");
        assert!(platform.lists() <= 4);
    }
}

#[tokio::test]
async fn a_key_listed_twice_is_one() {
    let source = Platform::with([key("r1"), key("r2"), key("r1")]).serve().await.source();
    assert_eq!(kids(&source.list().await.unwrap()), ["r1", "r2"]);
}

#[tokio::test]
async fn the_manager_that_a_list_omits_is_asked_for_once_per_provider() {
    let keys = [in_hsm("a1", "a"), key("r1"), in_hsm("b1", "b"), in_hsm("a2", "a")];
    let platform = Platform::with(keys);
    let listed = platform.serve().await.source().list().await.unwrap();
    let managers: Vec<_> = listed
        .iter()
        .map(|key| key.provider.as_ref().map(|p| (p.name.as_str(), p.manager.as_str())))
        .collect();
    let hsm = "opentdf.io/hsm";
    assert_eq!(managers, [Some(("a", hsm)), None, Some(("b", hsm)), Some(("a", hsm))]);
    assert_eq!(platform.gets(), 2);
}

#[tokio::test]
async fn keys_that_make_no_sense_are_left_out_of_a_list() {
    let keys = [
        key("r1"),
        edited(key("damaged"), |key| key.public_key_ctx.as_mut().unwrap().pem = "????".into()),
        edited(key("later"), |key| key.key_algorithm = 20),
        edited(in_hsm("nameless", "x"), |key| {
            key.provider_config.as_mut().unwrap().manager.clear();
        }),
        KasKey { key: None, ..key("") },
        key("r2"),
    ];
    let source = Platform::with(keys).serve().await.source();
    assert_eq!(kids(&source.list().await.unwrap()), ["r1", "r2"]);
    assert!(source.find(&"later".into()).await.unwrap().is_none());
    for kid in ["damaged", "nameless"] {
        let error = source.find(&kid.into()).await.unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error:?}");
        assert!(text(&error).contains(kid), "{}", text(&error));
    }
}

#[tokio::test]
async fn keys_of_another_kas_are_refused() {
    let foreign = KasKey { kas_uri: "https://other.example".to_owned(), ..key("f1") };
    let source = Platform::with([key("r1"), foreign]).serve().await.source();
    let error = source.find(&"f1".into()).await.unwrap_err();
    assert!(text(&error).contains("https://other.example"), "{}", text(&error));
    assert_unavailable(source.list().await, "https://other.example");
}

#[tokio::test]
async fn a_kas_that_is_not_registered_has_no_keys() {
    let platform = Platform::with([key("r1")]);
    platform.edit().fail = Some((Code::NotFound, "resource not found"));
    let source = platform.serve().await.source();
    assert!(source.list().await.unwrap().is_empty());
    assert!(source.find(&"r1".into()).await.unwrap().is_none());
}

#[tokio::test]
async fn failures_say_where_and_what_to_check() {
    let platform = Platform::with([key("r1")]);
    let served = platform.serve().await;
    let source = served.source();
    for (code, says) in [
        (Code::PermissionDenied, "role that may read keys"),
        (Code::Unauthenticated, "client_secret"),
        (Code::InvalidArgument, "page_size"),
        (Code::Unimplemented, "key management"),
        (Code::Internal, "the platform is up"),
        (Code::Unavailable, "the platform is up"),
    ] {
        // What the server says of credentials is not repeated.
        let is_of_credentials = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
        platform.edit().fail = Some((code, if is_of_credentials { SECRET } else { "broken" }));
        assert_unavailable(source.find(&"r1".into()).await, says);
        assert_unavailable(source.list().await, &served.address.to_string());
    }
}

#[tokio::test]
async fn a_platform_that_hangs_is_given_up_on() {
    let platform = Platform::with([key("r1")]);
    platform.edit().hangs = true;
    let served = platform.serve().await;
    let config = PlatformConfig { request_timeout: Duration::from_millis(100), ..served.config() };
    let source = PlatformSource::new(config).unwrap();
    assert_unavailable(source.find(&"r1".into()).await, "request_timeout");
}

#[tokio::test]
async fn a_platform_that_was_away_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = PlatformConfig::new(uri(&format!("http://{address}")), KAS);
    let rules = CacheRules { ttl: Duration::from_millis(20), ..CacheRules::default() };
    let index = CachedIndex::new(Arc::new(PlatformSource::new(config).unwrap()), rules);
    let kid = "r1".into();
    let find = async || index.find_by_id(&kid, Deadline::after(Duration::from_secs(5))).await;
    assert_unavailable(find().await, "the platform is up");

    let first = start(address, key("r1")).await;
    find().await.unwrap();
    first.shutdown_background();
    time::sleep(Duration::from_millis(50)).await;
    find().await.unwrap();
    assert_eq!(index.stats().stale_served, 1);

    let second = start(address, edited(key("r1"), |key| key.key_status = 2)).await;
    time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(find().await.unwrap().status, KeyStatus::Rotated);
    second.shutdown_background();
}

/// A platform on a runtime of its own, whose end closes the connections too.
async fn start(address: SocketAddr, key: KasKey) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let serving = runtime.spawn(async move {
        let listener = TcpListener::bind(address).await.unwrap();
        Platform::with([key]).serve_on(listener, None)
    });
    serving.await.unwrap();
    runtime
}

/// A source that authenticates, and where its secret is.
fn authenticated(served: &Served, issuer: &Issuer) -> (PlatformSource, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let config = PlatformConfig { auth: Some(issuer.credentials(secret)), ..served.config() };
    (PlatformSource::new(config).unwrap(), directory)
}

#[tokio::test]
async fn one_token_serves_many_calls() {
    let platform = Platform::with([key("r1")]);
    platform.edit().tokens = vec!["t1".to_owned()];
    let issuer = Issuer::granting(300).await;
    let (source, _directory) = authenticated(&platform.serve().await, &issuer);
    let source = Arc::new(source);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let source = Arc::clone(&source);
            tokio::spawn(async move { source.find(&"r1".into()).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().unwrap().is_some());
    }
    assert_eq!(issuer.count(), 1);
    let request = issuer.requests.lock().unwrap()[0].clone();
    let basic = STANDARD.encode("kas+one:hunter2%26more");
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Basic {basic}\r\n")), "{request}");
    assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=a+b"), "{request}");
    let printed = format!("{source:?}");
    assert!(!printed.contains("t1\"") && !printed.contains(SECRET), "{printed}");
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires() {
    let platform = Platform::with([key("r1")]);
    platform.edit().tokens = vec!["t1".to_owned(), "t2".to_owned()];
    let issuer = Issuer::granting(1).await;
    let (source, _directory) = authenticated(&platform.serve().await, &issuer);
    source.find(&"r1".into()).await.unwrap();
    time::sleep(Duration::from_millis(850)).await;
    source.find(&"r1".into()).await.unwrap();
    assert_eq!(issuer.count(), 2);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let platform = Platform::with([key("r1")]);
    platform.edit().tokens = vec!["t2".to_owned()];
    let issuer = Issuer::granting(300).await;
    let (source, _directory) = authenticated(&platform.serve().await, &issuer);
    assert!(source.find(&"r1".into()).await.unwrap().is_some());
    assert_eq!((issuer.count(), platform.gets()), (2, 2));
    platform.edit().tokens = vec!["never".to_owned()];
    assert_unavailable(source.find(&"r1".into()).await, "Unauthenticated");
    assert_eq!((issuer.count(), platform.gets()), (3, 4));
}

#[tokio::test]
async fn no_token_no_call() {
    let bearer = r#""token_type":"Bearer","expires_in":300"#;
    for (status, body, says) in [
        (
            "401 Unauthorized",
            format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#),
            "invalid_client",
        ),
        ("401 Unauthorized", format!(r#"{{"error":"{SECRET}"}}"#), "401"),
        ("302 Found", String::new(), "302"),
        ("503 Service Unavailable", SECRET.to_owned(), "503"),
        ("200 OK", format!(r#"{{"access_token":{{"{SECRET}":1}}}}"#), "no JSON object"),
        ("200 OK", r#"{"access_token":"t1","token_type":"mac"}"#.to_owned(), "not of type Bearer"),
        ("200 OK", format!(r#"{{"access_token":"a\nb",{bearer}}}"#), "no header can carry"),
        ("200 OK", format!(r#"{{"access_token":"{}",{bearer}}}"#, "t".repeat(70_000)), "limit"),
    ] {
        let platform = Platform::with([key("r1")]);
        let issuer = Issuer::answering(status, body).await;
        let (source, _directory) = authenticated(&platform.serve().await, &issuer);
        for _ in 0..3 {
            assert_unavailable(source.find(&"r1".into()).await, says);
        }
        assert_eq!((issuer.count(), platform.gets()), (1, 0), "{says}");
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_says_so() {
    let issuer = Issuer::granting(300).await;
    let (source, directory) = authenticated(&Platform::with([]).serve().await, &issuer);
    drop(directory);
    assert_unavailable(source.find(&"r1".into()).await, "cannot read the secret");
    assert_eq!(issuer.count(), 0);
}

#[tokio::test]
async fn https_needs_an_authority_that_is_trusted() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let identity = Identity::from_pem(issued.cert.pem(), issued.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Platform::with([key("r1")]).serve_on(listener, Some(identity));
    let source = |pem: &str| {
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, pem).unwrap();
        let endpoint = uri(&format!("https://localhost:{}", served.address.port()));
        let config =
            PlatformConfig { ca_file: Some(ca_file), ..PlatformConfig::new(endpoint, KAS) };
        PlatformSource::new(config)
    };
    let trusting = source(&issued.cert.pem()).unwrap();
    assert!(trusting.find(&"r1".into()).await.unwrap().is_some());
    let distrusting = source(&other.cert.pem()).unwrap();
    assert_unavailable(distrusting.find(&"r1".into()).await, "certificate");
    let error = source("no certificate").unwrap_err();
    assert!(matches!(error, SetupError::Tls(_)), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let good = || PlatformConfig::new(uri("http://localhost:8080"), KAS);
    let refused = |config| PlatformSource::new(config).unwrap_err().to_string();
    for endpoint in ["/relative", "ftp://h", "http://user:pw@h", "http://h/path", "http://h/?q"] {
        let text = refused(PlatformConfig { endpoint: uri(endpoint), ..good() });
        assert!(text.starts_with("endpoint is not usable") && !text.contains("pw"), "{text}");
    }
    for page_size in [0, 2501] {
        assert!(refused(PlatformConfig { page_size, ..good() }).contains("page_size"));
    }
    let ca_file = Some(PathBuf::from("/nowhere/ca.pem"));
    let config = PlatformConfig { endpoint: uri("https://h"), ca_file, ..good() };
    assert!(refused(config).contains("/nowhere/ca.pem"));
    let auth = ClientCredentials {
        token_endpoint: uri("/token"),
        client_id: "kas".to_owned(),
        client_secret: SecretSource::Env("UNSET".to_owned()),
        scope: None,
    };
    assert!(refused(PlatformConfig { auth: Some(auth), ..good() }).contains("token_endpoint"));
}

#[test]
fn every_field_is_converted() {
    let metadata = |seconds, nanos| {
        Some(Metadata { updated_at: Some(Timestamp { seconds, nanos }), ..Metadata::default() })
    };
    let wire = edited(in_hsm("h1", "main"), |key| {
        key.legacy = true;
        key.provider_config.as_mut().unwrap().metadata = metadata(2, 3_999);
    });
    let details = key_details(&wire).unwrap().unwrap();
    assert_eq!((details.kid.as_str(), &*details.kas_uri, details.legacy), ("h1", KAS, true));
    assert_eq!((details.algorithm, details.mode), (Algorithm::Ec(Curve::P256), KeyMode::Remote));
    assert_eq!(details.private_key.key_id.as_deref(), Some("root1"));
    assert_eq!(details.private_key.wrapped_key.as_deref(), Some("c2VhbGVk"));
    let provider = details.provider.unwrap();
    assert_eq!((provider.name.as_str(), provider.config_json.as_str()), ("main", "{}"));
    assert_eq!(provider.version, 2_000_003);
    for (time, version) in [(None, 0), (metadata(-1, 0), 0), (metadata(i64::MAX, 0), u64::MAX)] {
        let wire = edited(wire.clone(), |key| {
            key.provider_config.as_mut().unwrap().metadata = time;
        });
        assert_eq!(key_details(&wire).unwrap().unwrap().provider.unwrap().version, version);
    }
    let bare = edited(key("r1"), |key| key.private_key_ctx = None);
    let bare = key_details(&bare).unwrap().unwrap();
    assert_eq!((bare.private_key.key_id, bare.private_key.wrapped_key), (None, None));
}

#[test]
fn numbers_of_enums_are_converted() {
    let status = |number| {
        let wire = edited(key("r1"), |key| key.key_status = number);
        key_details(&wire).unwrap().unwrap().status
    };
    assert_eq!(status(1), KeyStatus::Active);
    assert_eq!(status(2), KeyStatus::Rotated);
    assert_eq!(status(4), KeyStatus::Compromised);
    for number in [-1, 0, 3, 5, i32::MAX] {
        assert_eq!(status(number), KeyStatus::Disabled, "{number}");
    }
    let mode = |number| {
        let wire = edited(key("r1"), |key| key.key_mode = number);
        key_details(&wire).map(|details| details.unwrap().mode)
    };
    assert_eq!(mode(1).unwrap(), KeyMode::ConfigRootKey);
    assert_eq!(mode(2).unwrap(), KeyMode::ProviderRootKey);
    assert_eq!(mode(3).unwrap(), KeyMode::Remote);
    assert_eq!(mode(4).unwrap(), KeyMode::PublicKeyOnly);
    for number in [-1, 0, 5] {
        assert!(matches!(mode(number), Err(ConvertError::Mode { .. })), "{number}");
    }
    for number in [6, 7, 8, 20, 21, 99] {
        let wire = edited(key("later"), |key| key.key_algorithm = number);
        assert!(key_details(&wire).unwrap().is_none(), "{number}");
    }
    for (number, algorithm) in (1..).zip(Algorithm::ALL) {
        let public = PrivateKey::generate(algorithm).unwrap().public_key();
        let wire = edited(key("r1"), |key| {
            key.key_algorithm = number;
            key.public_key_ctx = Some(PublicKeyCtx { pem: STANDARD.encode(public.to_pem()) });
        });
        assert_eq!(key_details(&wire).unwrap().unwrap().algorithm, algorithm);
    }
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let convert = |edit: fn(&mut AsymmetricKey)| key_details(&edited(in_hsm("r1", "main"), edit));
    let with_pem = |pem: &str| {
        let context = Some(PublicKeyCtx { pem: pem.to_owned() });
        key_details(&edited(key("r1"), |key| key.public_key_ctx = context))
    };
    assert!(matches!(key_details(&KasKey::default()), Err(ConvertError::Empty)));
    assert!(matches!(convert(|key| key.key_algorithm = 0), Err(ConvertError::NoAlgorithm(_))));
    assert!(matches!(convert(|key| key.key_algorithm = 4), Err(ConvertError::Mismatch { .. })));
    assert!(matches!(with_pem("-----BEGIN"), Err(ConvertError::Encoding(_))));
    assert!(matches!(with_pem("/////w=="), Err(ConvertError::Encoding(_))));
    assert!(matches!(with_pem(""), Err(ConvertError::PublicKey { .. })));
    assert!(matches!(with_pem("bm8gUEVN"), Err(ConvertError::PublicKey { .. })));
    let not_utf8 = convert(|key| key.provider_config.as_mut().unwrap().config_json = vec![255]);
    assert!(matches!(not_utf8, Err(ConvertError::ConfigJson { .. })));
    let nameless = convert(|key| key.provider_config.as_mut().unwrap().manager.clear());
    assert!(matches!(nameless, Err(ConvertError::NoManager { .. })));
}
