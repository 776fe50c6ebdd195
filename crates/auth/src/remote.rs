//! Keys of an issuer that are fetched, and how old they may be.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kasbah_http::{
    Bytes, Full, Http, Request, RootCertStore, StatusCode, TlsError, Uri, authorities,
    client_config, header::ACCEPT,
};
use serde_json::{Map, Value};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    IssuerHealth, KeySetError, KeyState, Refusal, SetupError, TokenRules, json, keys::KeySet,
    metadata::Metadata,
};

/// An issuer that fails is left alone for this long.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Longest time to wait for what an issuer says of itself.
const METADATA_WAIT: Duration = Duration::from_secs(2);
/// Longest discovery document, in bytes.
const DISCOVERY_LIMIT: usize = 256 * 1024;
/// Longest key set, in bytes.
const JWKS_LIMIT: usize = 1024 * 1024;

/// Keys with their generation: other keys, another generation.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) set: KeySet,
    pub(crate) generation: u64,
}

impl Keys {
    pub(crate) fn first(set: KeySet) -> Self {
        Self { set, generation: 0 }
    }
}

/// The keys of an issuer elsewhere. Must be used on a Tokio runtime with time enabled.
pub(crate) struct Remote {
    issuer: String,
    location: Location,
    discovery: Http,
    jwks: Http,
    timeout: Duration,
    rules: TokenRules,
    state: Mutex<State>,
}

enum Location {
    Jwks(Uri),
    /// Of the discovery document.
    Discovery(Uri),
}

#[derive(Default)]
struct State {
    fetched: Option<Fetched>,
    /// Why the last fetch failed, and when, if it did.
    failure: Option<(Instant, Failure)>,
    /// When a fetch was last started because of an unknown `kid`.
    searched: Option<Instant>,
    /// Closed when the last fetch that was started has ended, however it did.
    flight: Option<Flight>,
}

type Flight = watch::Receiver<()>;

struct Fetched {
    keys: Arc<Keys>,
    metadata: Metadata,
    at: Instant,
}

/// Why keys cannot be had. The texts are for the log and quote nothing that the issuer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the fetch of the issuer's keys was abandoned")]
    Abandoned,
    #[error("the issuer's discovery document is not a JSON object with issuer and jwks_uri")]
    Discovery,
    #[error("the issuer's JWKS has two keys of one kid")]
    DuplicateKid,
    #[error("the issuer's JWKS is not a JSON Web Key Set")]
    Form,
    #[error("the issuer's jwks_uri is no https URL; http is for issuers with http alone")]
    JwksUri,
    #[error("a key of the issuer's JWKS has no kid and is not the only one")]
    MissingKid,
    #[error("the issuer's discovery document names another issuer")]
    OtherIssuer,
    #[error("the issuer did not answer with 200")]
    Status,
    #[error("the issuer did not answer in time")]
    Timeout,
    #[error("the issuer cannot be reached, or its answer cannot be read")]
    Unreachable,
}

impl From<KeySetError> for Failure {
    fn from(error: KeySetError) -> Self {
        match error {
            KeySetError::DuplicateKid => Self::DuplicateKid,
            KeySetError::MissingKid => Self::MissingKid,
            _ => Self::Form,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::unavailable(failure.to_string())
    }
}

impl Remote {
    pub(crate) fn new(
        issuer: String,
        jwks_uri: Option<Uri>,
        ca_file: Option<&Path>,
        timeout: Duration,
        rules: &TokenRules,
    ) -> Result<Self, SetupError> {
        let location = match jwks_uri {
            Some(uri) if is_trusted(&issuer, &uri) => Location::Jwks(uri),
            Some(_) => return Err(SetupError::JwksUri(issuer)),
            None => match discovery_uri(&issuer) {
                Some(uri) => Location::Discovery(uri),
                None => return Err(SetupError::IssuerUrl(issuer)),
            },
        };
        let roots = match authorities(ca_file) {
            // It works without https, and then a machine without authorities will do.
            Err(TlsError::Authorities(_)) if ca_file.is_none() && allows_http(&issuer) => {
                Ok(RootCertStore::empty())
            }
            roots => roots,
        };
        let tls = match roots.and_then(client_config) {
            Ok(tls) => tls,
            Err(source) => return Err(SetupError::Tls { issuer, source }),
        };
        Ok(Self {
            issuer,
            location,
            discovery: Http::new(tls.clone(), timeout, DISCOVERY_LIMIT),
            jwks: Http::new(tls, timeout, JWKS_LIMIT),
            timeout,
            rules: *rules,
            state: Mutex::default(),
        })
    }

