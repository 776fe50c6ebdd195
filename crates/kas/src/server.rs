use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use http::HeaderMap;
use kasbah_auth::{Caller, Gate};
use kasbah_edge::{AsSent, Cors, DescriptorError, Edge, Guard, Tls};
use kasbah_proto::kas::{
    LegacyPublicKeyRequest, PublicKeyRequest, PublicKeyResponse, RewrapRequest, RewrapResponse,
    access_service_server::{AccessService, AccessServiceServer},
};
use kasbah_trust::{Deadline, KeyService};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tonic::{Request, Response, Status, async_trait, metadata::MetadataMap, service::Routes};
use tonic_reflection::server as reflection;
use uuid::Uuid;

use crate::{
    KasBuilder,
    builder::Parts,
    context,
    edge::{Fault, missing_access_token},
    public_key, rest,
    rewrap::{Call, refuse, rewrap},
};

/// The service of the data plane.
const SERVICE: &str = "kas.AccessService";

/// A Key Access Server.
#[derive(Debug)]
pub struct Kas {
    parts: Arc<Parts>,
    door: Door,
}

/// What is served beside the data plane, and how.
#[derive(Debug, Default)]
struct Door {
    routes: Routes,
    services: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
    http: Router,
    cors: Option<Cors>,
    prefix: Option<String>,
    rest: Option<String>,
    reflection: bool,
    tls: Option<Tls>,
}

/// A server could not start, or broke.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener has no address.
    #[error("the listener cannot be used")]
    Listener(#[source] io::Error),
    /// Anybody could come in.
    #[error(
        "refusing to listen on {0}: any access token is accepted, which is for loopback addresses \
         only; listen on 127.0.0.1 or configure who issues tokens"
    )]
    NotLoopback(SocketAddr),
    /// A service beside the data plane was given with descriptors that are none.
    #[error("the services cannot be served")]
    Descriptors(#[from] DescriptorError),
    /// The services cannot be told of.
    #[error("the services cannot be told of")]
    Reflection(#[from] reflection::Error),
}

impl Kas {
    /// Starts with nothing set.
    pub fn builder() -> KasBuilder {
        KasBuilder::new()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), door: Door::default() }
    }

    /// Serves `routes` too, behind the gate: the services with these full names, such as
    /// `policy.kasregistry.KeyAccessServerRegistryService`.
    #[must_use]
    pub fn beside(mut self, routes: Routes, services: &[&'static str]) -> Self {
        // Two fallbacks do not merge, and the edge calls only what there is.
        let more = routes.into_axum_router().reset_fallback();
        let router = self.door.routes.into_axum_router().merge(more);
        self.door.routes = router.into();
        self.door.services.extend(services);
        self
    }

    /// Describes services of [`Kas::beside`] that are not in `kasbah_proto`, by a
    /// `google.protobuf.FileDescriptorSet`.
    #[must_use]
    pub fn describe(mut self, descriptors: &'static [u8]) -> Self {
        self.door.descriptors.push(descriptors);
        self
    }

    /// Serves plain HTTP routes too. The gate does not look at them.
    #[must_use]
    pub fn http(mut self, router: Router) -> Self {
        self.door.http = self.door.http.merge(router);
        self
    }

    /// Lets pages of other origins call.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.door.cors = Some(cors);
        self
    }

    /// Serves every method below a path such as `/kas`, too.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.door.prefix = Some(prefix.into());
        self
    }

    /// Serves the REST routes of old clients below a path, which is `/kas` in their eyes.
    #[must_use]
    pub fn rest(mut self, prefix: impl Into<String>) -> Self {
        self.door.rest = Some(prefix.into());
        self
    }

    /// Tells clients of gRPC which services there are (`grpc.reflection.v1` and `v1alpha`).
    #[must_use]
    pub fn reflection(mut self) -> Self {
        self.door.reflection = true;
        self
    }

    /// Serves by TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.door.tls = Some(tls);
        self
    }

    /// URI this KAS is registered under.
    pub fn uri(&self) -> &str {
        &self.parts.uri
    }

    /// The keys and their managers, for health checks and self-tests.
    pub fn key_service(&self) -> Arc<KeyService> {
        Arc::clone(&self.parts.keys)
    }

    /// Serves all protocols on `listener` until `shutdown` completes. Then it accepts nothing new,
    /// lets requests under way finish until [`crate::Limits::drain_timeout`], and closes the key
    /// managers.
    ///
    /// # Errors
    /// When the gate is for loopback addresses only and `listener` is not on one, or the
    /// transport fails. Key managers are closed in every case.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let keys = self.key_service();
        let draining = tokio::spawn({
            let keys = Arc::clone(&keys);
            async move { keys.drain_replaced().await }
        });
        let drain_timeout = self.parts.limits.drain_timeout;
        let served = self.serve_until(listener, shutdown).await;
        if timeout(drain_timeout, keys.close()).await.is_err() {
            tracing::warn!("key managers did not close in time");
        }
        draining.abort();
        served
    }

    async fn serve_until(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        if self.parts.gate.loopback_only() && !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback(address));
        }
        tracing::info!(%address, uri = self.uri(), tls = self.door.tls.is_some(), "serving");
        let drain_timeout = self.parts.limits.drain_timeout;
        let edge = edge(self.parts, self.door)?;
        let stopping = Semaphore::new(0);
        let signal = async {
            shutdown.await;
            tracing::info!("stopping");
            stopping.close();
        };
        tokio::select! {
            () = edge.serve(listener, signal) => {}
            () = drained(&stopping, drain_timeout) => {
                tracing::warn!("requests were still under way at the end of the drain timeout");
            }
        }
        Ok(())
    }
}

