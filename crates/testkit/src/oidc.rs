//! An OIDC issuer of a test's own.
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header};
pub use kasbah_issuer::{Client, Issuer, Settings, SigningAlgorithm, SigningKeys, TokenType};
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// `aud` of its tokens.
pub const AUDIENCE: &str = "http://localhost:8080";
/// The client that it has from the start.
pub const CLIENT_ID: &str = "opentdf";
/// Secret of that client.
pub const CLIENT_SECRET: &str = "secret";
/// Length of [`Fault::OversizedJwks`], in bytes, at least.
pub const OVERSIZED: usize = 4 * 1024 * 1024;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The real issuer of this workspace on a port of its own, with faults injected in front of it:
/// where a [`Fault`] is set it is a fake, and shows only how clients of an issuer behave.
///
/// Ends when this is dropped. Needs a Tokio runtime with time and I/O.
pub struct TestIssuer {
    issuer: Arc<Issuer>,
    front: Arc<Front>,
    address: SocketAddr,
    running: Option<Running>,
    /// Bound but never listening, so that nobody else takes the port while this is stopped.
    _reserved: TcpSocket,
}

/// What goes wrong until another fault, or none, is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The key set is not JSON.
    GarbageJwks,
    /// Discovery names another issuer, everything else is right.
    OtherIssuer,
    /// The key set is right, and [`OVERSIZED`].
    OversizedJwks,
    /// Everything is found elsewhere (302), at a URL that answers rightly.
    Redirect,
    /// Every answer is 500.
    ServerError,
    /// Every answer takes this long.
    Slow(Duration),
}

/// How many requests came, whatever was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetches {
    /// Of the discovery document.
    pub discovery: usize,
    /// Of the key set.
    pub jwks: usize,
    /// Of tokens.
    pub tokens: usize,
}

impl TestIssuer {
    /// An issuer that accepts connections.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// An issuer of other settings.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let reserved = bound((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = reserved.local_addr().expect("a bound socket has an address");
        let keys = SigningKeys::generate().expect("keys");
        let mut settings = Settings::new(address, vec![AUDIENCE.to_owned()], keys);
        change(&mut settings);
        let issuer = Arc::new(Issuer::new(settings).expect("good settings"));
        let front = Arc::new(Front::new(Arc::clone(&issuer)));
        let mut this = Self { issuer, front, address, running: None, _reserved: reserved };
        this.add_client(CLIENT_ID, CLIENT_SECRET, &json!({}));
        this.start_again().await;
        this
    }

    /// `iss` of its tokens; the same for the life of this value.
    pub fn issuer_url(&self) -> &str {
        self.issuer.url()
    }

    /// The issuer behind the faults.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Adds a client whose tokens get `claims`, an object.
    ///
    /// # Panics
    /// When the id or the secret is empty, or `claims` no object.
    pub fn add_client(&self, id: &str, secret: &str, claims: &Value) {
        let claims = claims.as_object().expect("claims are an object").clone();
        let client = Client { id: id.to_owned(), secret: secret.into(), claims };
        self.issuer.add_client(client).expect("a client with id and secret");
    }

    /// A token for anybody, without asking: `iss`, `aud`, `iat` now and `exp` in five minutes as a
    /// verifier wants them, changed by `claims`, an object; null removes a claim.
    ///
    /// # Panics
    /// When `claims` is no object.
    pub fn token(&self, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let now = now.as_secs();
        let all = json!({
            "iss": self.issuer_url(), "aud": AUDIENCE, "sub": CLIENT_ID,
            "iat": now, "exp": now + 300,
        });
        let Value::Object(mut all) = all else { unreachable!("it is an object") };
        all.extend(claims.as_object().expect("claims are an object").clone());
        let all: Map<_, _> = all.into_iter().filter(|(_, value)| !value.is_null()).collect();
        self.issuer.sign(&all).expect("signing works")
    }

    /// Sets what goes wrong from now on; `None` for nothing.
    pub fn set_fault(&self, fault: impl Into<Option<Fault>>) {
        *self.front.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.into();
    }

    /// Signs with fresh keys from now on. Those before stay in the key set until the next time.
    ///
    /// # Panics
    /// When keys cannot be made.
    pub fn rotate(&self) {
        self.issuer.rotate(SigningKeys::generate().expect("keys"));
    }

    /// Closes the port and all connections; requests are refused until it is started again. Does
    /// nothing when it is stopped.
    ///
    /// # Panics
    /// When the server has panicked.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.stop);
            running.task.await.expect("the server ends");
        }
    }

    /// Starts a stopped issuer on the port that it had. Does nothing when it runs.
    ///
    /// # Panics
    /// When the port cannot be had.
    pub async fn start_again(&mut self) {
        if self.running.is_some() {
            return;
        }
        let listener = timeout(PATIENCE, listen(self.address)).await.expect("its own port");
        let front = Arc::clone(&self.front);
        let answer = move |request| {
            let front = Arc::clone(&front);
            async move { front.answer(request).await }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(kasbah_issuer::serve(listener, answer, stopped));
        self.running = Some(Running { stop, task });
    }

    /// Requests so far.
    pub fn fetches(&self) -> Fetches {
        Fetches {
            discovery: self.front.discovery.load(Relaxed),
            jwks: self.front.jwks.load(Relaxed),
            tokens: self.front.tokens.load(Relaxed),
        }
    }
}

