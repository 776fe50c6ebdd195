//! What clients read before they encrypt, from servers with a keyring, with a registry, and with an
//! `OpenID` provider.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]
#![expect(deprecated, reason = "clients call what is deprecated")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use kasbah_basic::wrap_private_key;
use kasbah_crypto::{PrivateKeyParts, envelope::RootKey};
use kasbah_proto::{
    kasbah::admin::v1::SetEntitlementsRequest,
    policy::{
        KeyMode,
        attributes::{
            GetAttributeValuesByFqnsRequest, GetKeyMappingsByFqnsRequest,
            attributes_service_client::AttributesServiceClient,
        },
        kasregistry::{
            GetBaseKeyRequest, ListKeyAccessServersRequest, ListKeysRequest, SetBaseKeyRequest,
            key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
            set_base_key_request::ActiveKey,
        },
    },
    wellknownconfiguration::{
        GetWellKnownConfigurationRequest, well_known_service_client::WellKnownServiceClient,
    },
};
use kasbah_system_tests::{
    admin::{Admin, RSA_2048, pem_of},
    dev::Dev,
    issuer::{AUDIENCE, ISSUER},
    poll::within,
    server::{Server, Setup},
};
use kasbah_testkit::{
    golden,
    oidc::{Fault, TestIssuer},
    postgres::Postgres,
    tokens::SoftHsm,
};
use prost_types::{Struct, value::Kind};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, transport::Channel};

/// For what happens by itself, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(45);
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const RED: &str = "https://acme.test/attr/team/value/red";
const MEMBERS: [&str; 8] = [
    "base_key",
    "dpop_nonce_required",
    "dpop_signing_alg_values_supported",
    "health",
    "idp",
    "key_managers",
    "platform_issuer",
    "supports_dpop",
];

/// A configuration with one key, `r1`, in its keyring.
fn keyring() -> Setup {
    let mut setup = Setup::new();
    let root = RootKey::from_hex(ROOT).unwrap();
    setup.write("root", ROOT);
    setup.write("key.pem", pem());
    setup.write("key.b64", wrap_private_key(&root, golden::PRIVATE_KEY).unwrap());
    setup.config["secrets"]["root1"] = json!({ "file": "root" });
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:2048", "public_key_file": "key.pem",
        "wrapped_key_file": "key.b64", "wrapping_key": "root1",
    }));
    setup
}

fn pem() -> String {
    PrivateKeyParts::from_pem(golden::PRIVATE_KEY).unwrap().public_key().to_pem()
}

fn base_key(kas_uri: &str, kas_id: &Value, kid: &str, pem: &str) -> Value {
    json!({
        "kas_uri": kas_uri, "kas_id": kas_id,
        "public_key": { "algorithm": "rsa:2048", "kid": kid, "pem": pem },
    })
}

/// The document, without a token: the RPC and the plain one say the same, unless a change comes
/// between them.
async fn document(url: &str) -> Result<Value, Status> {
    let mut client = WellKnownServiceClient::new(channel(url));
    within(PATIENCE, async || {
        let told = client.get_well_known_configuration(GetWellKnownConfigurationRequest {}).await;
        let plain = get(url, "/.well-known/opentdf-configuration");
        let told = told.map(|told| object(told.into_inner().configuration.unwrap()));
        let same = match &told {
            Ok(told) => plain == (200, told.clone()),
            Err(_) => (plain.0, &plain.1["code"]) == (503, &json!("unavailable")),
        };
        if same { Ok(told) } else { Err(format!("{told:?}, {plain:?}")) }
    })
    .await
}

fn channel(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect_lazy()
}

/// Status and JSON of an answer over HTTP/1.1.
fn get(url: &str, path: &str) -> (u16, Value) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn object(fields: Struct) -> Value {
    fields.fields.into_iter().map(|(name, value)| (name, json_of(value))).collect()
}

