use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kasbah_auth::{IssuerSettings, KeySource};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{self, Instant},
};

use crate::signer::{Signer, jwks};

/// An issuer that serves its discovery document and its keys on a loopback address, with a path;
/// and that fails as it is told.
pub(crate) struct Idp {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    state: Mutex<State>,
    discoveries: AtomicUsize,
    fetches: AtomicUsize,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

struct State {
    document: String,
    jwks: Answer,
    discovery: Answer,
}

/// How it answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// As an issuer does.
    Good,
    /// With this status and body.
    With(u16, Bytes),
    /// Never.
    Silent,
}

impl Idp {
    pub(crate) async fn new(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { document: jwks(signers), jwks: Answer::Good, discovery: Answer::Good };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            discoveries: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        tokio::spawn(serve(listener, address, Arc::clone(&shared)));
        Self { shared, address }
    }

    pub(crate) fn issuer(&self) -> String {
        issuer(self.address)
    }

    pub(crate) fn settings(&self) -> IssuerSettings {
        IssuerSettings {
            issuer: self.issuer(),
            audience: "kasbah".to_owned(),
            algorithms: Vec::new(),
            keys: KeySource::Discovery {
                jwks_uri: None,
                ca_file: None,
                timeout: Duration::from_secs(20),
            },
        }
    }

    /// Has these keys from now on.
    pub(crate) fn rotate(&self, signers: &[&Signer]) {
        self.shared.state.lock().unwrap().document = jwks(signers);
    }

    pub(crate) fn answer_jwks(&self, answer: Answer) {
        self.shared.state.lock().unwrap().jwks = answer;
    }

    pub(crate) fn answer_discovery(&self, answer: Answer) {
        self.shared.state.lock().unwrap().discovery = answer;
    }

    /// Takes requests and answers them when it is told not to hold any more.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    pub(crate) fn jwks_uri(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// How often its keys were asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// How often it was discovered.
    pub(crate) fn discoveries(&self) -> usize {
        self.shared.discoveries.load(Ordering::SeqCst)
    }
}

fn issuer(address: SocketAddr) -> String {
    format!("http://{address}/realms/one")
}

async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(request, address, Arc::clone(&shared)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (answer, good) = match request.uri().path() {
        "/realms/one/.well-known/openid-configuration" => {
            shared.discoveries.fetch_add(1, Ordering::SeqCst);
            let document = json!({
                "issuer": issuer(address), "jwks_uri": format!("http://{address}/keys"),
            });
            (shared.state.lock().unwrap().discovery.clone(), document.to_string())
        }
        "/keys" => {
            shared.fetches.fetch_add(1, Ordering::SeqCst);
            let state = shared.state.lock().unwrap();
            (state.jwks.clone(), state.document.clone())
        }
        path => panic!("asked for {path}"),
    };
    shared.held.subscribe().wait_for(|held| !held).await.unwrap();
    let (status, body) = match answer {
        Answer::Good => (200, good.into()),
        Answer::With(status, body) => (status, body),
        Answer::Silent => pending().await,
    };
    let response = Response::builder().status(status);
    // Where a redirect would lead: to keys that are good.
    let response = response.header("location", format!("http://{address}/keys"));
    Ok(response.body(Full::new(body)).unwrap())
}

/// Moves the clock. Only for runtimes of one thread.
pub(crate) async fn later(duration: Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}

/// Waits until it is so.
pub(crate) async fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_mins(1), "it never happened");
        time::sleep(Duration::from_millis(5)).await;
    }
}
