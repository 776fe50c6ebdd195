//! A server with the basic key manager, and a client that writes its JSON by hand.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kasbah_auth::{DevTokens, DpopSettings, Gate, MemoryReplay, Proofs, RolePolicy, TokenVerifier};
use kasbah_basic::{BasicFactory, RootKeys, wrap_private_key};
use kasbah_crypto::{PrivateKey, PrivateKeyParts, binding, envelope::RootKey};
use kasbah_kas::{Kas, KasBuilder, Keyring, MemorySink, ServeError};
use kasbah_proto::kas::{
    KeyAccessRewrapResult, RewrapRequest, RewrapResponse,
    access_service_client::AccessServiceClient, key_access_rewrap_result,
};
use kasbah_trust::{
    Algorithm, Curve, Dek, KeyDetails, KeyManagerFactory, KeyMode, KeyStatus, PrivateKeyRef,
    PublicKey, WrappedDek,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Request, Status, transport::Channel};

pub(crate) const URI: &str = "http://localhost:8080";
pub(crate) const BASIC: &str = kasbah_basic::MANAGER;
pub(crate) const P256: Algorithm = Algorithm::Ec(Curve::P256);
pub(crate) const P384: Algorithm = Algorithm::Ec(Curve::P384);
pub(crate) const P521: Algorithm = Algorithm::Ec(Curve::P521);
pub(crate) const RSA: Algorithm = Algorithm::Rsa2048;

/// base64 of `{}`: a policy without attributes.
pub(crate) const OPEN_POLICY: &str = "e30=";
pub(crate) const BAD_REQUEST: &str =
    "invalid_argument: request error\nrpc error: code = InvalidArgument desc = bad request";