fn json_of(value: prost_types::Value) -> Value {
    match value.kind.unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::BoolValue(value) => value.into(),
        Kind::StructValue(fields) => object(fields),
        Kind::ListValue(list) => list.values.into_iter().map(json_of).collect(),
    }
}

fn names(document: &Value) -> Vec<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Kids of the keys of [`RED`], which both calls agree on, unless a change comes between them.
async fn kids_of_red(admin: &Admin, url: &str) -> Result<Vec<String>, Code> {
    within(PATIENCE, async || {
        let (mapped, valued) = both_kids_of_red(admin, url).await;
        if mapped == valued { Ok(mapped) } else { Err(format!("{mapped:?}, {valued:?}")) }
    })
    .await
}

/// By the mappings, and by the values.
async fn both_kids_of_red(
    admin: &Admin,
    url: &str,
) -> (Result<Vec<String>, Code>, Result<Vec<String>, Code>) {
    let mut client = AttributesServiceClient::new(channel(url));
    let fqns = vec![RED.to_uppercase().replace("HTTPS", "https")];
    let request = admin.request(GetKeyMappingsByFqnsRequest { fqns: fqns.clone() });
    let mapped = client.get_key_mappings_by_fqns(request).await.map_err(|status| status.code());
    let mapped = mapped.map(|answer| answer.into_inner().fqn_key_mappings.remove(RED).unwrap());
    let request = admin.request(GetAttributeValuesByFqnsRequest { fqns });
    let valued = client.get_attribute_values_by_fqns(request).await;
    let valued = valued.map_err(|status| status.code());
    let valued = valued.map(|answer| answer.into_inner().fqn_attribute_values.remove(RED).unwrap());
    let kids = |keys: Vec<kasbah_proto::policy::SimpleKasKey>| -> Vec<String> {
        keys.into_iter().map(|key| key.public_key.unwrap().kid).collect()
    };
    let mapped = mapped.map(|mapping| kids(mapping.keys));
    (mapped, valued.map(|entry| kids(entry.value.unwrap().kas_keys)))
}