    /// The keys that may be used now, if there are any. Starts fetching when they are missing or
    /// old.
    pub(crate) fn at_hand(self: &Arc<Self>) -> Option<Arc<Keys>> {
        self.look(&mut self.state())
    }

    /// The keys that may be used now; waits for them only if there are none.
    pub(crate) async fn current(self: &Arc<Self>) -> Result<Arc<Keys>, Failure> {
        let flight = {
            let mut state = self.state();
            if let Some(keys) = self.look(&mut state) {
                return Ok(keys);
            }
            self.fly(&mut state)?
        };
        landed(flight).await;
        self.outcome()
    }

    /// The keys after another look, for somebody who at `asked` began to look for one that is not
    /// among them. Those that are known if they are newer than that, or if there was such a look
    /// shortly before.
    pub(crate) async fn newer(self: &Arc<Self>, asked: Instant) -> Result<Arc<Keys>, Failure> {
        let flight = {
            let mut state = self.state();
            if state.fetched.as_ref().is_some_and(|fetched| fetched.at >= asked) {
                return self.usable(&state).ok_or(Failure::Abandoned);
            }
            let is_resting = |at: Instant| at.elapsed() < self.rules.unknown_kid_interval;
            let under_way = state.under_way().is_some();
            if !under_way && state.failure.is_none() && state.searched.is_some_and(is_resting) {
                return self.usable(&state).ok_or(Failure::Abandoned);
            }
            let flight = self.fly(&mut state)?;
            if !under_way {
                state.searched = Some(Instant::now());
            }
            flight
        };
        landed(flight).await;
        if let Some((_, failure)) = self.state().failure {
            return Err(failure);
        }
        self.outcome()
    }

    pub(crate) fn health(&self) -> IssuerHealth {
        let state = self.state();
        let age = state.fetched.as_ref().map(|fetched| fetched.at.elapsed());
        let keys = match self.usable(&state) {
            None => KeyState::Missing,
            Some(_) if age.is_some_and(|age| age < self.rules.refresh) => KeyState::Current,
            Some(_) => KeyState::Stale,
        };
        IssuerHealth { issuer: self.issuer.clone(), keys, age }
    }

    /// What the issuer last said of itself; only its name while it was never reached. Waits a moment if
    /// its keys are not at hand.
    pub(crate) async fn metadata(self: &Arc<Self>) -> Metadata {
        if self.at_hand().is_none() {
            // Whatever comes of it is seen below.
            let _ = time::timeout(METADATA_WAIT, self.current()).await;
        }
        match &self.state().fetched {
            Some(fetched) => fetched.metadata.clone(),
            None => Metadata::of_name(&self.issuer),
        }
    }

    fn look(self: &Arc<Self>, state: &mut State) -> Option<Arc<Keys>> {
        let age = state.fetched.as_ref().map(|fetched| fetched.at.elapsed());
        if age.is_none_or(|age| age >= self.rules.refresh) {
            // Whether it may ask and what comes of it is of no matter here.
            let _ = self.fly(state);
        }
        self.usable(state)
    }

    fn outcome(&self) -> Result<Arc<Keys>, Failure> {
        let state = self.state();
        let failure = state.failure.map_or(Failure::Abandoned, |(_, failure)| failure);
        self.usable(&state).ok_or(failure)
    }

    fn usable(&self, state: &State) -> Option<Arc<Keys>> {
        let fetched = state.fetched.as_ref()?;
        let is_usable = fetched.at.elapsed() < self.rules.stale_limit;
        is_usable.then(|| Arc::clone(&fetched.keys))
    }

