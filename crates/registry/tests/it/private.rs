//! What is not for everybody: wrapped private keys and settings of providers.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use kasbah_audit::{NotKept, Receipt};
use kasbah_proto::{
    kasbah::admin::v1::{
        GenerateKeyRequest, GenerateKeyResponse, ListKeyStatesRequest, ListKeyStatesResponse,
        ListProviderHealthRequest, ListProviderHealthResponse, ReconcileRequest, ReconcileResponse,
        SetKeyStateRequest, set_key_state_request::Target,
    },
    policy::{
        KeyMode,
        kasregistry::{
            CreateKeyAccessServerRequest, CreateKeyRequest, CreateKeyResponse, GetKeyRequest,
            ListKeysRequest, RotateKeyRequest, UpdateKeyRequest, get_key_request,
            rotate_key_request::{ActiveKey, NewKey},
        },
        keymanagement::{
            CreateProviderConfigResponse, DeleteProviderConfigRequest, GetProviderConfigRequest,
            ListProviderConfigsRequest, UpdateProviderConfigRequest,
            get_provider_config_request::Identifier,
        },
        r#unsafe::{UnsafeDeleteKasKeyRequest, UnsafeUpdateKeyRequest},
    },
};
use kasbah_registry::PolicyAudit;
use prost::Message;
use serde_json::Value;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::{
    access::rpcs_with_private_parts,
    device::{DEVICE, MADE_WRAPPED},
    harness::{
        HSM, KAS_URI, PICKY, Plane, Store, admin, call, id_of, local, provider, public_only,
        refused, remote,
    },
};

/// In the settings of every provider of these tests.
const IN_SETTINGS: &str = "a-setting-of-the-provider";
const KAS: &str = "policy.kasregistry.KeyAccessServerRegistryService";
const PROVIDERS: &str = "policy.keymanagement.KeyManagementService";
const UNSAFE: &str = "policy.unsafe.UnsafeService";
const ADMIN: &str = "kasbah.admin.v1.AdminService";

/// A registry with something private in every corner, and one who asks for it.
struct Scene {
    plane: Plane,
    subject: &'static str,
    kas: String,
    provider: String,
    /// Texts that must not be seen.
    private: Vec<String>,
    asked: BTreeSet<String>,
}

fn settings(more: &str) -> String {
    format!("{{\"module\":\"{IN_SETTINGS}\",\"is\":\"{more}\"}}")
}

impl Scene {
    async fn set(subject: &'static str) -> Self {
        let plane = Plane::start(Store::sqlite()).await;
        let kas = plane.own_kas().await;
        let made = provider("main", DEVICE, &settings("fine"));
        let made = plane.providers().create_provider_config(admin(made)).await.unwrap();
        let provider = made.into_inner().provider_config.unwrap().id;
        let private = vec![IN_SETTINGS.to_owned(), MADE_WRAPPED.to_owned()];
        Self { plane, subject, kas, provider, private, asked: BTreeSet::new() }
    }

    fn sees(&self) -> bool {
        self.subject == "admin"
    }

    /// A key with a wrapped private key, made by an administrator; its id.
    async fn wrapped(&mut self, kid: &str) -> String {
        let message = self.own(kid);
        let made = self.plane.kas().create_key(admin(message)).await.unwrap();
        id_of(&made.into_inner().kas_key.unwrap())
    }

    /// A new key, whose wrapped private key must not be seen.
    fn own(&mut self, kid: &str) -> CreateKeyRequest {
        let new = local(&self.kas, kid);
        self.private.push(new.private_key_ctx.as_ref().unwrap().wrapped_key.clone());
        new
    }

    fn shows_private(&self, answer: &[u8]) -> bool {
        let holds = |text: &String| answer.windows(text.len()).any(|part| part == text.as_bytes());
        self.private.iter().any(holds)
    }

    /// Asks, and finds something private in the answer, if that is for this one.
    async fn ask(&mut self, service: &str, method: &str, message: impl Message) -> Vec<u8> {
        let answer = self.ask_for_little(service, method, message).await;
        assert_eq!(self.shows_private(&answer), self.sees(), "{method} for {}", self.subject);
        answer
    }

