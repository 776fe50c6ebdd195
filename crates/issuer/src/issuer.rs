use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    Client, KeysError, SigningAlgorithm, SigningKeys, client::Clients, dpop::Used,
    endpoints::Endpoints, serve::serve,
};

/// `typ` in the header of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenType {
    /// `at+jwt` (RFC 9068).
    #[default]
    AccessToken,
    /// `JWT`, as Keycloak has it.
    Jwt,
}

/// What an issuer is made of.
pub struct Settings {
    /// Where it is reached: a loopback address, with the port that it listens on.
    pub address: SocketAddr,
    /// `aud` of its tokens.
    pub audience: Vec<String>,
    /// How long its tokens are good for; whole seconds count.
    pub lifetime: Duration,
    /// `typ` of its tokens.
    pub token_type: TokenType,
    /// What signs its tokens; the key set always has keys of all algorithms.
    pub algorithm: SigningAlgorithm,
    /// Its keys.
    pub keys: SigningKeys,
}

impl Settings {
    /// RS256 and `at+jwt`, good for five minutes.
    pub fn new(address: SocketAddr, audience: Vec<String>, keys: SigningKeys) -> Self {
        Self {
            address,
            audience,
            lifetime: Duration::from_mins(5),
            token_type: TokenType::default(),
            algorithm: SigningAlgorithm::default(),
            keys,
        }
    }
}

/// Settings that an issuer refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// A client needs both an id and a secret.
    #[error("a client needs an id and a secret, and neither may be empty")]
    Client,
    /// Without TLS, secrets and tokens may not leave the machine.
    #[error("{0} is no loopback address; this issuer is for development on one machine")]
    NotLoopback(SocketAddr),
}

/// Gives access tokens to clients.
pub struct Issuer {
    pub(crate) endpoints: Endpoints,
    pub(crate) clients: RwLock<Clients>,
    pub(crate) used: Used,
    pub(crate) lifetime: u64,
    address: SocketAddr,
    audience: Vec<String>,
    token_type: TokenType,
    algorithm: SigningAlgorithm,
    keys: RwLock<Keys>,
}

struct Keys {
    current: SigningKeys,
    /// Public keys of the generation before, for tokens that are still about.
    before: Vec<Value>,
}

impl Issuer {
    /// An issuer without clients.
    ///
    /// # Errors
    /// [`IssuerError::NotLoopback`]
    pub fn new(settings: Settings) -> Result<Self, IssuerError> {
        if !settings.address.ip().is_loopback() {
            return Err(IssuerError::NotLoopback(settings.address));
        }
        Ok(Self {
            endpoints: Endpoints::new(settings.address),
            clients: RwLock::default(),
            used: Used::default(),
            lifetime: settings.lifetime.as_secs(),
            address: settings.address,
            audience: settings.audience,
            token_type: settings.token_type,
            algorithm: settings.algorithm,
            keys: RwLock::new(Keys { current: settings.keys, before: Vec::new() }),
        })
    }

    /// `iss` of its tokens, `http://ADDRESS:PORT/auth/realms/opentdf`; discovery is at
    /// `/.well-known/openid-configuration` behind it.
    pub fn url(&self) -> &str {
        &self.endpoints.issuer
    }

    /// URL of the token endpoint.
    pub fn token_url(&self) -> &str {
        &self.endpoints.token
    }

    /// URL of the key set.
    pub fn jwks_url(&self) -> &str {
        &self.endpoints.jwks
    }

    /// Adds a client, or replaces the one of the same id.
    ///
    /// # Errors
    /// [`IssuerError::Client`]
    pub fn add_client(&self, client: Client) -> Result<(), IssuerError> {
        if client.id.is_empty() || client.secret.expose_secret().is_empty() {
            return Err(IssuerError::Client);
        }
        self.clients.write().unwrap_or_else(PoisonError::into_inner).insert(client);
        Ok(())
    }

    /// The key set (RFC 7517, section 5) that verifies its tokens: its keys, and those before the
    /// last rotation.
    pub fn jwks(&self) -> Value {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = keys.current.public().into_iter().chain(keys.before.clone()).collect();
        json!({ "keys": all })
    }

    /// Signs with `keys` from now on. The public keys until now stay in the key set until the next
    /// rotation.
    pub fn rotate(&self, keys: SigningKeys) {
        let mut now = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let before = now.current.public().into();
        *now = Keys { current: keys, before };
    }

    /// A compact JWS over any claims, with the header that its tokens have.
    ///
    /// # Errors
    /// [`KeysError::Failed`]
    pub fn sign(&self, claims: &Map<String, Value>) -> Result<String, KeysError> {
        let typ = match self.token_type {
            TokenType::AccessToken => "at+jwt",
            TokenType::Jwt => "JWT",
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.current.sign(self.algorithm, typ, claims)
    }

    /// An access token for a client, with `claims` as those of a [`Client`]. Bound to the key of
    /// the RFC 7638 thumbprint `bound_to`, if there is one.
    ///
    /// # Errors
    /// [`KeysError::Failed`]
    pub fn token(
        &self,
        client_id: &str,
        claims: Map<String, Value>,
        bound_to: Option<&str>,
    ) -> Result<String, KeysError> {
        let issued = now();
        let own = [
            ("iss", self.url().into()),
            ("iat", issued.into()),
            ("exp", issued.saturating_add(self.lifetime).into()),
            ("jti", Uuid::new_v4().to_string().into()),
            ("azp", client_id.into()),
            ("client_id", client_id.into()),
        ];
        let mut all = Map::new();
        all.insert("aud".to_owned(), self.audience.clone().into());
        all.insert("sub".to_owned(), client_id.into());
        all.insert("preferred_username".to_owned(), format!("service-account-{client_id}").into());
        all.extend(claims);
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        all.remove("cnf");
        if let Some(thumbprint) = bound_to {
            all.insert("cnf".to_owned(), json!({ "jkt": thumbprint }));
        }
        self.sign(&all)
    }

    /// Serves on `listener` until `shutdown` completes.
    ///
    /// # Errors
    /// When `listener` has another address than the settings.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        if listener.local_addr()? != self.address {
            let error = "the listener has another address than the issuer's settings";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let answer = move |request| {
            let issuer = Arc::clone(&self);
            async move { issuer.answer(request).await }
        };
        serve(listener, answer, shutdown).await;
        Ok(())
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
