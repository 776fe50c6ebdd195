//! A client of a Key Access Server, as an SDK is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::{rand::SystemRandom, signature};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{EncodingKey, Header};
use kasbah_crypto::PrivateKey;
use kasbah_proto::kas::{
    KeyAccessRewrapResult, PublicKeyRequest, RewrapRequest,
    access_service_client::AccessServiceClient, key_access_rewrap_result,
};
use kasbah_trust::{Algorithm, Dek, PublicKey, WrappedDek};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::exit::{Exit, Failure, OrExit};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a signed request token is good for.
const TOKEN_LIFETIME_SECONDS: u64 = 60;
/// Where a server says what the custody of a data key was.
const CUSTODY: &str = "X-Kasbah-Custody";

/// A connection with a session key of its own.
pub(crate) struct Client {
    rpc: AccessServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    signer: EncodingKey,
    session: PrivateKey,
}

/// A key that the server hands out.
pub(crate) struct KasKey {
    pub(crate) kid: String,
    pub(crate) public_key: PublicKey,
}

/// A data key that came back.
pub(crate) struct Rewrapped {
    pub(crate) dek: Dek,
    /// Absent from servers that do not say.
    pub(crate) custody: Option<String>,
}

impl Client {
    /// Connects to `url`; data keys are to be re-encrypted to a session key of this algorithm.
    pub(crate) async fn connect(
        url: &str,
        token: Option<&SecretString>,
        session: Algorithm,
    ) -> Result<Self, Failure> {
        if !url.starts_with("http://") {
            return Err(Failure::usage("the URL must begin with http://; TLS is not spoken here"));
        }
        let channel = Endpoint::from_shared(url.to_owned())
            .or_exit(Exit::Usage)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("cannot reach {url}; is the server up?"))
            .or_exit(Exit::Unavailable)?;
        Ok(Self {
            rpc: AccessServiceClient::new(channel),
            authorization: token.map(authorization).transpose()?,
            signer: signer().or_exit(Exit::Unavailable)?,
            session: PrivateKey::generate(session).or_exit(Exit::Unavailable)?,
        })
    }

    /// The key to wrap with.
    pub(crate) async fn public_key(&mut self, algorithm: Algorithm) -> Result<KasKey, Failure> {
        let request =
            PublicKeyRequest { algorithm: algorithm.as_str().into(), ..Default::default() };
        let answer = self
            .rpc
            .public_key(request)
            .await
            .map_err(|status| refused(&format!("no public key for {algorithm}"), &status))?
            .into_inner();
        let public_key = PublicKey::from_pem(&answer.public_key)
            .context("the public key of the server")
            .or_exit(Exit::NotFine)?;
        Ok(KasKey { kid: answer.kid, public_key })
    }

    /// Has key access objects of one policy rewrapped. `objects` are as in a manifest, `policy` is
    /// base64 text; results are in the order of the objects.
    pub(crate) async fn rewrap(
        &mut self,
        objects: &[Value],
        policy: &str,
    ) -> Result<Vec<Rewrapped>, Failure> {
        let signed_request_token = self.sign(objects, policy).or_exit(Exit::NotFine)?;
        let mut request = Request::new(RewrapRequest { signed_request_token });
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let answer = self
            .rpc
            .rewrap(request)
            .await
            .map_err(|status| refused("the rewrap was refused", &status))?
            .into_inner();
        let results: Vec<_> =
            answer.responses.into_iter().flat_map(|policy| policy.results).collect();
        (0..objects.len())
            .map(|index| {
                let id = object_id(index);
                let result = results.iter().find(|result| result.key_access_object_id == id);
                let result = result.ok_or_else(|| {
                    Failure::not_fine(format!("the answer has no result for object {id}"))
                })?;
                self.open(result, &answer.session_public_key)
            })
            .collect()
    }

    fn sign(&self, objects: &[Value], policy: &str) -> anyhow::Result<String> {
        let objects: Vec<_> = objects
            .iter()
            .enumerate()
            .map(|(index, object)| {
                json!({ "keyAccessObjectId": object_id(index), "keyAccessObject": object })
            })
            .collect();
        let body = json!({
            "clientPublicKey": self.session.public_key().to_pem(),
            "requests": [{
                "policy": { "id": "policy", "body": policy },
                "keyAccessObjects": objects,
            }],
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "requestBody": body.to_string(),
            "iat": now,
            "exp": now + TOKEN_LIFETIME_SECONDS,
        });
        let header = Header::new(jsonwebtoken::Algorithm::ES256);
        Ok(jsonwebtoken::encode(&header, &claims, &self.signer)?)
    }

    fn open(
        &self,
        result: &KeyAccessRewrapResult,
        session_key: &str,
    ) -> Result<Rewrapped, Failure> {
        use key_access_rewrap_result::Result as Outcome;
        let wrapped = match (result.status.as_str(), &result.result) {
            ("permit", Some(Outcome::KasWrappedKey(wrapped))) => wrapped.clone(),
            ("fail", Some(Outcome::Error(error))) => {
                let down =
                    error.starts_with("unavailable") || error.starts_with("resource_exhausted");
                let exit = if down { Exit::Unavailable } else { Exit::NotFine };
                let error = error.replace('\n', "; ");
                return Err(Failure::new(exit, anyhow!("the server failed the rewrap: {error}")));
            }
            _ => return Err(Failure::not_fine("status and result contradict each other")),
        };
        let dek = self.unwrap(wrapped, session_key).or_exit(Exit::NotFine)?;
        Ok(Rewrapped { dek, custody: custody(result) })
    }

    fn unwrap(&self, wrapped: Vec<u8>, session_key: &str) -> anyhow::Result<Dek> {
        let wrapped = match self.session {
            PrivateKey::Rsa(_) => WrappedDek::Rsa(wrapped),
            PrivateKey::Ec(_) => match PublicKey::from_pem(session_key) {
                Ok(PublicKey::Ec(ephemeral)) => WrappedDek::Ec { blob: wrapped, ephemeral },
                _ => bail!("the answer has no EC session key"),
            },
        };
        self.session
            .unwrap_dek(&wrapped)
            .map_err(|_| anyhow!("the answer does not open with the session key"))
    }
}

