//! Connections: accepted, driven, and ended when nothing happens on them.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Extensions, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prost_reflect::DescriptorPool;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::{service::Routes, transport::server::Connected};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{
    AsSent, Call, Cors, EdgeLimits, Guard, Tls,
    fair::Fair,
    front::Front,
    methods::methods,
    quiet::{Activity, Held},
};

/// The descriptors of services are none.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the services cannot be used")]
pub struct DescriptorError(#[from] prost_reflect::DescriptorError);

/// How long a connection may take to close once it was asked to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait when a connection cannot be accepted, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a connection is asked whether its client is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// Smallest buffer that HTTP/1.1 can work with.
const MIN_HTTP1_BUFFER: usize = 8192;

/// Everything behind a connection.
type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Serves services on one port in every protocol.
pub struct Edge {
    front: Arc<Front>,
    http: Router,
    cors: Option<Cors>,
    prefix: Option<String>,
    tls: Option<Tls>,
    limits: EdgeLimits,
}

impl Edge {
    /// Serves, by `routes`, the services with these full names. `descriptors` are
    /// `google.protobuf.FileDescriptorSet`s that describe them.
    ///
    /// # Errors
    /// When the descriptors are none.
    pub fn new(
        routes: Routes,
        services: &[&str],
        descriptors: &[&[u8]],
        guard: Arc<dyn Guard>,
        limits: EdgeLimits,
    ) -> Result<Self, DescriptorError> {
        let mut pool = DescriptorPool::new();
        for set in descriptors {
            pool.decode_file_descriptor_set(*set)?;
        }
        let front = Arc::new(Front::new(routes, methods(&pool, services), guard, &limits));
        Ok(Self { front, http: Router::new(), cors: None, prefix: None, tls: None, limits })
    }

    /// Calls the services from inside.
    pub fn call(&self) -> Call {
        Call(Arc::clone(&self.front))
    }

    /// Serves plain routes too. The guard does not look at them.
    #[must_use]
    pub fn http(mut self, router: Router) -> Self {
        self.http = self.http.merge(router);
        self
    }

    /// Lets pages of other origins call.
    #[must_use]
    pub fn cors(self, cors: Option<Cors>) -> Self {
        Self { cors, ..self }
    }

    /// Serves every method below a path such as `/kas`, too.
    #[must_use]
    pub fn prefix(self, prefix: Option<String>) -> Self {
        Self { prefix, ..self }
    }

    /// Serves by TLS.
    #[must_use]
    pub fn tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves `listener` until `shutdown` completes; then accepts nothing new and lets requests under
    /// way finish. Whoever does not want to wait for them drops the future.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        let tls = self.tls.map(Arc::new);
        let mut tasks = JoinSet::new();
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).watch());
        }
        let app = app(self.front, self.http, self.cors.as_ref(), self.prefix);
        let (stop, stopping) = watch::channel(false);
        let door = Arc::new(Door { app, tls, limits: self.limits, stopping });
        let slots = Arc::new(Semaphore::new(door.limits.connections.min(Semaphore::MAX_PERMITS)));
        let accepting = async {
            // Never closed.
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                while tasks.try_join_next().is_some() {}
                let Some(stream) = accept(&listener).await else { continue };
                let door = Arc::clone(&door);
                tasks.spawn(async move {
                    door.connection(stream).await;
                    drop(slot);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
        drop((listener, door));
        let _ = stop.send(true);
        // The receivers are with the connections.
        stop.closed().await;
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("limits", &self.limits).finish_non_exhaustive()
    }
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small: held back until the client acknowledges what came before, each
            // would take 40 ms longer.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What all connections share.
struct Door {
    app: App,
    tls: Option<Arc<Tls>>,
    limits: EdgeLimits,
    stopping: watch::Receiver<bool>,
}

impl Door {
    async fn connection(&self, stream: TcpStream) {
        let mut about = Extensions::new();
        about.insert(stream.connect_info());
        let Some(tls) = &self.tls else {
            self.drive(stream, about).await;
            return;
        };
        let handshake = TlsAcceptor::from(tls.current()).accept(stream);
        // Scanners fail here all day: not worth a line in the log.
        let Ok(Ok(stream)) = timeout(self.limits.first_request_timeout, handshake).await else {
            return;
        };
        about.insert(stream.connect_info());
        self.drive(stream, about).await;
    }

    /// `about` goes with each request of the connection.
    async fn drive<S>(&self, stream: S, about: Extensions)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Activity::new();
        let service = TowerToHyperService::new(self.service(&activity, about));
        let builder = self.builder();
        let connection = builder.serve_connection(TokioIo::new(Fair::new(stream)), service);
        tokio::pin!(connection);
        let mut stopping = self.stopping.clone();
        tokio::select! {
            // What went wrong with a connection is its client's business.
            _ = connection.as_mut() => return,
            () = activity.too_quiet(&self.limits) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = activity.quiet_for(CLOSE_TIMEOUT) => {}
        }
    }

    fn service(
        &self,
        activity: &Arc<Activity>,
        about: Extensions,
    ) -> BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible> {
        let (app, activity) = (self.app.clone(), Arc::clone(activity));
        BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
            let (app, busy) = (app.clone(), activity.request());
            let mut request = request.map(Body::new);
            request.extensions_mut().extend(about.clone());
            async move {
                let response = app.oneshot(request).await?;
                Ok(response.map(|body| Body::new(Held::new(body, busy))))
            }
        }))
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let limits = &self.limits;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout)
            .max_buf_size((limits.header_bytes as usize).max(MIN_HTTP1_BUFFER));
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.header_bytes);
        builder
    }
}

fn app(front: Arc<Front>, http: Router, cors: Option<&Cors>, prefix: Option<String>) -> App {
    let fallback = Arc::clone(&front);
    let mut router = http.fallback_service(service_fn(move |request: Request<Body>| {
        let front = Arc::clone(&fallback);
        async move { Ok::<_, Infallible>(front.call(request).await) }
    }));
    if let Some(cors) = cors {
        router = router.layer(cors.layer());
    }
    BoxCloneSyncService::new(router.into_service().map_request(move |request| match &prefix {
        Some(prefix) => without_prefix(request, prefix, &front),
        None => request,
    }))
}

/// Takes a prefix off the path of a call.
fn without_prefix(mut request: Request<Body>, prefix: &str, front: &Front) -> Request<Body> {
    let Some(path) = request.uri().path().strip_prefix(prefix).filter(|path| front.serves(path))
    else {
        return request;
    };
    let sent = AsSent { method: request.method().clone(), path: request.uri().path().to_owned() };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(uri) = format!("{path}{query}").parse::<Uri>() else { return request };
    *request.uri_mut() = uri;
    request.extensions_mut().insert(sent);
    request
}