    async fn try_to(&self, rpc: &str, message: impl Message) -> Result<Vec<u8>, Status> {
        let message = message.encode_to_vec();
        call(self.plane.channel(), Some(self.subject), rpc, message).await
    }

    /// Asks for what has nothing private in it, though there would be room.
    async fn ask_for_little(
        &mut self,
        service: &str,
        method: &str,
        message: impl Message,
    ) -> Vec<u8> {
        let rpc = format!("{service}/{method}");
        let answer = self.try_to(&rpc, message).await;
        self.asked.insert(rpc);
        answer.unwrap_or_else(|status| panic!("{method} for {}: {status:?}", self.subject))
    }

    async fn read_keys(&mut self, id: &str) {
        let identifier = Some(get_key_request::Identifier::Id(id.to_owned()));
        self.ask(KAS, "GetKey", GetKeyRequest { identifier }).await;
        self.ask(KAS, "ListKeys", ListKeysRequest::default()).await;
    }

    async fn read_providers(&mut self) {
        let identifier = Some(Identifier::Id(self.provider.clone()));
        let message = GetProviderConfigRequest { identifier, ..Default::default() };
        self.ask(PROVIDERS, "GetProviderConfig", message).await;
        let message = ListProviderConfigsRequest::default();
        self.ask(PROVIDERS, "ListProviderConfigs", message).await;
    }

    async fn change_providers(&mut self) {
        let message = provider("mine", DEVICE, &settings("mine"));
        let answer = self.ask(PROVIDERS, "CreateProviderConfig", message).await;
        let made = CreateProviderConfigResponse::decode(&*answer).unwrap().provider_config.unwrap();
        let message = UpdateProviderConfigRequest {
            id: made.id.clone(),
            name: "ours".into(),
            ..Default::default()
        };
        self.ask(PROVIDERS, "UpdateProviderConfig", message).await;
        let message = DeleteProviderConfigRequest { id: made.id };
        let answer = self.ask_for_little(PROVIDERS, "DeleteProviderConfig", message).await;
        assert!(!self.shows_private(&answer));
    }

    /// What is refused for settings that are kept, and may quote them.
    async fn change_a_provider_in_vain(&self) {
        let message = UpdateProviderConfigRequest {
            id: self.provider.clone(),
            manager: PICKY.into(),
            ..Default::default()
        };
        let answer = self.try_to(&format!("{PROVIDERS}/UpdateProviderConfig"), message).await;
        let (code, text) = refused(answer);
        assert_eq!(code, Code::InvalidArgument);
        assert_eq!(self.shows_private(text.as_bytes()), self.sees(), "{text}");
    }

    async fn change_keys(&mut self) {
        let new = self.own("mine");
        let answer = self.ask(KAS, "CreateKey", new).await;
        let made = CreateKeyResponse::decode(&*answer).unwrap().kas_key.unwrap();
        let id = id_of(&made);
        self.ask(KAS, "UpdateKey", UpdateKeyRequest { id: id.clone(), ..Default::default() }).await;
        let target = Target::Disabled as i32;
        self.ask(ADMIN, "SetKeyState", SetKeyStateRequest { id: id.clone(), target }).await;
        let message = UnsafeDeleteKasKeyRequest { id, kid: "mine".into(), kas_uri: KAS_URI.into() };
        let answer = self.ask_for_little(UNSAFE, "UnsafeDeleteKasKey", message).await;
        assert!(!self.shows_private(&answer));
    }

    /// Each of the two keys in the answer has something private in one of the rotations.
    async fn rotate_keys(&mut self) {
        for (old, new) in [("one", public_only(&self.kas, "two")), ("three", self.own("four"))] {
            let active_key = Some(ActiveKey::Id(self.wrapped(old).await));
            let new_key = Some(NewKey {
                key_id: new.key_id,
                algorithm: new.key_algorithm,
                key_mode: new.key_mode,
                public_key_ctx: new.public_key_ctx,
                private_key_ctx: new.private_key_ctx,
                ..Default::default()
            });
            self.ask(KAS, "RotateKey", RotateKeyRequest { active_key, new_key }).await;
        }
    }