const ROOT_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A running server and a client of it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: AccessServiceClient<Channel>,
    pub(crate) audit: Arc<MemorySink>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Serves these keys from the basic key manager to any token.
    pub(crate) async fn start(keys: Vec<KeyDetails>) -> Self {
        Self::with(keys, |builder| builder).await
    }

    /// As [`Server::start`], with other settings.
    pub(crate) async fn with(
        keys: Vec<KeyDetails>,
        configure: impl FnOnce(KasBuilder) -> KasBuilder,
    ) -> Self {
        Self::beside(keys, configure, |kas| kas).await
    }

    /// As [`Server::with`], with other services beside the data plane.
    pub(crate) async fn beside(
        keys: Vec<KeyDetails>,
        configure: impl FnOnce(KasBuilder) -> KasBuilder,
        beside: impl FnOnce(Kas) -> Kas,
    ) -> Self {
        let audit = Arc::new(MemorySink::default());
        let builder = Kas::builder()
            .uri(URI)
            .key_manager(BASIC, &Algorithm::ALL, basic())
            .default_manager(BASIC)
            .key_index(Arc::new(Keyring::new(URI, keys).unwrap()))
            .gate(gate(Arc::new(DevTokens), DpopSettings::default()).await)
            .audit(audit.clone());
        let kas = beside(configure(builder).build().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(kas.serve(listener, async move {
            let _ = stopped.await;
        }));
        let client = AccessServiceClient::connect(format!("http://{address}"))
            .await
            .unwrap()
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        Self { address, client, audit, stop: Some(stop), serving }
    }

    /// Rewraps with any token.
    pub(crate) async fn rewrap(&self, body: &Value) -> Result<RewrapResponse, Status> {
        self.send(request(&srt(body))).await
    }

    /// Sends a request as it is.
    pub(crate) async fn send(
        &self,
        request: Request<RewrapRequest>,
    ) -> Result<RewrapResponse, Status> {
        Ok(self.client.clone().rewrap(request).await?.into_inner())
    }

    /// Rewraps one key access object under a policy without attributes.
    pub(crate) async fn rewrap_one(&self, client: &PublicKey, kao: &Value) -> Outcome {
        let response = self.rewrap(&body(client, &[entry("p", OPEN_POLICY, &[kao])])).await;
        outcomes(&response.unwrap()).remove(0)
    }

    /// Gives the signal to stop.
    pub(crate) fn signal(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the server to end.
    pub(crate) async fn end(self) -> Result<(), ServeError> {
        drop(self.client);
        self.serving.await.unwrap()
    }
}

/// A gate with the built-in roles.
pub(crate) async fn gate(tokens: Arc<dyn TokenVerifier>, dpop: DpopSettings) -> Arc<Gate> {
    let origins = if dpop.origins.is_empty() { vec![URI.to_owned()] } else { dpop.origins.clone() };
    let replay = Arc::new(MemoryReplay::default());
    let proofs = Proofs::new(DpopSettings { origins, ..dpop }, replay).unwrap();
    Arc::new(Gate::new(tokens, proofs, RolePolicy::built_in("").await.unwrap()))
}

/// `Ok` is a wrapped key, `Err` the text of a failure.
pub(crate) type Outcome = Result<Vec<u8>, String>;

/// The results of a response in order, over all policies.
pub(crate) fn outcomes(response: &RewrapResponse) -> Vec<Outcome> {
    response.responses.iter().flat_map(|policy| &policy.results).map(outcome).collect()
}

pub(crate) fn outcome(result: &KeyAccessRewrapResult) -> Outcome {
    match (result.status.as_str(), result.result.clone().unwrap()) {
        ("permit", key_access_rewrap_result::Result::KasWrappedKey(key)) => Ok(key),
        ("fail", key_access_rewrap_result::Result::Error(error)) => Err(error),
        other => panic!("status and result contradict each other: {other:?}"),
    }
}

pub(crate) fn basic() -> Arc<dyn KeyManagerFactory> {
    let keys = BTreeMap::from([("root".to_owned(), RootKey::from_hex(ROOT_KEY).unwrap())]);
    Arc::new(BasicFactory::new(RootKeys::new("root".into(), keys).unwrap()))
}

/// A fresh key for the basic key manager.
pub(crate) fn key(kid: &str, algorithm: Algorithm) -> KeyDetails {
    let parts = PrivateKeyParts::generate(algorithm).unwrap();
    let root = RootKey::from_hex(ROOT_KEY).unwrap();
    let wrapped_key = wrap_private_key(&root, &parts.to_pem().unwrap()).unwrap();
    KeyDetails {
        kas_uri: URI.into(),
        kid: kid.into(),
        algorithm,
        mode: KeyMode::ConfigRootKey,
        status: KeyStatus::Active,
        legacy: false,
        public_key: parts.public_key(),
        private_key: PrivateKeyRef { key_id: Some("root".into()), wrapped_key: Some(wrapped_key) },
        provider: None,
    }
}

pub(crate) fn legacy(key: KeyDetails) -> KeyDetails {
    KeyDetails { legacy: true, ..key }
}

pub(crate) fn dek() -> Dek {
    Dek::generate().unwrap()
}

/// The binding as all clients send it: base64 of the hex digits.
pub(crate) fn hash(dek: &Dek, policy: &str) -> String {
    STANDARD.encode(hex::encode(*binding::compute(dek, policy)))
}

/// A sound key access object; `policy` is the base64 text.
pub(crate) fn kao(id: &str, key: &KeyDetails, dek: &Dek, policy: &str) -> Value {
    let (key_type, wrapped_key, ephemeral) = match key.public_key.wrap(dek).unwrap() {
        WrappedDek::Rsa(bytes) => ("wrapped", bytes, None),
        WrappedDek::Ec { blob, ephemeral } => {
            ("ec-wrapped", blob, Some(PublicKey::Ec(ephemeral).to_pem()))
        }
    };
    json!({
        "keyAccessObjectId": id,
        "keyAccessObject": {
            "type": key_type,
            "url": URI,
            "protocol": "kas",
            "kid": key.kid.as_str(),
            "wrappedKey": STANDARD.encode(wrapped_key),
            "ephemeralPublicKey": ephemeral,
            "policyBinding": {"alg": "HS256", "hash": hash(dek, policy)},
        },
    })
}

pub(crate) fn entry(policy_id: &str, policy: &str, kaos: &[&Value]) -> Value {
    json!({"policy": {"id": policy_id, "body": policy}, "keyAccessObjects": kaos})
}

pub(crate) fn body(client: &PublicKey, entries: &[Value]) -> Value {
    json!({"clientPublicKey": client.to_pem(), "requests": entries})
}

pub(crate) fn policy(json: &Value) -> String {
    STANDARD.encode(json.to_string())
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A signed request token around a body. Nobody knows the key, so its signature is anything.
pub(crate) fn srt(body: &Value) -> String {
    jws(
        &json!({"alg": "RS256", "typ": "JWT"}),
        &json!({"requestBody": body.to_string(), "iat": now(), "exp": now() + 60}),
    )
}

pub(crate) fn jws(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode("signature"))
}

/// A rewrap request with some token.
pub(crate) fn request(srt: &str) -> Request<RewrapRequest> {
    let mut request = Request::new(RewrapRequest { signed_request_token: srt.into() });
    request.metadata_mut().insert("authorization", "Bearer anything".parse().unwrap());
    request
}

/// The client's session key.
pub(crate) struct Session(PrivateKeyParts);

impl Session {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self(PrivateKeyParts::generate(algorithm).unwrap())
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// Opens what the server wrapped.
    pub(crate) fn open(&self, wrapped: Vec<u8>, session_public_key: &str) -> Vec<u8> {
        let wrapped = match PublicKey::from_pem(session_public_key) {
            Ok(PublicKey::Ec(ephemeral)) => WrappedDek::Ec { blob: wrapped, ephemeral },
            _ => WrappedDek::Rsa(wrapped),
        };
        let key = PrivateKey::from_pem(&self.0.to_pem().unwrap()).unwrap();
        let dek = key.unwrap_dek(&wrapped).unwrap();
        dek.expose_secret().to_vec()
    }
}

/// The text of one failed key access object.
pub(crate) fn fault(code: &str, desc: &str) -> String {
    let snake = match code {
        "InvalidArgument" => "invalid_argument: request error",
        "PermissionDenied" => "permission_denied: request error",
        "FailedPrecondition" => "failed_precondition: request error",
        "ResourceExhausted" => "resource_exhausted: request error",
        "Internal" => "internal: internal error",
        "Unavailable" => "unavailable: internal error",
        "Unimplemented" => "unimplemented: internal error",
        other => panic!("no such code: {other}"),
    };
    format!("{snake}\nrpc error: code = {code} desc = {desc}")
}

pub(crate) fn invalid(desc: &str) -> String {
    fault("InvalidArgument", desc)
}

/// Code and message of a failed request.
pub(crate) fn status(result: Result<RewrapResponse, Status>) -> (tonic::Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}
