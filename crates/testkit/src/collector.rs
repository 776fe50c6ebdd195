//! An OpenTelemetry collector that keeps what it gets: OTLP over gRPC, metrics and traces. It can be
//! told to refuse.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value},
};
pub use opentelemetry_proto::tonic::{metrics::v1::Metric, trace::v1::Span};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};

/// A running collector; it ends with the runtime.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    metrics: Vec<Metric>,
    services: HashSet<String>,
    authorization: HashSet<String>,
    refuses: bool,
    calls: usize,
}

impl Collector {
    /// A collector on a loopback address, and that address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> io::Result<(Self, SocketAddr)> {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        collector.listen(listener);
        Ok((collector, address))
    }

    /// Listens there, too.
    pub fn listen(&self, listener: TcpListener) {
        let serving = Server::builder()
            .add_service(MetricsServiceServer::new(self.clone()))
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
    }

    /// Refuses everything from now on, or takes it.
    pub fn refuse(&self, refuses: bool) {
        self.state().refuses = refuses;
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.state().spans.clone()
    }

    /// All metrics so far; one that was sent again is there again.
    pub fn metrics(&self) -> Vec<Metric> {
        self.state().metrics.clone()
    }

    /// Every `service.name/service.instance.id` that sent something.
    pub fn services(&self) -> HashSet<String> {
        self.state().services.clone()
    }

    /// Every value of `authorization`; empty for none.
    pub fn authorization(&self) -> HashSet<String> {
        self.state().authorization.clone()
    }

    /// How many calls there were, refused ones counted.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<MutexGuard<'_, State>, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let mut state = self.state();
        state.calls += 1;
        if state.refuses {
            return Err(Status::unavailable("told to refuse"));
        }
        state.authorization.insert(header.unwrap_or_default().to_owned());
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut state = self.admit(request.metadata())?;
        for resource in request.into_inner().resource_metrics {
            let attributes = resource.resource.map(|resource| resource.attributes);
            state.services.insert(service(&attributes.unwrap_or_default()));
            state
                .metrics
                .extend(resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics));
        }
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: None }))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut state = self.admit(request.metadata())?;
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes);
            state.services.insert(service(&attributes.unwrap_or_default()));
            state.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

fn service(attributes: &[KeyValue]) -> String {
    let text = |key| text(attributes, key).unwrap_or_default();
    format!("{}/{}", text("service.name"), text("service.instance.id"))
}

/// The text of an attribute; numbers in decimal.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    let Some(AnyValue { value: Some(value) }) = &attribute.value else { return None };
    Some(match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}
