//! One request, from its header to its answer.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use connectrpc::{
    CompressionPolicy, ConnectRpcBody, ConnectRpcService, DeadlinePolicy, Limits, Protocol,
};
use http::{HeaderMap, Method, Request, Response, Version, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use kasbah_telemetry::{instruments, set_parent};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tonic::{Status, async_trait, service::Routes};
use tower::{ServiceExt, util::BoxCloneSyncService};
use tracing::Instrument;

use crate::{
    EdgeLimits,
    bridge::Bridge,
    budget::{Counted, Share},
    error::error_response,
    methods::{self, Methods},
};

/// gRPC services in this process.
pub(crate) type Services =
    BoxCloneSyncService<Request<tonic::body::Body>, Response<tonic::body::Body>, Infallible>;

/// How much of the body of a refused call is read and thrown away, in bytes, and how long it may take.
const DISCARDED: usize = 64 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Decides who may call, before anything of a body is read.
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Lets a call in, and leaves in its extensions what services want to know of the caller.
    /// The path is `/package.Service/Method`; if the client sent another one, or another HTTP
    /// method than `parts` has, [`AsSent`] is in the extensions. Gives headers for the answer.
    ///
    /// # Errors
    /// What the client is told; the metadata become headers.
    async fn admit(&self, parts: &mut Parts) -> Result<HeaderMap, Status>;

    /// Whether anybody may call this path. Such calls have small messages.
    fn is_open(&self, path: &str) -> bool;
}

/// Lets everybody call everything.
#[derive(Debug, Clone, Copy)]
pub struct Open;

#[async_trait]
impl Guard for Open {
    async fn admit(&self, _: &mut Parts) -> Result<HeaderMap, Status> {
        Ok(HeaderMap::new())
    }

    fn is_open(&self, _: &str) -> bool {
        false
    }
}

/// What the client sent, in the extensions of a request that was rewritten.
#[derive(Debug, Clone)]
pub struct AsSent {
    /// HTTP method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
}

/// In the extensions of a request: answers in JSON have members that are unset, too.
#[derive(Debug, Clone, Copy)]
pub struct WholeMessages;

/// Calls services as clients of the edge do, from inside of it.
#[derive(Clone)]
pub struct Call(pub(crate) Arc<Front>);

impl Call {
    /// Makes a call in any of the protocols.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.0.call(request).await
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// All services, in all protocols.
pub(crate) struct Front {
    runtime: ConnectRpcService<Bridge>,
    services: Services,
    methods: Arc<Methods>,
    guard: Arc<dyn Guard>,
    calls: Semaphore,
    body_bytes: Arc<Semaphore>,
}

impl Front {
    pub(crate) fn new(
        routes: Routes,
        mut methods: Methods,
        guard: Arc<dyn Guard>,
        limits: &EdgeLimits,
    ) -> Self {
        let services: Services = BoxCloneSyncService::new(routes);
        for (path, method) in &mut methods {
            if guard.is_open(&format!("/{path}")) {
                method.runtime = method.runtime.with_limits(sizes(limits.open_message_bytes));
            }
        }
        let methods = Arc::new(methods);
        let bridge = Bridge { services: services.clone(), methods: Arc::clone(&methods) };
        let deadlines = DeadlinePolicy::new()
            .with_max(limits.call_timeout)
            .with_default_timeout(limits.call_timeout);
        let runtime = ConnectRpcService::new(bridge)
            .with_limits(sizes(limits.message_bytes))
            .with_compression_policy(CompressionPolicy::default())
            .with_deadline_policy(deadlines);
        Self {
            runtime,
            services,
            methods,
            guard,
            calls: Semaphore::new(limits.calls.min(Semaphore::MAX_PERMITS)),
            body_bytes: Arc::new(Semaphore::new(limits.body_bytes.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Whether there is a method of this path.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.strip_prefix('/').is_some_and(|path| self.methods.contains_key(path))
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let _in_flight = instruments().call_in_flight();
        let protocol = protocol(&request);
        let path = request.uri().path();
        let method = if self.serves(path) { path } else { "unknown" };
        let span = tracing::info_span!(
            "request",
            otel.kind = "server",
            rpc.system = protocol,
            rpc.method = method
        );
        set_parent(&span, request.headers());
        let response = self.answer(request).instrument(span).await;
        instruments().http(protocol, response.status().as_u16(), started.elapsed());
        response
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let Admitted { method, headers, _slot } = match self.admit(&mut parts).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                discard(&parts, body).await;
                return refusal;
            }
        };
        let mut response = if method.is_unary || !is_grpc(&parts.headers) {
            self.unary(parts, body).await
        } else {
            self.streaming(Request::from_parts(parts, body)).await
        };
        response.headers_mut().extend(headers);
        response
    }

    /// Lets a call in, or refuses it, by what comes before its body.
    async fn admit(&self, parts: &mut Parts) -> Result<Admitted<'_>, Response<Body>> {
        let path = parts.uri.path();
        let Some(method) = self.methods.get(path.strip_prefix('/').unwrap_or(path)) else {
            // It says so in the client's protocol.
            let head = Request::from_parts(parts.clone(), Body::empty());
            return Err(self.by_runtime(head).await);
        };
        let Ok(slot) = self.calls.try_acquire() else {
            let busy = Status::resource_exhausted("server busy");
            return Err(error_response(&busy, &parts.headers));
        };
        match self.guard.admit(parts).await {
            Ok(headers) => Ok(Admitted { method, headers, _slot: slot }),
            Err(status) => Err(error_response(&status, &parts.headers)),
        }
    }