    async fn change_a_device_key(&mut self) {
        let made = remote(&self.kas, "remote", &self.provider);
        let made = self.plane.kas().create_key(admin(made)).await.unwrap();
        let message = UnsafeUpdateKeyRequest {
            id: id_of(&made.into_inner().kas_key.unwrap()),
            target_key_mode: KeyMode::Remote as i32,
            provider_config_id: self.provider.clone(),
        };
        self.ask(UNSAFE, "UnsafeUpdateKey", message).await;
    }

    async fn make_keys(&mut self) {
        let message = generate("made", &self.provider);
        let answer = self.ask(ADMIN, "GenerateKey", message).await;
        let key = GenerateKeyResponse::decode(&*answer).unwrap().kas_key.unwrap().key.unwrap();
        let wrapped = key.private_key_ctx.unwrap().wrapped_key;
        assert_eq!(wrapped, if self.sees() { MADE_WRAPPED } else { "" });
    }

    /// What managers say of their devices may quote their settings.
    async fn look_at_devices(&mut self) {
        let mut made = Vec::new();
        for is in ["broken", "silent"] {
            let message = provider(is, DEVICE, &settings(is));
            let answer = self.plane.providers().create_provider_config(admin(message)).await;
            made.push(answer.unwrap().into_inner().provider_config.unwrap().id);
        }
        for id in made {
            let message = generate("never", &id);
            let answer = self.try_to(&format!("{ADMIN}/GenerateKey"), message).await;
            let (code, text) = refused(answer);
            assert_eq!((code, &*text), (Code::Unavailable, "the key manager is unavailable"));
        }
        let message = ListKeyStatesRequest::default();
        let answer = self.ask(ADMIN, "ListKeyStates", message).await;
        let states = ListKeyStatesResponse::decode(&*answer).unwrap().keys;
        let told: Vec<_> = states.iter().map(|state| &*state.state).collect();
        let quotes = told.iter().any(|state| state.contains(IN_SETTINGS));
        assert_eq!(quotes, self.sees(), "{told:?}");
        assert!(told.iter().any(|state| state.contains("key manager unavailable")), "{told:?}");
        let answer =
            self.ask(ADMIN, "ListProviderHealth", ListProviderHealthRequest::default()).await;
        let health = ListProviderHealthResponse::decode(&*answer).unwrap().providers;
        assert_eq!(health.len(), 3);
        for health in health {
            assert!(!health.ready && !health.detail.is_empty(), "{health:?}");
            assert_eq!(health.detail.contains(IN_SETTINGS), self.sees(), "{health:?}");
        }
        let answer = self.try_to(&format!("{ADMIN}/Reconcile"), ReconcileRequest::default()).await;
        let findings = ReconcileResponse::decode(&*answer.unwrap()).unwrap().findings;
        let of = |name: &str| {
            let provider = format!("{DEVICE}#{name}");
            findings.iter().find(|finding| finding.provider == provider).unwrap()
        };
        for name in ["broken", "silent"] {
            let detail = &of(name).detail;
            assert!(detail.contains("its device cannot be asked"), "{detail}");
            assert_eq!(detail.contains(IN_SETTINGS), self.sees(), "{detail}");
        }
    }
}

fn generate(kid: &str, provider: &str) -> GenerateKeyRequest {
    GenerateKeyRequest {
        key_id: kid.into(),
        key_algorithm: 3,
        key_mode: KeyMode::ProviderRootKey as i32,
        provider_config_id: provider.to_owned(),
        ..Default::default()
    }
}