fn edge(parts: Arc<Parts>, mut door: Door) -> Result<Edge, ServeError> {
    let limits = parts.limits.edge();
    let guard = Arc::new(AtGate(Arc::clone(&parts.gate)));
    let message_bytes = limits.message_bytes;
    let service =
        AccessServiceServer::new(Access::new(parts)).max_decoding_message_size(message_bytes);
    door.routes = door.routes.add_service(service);
    door.services.push(SERVICE);
    door.descriptors.push(kasbah_proto::DESCRIPTORS);
    if door.reflection {
        door.reflect()?;
    }
    let edge = Edge::new(door.routes, &door.services, &door.descriptors, guard, limits)?
        .http(door.http)
        .cors(door.cors)
        .prefix(door.prefix)
        .tls(door.tls);
    Ok(match door.rest {
        Some(prefix) => {
            let rest = rest::router(edge.call(), &prefix, message_bytes);
            edge.http(rest)
        }
        None => edge,
    })
}

impl Door {
    /// Adds the services that tell of the services.
    fn reflect(&mut self) -> Result<(), reflection::Error> {
        const V1: &[u8] = tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET;
        const V1ALPHA: &[u8] = tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET;
        const NAMES: [&str; 2] =
            ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
        self.descriptors.extend([V1, V1ALPHA]);
        self.services.extend(NAMES);
        let told = || {
            let mut builder = reflection::Builder::configure().include_reflection_service(false);
            for set in &self.descriptors {
                builder = builder.register_encoded_file_descriptor_set(set);
            }
            self.services.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let (v1, v1alpha) = (told().build_v1()?, told().build_v1alpha()?);
        self.routes = std::mem::take(&mut self.routes).add_service(v1).add_service(v1alpha);
        Ok(())
    }
}

/// The gate, as the edge asks it.
struct AtGate(Arc<Gate>);

#[async_trait]
impl Guard for AtGate {
    async fn admit(&self, parts: &mut http::request::Parts) -> Result<HeaderMap, Status> {
        let sent = parts.extensions.remove::<AsSent>();
        let sent = sent.as_ref().map(|sent| (&sent.method, sent.path.as_str()));
        let header = self.0.let_in(parts, sent).await?;
        Ok(header.into_iter().collect())
    }

    fn is_open(&self, path: &str) -> bool {
        self.0.is_open(path)
    }
}

/// Completes `drain_timeout` after `stopping` was closed.
async fn drained(stopping: &Semaphore, drain_timeout: Duration) {
    // It has no permits, so this ends only when it is closed.
    let _ = stopping.acquire().await;
    tokio::time::sleep(drain_timeout).await;
}

/// `kas.AccessService`.
#[derive(Debug)]
struct Access {
    parts: Arc<Parts>,
    slots: Semaphore,
}

impl Access {
    fn new(parts: Arc<Parts>) -> Self {
        let slots = Semaphore::new(parts.limits.concurrent_requests);
        Self { parts, slots }
    }

    fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        let ours = self.parts.limits.request_timeout;
        Deadline::after(client_timeout(metadata).map_or(ours, |theirs| theirs.min(ours)))
    }
}

#[async_trait]
impl AccessService for Access {
    async fn public_key(
        &self,
        request: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let keys = &self.parts.keys;
        Ok(Response::new(public_key::public_key(keys, request.get_ref(), deadline).await?))
    }

    async fn legacy_public_key(
        &self,
        request: Request<LegacyPublicKeyRequest>,
    ) -> Result<Response<String>, Status> {
        let deadline = self.deadline(request.metadata());
        let keys = &self.parts.keys;
        let pem = public_key::legacy_public_key(keys, request.get_ref(), deadline).await?;
        Ok(Response::new(pem))
    }

    async fn rewrap(
        &self,
        request: Request<RewrapRequest>,
    ) -> Result<Response<RewrapResponse>, Status> {
        let started = Instant::now();
        let deadline = self.deadline(request.metadata());
        let address = request.remote_addr().map(|address| address.ip());
        let (metadata, mut extensions, message) = request.into_parts();
        let call = Call {
            caller: extensions.remove::<Caller>().ok_or_else(missing_access_token)?,
            address,
            user_agent: text(&metadata, "user-agent").to_owned(),
            request: text(&metadata, "x-request-id").parse().unwrap_or_else(|_| Uuid::new_v4()),
            // Something that is no text is no base64 either.
            context: metadata
                .get(context::HEADER)
                .map(|value| value.to_str().unwrap_or("?").to_owned()),
            started,
            deadline,
        };
        let Ok(_slot) = self.slots.try_acquire() else {
            refuse(&self.parts, &call, &Fault::TOO_MANY_REQUESTS);
            return Err(Fault::TOO_MANY_REQUESTS.status());
        };
        rewrap(&self.parts, &call, &message.signed_request_token)
            .await
            .map(Response::new)
            .map_err(|fault| fault.status())
    }
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `grpc-timeout`: at most eight digits and a unit.
fn client_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let (unit, digits) = text(metadata, "grpc-timeout").as_bytes().split_last()?;
    if digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}