    async fn unary(&self, parts: Parts, body: Body) -> Response<Body> {
        let share = Share::of(&self.body_bytes);
        let request_headers = parts.headers.clone();
        let body = Body::new(Counted::new(body, Arc::clone(&share)));
        let response = self.by_runtime(Request::from_parts(parts, body)).await;
        if share.was_refused() {
            return error_response(&Status::resource_exhausted("server busy"), &request_headers);
        }
        response
    }

    async fn by_runtime(&self, request: Request<Body>) -> Response<Body> {
        match self.runtime.clone().oneshot(request).await {
            Ok(response) => response.map(sized),
            Err(never) => match never {},
        }
    }

    /// The runtime carries unary calls; streams of gRPC go to the services as they are.
    async fn streaming(&self, request: Request<Body>) -> Response<Body> {
        match self.services.clone().oneshot(request.map(tonic::body::Body::new)).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}

/// A call that was let in.
struct Admitted<'a> {
    method: &'a methods::Method,
    /// For the answer.
    headers: HeaderMap,
    _slot: SemaphorePermit<'a>,
}

/// Throws away what a refused client has sent, as far as it is little and comes soon. A connection of
/// HTTP/1.1 is reset if it is closed on what nobody has read, and then the client may miss the
/// answer.
async fn discard(parts: &Parts, body: Body) {
    // Who expects to be told sends nothing before.
    if parts.version >= Version::HTTP_2 || parts.headers.contains_key(header::EXPECT) {
        return;
    }
    let mut rest = Limited::new(body, DISCARDED);
    let discarded = async { while let Some(Ok(_)) = rest.frame().await {} };
    let _ = timeout(DISCARD_TIMEOUT, discarded).await;
}

/// A whole body says how long it is; one of the runtime does not.
pub(crate) fn sized(body: ConnectRpcBody) -> Body {
    match body {
        ConnectRpcBody::Full(whole) => Body::new(whole),
        other => Body::new(other),
    }
}

/// The word for a protocol in figures and traces.
fn protocol(request: &Request<Body>) -> &'static str {
    if request.extensions().get::<WholeMessages>().is_some() {
        return "rest";
    }
    match Protocol::detect(request.headers()).map(|detected| detected.protocol) {
        Some(Protocol::Grpc) => "grpc",
        Some(Protocol::GrpcWeb) => "grpc-web",
        Some(Protocol::Connect) => "connect",
        None if request.method() == Method::GET => "connect",
        _ => "unknown",
    }
}

fn sizes(message_bytes: usize) -> Limits {
    // In a frame of gRPC a message has a prefix of five bytes.
    Limits::default()
        .with_max_message_size(message_bytes)
        .with_max_request_body_size(message_bytes.saturating_add(5))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    content_type.starts_with(b"application/grpc")
        && !content_type.starts_with(b"application/grpc-web")
}
