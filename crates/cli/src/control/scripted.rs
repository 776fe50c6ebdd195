//! Commands against a server that answers as it is told to, and remembers what it was asked.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use clap::Parser;
use kasbah_proto::{
    kasbah::admin::v1::{
        Finding, GenerateKeyRequest, GenerateKeyResponse, ListKeyStatesRequest,
        ListKeyStatesResponse, ListProviderHealthRequest, ListProviderHealthResponse,
        ProviderHealth, ReconcileRequest, ReconcileResponse, SetKeyStateRequest,
        SetKeyStateResponse,
        admin_service_server::{AdminService, AdminServiceServer},
        set_key_state_request::Target,
    },
    policy::{
        Algorithm, AsymmetricKey, KasKey, KeyAccessServer, KeyMode, KeyProviderConfig, PageRequest,
        PageResponse,
        kasregistry::{
            GetBaseKeyRequest, GetBaseKeyResponse, GetKeyAccessServerRequest,
            GetKeyAccessServerResponse, GetKeyRequest, GetKeyResponse, KasKeyIdentifier,
            ListKeyAccessServersRequest, ListKeyAccessServersResponse,
            get_key_access_server_request, get_key_request, kas_key_identifier,
            key_access_server_registry_service_server::{
                KeyAccessServerRegistryService, KeyAccessServerRegistryServiceServer,
            },
        },
        keymanagement::{
            GetProviderConfigRequest, GetProviderConfigResponse,
            get_provider_config_request::{Identifier, NameManager},
            key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
        },
    },
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    arguments::{Arguments, Command},
    control::{kas, keys, providers},
    exit::Failure,
};

const PROVIDER: [&str; 6] =
    ["--algorithm", "rsa:2048", "--provider", "main", "--manager", "opentdf.io/hsm"];

/// What the server answers, and what it was asked.
#[derive(Clone, Default)]
struct Script {
    servers: Vec<KeyAccessServer>,
    findings: Vec<Finding>,
    ready: bool,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn with_servers(ids: &[&str]) -> Self {
        let servers =
            ids.iter().map(|id| KeyAccessServer { id: (*id).into(), ..Default::default() });
        Self { servers: servers.collect(), ..Default::default() }
    }