impl KasKey {
    /// A key access object as a manifest has it, for a data key under a policy (base64 text).
    pub(crate) fn wrap(&self, url: &str, dek: &Dek, policy: &str) -> anyhow::Result<Value> {
        let mac = kasbah_crypto::binding::compute(dek, policy);
        let mut object = json!({
            "url": url,
            "protocol": "kas",
            "kid": self.kid,
            "policyBinding": { "alg": "HS256", "hash": STANDARD.encode(hex::encode(*mac)) },
        });
        let (kind, wrapped) = match self.public_key.wrap(dek)? {
            WrappedDek::Rsa(wrapped) => ("wrapped", wrapped),
            WrappedDek::Ec { blob, ephemeral } => {
                object["ephemeralPublicKey"] = PublicKey::Ec(ephemeral).to_pem().into();
                ("ec-wrapped", blob)
            }
        };
        object["type"] = kind.into();
        object["wrappedKey"] = STANDARD.encode(wrapped).into();
        Ok(object)
    }
}

fn object_id(index: usize) -> String {
    format!("kao-{index}")
}

fn authorization(token: &SecretString) -> Result<MetadataValue<Ascii>, Failure> {
    let mut value: MetadataValue<_> = format!("Bearer {}", token.expose_secret())
        .parse()
        .map_err(|_| Failure::usage("the access token is no printable ASCII text"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A throw-away ES256 key: servers check the form of a signed request token.
fn signer() -> anyhow::Result<EncodingKey> {
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())?;
    Ok(EncodingKey::from_ec_der(key.as_ref()))
}

fn refused(what: &str, status: &Status) -> Failure {
    let exit = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Exit::Unavailable,
        _ => Exit::NotFine,
    };
    let hint = match status.code() {
        Code::Unauthenticated => "; give a token with --token-file or --token-env",
        _ => "",
    };
    let message = status.message().replace('\n', "; ");
    Failure::new(exit, anyhow!("{what}: {:?}: {}{hint}", status.code(), message))
}

fn custody(result: &KeyAccessRewrapResult) -> Option<String> {
    use prost_types::value::Kind;
    match result.metadata.get(CUSTODY)?.kind.as_ref()? {
        Kind::StringValue(custody) => Some(custody.clone()),
        _ => None,
    }
}