/// [`RED`], mapped to these keys.
fn red(kids: &[&str]) -> String {
    let keys = json!(kids);
    json!({ "attributes": [{
        "fqn": "https://acme.test/attr/team", "rule": "any_of",
        "values": [{ "value": "red", "keys": keys }],
    }] })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_keyring_tells_what_its_configuration_says() {
    let mut setup = keyring();
    setup.config["kas"]["base_key"] = "r1".into();
    setup.config["auth"]["token_endpoint"] = "https://idp.example/token".into();
    setup.config["auth"]["dpop"] = json!({
        "require_nonce": true, "algorithms": ["RS256", "ES256", "EdDSA"],
    });
    let server = setup.serve();
    let (url, admin) = (server.url(), server.admin());
    let told = document(&url).await.unwrap();
    let id = told["base_key"]["kas_id"].clone();
    assert!(id.is_string());
    let expected = json!({
        "platform_issuer": ISSUER,
        "idp": { "issuer": ISSUER, "token_endpoint": "https://idp.example/token" },
        "base_key": base_key("http://localhost:8080", &id, "r1", &pem()),
        "health": { "endpoint": "/healthz" },
        "supports_dpop": true,
        "dpop_signing_alg_values_supported": ["ES256", "EdDSA", "RS256"],
        "dpop_nonce_required": true,
        "key_managers": {
            "manager_0": {
                "name": "opentdf.io/basic", "description": "Key manager: opentdf.io/basic",
            },
            "manager_1": { "name": "opentdf.io/hsm", "description": "Key manager: opentdf.io/hsm" },
        },
    });
    assert_eq!(told, expected);

    let mut registry = KeyAccessServerRegistryServiceClient::new(channel(&url));
    let anybody = Request::new(ListKeyAccessServersRequest::default());
    let refused = registry.list_key_access_servers(anybody).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let list = admin.request(ListKeyAccessServersRequest::default());
    let listed = registry.list_key_access_servers(list).await.unwrap().into_inner();
    let [kas] = &listed.key_access_servers[..] else { panic!("{listed:?}") };
    assert_eq!((&*kas.uri, json!(kas.id)), ("http://localhost:8080", id));
    let base = registry.get_base_key(admin.request(GetBaseKeyRequest {})).await.unwrap();
    assert_eq!(base.into_inner().base_key.unwrap().public_key.unwrap().pem, pem());
    let keys = registry.list_keys(admin.request(ListKeysRequest::default())).await;
    assert_eq!(keys.unwrap_err().code(), Code::Unimplemented);

    // Nobody decides here, so there are no attributes.
    assert_eq!(kids_of_red(&admin, &url).await, Err(Code::Unimplemented));
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_those_of_the_file() {
    let mut setup = keyring();
    setup.config["decisions"] = json!({ "mode": "local", "file": "entitlements.yaml" });
    setup.write("entitlements.yaml", red(&["r1"]));
    let server = setup.serve();
    let (url, admin) = (server.url(), server.admin());
    let anybody = Request::new(GetKeyMappingsByFqnsRequest { fqns: vec![RED.to_owned()] });
    let mut client = AttributesServiceClient::new(channel(&url));
    let refused = client.get_key_mappings_by_fqns(anybody).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Any caller may read, not only an administrator.
    let reader = Admin::new(url.clone(), &server.token("alice"), "");
    assert_eq!(kids_of_red(&reader, &url).await, Ok(vec!["r1".to_owned()]));
    std::fs::write(server.dir().join("entitlements.yaml"), red(&[])).unwrap();
    server.hang_up();
    within(PATIENCE, async || match kids_of_red(&admin, &url).await {
        Ok(kids) if kids.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    std::fs::write(server.dir().join("entitlements.yaml"), "{}").unwrap();
    server.hang_up();
    within(PATIENCE, async || match kids_of_red(&admin, &url).await {
        Err(Code::NotFound) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// A server with a registry on PostgreSQL, one KAS, and the keys `r1` and `r2`.
struct Registered {
    server: Server,
    admin: Admin,
    kas_id: String,
    keys: [(String, String); 2],
    postgres: Postgres,
    _token: kasbah_testkit::tokens::TestToken,
}

impl Registered {
    async fn start() -> Self {
        let (postgres, token) = (Postgres::start(), SoftHsm::fresh());
        let mut setup = Setup::new();
        setup.registry(&postgres.url());
        setup.config["decisions"] = json!({ "mode": "local", "from": "registry" });
        let settings = setup.token("softhsm", &token, "prefer-sealed").to_string();
        let server = setup.serve();
        let admin = server.admin();
        let kas_id = admin.create_kas().await;
        let provider = admin.create_provider("main", "opentdf.io/hsm", &settings).await.unwrap();
        let mut keys = Vec::new();
        for kid in ["r1", "r2"] {
            let key = admin.generate(&provider, kid, RSA_2048, KeyMode::Remote, "").await.unwrap();
            let pem = pem_of(&key);
            keys.push((key.key.unwrap().id, pem));
        }
        let keys = keys.try_into().unwrap();
        Self { server, admin, kas_id, keys, postgres, _token: token }
    }

    async fn set_base_key(&self, number: usize) {
        let active_key = Some(ActiveKey::Id(self.keys[number].0.clone()));
        let request = self.admin.request(SetBaseKeyRequest { active_key });
        self.admin.registry().set_base_key(request).await.unwrap();
    }

    fn expected(&self, number: usize) -> Value {
        let kid = format!("r{}", number + 1);
        base_key(&self.admin.kas_uri, &json!(self.kas_id), &kid, &self.keys[number].1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_registry_tells_its_base_key_while_it_can() {
    let mut registered = Registered::start().await;
    let url = registered.server.url();
    let told = document(&url).await.unwrap();
    assert_eq!(names(&told), MEMBERS);
    assert_eq!(told["base_key"], json!({}));
    for number in [0, 1] {
        registered.set_base_key(number).await;
        let told = document(&url).await.unwrap();
        assert_eq!(told["base_key"], registered.expected(number));
    }
    // What was read stays good for a while.
    registered.postgres.stop();
    let told = document(&url).await.unwrap();
    assert_eq!(told["base_key"], registered.expected(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_key_that_cannot_be_read_is_not_said_to_be_none() {
    let mut registered = Registered::start().await;
    registered.set_base_key(0).await;
    registered.postgres.stop();
    let url = registered.server.url();
    assert_eq!(document(&url).await.unwrap_err().code(), Code::Unavailable);
    registered.postgres.start_again();
    within(PATIENCE, async || {
        let told = document(&url).await.map_err(|status| status.to_string())?;
        assert_eq!(told["base_key"], registered.expected(0));
        Ok::<_, String>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_those_of_the_registry() {
    let registered = Registered::start().await;
    let (url, admin) = (registered.server.url(), &registered.admin);
    assert_eq!(kids_of_red(admin, &url).await, Err(Code::NotFound));
    for kids in [&["r1", "r2"][..], &["r2"]] {
        let message = SetEntitlementsRequest { document: red(kids), expected_revision: None };
        admin.admin().set_entitlements(admin.request(message)).await.unwrap();
        within(PATIENCE, async || match kids_of_red(admin, &url).await {
            Ok(found) if found == kids => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_openid_provider_says_is_passed_on() {
    let issuer = TestIssuer::start().await;
    let mut setup = keyring();
    setup.config["auth"] =
        json!({ "mode": "oidc", "issuer": issuer.issuer_url(), "audience": AUDIENCE });
    issuer.set_fault(Fault::ServerError);
    let server = setup.serve();
    let url = server.url();
    let told = document(&url).await.unwrap();
    assert_eq!(names(&told), MEMBERS);
    assert_eq!(told["platform_issuer"], issuer.issuer_url());
    assert_eq!(told["idp"], json!({ "issuer": issuer.issuer_url() }));

    issuer.set_fault(None);
    let at = |path: &str| format!("{}/protocol/openid-connect/{path}", issuer.issuer_url());
    let expected = json!({
        "issuer": issuer.issuer_url(),
        "authorization_endpoint": at("auth"),
        "token_endpoint": at("token"),
        "jwks_uri": at("certs"),
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    });
    within(PATIENCE, async || {
        let told = document(&url).await.unwrap();
        if told["idp"] == expected { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_is_told_what_an_openid_provider_says() {
    let issuer = TestIssuer::start().await;
    let mut setup = keyring();
    setup.config["auth"] =
        json!({ "mode": "oidc", "issuer": issuer.issuer_url(), "audience": AUDIENCE });
    let server = setup.serve();
    let told = document(&server.url()).await.unwrap();
    assert_eq!(told["idp"]["token_endpoint"], issuer.issuer().token_url());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_any_token_will_do_clients_are_sent_to_no_issuer() {
    let mut setup = keyring();
    setup.config["auth"] = json!({ "mode": "dev" });
    let server = setup.serve();
    let told = document(&server.url()).await.unwrap();
    let expected: Vec<_> =
        MEMBERS.into_iter().filter(|name| !["idp", "platform_issuer"].contains(name)).collect();
    assert_eq!(names(&told), expected);
    assert_eq!((&told["base_key"], &told["dpop_nonce_required"]), (&json!({}), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throw_away_server_sends_clients_to_its_own_issuer() {
    let dev = Dev::start();
    let (url, issuer) = (dev.url(), dev.told("issuer"));
    let told = document(url).await.unwrap();
    assert_eq!(told["platform_issuer"], issuer);
    let token_endpoint = format!("{issuer}/protocol/openid-connect/token");
    assert_eq!(told["idp"], json!({ "issuer": issuer, "token_endpoint": token_endpoint }));
    assert_eq!(told["base_key"]["public_key"]["kid"], "r1");
}