async fn everything_is_asked_by(subject: &'static str) {
    let mut scene = Scene::set(subject).await;
    let key = scene.wrapped("first").await;
    scene.read_keys(&key).await;
    scene.read_providers().await;
    scene.change_providers().await;
    scene.change_a_provider_in_vain().await;
    scene.change_keys().await;
    scene.rotate_keys().await;
    scene.change_a_device_key().await;
    scene.make_keys().await;
    scene.look_at_devices().await;
    assert_eq!(
        scene.asked,
        rpcs_with_private_parts(),
        "every call with room for something private"
    );
}

#[tokio::test]
async fn an_administrator_sees_everything() {
    everything_is_asked_by("admin").await;
}

#[tokio::test]
async fn one_who_may_change_everything_does_not_see_it() {
    everything_is_asked_by("writer").await;
}

#[tokio::test]
async fn one_who_may_read_does_not_see_it() {
    let mut scene = Scene::set("standard").await;
    let key = scene.wrapped("first").await;
    scene.read_keys(&key).await;
    scene.read_providers().await;
    let (code, text) =
        refused(scene.try_to(&format!("{KAS}/CreateKey"), local(&scene.kas, "mine")).await);
    assert_eq!((code, &*text), (Code::PermissionDenied, "permission denied"));
}

/// A log that says what it is told to; a fake, for its faults.
#[derive(Debug, Default)]
struct Faulty {
    fails: Mutex<Option<NotKept>>,
    waits: Mutex<Option<oneshot::Receiver<Result<(), NotKept>>>>,
}

impl PolicyAudit for Faulty {
    fn record(&self, _: &Value) -> Receipt {
        if let Some(answer) = self.waits.lock().unwrap().take() {
            return Receipt::pending(answer);
        }
        match *self.fails.lock().unwrap() {
            Some(reason) => Receipt::not_kept(reason),
            None => Receipt::kept(),
        }
    }
}

async fn with_log() -> (Plane, Arc<Faulty>) {
    let log = Arc::<Faulty>::default();
    let plane = Plane::start_with(Store::sqlite(), Arc::clone(&log) as _, Arc::default()).await;
    (plane, log)
}

fn new_kas(uri: &str) -> CreateKeyAccessServerRequest {
    CreateKeyAccessServerRequest { uri: uri.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn what_is_not_audited_is_not_acknowledged() {
    let (plane, log) = with_log().await;
    let kas = plane.own_kas().await;
    let key = id_of(&plane.local_key(&kas, "k1").await);
    for reason in [NotKept::Full, NotKept::Failed] {
        *log.fails.lock().unwrap() = Some(reason);
        let uri = format!("https://{reason:?}.example.com");
        let made = plane.kas().create_key_access_server(admin(new_kas(&uri))).await;
        let text = "audit log unavailable; the change has been made all the same";
        assert_eq!(refused(made), (Code::Unavailable, text.to_owned()));
        let named = kasbah_registry::KasName::Uri(uri.clone());
        plane.registry.kas(&named).await.unwrap();
        let nothing_changed = (Code::Unavailable, "audit log unavailable".to_owned());
        let taken = plane.kas().create_key_access_server(admin(new_kas(&uri))).await;
        assert_eq!(refused(taken), nothing_changed);
        assert_eq!(refused(plane.key(&key).await), nothing_changed, "nothing is shown");
    }
    let made = provider("main", HSM, "{}");
    let made = plane.providers().create_provider_config(admin(made)).await;
    assert_eq!(refused(made).0, Code::Unavailable);
    *log.fails.lock().unwrap() = None;
    plane.key(&key).await.unwrap();
}

#[tokio::test]
async fn an_answer_waits_for_its_event() {
    let (plane, log) = with_log().await;
    let (keep, kept) = oneshot::channel();
    *log.waits.lock().unwrap() = Some(kept);
    let mut client = plane.kas();
    let call = tokio::spawn(async move {
        client.create_key_access_server(admin(new_kas("https://a.example.com"))).await
    });
    let named = kasbah_registry::KasName::Uri("https://a.example.com".to_owned());
    while plane.registry.kas(&named).await.is_err() || log.waits.lock().unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    // Time for an answer that does not wait to arrive.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!call.is_finished());
    keep.send(Ok(())).unwrap();
    call.await.unwrap().unwrap();
}
