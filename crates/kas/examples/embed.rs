//! Embeds Kasbah in a program of one's own, with a key manager of one's own, and asks it for one
//! rewrap over gRPC:
//!
//! ```text
//! cargo run -p kasbah-kas --example embed
//! ```

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt, process,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jsonwebtoken::{Algorithm as Jws, EncodingKey, Header};
use kasbah_auth::Gate;
use kasbah_crypto::{Dek, PrivateKey, PrivateKeyParts, binding};
use kasbah_kas::{AuditEvent, Kas, Keyring, MemorySink};
use kasbah_proto::kas::{
    RewrapRequest, RewrapResponse, access_service_client::AccessServiceClient,
    key_access_rewrap_result::Result as KaoResult,
};
use kasbah_trust::{
    Algorithm, Curve, Custody, Deadline, EcPublicKey, Error, Health, KeyDetails, KeyManager,
    KeyManagerFactory, KeyMode, KeyStatus, PrivateKeyRef, ProtectedKey, ProviderConfig, PublicKey,
    Result, SoftwareKey, UnknownManager, WrappedDek,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Request, metadata::MetadataValue};

const VAULT: &str = "example.com/vault";
const P256: Algorithm = Algorithm::Ec(Curve::P256);

/// Private keys by the name they have in the vault.
type Keys = BTreeMap<String, PrivateKey>;

/// A key manager of one's own. It says how to decrypt and to derive; a rewrap follows from that.
struct Vault {
    /// `None` once closed.
    keys: Mutex<Option<Arc<Keys>>>,
}

impl Vault {
    /// What every operation asks first.
    fn open(&self, deadline: Deadline) -> Result<Arc<Keys>> {
        if deadline.has_passed() {
            return Err(Error::unavailable("the deadline passed before the vault was asked"));
        }
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clone().ok_or_else(|| Error::unavailable("the vault is closed"))
    }
}

fn find<'a>(keys: &'a Keys, key: &KeyDetails) -> Result<&'a PrivateKey> {
    let name = key.private_key.key_id.as_deref();
    name.and_then(|name| keys.get(name)).ok_or_else(|| Error::NotFound(key.kid.clone()))
}

#[async_trait]
impl KeyManager for Vault {
    fn name(&self) -> &str {
        VAULT
    }

    async fn decrypt(
        &self,
        key: &KeyDetails,
        wrapped: &WrappedDek,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let keys = self.open(deadline)?;
        let dek = find(&keys, key)?.unwrap_dek(wrapped)?;
        Ok(Box::new(SoftwareKey::new(dek, Custody::SOFTWARE)))
    }

    async fn derive(
        &self,
        key: &KeyDetails,
        peer: &EcPublicKey,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let keys = self.open(deadline)?;
        let PrivateKey::Ec(private) = find(&keys, key)? else {
            return Err(Error::Unsupported("an RSA key agrees on nothing"));
        };
        let dek = private.agree(peer)?.to_dek()?;
        Ok(Box::new(SoftwareKey::new(dek, Custody::SOFTWARE)))
    }

    async fn health(&self) -> Health {
        match *self.keys.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Health::Ready,
            None => Health::NotReady("the vault is closed".to_owned()),
        }
    }

    async fn close(&self) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// Makes the manager of each provider configuration; a real one would read its settings.
struct VaultFactory(Arc<Keys>);

#[async_trait]
impl KeyManagerFactory for VaultFactory {
    async fn create(&self, _: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        Ok(Arc::new(Vault { keys: Mutex::new(Some(Arc::clone(&self.0))) }))
    }
}

impl fmt::Debug for VaultFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultFactory").finish_non_exhaustive()
    }
}

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("embed: {error}");
        process::exit(1);
    }
}

async fn run() -> Result<(), Box<dyn StdError>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("http://{}", listener.local_addr()?);
    let private = PrivateKey::generate(P256)?;
    let key = describe(&uri, private.public_key());
    let public_key = key.public_key.clone();
    let vault = VaultFactory(Arc::new(Keys::from([("payroll".to_owned(), private)])));

    let gate = Gate::for_development(&uri).await.map_err(|error| error.to_string())?;
    let audit = Arc::new(MemorySink::default());
    let kas = Kas::builder()
        .uri(&uri)
        .key_manager(VAULT, &[P256], Arc::new(vault))
        .default_manager(VAULT)
        .unknown_managers(UnknownManager::Refuse)
        .key_index(Arc::new(Keyring::new(&uri, vec![key])?))
        .gate(Arc::new(gate))
        .audit(Arc::<MemorySink>::clone(&audit))
        .build()?;

    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(kas.serve(listener, async {
        let _ = stopped.await;
    }));
    ask(&uri, &public_key).await?;
    drop(stop);
    serving.await??;
    println!("{}", summary(&uri, &audit.take())?);
    Ok(())
}

