//! What clients read before they encrypt: the well-known document, attributes and their keys, and the
//! list of key access servers.
#![expect(deprecated, reason = "clients call what is deprecated, and send the id in an old field")]

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use kasbah_access::{Entitlements, LocalDecisions, LocalOptions};
use kasbah_auth::{IssuerSettings, KeySource, TokenRules, Tokens};
use kasbah_issuer::{Issuer, Settings, SigningKeys};
use kasbah_kas::{Attributes, BaseKey, Idp, Kas, OneKas, WellKnown};
use kasbah_proto::{
    policy::{
        self, PageRequest, Search, SimpleKasKey,
        attributes::{
            GetAttributeValuesByFqnsRequest, GetKeyMappingsByFqnsRequest, ListAttributesRequest,
            attributes_service_client::AttributesServiceClient,
            get_attribute_values_by_fqns_response::AttributeAndValue,
            get_key_mappings_by_fqns_response::AttributeKeyMapping,
        },
        kasregistry::{
            GetBaseKeyRequest, GetKeyAccessServerRequest, ListKeyAccessServersRequest,
            ListKeysRequest, get_key_access_server_request::Identifier,
            key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
        },
    },
    wellknownconfiguration::{
        GetWellKnownConfigurationRequest, well_known_service_client::WellKnownServiceClient,
    },
};
use kasbah_trust::{
    Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyIndex, KeyMode, KeyStatus, Result as Trusted,
};
use prost_types::{Struct, value::Kind};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status, service::Routes, transport::Channel};

use crate::{
    harness::*,
    scripted::{BrokenIndex, Record, scripted, scripted_key},
};

const RED: &str = "https://acme.test/attr/team/value/red";
const BLUE: &str = "https://acme.test/attr/team/value/blue";
const TOP: &str = "https://acme.test/attr/level/value/top";

/// An index whose keys a test changes, which a keyring's never do.
#[derive(Debug)]
struct Changing(RwLock<Vec<KeyDetails>>);

#[async_trait]
impl KeyIndex for Changing {
    async fn find_by_id(&self, kid: &KeyId, _: Deadline) -> Trusted<Arc<KeyDetails>> {
        let keys = self.0.read().unwrap();
        let key = keys.iter().find(|key| key.kid == *kid).cloned();
        key.map(Arc::new).ok_or_else(|| Error::NotFound(kid.clone()))
    }

    async fn list(&self, _: KeyFilter, _: Deadline) -> Trusted<Vec<Arc<KeyDetails>>> {
        Ok(self.0.read().unwrap().iter().cloned().map(Arc::new).collect())
    }
}

fn parse(document: &str) -> Entitlements {
    Entitlements::parse(document).unwrap()
}

/// A server with attributes.
struct Rig {
    server: Server,
    local: Arc<LocalDecisions>,
    index: Arc<Changing>,
}

impl Rig {
    async fn new(document: &str, keys: Vec<KeyDetails>) -> Self {
        let local = Arc::new(LocalDecisions::new(parse(document), LocalOptions::default()));
        let index = Arc::new(Changing(RwLock::new(keys)));
        let (of_server, other) = (Arc::clone(&local), Arc::clone(&index));
        let configure = |builder: kasbah_kas::KasBuilder| {
            scripted(&Arc::new(Record::default()))(builder.key_index(other))
        };
        let server =
            Server::beside(Vec::new(), configure, |kas| with_attributes(kas, of_server)).await;
        Self { server, local, index }
    }

    async fn values(&self, fqns: &[&str]) -> Result<Vec<(String, AttributeAndValue)>, Status> {
        let fqns = fqns.iter().map(|&fqn| fqn.to_owned()).collect();
        let request = with_token(GetAttributeValuesByFqnsRequest { fqns });
        let mut client = attributes(&self.server).await;
        let answer = client.get_attribute_values_by_fqns(request).await?;
        let mut values: Vec<_> = answer.into_inner().fqn_attribute_values.into_iter().collect();
        values.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(values)
    }

    async fn mappings(&self, fqns: &[&str]) -> Result<Vec<(String, AttributeKeyMapping)>, Status> {
        let fqns = fqns.iter().map(|&fqn| fqn.to_owned()).collect();
        let request = with_token(GetKeyMappingsByFqnsRequest { fqns });
        let answer = attributes(&self.server).await.get_key_mappings_by_fqns(request).await?;
        let mut mappings: Vec<_> = answer.into_inner().fqn_key_mappings.into_iter().collect();
        mappings.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(mappings)
    }