/// Stops when it is dropped.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What stands in front of the issuer.
struct Front {
    issuer: Arc<Issuer>,
    fault: Mutex<Option<Fault>>,
    discovery: AtomicUsize,
    jwks: AtomicUsize,
    tokens: AtomicUsize,
}

enum Page {
    Discovery,
    Jwks,
    Other,
    Token,
}

impl Front {
    fn new(issuer: Arc<Issuer>) -> Self {
        let [discovery, jwks, tokens] = std::array::from_fn(|_| AtomicUsize::new(0));
        Self { issuer, fault: Mutex::new(None), discovery, jwks, tokens }
    }

    async fn answer(&self, request: Request<Incoming>) -> kasbah_issuer::Answer {
        let page = self.count(request.uri().path());
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match (fault, page) {
            (Some(Fault::ServerError), _) => {
                with_status(StatusCode::INTERNAL_SERVER_ERROR, "an injected fault".to_owned())
            }
            (Some(Fault::Redirect), _) if request.uri().query() != Some(FOLLOWED) => {
                let mut answer = with_status(StatusCode::FOUND, String::new());
                let there = format!("{}?{FOLLOWED}", request.uri().path());
                let there = there.parse().expect("a path is a header value");
                answer.headers_mut().insert(header::LOCATION, there);
                answer
            }
            (Some(Fault::GarbageJwks), Page::Jwks) => {
                with_status(StatusCode::OK, "{\"keys\":[".to_owned())
            }
            (Some(Fault::OversizedJwks), Page::Jwks) => {
                let mut keys = self.issuer.jwks();
                keys["padding"] = "x".repeat(OVERSIZED).into();
                with_status(StatusCode::OK, keys.to_string())
            }
            (Some(Fault::OtherIssuer), Page::Discovery) => {
                let issuer = self.issuer.url();
                let other = json!({
                    "issuer": format!("{issuer}-of-somebody-else"),
                    "jwks_uri": self.issuer.jwks_url(),
                    "token_endpoint": self.issuer.token_url(),
                    "subject_types_supported": ["public"],
                });
                with_status(StatusCode::OK, other.to_string())
            }
            (Some(Fault::Slow(time)), _) => {
                sleep(time).await;
                self.issuer.answer(request).await
            }
            _ => self.issuer.answer(request).await,
        }
    }

    fn count(&self, path: &str) -> Page {
        let (page, counter) = if path.contains("/.well-known/") {
            (Page::Discovery, &self.discovery)
        } else if self.issuer.jwks_url().ends_with(path) {
            (Page::Jwks, &self.jwks)
        } else if self.issuer.token_url().ends_with(path) {
            (Page::Token, &self.tokens)
        } else {
            return Page::Other;
        };
        counter.fetch_add(1, Relaxed);
        page
    }
}