/// The rewrap as the audit trail has it.
fn summary(uri: &str, events: &[AuditEvent]) -> Result<String, Box<dyn StdError>> {
    let [event] = events else {
        return Err(format!("{} audit events instead of one", events.len()).into());
    };
    let manager = event.manager.as_ref().ok_or("the audit event names no manager")?;
    let custody = event.custody.ok_or("the audit event has no custody")?;
    Ok(format!("{uri}: {manager} re-encrypted a data key, custody {}", custody.level))
}

/// How the KAS knows the key: its private part is in the vault, under the name `payroll`.
fn describe(uri: &str, public_key: PublicKey) -> KeyDetails {
    KeyDetails {
        kas_uri: uri.into(),
        kid: "e1".into(),
        algorithm: P256,
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key,
        private_key: PrivateKeyRef { key_id: Some("payroll".to_owned()), wrapped_key: None },
        provider: Some(Arc::new(ProviderConfig {
            name: "main".to_owned(),
            manager: VAULT.to_owned(),
            config_json: "{}".to_owned(),
            version: 1,
        })),
    }
}

/// Does what a client does with a TDF, and checks that it gets the data key.
async fn ask(uri: &str, kas_key: &PublicKey) -> Result<(), Box<dyn StdError>> {
    let (dek, session) = (Dek::generate()?, PrivateKey::generate(P256)?);
    let body = body(uri, kas_key, &dek, &session.public_key())?;
    let mut request = Request::new(RewrapRequest { signed_request_token: sign(&body)? });
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer demo"));
    let mut client = AccessServiceClient::connect(uri.to_owned()).await?;
    let response = client.rewrap(request).await?.into_inner();
    let opened = session.unwrap_dek(&answer(response)?)?;
    if opened.expose_secret() == dek.expose_secret() {
        Ok(())
    } else {
        Err("the answer holds another data key".into())
    }
}

fn body(
    uri: &str,
    kas_key: &PublicKey,
    dek: &Dek,
    session: &PublicKey,
) -> Result<String, Box<dyn StdError>> {
    let WrappedDek::Ec { blob, ephemeral } = kas_key.wrap(dek)? else {
        return Err("the vault's key is an EC key".into());
    };
    let policy = json!({
        "uuid": "62c76c68-d73d-4628-8ccc-4c1e18118c22",
        "body": { "dataAttributes": [], "dissem": [] },
    });
    let policy = BASE64_STANDARD.encode(policy.to_string());
    let hash = BASE64_STANDARD.encode(binding::compute(dek, &policy).as_ref());
    let key_access = json!({
        "type": "ec-wrapped",
        "protocol": "kas",
        "url": uri,
        "kid": "e1",
        "wrappedKey": BASE64_STANDARD.encode(blob),
        "ephemeralPublicKey": PublicKey::Ec(ephemeral).to_pem(),
        "policyBinding": { "alg": "HS256", "hash": hash },
    });
    let body = json!({
        "clientPublicKey": session.to_pem(),
        "requests": [{
            "policy": { "id": "policy", "body": policy },
            "keyAccessObjects": [
                { "keyAccessObjectId": "kao-0", "keyAccessObject": key_access },
            ],
        }],
    });
    Ok(body.to_string())
}

/// The signed request token around `body`, under a key of the client's.
fn sign(body: &str) -> Result<String, Box<dyn StdError>> {
    let pem = PrivateKeyParts::generate(P256)?.to_pem()?;
    let key = EncodingKey::from_ec_pem(pem.as_bytes())?;
    Ok(jsonwebtoken::encode(&Header::new(Jws::ES256), &json!({ "requestBody": body }), &key)?)
}

/// The one data key in the answer, wrapped for the client's session key.
fn answer(response: RewrapResponse) -> Result<WrappedDek, Box<dyn StdError>> {
    let PublicKey::Ec(ephemeral) = PublicKey::from_pem(&response.session_public_key)? else {
        return Err("the session key is no EC key".into());
    };
    let policy = response.responses.into_iter().next().ok_or("no policy in the answer")?;
    let result = policy.results.into_iter().next().ok_or("no result in the answer")?;
    match result.result {
        Some(KaoResult::KasWrappedKey(blob)) => Ok(WrappedDek::Ec { blob, ephemeral }),
        Some(KaoResult::Error(error)) => Err(format!("refused: {error}").into()),
        None => Err("an empty result".into()),
    }
}