    /// The fetch under way, or else a new one; neither while the issuer is left alone.
    fn fly(self: &Arc<Self>, state: &mut State) -> Result<Flight, Failure> {
        if let Some(flight) = state.under_way() {
            return Ok(flight);
        }
        if let Some((at, failure)) = state.failure
            && at.elapsed() < BACK_OFF
        {
            return Err(failure);
        }
        let (landing, flight) = watch::channel(());
        state.flight = Some(flight.clone());
        let remote = Arc::clone(self);
        // A task of its own, so that it ends whoever stops waiting for it.
        tokio::spawn(async move {
            remote.land(remote.fetch().await);
            drop(landing);
        });
        Ok(flight)
    }

    fn land(&self, outcome: Result<(KeySet, Metadata), (Failure, String)>) {
        let mut state = self.state();
        let before = state.failure.map(|(_, failure)| failure);
        match outcome {
            Ok((set, metadata)) => {
                if before.is_some() {
                    tracing::info!(issuer = self.issuer, "the issuer's keys can be fetched again");
                }
                state.failure = None;
                state.renew(set, metadata);
            }
            Err((failure, detail)) => {
                if before != Some(failure) {
                    tracing::warn!(issuer = self.issuer, detail, "{failure}");
                }
                state.failure = Some((Instant::now(), failure));
            }
        }
    }

    async fn fetch(&self) -> Result<(KeySet, Metadata), (Failure, String)> {
        let fetched = time::timeout(self.timeout, self.fetch_keys()).await;
        fetched.unwrap_or_else(|_| Err((Failure::Timeout, String::new())))
    }

    async fn fetch_keys(&self) -> Result<(KeySet, Metadata), (Failure, String)> {
        let (uri, metadata) = match &self.location {
            Location::Jwks(uri) => (uri.clone(), Metadata::of_name(&self.issuer)),
            Location::Discovery(uri) => {
                let document = get(&self.discovery, uri).await?;
                let read = read_discovery(&self.issuer, &document);
                read.map_err(|failure| (failure, uri.to_string()))?
            }
        };
        let set = KeySet::from_jwks(&get(&self.jwks, &uri).await?);
        let set = set.map_err(|error| (error.into(), uri.to_string()))?;
        Ok((set, metadata))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn under_way(&self) -> Option<Flight> {
        self.flight.clone().filter(|flight| flight.has_changed().is_ok())
    }

    fn renew(&mut self, set: KeySet, metadata: Metadata) {
        let at = Instant::now();
        let keys = match self.fetched.take().map(|fetched| fetched.keys) {
            Some(known) if known.set.is_same(&set) => known,
            known => {
                let generation = known.map_or(0, |known| known.generation + 1);
                Arc::new(Keys { set, generation })
            }
        };
        self.fetched = Some(Fetched { keys, metadata, at });
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.state().fetched.as_ref().map(|it| &it.keys)).finish()
    }
}

async fn landed(mut flight: Flight) {
    // Nothing is sent: it ends with an error when the sender is gone.
    let _ = flight.changed().await;
}

async fn get(http: &Http, uri: &Uri) -> Result<Bytes, (Failure, String)> {
    let request = Request::get(uri.clone()).header(ACCEPT, "application/json");
    let request = request.body(Full::default());
    let request = request.map_err(|error| (Failure::Unreachable, format!("{uri}: {error}")))?;
    match http.send(request).await {
        Ok((StatusCode::OK, body)) => Ok(body),
        Ok((status, _)) => Err((Failure::Status, format!("{uri}: {status}"))),
        Err(error) => Err((Failure::Unreachable, format!("{uri}: {error}"))),
    }
}

/// `OpenID` Connect Discovery 1.0, section 4.1.
fn discovery_uri(issuer: &str) -> Option<Uri> {
    if issuer.contains(['?', '#']) {
        return None;
    }
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let uri: Uri = format!("{base}/.well-known/openid-configuration").parse().ok()?;
    is_trusted(issuer, &uri).then_some(uri)
}

/// A discovery document, section 3: where the keys are, and what else clients may be told.
fn read_discovery(issuer: &str, document: &[u8]) -> Result<(Uri, Metadata), Failure> {
    let document = json::object(document).ok_or(Failure::Discovery)?;
    let uri = jwks_uri(issuer, &document)?;
    Ok((uri, Metadata::of_discovery(issuer, document)))
}

fn jwks_uri(issuer: &str, document: &Map<String, Value>) -> Result<Uri, Failure> {
    let text = |name| document.get(name).and_then(Value::as_str).ok_or(Failure::Discovery);
    if text("issuer")? != issuer {
        return Err(Failure::OtherIssuer);
    }
    let uri: Uri = text("jwks_uri")?.parse().map_err(|_| Failure::JwksUri)?;
    if is_trusted(issuer, &uri) { Ok(uri) } else { Err(Failure::JwksUri) }
}

/// Whether keys may come from there: by https, or by http if the issuer has that itself.
fn is_trusted(issuer: &str, uri: &Uri) -> bool {
    match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => uri.host().is_some() && allows_http(issuer),
        _ => false,
    }
}