    /// Runs a command against a server that follows the script.
    async fn run(&self, arguments: &[&str]) -> Result<(), Failure> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let server = Server::builder()
            .add_service(AdminServiceServer::new(self.clone()))
            .add_service(KeyAccessServerRegistryServiceServer::new(self.clone()))
            .add_service(KeyManagementServiceServer::new(self.clone()))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let arguments = [&["kasbah"], arguments, &["--url", &url]].concat();
        let Arguments { output, command } = Arguments::parse_from(arguments);
        let plan = match command {
            Command::Kas(arguments) => kas::plan(arguments, output),
            Command::Keys(arguments) => keys::plan(arguments, output),
            Command::Providers(arguments) => providers::plan(arguments, output),
            other => panic!("{other:?}"),
        };
        let outcome = plan.task.await;
        server.abort();
        outcome
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        format!("{:?}", self.run(arguments).await.unwrap_err())
    }

    fn note<T: Debug>(&self, request: Request<T>) -> T {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(format!("{request:?}"));
        request
    }

    /// The last thing that the server was asked.
    fn asked(&self) -> String {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

#[tonic::async_trait]
impl AdminService for Script {
    async fn generate_key(
        &self,
        request: Request<GenerateKeyRequest>,
    ) -> Result<Response<GenerateKeyResponse>, Status> {
        let request = self.note(request);
        if request.key_id == "taken" {
            return Err(Status::already_exists("resource unique field violation"));
        }
        let kas_key = (request.key_id != "none").then(KasKey::default);
        Ok(Response::new(GenerateKeyResponse { kas_key, custody: None }))
    }

    async fn reconcile(
        &self,
        request: Request<ReconcileRequest>,
    ) -> Result<Response<ReconcileResponse>, Status> {
        self.note(request);
        Ok(Response::new(ReconcileResponse { findings: self.findings.clone() }))
    }

    async fn list_key_states(
        &self,
        request: Request<ListKeyStatesRequest>,
    ) -> Result<Response<ListKeyStatesResponse>, Status> {
        self.note(request);
        Ok(Response::new(ListKeyStatesResponse::default()))
    }

    async fn set_key_state(
        &self,
        request: Request<SetKeyStateRequest>,
    ) -> Result<Response<SetKeyStateResponse>, Status> {
        self.note(request);
        Ok(Response::new(SetKeyStateResponse { kas_key: Some(KasKey::default()) }))
    }

    async fn list_provider_health(
        &self,
        _: Request<ListProviderHealthRequest>,
    ) -> Result<Response<ListProviderHealthResponse>, Status> {
        let health = ProviderHealth { ready: self.ready, ..Default::default() };
        Ok(Response::new(ListProviderHealthResponse { providers: vec![health] }))
    }
}

#[tonic::async_trait]
impl KeyAccessServerRegistryService for Script {
    async fn list_key_access_servers(
        &self,
        request: Request<ListKeyAccessServersRequest>,
    ) -> Result<Response<ListKeyAccessServersResponse>, Status> {
        let PageRequest { limit, offset } = self.note(request).pagination.unwrap_or_default();
        let (limit, offset) = (usize::try_from(limit).unwrap(), usize::try_from(offset).unwrap());
        let page: Vec<_> = self.servers.iter().skip(offset).take(limit).cloned().collect();
        let next = offset + page.len();
        let next = if next < self.servers.len() { i32::try_from(next).unwrap() } else { 0 };
        Ok(Response::new(ListKeyAccessServersResponse {
            key_access_servers: page,
            pagination: Some(PageResponse { next_offset: next, ..Default::default() }),
        }))
    }

    async fn get_key_access_server(
        &self,
        request: Request<GetKeyAccessServerRequest>,
    ) -> Result<Response<GetKeyAccessServerResponse>, Status> {
        self.note(request);
        let key_access_server = self.servers.first().cloned();
        Ok(Response::new(GetKeyAccessServerResponse { key_access_server }))
    }

    async fn get_key(
        &self,
        request: Request<GetKeyRequest>,
    ) -> Result<Response<GetKeyResponse>, Status> {
        self.note(request);
        let key = AsymmetricKey { id: "row".into(), ..Default::default() };
        let kas_key = KasKey { kas_id: "its kas".into(), key: Some(key), ..Default::default() };
        Ok(Response::new(GetKeyResponse { kas_key: Some(kas_key) }))
    }

    async fn get_base_key(
        &self,
        _: Request<GetBaseKeyRequest>,
    ) -> Result<Response<GetBaseKeyResponse>, Status> {
        Ok(Response::new(GetBaseKeyResponse::default()))
    }
}

#[tonic::async_trait]
impl KeyManagementService for Script {
    async fn get_provider_config(
        &self,
        request: Request<GetProviderConfigRequest>,
    ) -> Result<Response<GetProviderConfigResponse>, Status> {
        let request = self.note(request);
        let named = NameManager { name: "main".into(), manager: "opentdf.io/hsm".into() };
        if request.identifier != Some(Identifier::NameManager(named)) {
            return Err(Status::not_found("resource not found"));
        }
        let provider_config = KeyProviderConfig { id: "provider".into(), ..Default::default() };
        Ok(Response::new(GetProviderConfigResponse { provider_config: Some(provider_config) }))
    }
}

fn generated(kas_id: &str, rotates: &str) -> String {
    let request = GenerateKeyRequest {
        kas_id: kas_id.into(),
        key_id: "k1".into(),
        key_algorithm: Algorithm::Rsa2048.into(),
        key_mode: KeyMode::Remote.into(),
        provider_config_id: "provider".into(),
        rotates: rotates.into(),
        ..Default::default()
    };
    format!("{request:?}")
}

#[tokio::test]
async fn a_key_is_made_in_the_device_of_a_named_provider() {
    let script = Script::with_servers(&["first"]);
    script.run(&[&["keys", "create", "--kid", "k1"], &PROVIDER[..]].concat()).await.unwrap();
    assert_eq!(script.asked(), generated("", ""));
    let named = ["keys", "create", "--kid", "k1", "--kas", "main"];
    script.run(&[&named, &PROVIDER[..]].concat()).await.unwrap();
    assert_eq!(script.asked(), generated("first", ""));
}

#[tokio::test]
async fn a_rotation_stays_with_the_key_access_server_of_the_old_key() {
    let script = Script::default();
    let rotate = ["keys", "rotate", "--kid", "old", "--kas", "main", "--new-kid", "k1"];
    script.run(&[&rotate, &PROVIDER[..]].concat()).await.unwrap();
    assert_eq!(script.asked(), generated("its kas", "row"));
}

#[tokio::test]
async fn refusals_and_answers_without_a_key_are_not_fine() {
    let script = Script::default();
    for (kid, reason) in [("taken", "cannot make key taken: AlreadyExists"), ("none", "has no key")]
    {
        let arguments = [&["keys", "create", "--kid", kid], &PROVIDER[..]].concat();
        let failure = script.refused(&arguments).await;
        assert!(failure.contains("exit: NotFine") && failure.contains(reason), "{failure}");
    }
    let other = ["--algorithm", "rsa:2048", "--provider", "other", "--manager", "opentdf.io/hsm"];
    let failure = script.refused(&[&["keys", "create", "--kid", "k1"], &other[..]].concat()).await;
    assert!(failure.contains("cannot get the provider configuration: NotFound"), "{failure}");
    let failure = script.refused(&["keys", "base", "get"]).await;
    assert!(failure.contains("there is no base key"), "{failure}");
}

#[tokio::test]
async fn a_kid_alone_names_a_key_while_there_is_one_kas() {
    let script = Script::with_servers(&["first"]);
    script.run(&["keys", "get", "--kid", "k1"]).await.unwrap();
    let key = KasKeyIdentifier {
        identifier: Some(kas_key_identifier::Identifier::KasId("first".into())),
        kid: "k1".into(),
    };
    let identifier = Some(get_key_request::Identifier::Key(key));
    assert_eq!(script.asked(), format!("{:?}", GetKeyRequest { identifier }));
    let script = Script::with_servers(&["first", "second"]);
    let failure = script.refused(&["keys", "get", "--kid", "k1"]).await;
    assert!(failure.contains("exit: Usage") && failure.contains("--kas"), "{failure}");
}

#[tokio::test]
async fn a_state_is_set_by_row_id() {
    let script = Script::default();
    for (verb, target) in [
        (vec!["disable"], Target::Disabled),
        (vec!["enable"], Target::Enabled),
        (vec!["compromise", "--yes"], Target::Compromised),
    ] {
        let named = ["--kid", "k1", "--kas", "http://kas"];
        script.run(&[&["keys"], &verb[..], &named].concat()).await.unwrap();
        let expected = SetKeyStateRequest { id: "row".into(), target: target.into() };
        assert_eq!(script.asked(), format!("{expected:?}"));
    }
}

#[tokio::test]
async fn a_list_takes_in_every_page() {
    let ids: Vec<_> = (0..301).map(|id| id.to_string()).collect();
    let script = Script::with_servers(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    script.run(&["kas", "list", "--output", "json"]).await.unwrap();
    assert_eq!(script.asked.lock().unwrap().len(), 2);
    assert!(script.asked().contains("offset: 300"), "{}", script.asked());
}

#[tokio::test]
async fn a_kas_is_got_by_any_of_its_names() {
    let script = Script::with_servers(&["first"]);
    script.run(&["kas", "get", "--uri", "http://kas"]).await.unwrap();
    let identifier = Some(get_key_access_server_request::Identifier::Uri("http://kas".into()));
    let expected = GetKeyAccessServerRequest { identifier, ..Default::default() };
    assert_eq!(script.asked(), format!("{expected:?}"));
}

#[tokio::test]
async fn the_keys_of_the_servers_own_kas_are_listed() {
    let script = Script::with_servers(&["first"]);
    script.run(&["keys", "list"]).await.unwrap();
    let pagination = Some(PageRequest { limit: 300, offset: 0 });
    let own = ListKeyStatesRequest { kas_id: String::new(), pagination };
    assert_eq!(script.asked(), format!("{own:?}"));
    script.run(&["keys", "list", "--kas", "main"]).await.unwrap();
    let named = ListKeyStatesRequest { kas_id: "first".into(), pagination };
    assert_eq!(script.asked(), format!("{named:?}"));
}

#[tokio::test]
async fn a_finding_that_remains_is_not_fine() {
    let finding = |repaired| Finding { repaired, ..Default::default() };
    let with = |findings: &[bool]| Script {
        findings: findings.iter().map(|repaired| finding(*repaired)).collect(),
        ..Default::default()
    };
    with(&[]).run(&["keys", "reconcile"]).await.unwrap();
    with(&[true]).run(&["keys", "reconcile", "--repair"]).await.unwrap();
    let failure = with(&[true, false]).refused(&["keys", "reconcile", "--repair"]).await;
    assert!(failure.contains("exit: NotFine"), "{failure}");
}

#[tokio::test]
async fn a_provider_that_is_not_ready_is_not_fine() {
    let with = |ready| Script { ready, ..Default::default() };
    with(true).run(&["providers", "health"]).await.unwrap();
    let failure = with(false).refused(&["providers", "health"]).await;
    assert!(failure.contains("exit: NotFine"), "{failure}");
}

#[tokio::test]
async fn a_server_without_a_call_is_of_another_configuration() {
    let failure = Script::default().refused(&["kas", "create", "--uri", "http://kas"]).await;
    assert!(failure.contains("exit: Usage") && failure.contains("kas.key_index"), "{failure}");
}
