use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kasbah_auth::{Caller, GateLayer};
use kasbah_proto::kas::{
    LegacyPublicKeyRequest, PublicKeyRequest, PublicKeyResponse, RewrapRequest, RewrapResponse,
    access_service_server::{AccessService, AccessServiceServer},
};
use kasbah_trust::{Deadline, KeyService};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tonic::{
    Request, Response, Status, async_trait,
    metadata::MetadataMap,
    service::Routes,
    transport::{Error as TransportError, Server, server::TcpIncoming},
};
use uuid::Uuid;

use crate::{
    KasBuilder, Limits, Tls,
    builder::Parts,
    context,
    edge::{Fault, missing_access_token},
    public_key,
    rewrap::{Call, refuse, rewrap},
};

/// How much longer than a request may take its connection is kept for it, so that the answer that
/// says so still gets out.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How often an idle connection is asked whether its client is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// A Key Access Server.
#[derive(Debug)]
pub struct Kas {
    parts: Arc<Parts>,
    beside: Routes,
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
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] TransportError),
}

impl Kas {
    /// Starts with nothing set.
    pub fn builder() -> KasBuilder {
        KasBuilder::new()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), beside: Routes::default(), tls: None }
    }

    /// Serves `routes` too, on the same listener.
    #[must_use]
    pub fn beside(mut self, routes: Routes) -> Self {
        self.beside = routes;
        self
    }

    /// Serves by TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
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

    /// Serves gRPC on `listener`, by TLS if [`Kas::tls`] was set, until `shutdown` completes. Then it accepts nothing
    /// new, lets requests under way finish until [`Limits::drain_timeout`], and closes the key
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
        tracing::info!(%address, uri = self.uri(), "serving");
        let Self { parts, beside, tls } = self;
        let (limits, gate) = (parts.limits.clone(), Arc::clone(&parts.gate));
        let service = AccessServiceServer::new(Access::new(parts))
            .max_decoding_message_size(limits.message_bytes);
        let stopping = Semaphore::new(0);
        let signal = async {
            shutdown.await;
            tracing::info!("stopping");
            stopping.close();
        };
        let serving = transport(&limits, tls.as_ref())?
            .layer(GateLayer::new(gate))
            .add_routes(beside.add_service(service))
            .serve_with_incoming_shutdown(incoming(listener), signal);
        tokio::select! {
            served = serving => Ok(served?),
            () = drained(&stopping, limits.drain_timeout) => {
                tracing::warn!("requests were still under way at the end of the drain timeout");
                Ok(())
            }
        }
    }
}

fn transport(limits: &Limits, tls: Option<&Tls>) -> Result<Server, TransportError> {
    let server = Server::builder()
        .timeout(limits.request_timeout + ANSWER_GRACE)
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(KEEPALIVE));
    match tls {
        Some(tls) => server.tls_config(tls.config()),
        None => Ok(server),
    }
}

/// Answers are small: held back until the client acknowledges what came before, each would take
/// 40 ms longer.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
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