fn allows_http(issuer: &str) -> bool {
    issuer.parse::<Uri>().is_ok_and(|issuer| issuer.scheme_str() == Some("http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_issuer_is_kept() {
        let discovery = |issuer| discovery_uri(issuer).map(|uri| uri.to_string());
        for (issuer, expected) in [
            ("https://a.example", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
            (
                "http://a.example:8080/realms/x",
                "http://a.example:8080/realms/x/.well-known/openid-configuration",
            ),
            ("https://a.example/x/", "https://a.example/x/.well-known/openid-configuration"),
        ] {
            assert_eq!(discovery(issuer).as_deref(), Some(expected));
        }
        for issuer in
            ["", "a.example", "/x", "ftp://a.example", "urn:a", "https://a/?x", "https://a#x"]
        {
            assert_eq!(discovery(issuer), None, "{issuer}");
        }
    }

    #[test]
    fn keys_of_an_https_issuer_come_by_https() {
        let read = |issuer: &str, uri: &str| {
            let document = serde_json::json!({ "issuer": issuer, "jwks_uri": uri });
            let read = read_discovery(issuer, document.to_string().as_bytes());
            read.map(|(uri, _)| uri.to_string())
        };
        for (issuer, uri) in [
            ("https://a.example", "https://keys.example/jwks"),
            ("http://a.example", "https://keys.example/jwks"),
            ("http://a.example", "http://keys.example/jwks"),
        ] {
            assert_eq!(read(issuer, uri).as_deref(), Ok(uri));
        }
        for uri in
            ["http://a.example/jwks", "/jwks", "file:///jwks", "ftp://a/jwks", "", "https:///"]
        {
            assert_eq!(read("https://a.example", uri), Err(Failure::JwksUri), "{uri}");
        }
    }

    #[test]
    fn a_discovery_document_is_the_issuers_own() {
        let issuer = "https://a.example";
        let read = |document: &str| {
            read_discovery(issuer, document.as_bytes()).map(|(uri, _)| uri.to_string())
        };
        for other in ["https://b.example", "https://a.example/", "HTTPS://a.example", ""] {
            let document = serde_json::json!({ "issuer": other, "jwks_uri": "https://a.example/" });
            assert_eq!(read(&document.to_string()), Err(Failure::OtherIssuer), "{other}");
        }
        for document in [
            "[]",
            "{",
            r#"{"jwks_uri":"https://a.example/"}"#,
            r#"{"issuer":"https://a.example"}"#,
            r#"{"issuer":["https://a.example"],"jwks_uri":"https://a.example/"}"#,
            r#"{"issuer":"https://a.example","jwks_uri":7}"#,
            r#"{"issuer":"https://b.example","issuer":"https://a.example","jwks_uri":"https://a.example/"}"#,
        ] {
            assert_eq!(read(document), Err(Failure::Discovery), "{document}");
        }
    }
}