/// The query of what was redirected.
const FOLLOWED: &str = "followed";

fn with_status(status: StatusCode, body: String) -> kasbah_issuer::Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

/// A socket that others may be bound beside.
fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Waits until the port can be listened on.
async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        if let Ok(listener) = bound(address).and_then(|socket| socket.listen(1024)) {
            return listener;
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use kasbah_http::{Bytes, Http, Request, RootCertStore, StatusCode, client_config};
    use serde_json::Value;

    use super::*;

    /// Asks as often as it is told to; opens a connection each time, as a restarted issuer needs.
    async fn get(url: &str) -> Result<(StatusCode, Bytes), String> {
        let tls = client_config(RootCertStore::empty()).unwrap();
        let http = Http::new(tls, PATIENCE, 2 * OVERSIZED);
        http.send(Request::get(url).body(kasbah_http::Full::default()).unwrap()).await
    }

    async fn found(url: &str) -> Value {
        let (status, body) = get(url).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    fn discovery(issuer: &TestIssuer) -> String {
        format!("{}/.well-known/openid-configuration", issuer.issuer_url())
    }

    #[tokio::test]
    async fn faults_come_and_go() {
        let issuer = TestIssuer::start().await;
        let (document, keys) = (discovery(&issuer), issuer.issuer().jwks_url().to_owned());
        let right = (found(&document).await, found(&keys).await);

        issuer.set_fault(Fault::ServerError);
        for url in [&document, &keys] {
            assert_eq!(get(url).await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
        }
        issuer.set_fault(Fault::Redirect);
        for url in [&document, &keys] {
            assert_eq!(get(url).await.unwrap().0, StatusCode::FOUND);
        }
        assert_eq!(found(&format!("{keys}?{FOLLOWED}")).await, right.1, "to where it leads");
        issuer.set_fault(Fault::GarbageJwks);
        serde_json::from_slice::<Value>(&get(&keys).await.unwrap().1).expect_err("no JSON");
        assert_eq!(found(&document).await, right.0);
        issuer.set_fault(Fault::OversizedJwks);
        let oversized = get(&keys).await.unwrap().1;
        assert!(oversized.len() > OVERSIZED);
        let oversized: Value = serde_json::from_slice(&oversized).unwrap();
        assert_eq!(oversized["keys"], right.1["keys"], "nothing else is wrong with it");
        issuer.set_fault(Fault::OtherIssuer);
        let other = found(&document).await;
        assert_ne!(other["issuer"], right.0["issuer"]);
        assert_eq!(other["jwks_uri"], right.0["jwks_uri"]);
        issuer.set_fault(Fault::Slow(Duration::from_hours(1)));
        timeout(Duration::from_millis(100), get(&keys)).await.expect_err("it waits");

        issuer.set_fault(None);
        assert_eq!((found(&document).await, found(&keys).await), right);
        assert_eq!(issuer.fetches(), Fetches { discovery: 6, jwks: 8, tokens: 0 });
    }

    #[tokio::test]
    async fn it_stops_and_comes_back() {
        let mut issuer = TestIssuer::start().await;
        let (url, keys) = (discovery(&issuer), issuer.issuer().jwks());
        for _ in 0..3 {
            found(&url).await;
            issuer.stop().await;
            get(&url).await.expect_err("nobody listens");
            issuer.start_again().await;
        }
        assert_eq!(found(issuer.issuer().jwks_url()).await, keys);
    }

    #[tokio::test]
    async fn claims_change_a_token() {
        let issuer = TestIssuer::start().await;
        let token = issuer.token(&json!({ "sub": "alice", "aud": null }));
        let kid = |token: &str| part(token, 0)["kid"].as_str().unwrap().to_owned();
        let claims = part(&token, 1);
        assert_eq!((&claims["sub"], &claims["aud"]), (&json!("alice"), &Value::Null));
        assert_eq!(claims["iss"], issuer.issuer_url());
        issuer.rotate();
        assert_ne!(kid(&token), kid(&issuer.token(&json!({}))));
    }

    fn part(token: &str, number: usize) -> Value {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let part = token.split('.').nth(number).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }
}