    /// Kids of the keys of one value, which both calls agree on.
    async fn kids(&self, fqn: &str) -> Result<Vec<String>, (Code, String)> {
        let mapped = self.mappings(&[fqn]).await.map_err(|status| told(&status));
        let mapped = mapped.map(|mut mappings| kids(&mappings.remove(0).1.keys));
        let valued = self.values(&[fqn]).await.map_err(|status| told(&status));
        let valued = valued.map(|mut values| {
            let AttributeAndValue { attribute, value } = values.remove(0).1;
            kids(&value.map_or_else(|| attribute.unwrap().kas_keys, |value| value.kas_keys))
        });
        assert_eq!(mapped, valued);
        mapped
    }

    /// Code and text of a refusal, which both calls agree on.
    async fn refused(&self, fqns: &[&str]) -> (Code, String) {
        let refused = told(&self.mappings(fqns).await.unwrap_err());
        assert_eq!(told(&self.values(fqns).await.unwrap_err()), refused);
        refused
    }
}

fn with_attributes(kas: Kas, local: Arc<LocalDecisions>) -> Kas {
    let attributes = Attributes::new(local, kas.key_service());
    kas.beside(Routes::new(attributes.server()), &["policy.attributes.AttributesService"])
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn attributes(server: &Server) -> AttributesServiceClient<Channel> {
    AttributesServiceClient::new(channel(server.address).await)
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer anything".parse().unwrap());
    request
}

fn told(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

fn kids(keys: &[SimpleKasKey]) -> Vec<String> {
    keys.iter().map(|key| key.public_key.as_ref().unwrap().kid.clone()).collect()
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "resource not found".to_owned())
}

/// Someone else's public key under this name.
fn swapped(kid: &str) -> KeyDetails {
    KeyDetails { public_key: key("thief", RSA).public_key, ..key(kid, RSA) }
}

const POLICY: &str = "
namespaces:
  - { name: acme.test, keys: [of-namespace] }
attributes:
  - fqn: https://acme.test/attr/team
    rule: any_of
    keys: [of-team]
    values: [{ value: red, keys: [of-red, e1] }, { value: blue }, { value: Old, active: false }]
  - { fqn: https://acme.test/attr/level, rule: hierarchy, values: [{ value: top }, { value: low }] }
  - { fqn: https://acme.test/attr/need, rule: all_of, allow_traversal: true, values: [{ value: one }] }
  - fqn: https://free.test/attr/x
    rule: any_of
    values: [{ value: y }]
";

fn keys_of_policy() -> Vec<KeyDetails> {
    let rsa = ["of-namespace", "of-team", "of-red"].map(|kid| key(kid, RSA));
    rsa.into_iter().chain([key("e1", P256)]).collect()
}

#[tokio::test]
async fn the_definition_of_a_value_is_told_with_its_keys() {
    let keys = keys_of_policy();
    let rig = Rig::new(POLICY, keys.clone()).await;
    let mut values = rig.values(&[RED]).await.unwrap();
    let (fqn, AttributeAndValue { attribute, value }) = values.remove(0);
    assert_eq!(fqn, RED);
    let attribute = attribute.unwrap();
    assert_eq!(attribute.fqn, "https://acme.test/attr/team");
    assert_eq!((attribute.name.as_str(), attribute.rule), ("team", 2));
    assert_eq!((attribute.active, attribute.allow_traversal), (Some(true), Some(false)));
    let namespace = attribute.namespace.unwrap();
    assert_eq!((&*namespace.name, &*namespace.fqn), ("acme.test", "https://acme.test"));
    let all: Vec<_> = attribute.values.iter().map(|value| &*value.value).collect();
    assert_eq!(all, ["red", "blue"], "in their order, without the one that is not in use");
    assert_eq!(kids(&attribute.kas_keys), ["of-team"]);
    let value = value.unwrap();
    assert_eq!((&*value.fqn, &*value.value, value.active), (RED, "red", Some(true)));
    assert!(attribute.grants.is_empty() && value.grants.is_empty());
    let algorithms = [policy::Algorithm::Rsa2048, policy::Algorithm::EcP256];
    for ((told, key), algorithm) in value.kas_keys.iter().zip(&keys[2..]).zip(algorithms) {
        assert_eq!(told.kas_uri, URI);
        let told = told.public_key.as_ref().unwrap();
        assert_eq!((&*told.kid, told.algorithm()), (key.kid.as_str(), algorithm));
        assert_eq!(told.pem, key.public_key.to_pem());
    }
    assert_eq!(value.kas_keys.len(), 2);
}

#[tokio::test]
async fn the_keys_of_a_value_are_its_own_or_else_of_its_definition_or_else_of_its_namespace() {
    let rig = Rig::new(POLICY, keys_of_policy()).await;
    let missing = "https://acme.test/attr/need/value/later";
    let free = "https://free.test/attr/x/value/y";
    let asked = [missing, free, TOP, BLUE, RED, "HTTPS://ACME.TEST/attr/Team/Value/RED"];
    let found: Vec<_> = rig
        .mappings(&asked)
        .await
        .unwrap()
        .into_iter()
        .map(|(fqn, mapping)| (fqn, mapping.rule, kids(&mapping.keys)))
        .collect();
    let expected: [(&str, i32, &[&str]); 5] = [
        (TOP, 3, &["of-namespace"]),
        (missing, 1, &["of-namespace"]),
        (BLUE, 2, &["of-team"]),
        (RED, 2, &["of-red", "e1"]),
        (free, 2, &[]),
    ];
    let expected = expected.map(|(fqn, rule, kids)| {
        (fqn.to_owned(), rule, kids.iter().map(|&kid| kid.to_owned()).collect::<Vec<_>>())
    });
    assert_eq!(found, expected, "in lower case, each once");
    let values = rig.values(&asked).await.unwrap();
    let fqns: Vec<_> = values.iter().map(|(fqn, _)| fqn.as_str()).collect();
    assert_eq!(fqns, [TOP, missing, BLUE, RED, free]);
    for (fqn, entry) in &values {
        assert!(entry.attribute.is_some());
        assert_eq!(entry.value.is_none(), fqn == missing, "{fqn}");
    }
    for (fqn, _, kids) in expected {
        assert_eq!(rig.kids(&fqn).await, Ok(kids));
    }
}

#[tokio::test]
async fn one_that_is_not_known_fails_them_all() {
    let inactive = "
namespaces: [{ name: gone.test, active: false }, { name: acme.test }]
attributes:
  - { fqn: https://gone.test/attr/a, rule: any_of, allow_traversal: true, values: [{ value: x }] }
  - { fqn: https://acme.test/attr/off, rule: any_of, active: false, allow_traversal: true, values: [{ value: x }] }
  - fqn: https://acme.test/attr/open
    rule: any_of
    allow_traversal: true
    values: [{ value: off, active: false }]
  - { fqn: https://acme.test/attr/team, rule: any_of, values: [{ value: red }] }
";
    let rig = Rig::new(inactive, Vec::new()).await;
    assert_eq!(rig.kids(RED).await, Ok(Vec::new()));
    for fqn in [
        "https://other.test/attr/team/value/red",
        "https://acme.test/attr/other/value/red",
        BLUE,
        "http://acme.test/attr/team/value/red",
        "https://acme.test/attr/team",
        "https://acme.test",
        "https://acme.test/attr/team/value/red/",
        "https://acme.test/attr/team/value/red ",
        "https://acme.test/attr/team/value/r%65d",
        "https://acme.test/attr/open/value/",
        "https://acme.test/attr/open/value/-",
        "https://acme.test/attr/open/value/a/value/b",
        "https://acme.test/obl/team/value/red",
        "https://gone.test/attr/a/value/x",
        "https://gone.test/attr/a/value/y",
        "https://acme.test/attr/off/value/x",
        "https://acme.test/attr/off/value/y",
        "",
    ] {
        assert_eq!(rig.refused(&[fqn]).await, not_found(), "{fqn}");
        assert_eq!(rig.refused(&[RED, fqn]).await, not_found(), "{fqn}");
    }
    let off = (Code::InvalidArgument, "inactive attribute value".to_owned());
    assert_eq!(rig.refused(&["https://acme.test/attr/open/value/off"]).await, off);
    assert_eq!(rig.kids("https://acme.test/attr/open/value/new").await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_request_names_1_to_250() {
    let rig = Rig::new(POLICY, keys_of_policy()).await;
    let none = rig.refused(&[]).await;
    assert_eq!((none.0, none.1.contains("repeated.min_items")), (Code::InvalidArgument, true));
    assert_eq!(rig.mappings(&[RED; 250]).await.unwrap().len(), 1);
    assert_eq!(rig.values(&[RED; 250]).await.unwrap().len(), 1);
    let many = rig.refused(&[RED; 251]).await;
    assert_eq!((many.0, many.1.contains("repeated.max_items")), (Code::InvalidArgument, true));
}

/// Each entry has the whole definition, so the answer would be 250 times as large.
#[tokio::test]
async fn an_answer_that_no_client_takes_is_not_made() {
    let mut document =
        "attributes: [{ fqn: https://acme.test/attr/n, rule: any_of, values: [".to_owned();
    for number in 0..5000 {
        write!(document, "{{ value: v{number} }},").unwrap();
    }
    document.push_str("] }]");
    let rig = Rig::new(&document, Vec::new()).await;
    let fqns: Vec<_> =
        (0..250).map(|number| format!("https://acme.test/attr/n/value/v{number}")).collect();
    let fqns: Vec<_> = fqns.iter().map(String::as_str).collect();
    let one = rig.values(&fqns[..1]).await.unwrap();
    assert_eq!(one[0].1.attribute.as_ref().unwrap().values.len(), 5000);
    assert_eq!(rig.values(&fqns).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(rig.mappings(&fqns).await.unwrap().len(), 250);
}

#[tokio::test]
async fn keys_that_clients_may_not_have_are_left_out() {
    let document = "
attributes:
  - fqn: https://acme.test/attr/team
    rule: any_of
    values:
      - { value: red, keys: [rotated, public, swapped, unknown, down, good] }
      - { value: blue, keys: [rotated, public, unknown] }
      - { value: green, keys: [down] }
      - { value: grey, keys: [unknown, swapped] }
";
    let rotated = KeyDetails { status: KeyStatus::Rotated, ..key("rotated", RSA) };
    let public = KeyDetails { mode: KeyMode::PublicKeyOnly, ..key("public", RSA) };
    let down = scripted_key("down", RSA, "down");
    let keys = vec![rotated, public, swapped("swapped"), down, key("good", RSA)];
    let rig = Rig::new(document, keys).await;
    assert_eq!(rig.kids(RED).await, Ok(vec!["good".to_owned()]));

    // With no key at all a client would take another one.
    let (code, text) = rig.refused(&[BLUE]).await;
    assert_eq!(code, Code::FailedPrecondition, "{text}");
    for name in ["green", "grey"] {
        let fqn = format!("https://acme.test/attr/team/value/{name}");
        let (code, text) = rig.refused(&[&fqn]).await;
        assert_eq!(code, Code::Unavailable, "{text}");
    }
    assert_eq!(rig.refused(&[RED, BLUE]).await.0, Code::FailedPrecondition);
}

#[tokio::test]
async fn a_key_that_lost_its_proof_is_not_given_any_more() {
    let document = "
attributes:
  - { fqn: https://acme.test/attr/team, rule: any_of, values: [{ value: red, keys: [r1, r2] }] }
";
    let rig = Rig::new(document, vec![key("r1", RSA), key("r2", RSA)]).await;
    assert_eq!(rig.kids(RED).await, Ok(vec!["r1".to_owned(), "r2".to_owned()]));
    let thief = swapped("r1").public_key;
    rig.index.0.write().unwrap()[0].public_key = thief;
    assert_eq!(rig.kids(RED).await, Ok(vec!["r2".to_owned()]));
    rig.index.0.write().unwrap()[1].status = KeyStatus::Disabled;
    assert_eq!(rig.refused(&[RED]).await.0, Code::Unavailable);
}

#[tokio::test]
async fn an_index_that_is_down_is_no_missing_key() {
    let local = Arc::new(LocalDecisions::new(parse(POLICY), LocalOptions::default()));
    let other = Arc::clone(&local);
    let server = Server::beside(
        Vec::new(),
        |builder| builder.key_index(Arc::new(BrokenIndex)),
        |kas| with_attributes(kas, other),
    );
    let index = Arc::new(Changing(RwLock::default()));
    let rig = Rig { server: server.await, local, index };
    assert_eq!(rig.refused(&[RED]).await.0, Code::Unavailable);
    // No key is asked for.
    assert_eq!(rig.kids("https://free.test/attr/x/value/y").await, Ok(Vec::new()));
}

#[tokio::test]
async fn other_entitlements_are_seen_at_once() {
    let rig = Rig::new(POLICY, keys_of_policy()).await;
    assert_eq!(rig.kids(RED).await.unwrap().len(), 2);
    rig.local.replace(parse(
        "attributes: [{ fqn: https://acme.test/attr/team, rule: all_of, values: [{ value: red, keys: [of-team] }] }]",
    ));
    let (_, mapping) = rig.mappings(&[RED]).await.unwrap().remove(0);
    assert_eq!((mapping.rule, kids(&mapping.keys)), (1, vec!["of-team".to_owned()]));
    assert_eq!(rig.refused(&[BLUE]).await, not_found());
    rig.local.replace(Entitlements::default());
    assert_eq!(rig.refused(&[RED]).await, not_found());
}

#[tokio::test]
async fn attributes_are_for_callers_with_a_token_and_only_to_read() {
    let rig = Rig::new(POLICY, keys_of_policy()).await;
    let mut client = attributes(&rig.server).await;
    let fqns = vec![RED.to_owned()];
    let request = GetKeyMappingsByFqnsRequest { fqns: fqns.clone() };
    let refused = client.get_key_mappings_by_fqns(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let request = GetAttributeValuesByFqnsRequest { fqns };
    let refused = client.get_attribute_values_by_fqns(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let list = client.list_attributes(with_token(ListAttributesRequest::default())).await;
    assert_eq!(list.unwrap_err().code(), Code::Unimplemented);
}

/// Answers as a test says, to inject faults.
#[derive(Debug)]
struct Told(RwLock<Result<Option<SimpleKasKey>, &'static str>>);

#[async_trait]
impl BaseKey for Told {
    async fn base_key(&self, _: Deadline) -> Trusted<Option<SimpleKasKey>> {
        self.0.read().unwrap().clone().map_err(Error::unavailable)
    }
}

/// What the RPC says, which is what the document says.
async fn well_known(address: SocketAddr) -> Result<Value, Status> {
    let (code, document) = get(address, "/.well-known/opentdf-configuration").await;
    let mut client = WellKnownServiceClient::new(channel(address).await);
    let answer = client.get_well_known_configuration(GetWellKnownConfigurationRequest {}).await;
    if answer.is_ok() {
        assert_eq!(code, 200);
    } else {
        assert_eq!((code, &document["code"]), (503, &json!("unavailable")));
        assert_eq!(document.get("platform_issuer"), None);
    }
    let told = object(answer?.into_inner().configuration.unwrap());
    assert_eq!(told, document);
    Ok(told)
}

/// Status and JSON of an answer.
async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.contains("content-type: application/json"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn object(fields: Struct) -> Value {
    fields.fields.into_iter().map(|(name, value)| (name, of(value.kind.unwrap()))).collect()
}

fn of(kind: Kind) -> Value {
    match kind {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::BoolValue(value) => value.into(),
        Kind::StructValue(fields) => object(fields),
        Kind::ListValue(list) => list.values.into_iter().map(|v| of(v.kind.unwrap())).collect(),
    }
}

fn known(kas: Kas, tell: impl FnOnce(WellKnown) -> WellKnown) -> Kas {
    let known = Arc::new(tell(WellKnown::new(kas.key_service())));
    kas.beside(Routes::new(known.server()), &["wellknownconfiguration.WellKnownService"])
        .http(known.router())
}

fn issuer() -> Idp {
    let keys = SigningKeys::generate().unwrap();
    let settings = Settings::new((Ipv4Addr::LOCALHOST, 9).into(), vec!["kas".to_owned()], keys);
    let issuer = Issuer::new(settings).unwrap();
    let settings = IssuerSettings {
        issuer: issuer.url().to_owned(),
        audience: "kas".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(issuer.jwks().to_string()),
    };
    let tokens = Arc::new(Tokens::new(vec![settings], TokenRules::default()).unwrap());
    Idp { issuer: issuer.url().to_owned(), token_endpoint: None, tokens }
}

#[tokio::test]
async fn the_well_known_document_says_all_there_is() {
    let idp = issuer();
    let name = idp.issuer.clone();
    let with_endpoint =
        Idp { token_endpoint: Some("https://idp.test/token".to_owned()), ..idp.clone() };
    let algorithms = ["RS256", "ES256", "EdDSA", "ES256"].map(str::to_owned).to_vec();
    let mut expected = json!({
        "platform_issuer": name,
        "idp": { "issuer": name, "token_endpoint": "https://idp.test/token" },
        "health": { "endpoint": "/healthz" },
        "supports_dpop": true,
        "dpop_signing_alg_values_supported": ["ES256", "EdDSA", "RS256"],
        "dpop_nonce_required": true,
        "key_managers": {
            "manager_0": {
                "name": "opentdf.io/basic", "description": "Key manager: opentdf.io/basic",
            },
        },
    });
    let server = Server::beside(
        Vec::new(),
        |builder| builder,
        |kas| known(kas, |known| known.idp(with_endpoint).dpop(algorithms, true)),
    );
    assert_eq!(well_known(server.await.address).await.unwrap(), expected);

    expected["idp"] = json!({ "issuer": name });
    expected["dpop_nonce_required"] = json!(false);
    expected["dpop_signing_alg_values_supported"] =
        json!(["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512",]);
    let server =
        Server::beside(Vec::new(), |builder| builder, |kas| known(kas, |known| known.idp(idp)));
    assert_eq!(well_known(server.await.address).await.unwrap(), expected);

    // Where any token will do there is no issuer.
    let members = expected.as_object_mut().unwrap();
    members.remove("platform_issuer");
    members.remove("idp");
    let server = Server::beside(Vec::new(), |builder| builder, |kas| known(kas, |known| known));
    assert_eq!(well_known(server.await.address).await.unwrap(), expected);
}

#[tokio::test]
async fn the_base_key_is_told_as_it_is() {
    let told = Arc::new(Told(RwLock::new(Ok(None))));
    let source = Arc::clone(&told);
    let server = Server::beside(
        Vec::new(),
        |builder| builder,
        |kas| known(kas, |known| known.base_key(source, Duration::ZERO)),
    );
    let server = server.await;
    let address = server.address;
    let base_key = async || well_known(address).await.map(|document| document["base_key"].clone());
    assert_eq!(base_key().await.unwrap(), json!({}));
    for (number, algorithm) in [
        (1, "rsa:2048"),
        (2, "rsa:4096"),
        (3, "ec:secp256r1"),
        (4, "ec:secp384r1"),
        (5, "ec:secp521r1"),
    ] {
        let public_key =
            policy::SimpleKasPublicKey { algorithm: number, kid: "r1".into(), pem: "PEM\n".into() };
        let key =
            SimpleKasKey { kas_uri: URI.into(), public_key: Some(public_key), kas_id: "id".into() };
        *told.0.write().unwrap() = Ok(Some(key));
        let expected = json!({
            "kas_uri": URI, "kas_id": "id",
            "public_key": { "algorithm": algorithm, "kid": "r1", "pem": "PEM\n" },
        });
        assert_eq!(base_key().await.unwrap(), expected);
    }
    // An empty one would send clients to another key.
    *told.0.write().unwrap() = Err("the test");
    assert_eq!(base_key().await.unwrap_err().code(), Code::Unavailable);
}

/// A server of one KAS that tells its base key.
async fn one(keys: Vec<KeyDetails>, base_key: Option<&str>) -> Server {
    let base_key = base_key.map(KeyId::from);
    let configure = scripted(&Arc::new(Record::default()));
    Server::beside(keys, configure, |kas| {
        let one = OneKas::new(URI, kas.key_service());
        let one = Arc::new(match base_key {
            Some(kid) => one.base_key_id(kid),
            None => one,
        });
        let routes = Routes::new(one.server());
        let kas = kas.beside(routes, &["policy.kasregistry.KeyAccessServerRegistryService"]);
        known(kas, |known| known.base_key(one, Duration::from_mins(1)))
    })
    .await
}

async fn registry(server: &Server) -> KeyAccessServerRegistryServiceClient<Channel> {
    KeyAccessServerRegistryServiceClient::new(channel(server.address).await)
}

#[tokio::test]
async fn a_node_without_a_registry_lists_itself() {
    let keys = vec![key("r1", RSA), key("e1", P256), swapped("swapped")];
    let server = one(keys.clone(), None).await;
    let mut client = registry(&server).await;
    let list = async |request: ListKeyAccessServersRequest| {
        let listed = registry(&server).await.list_key_access_servers(with_token(request)).await;
        listed.map(tonic::Response::into_inner)
    };
    let listed = list(ListKeyAccessServersRequest::default()).await.unwrap();
    let page = listed.pagination.unwrap();
    assert_eq!((page.current_offset, page.next_offset, page.total), (0, 0, 1));
    let [kas] = &listed.key_access_servers[..] else { panic!("{listed:?}") };
    assert_eq!(kas.uri, URI);
    assert_eq!(kids(&kas.kas_keys), ["r1", "e1"], "what is not proven is not told");
    assert!(kas.kas_keys.iter().all(|key| key.kas_id == kas.id && key.kas_uri == URI));
    let id = uuid::Uuid::parse_str(&kas.id).unwrap();
    let again = one(keys, None).await;
    let mut again = registry(&again).await;
    let again = again
        .list_key_access_servers(with_token(ListKeyAccessServersRequest::default()))
        .await
        .unwrap();
    let again = again.into_inner().key_access_servers.remove(0);
    assert_eq!(again.id, id.to_string(), "after another start, too");

    let searched = |term: &str| ListKeyAccessServersRequest {
        search: Some(Search { term: term.to_owned() }),
        ..Default::default()
    };
    assert_eq!(list(searched("LOCALHOST")).await.unwrap().key_access_servers.len(), 1);
    assert_eq!(list(searched("elsewhere")).await.unwrap().key_access_servers.len(), 0);
    let paged = |limit, offset| ListKeyAccessServersRequest {
        pagination: Some(PageRequest { limit, offset }),
        ..Default::default()
    };
    assert_eq!(list(paged(1, 0)).await.unwrap().key_access_servers.len(), 1);
    assert_eq!(list(paged(1, 1)).await.unwrap().key_access_servers.len(), 0);
    for wrong in [paged(2501, 0), paged(1, -1)] {
        assert_eq!(list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let refused = client.list_key_access_servers(ListKeyAccessServersRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let keys = client.list_keys(with_token(ListKeysRequest::default())).await;
    assert_eq!(keys.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_node_without_a_registry_is_found_by_id_and_uri() {
    let server = one(vec![key("r1", RSA)], None).await;
    let find = async |id: &str, identifier: Option<Identifier>| {
        let request = GetKeyAccessServerRequest { id: id.to_owned(), identifier };
        let found = registry(&server).await.get_key_access_server(with_token(request)).await;
        found.map(|found| found.into_inner().key_access_server.unwrap()).map_err(|e| e.code())
    };
    let kas = find("", Some(Identifier::Uri(URI.into()))).await.unwrap();
    assert_eq!((&*kas.uri, kids(&kas.kas_keys)), (URI, vec!["r1".to_owned()]));
    let by_id = Identifier::KasId(kas.id.to_uppercase());
    assert_eq!(find("", Some(by_id)).await, Ok(kas.clone()));
    assert_eq!(find(&kas.id, None).await, Ok(kas.clone()));
    for other in [
        Identifier::Uri("http://localhost:8081".into()),
        Identifier::KasId(uuid::Uuid::nil().to_string()),
        Identifier::Name("main".into()),
        Identifier::Name(String::new()),
    ] {
        assert_eq!(find("", Some(other)).await, Err(Code::NotFound));
    }
    assert_eq!(find("", None).await, Err(Code::InvalidArgument));
    let both = find(&kas.id, Some(Identifier::KasId(kas.id.clone()))).await;
    assert_eq!(both, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn the_base_key_of_a_keyring_is_one_that_is_proven() {
    let keys = || {
        vec![key("r1", RSA), key("e1", P256), swapped("swapped"), scripted_key("d", RSA, "down")]
    };
    for (base_key, algorithm) in [
        (None, None),
        (Some("r1"), Some("rsa:2048")),
        (Some("e1"), Some("ec:secp256r1")),
        (Some("swapped"), None),
        (Some("d"), None),
    ] {
        let server = one(keys(), base_key).await;
        let told = well_known(server.address).await.unwrap()["base_key"].clone();
        let asked = registry(&server).await.get_base_key(with_token(GetBaseKeyRequest {})).await;
        let asked = asked.unwrap().into_inner().base_key;
        match algorithm {
            None => assert_eq!((told, asked), (json!({}), None), "{base_key:?}"),
            Some(algorithm) => {
                let asked = asked.unwrap();
                let public_key = asked.public_key.unwrap();
                assert_eq!(public_key.kid, base_key.unwrap());
                let expected = json!({
                    "kas_uri": URI, "kas_id": asked.kas_id,
                    "public_key": {
                        "algorithm": algorithm, "kid": public_key.kid, "pem": public_key.pem,
                    },
                });
                assert_eq!(told, expected);
            }
        }
    }
}
