//! What the Java SDK sends, as its source has it, since its packages are not to be had here: HTTP/2
//! from the first byte without TLS, Connect with binary messages, its first call by GET, a key for
//! each proof, and bodies of version 1.

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use kasbah_proto::{
    kas::{PublicKeyRequest, PublicKeyResponse, RewrapRequest, RewrapResponse},
    policy::kasregistry::{ListKeyAccessServersRequest, ListKeyAccessServersResponse},
    wellknownconfiguration::GetWellKnownConfigurationResponse,
};
use kasbah_system_tests::{
    client::{POLICY, SessionKey, kao, request_claims},
    oidc::{Holder, Secret, TokenClient},
    wire::{Answer, Version, Wire},
};
use prost::Message;
use prost_types::value::Kind;
use serde_json::{Value, json};

use kasbah_system_tests::dev::Dev;

const WELL_KNOWN: &str = "/wellknownconfiguration.WellKnownService/GetWellKnownConfiguration?connect=v1&encoding=proto&base64=1&message=";
const SERVERS: &str = "/policy.kasregistry.KeyAccessServerRegistryService/ListKeyAccessServers";

/// The SDK with its key and its token, which is bound to that.
pub(crate) struct Java {
    wire: Wire,
    url: String,
    holder: Holder,
    token: String,
}

/// The failure of a call, as Connect has it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Java {
    /// Finds the issuer, and gets a token of it.
    pub(crate) async fn connect(dev: &Dev) -> Self {
        let address = dev.url().strip_prefix("http://").unwrap().to_owned();
        let wire = Wire { address, version: Version::Http2, tls: None };
        let get = Request::get(WELL_KNOWN).body(Vec::new()).unwrap();
        let answer = wire.send(get).await.unwrap();
        let known: GetWellKnownConfigurationResponse = decoded(&answer).unwrap();
        let issuer = known.configuration.unwrap().fields.remove("platform_issuer").unwrap();
        let Some(Kind::StringValue(issuer)) = issuer.kind else { panic!("{issuer:?}") };

        // Nimbus insists on these.
        let provider = json_of(&format!("{issuer}/.well-known/openid-configuration")).await;
        assert_eq!(provider["issuer"], issuer);
        assert!(provider["jwks_uri"].is_string());
        assert_eq!(provider["subject_types_supported"], json!(["public"]));

        let holder = Holder::rsa();
        let client = TokenClient {
            endpoint: provider["token_endpoint"].as_str().unwrap().to_owned(),
            id: dev.told("client_id").to_owned(),
            secret: dev.told("client_secret").to_owned(),
        };
        let proof = holder.proof(&holder.claims(&client.endpoint));
        let answer = client.ask(Secret::Basic, Some(&proof)).await;
        assert_eq!(answer.body["token_type"], "DPoP", "{}", answer.body);
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        Self { wire, url: dev.url().to_owned(), holder, token }
    }

    /// The URIs of the key access servers that it may send keys to.
    pub(crate) async fn allowed(&self) -> Vec<String> {
        let message = ListKeyAccessServersRequest::default();
        let answer: ListKeyAccessServersResponse = self.call(SERVERS, &message).await.unwrap();
        answer.key_access_servers.into_iter().map(|server| server.uri).collect()
    }

    /// Kid and PEM of the key for an algorithm.
    pub(crate) async fn public_key(&self, algorithm: &str) -> (String, String) {
        let message = PublicKeyRequest { algorithm: algorithm.to_owned(), ..Default::default() };
        let answer: PublicKeyResponse =
            self.call("/kas.AccessService/PublicKey", &message).await.unwrap();
        (answer.kid, answer.public_key)
    }

    /// A key access object as it writes them.
    pub(crate) fn wrap(&self, kid: &str, pem: &str, dek: &[u8]) -> Value {
        let mut access = kao(kid, pem, dek, POLICY);
        access["url"] = format!("{}/kas", self.url).into();
        access["schemaVersion"] = "1.0".into();
        access
    }

    /// The data key in a key access object, from the one member of the answer that it reads.
    pub(crate) async fn unwrap(
        &self,
        session: &SessionKey,
        access: &Value,
    ) -> Result<Vec<u8>, Refusal> {
        let body =
            json!({ "policy": POLICY, "clientPublicKey": session.pem(), "keyAccess": access });
        let signed_request_token = self
            .holder
            .sign(&json!({ "alg": self.holder.algorithm(), "typ": "JWT" }), &request_claims(&body));
        let message = RewrapRequest { signed_request_token };
        let answer: RewrapResponse = self.call("/kas.AccessService/Rewrap", &message).await?;
        #[expect(deprecated, reason = "it reads nothing else")]
        let wrapped = &answer.entity_wrapped_key;
        Ok(session.open(wrapped, &answer.session_public_key).expect("it opens"))
    }

    async fn call<T: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<T, Refusal> {
        let mut claims = self.holder.claims(&format!("{}{path}", self.url));
        claims["ath"] = self.holder.rewrap_claims(&self.token)["ath"].clone();
        let request = Request::post(path)
            .header("content-type", "application/proto")
            .header("connect-protocol-version", "1")
            .header("authorization", format!("DPoP {}", self.token))
            .header("dpop", self.holder.proof(&claims))
            .body(message.encode_to_vec())
            .unwrap();
        decoded(&self.wire.send(request).await.unwrap())
    }
}

fn decoded<T: Message + Default>(answer: &Answer) -> Result<T, Refusal> {
    if answer.status.is_success() {
        assert_eq!(answer.header("content-type"), Some("application/proto"));
        return Ok(T::decode(answer.body.clone()).unwrap());
    }
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    Err(Refusal { code: text("code"), message: text("message") })
}

/// The JSON of an answer over HTTP/1.1.
async fn json_of(url: &str) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}
