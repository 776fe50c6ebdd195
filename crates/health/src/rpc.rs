//! Health as `grpc.health.v1.Health`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::{
    FILE_DESCRIPTOR_SET, HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

use crate::{
    Health,
    report::{Asked, Report},
};

/// Full name of the service.
pub const SERVICE: &str = health_server::SERVICE_NAME;
/// Its `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = FILE_DESCRIPTOR_SET;

/// Largest request: the name of a service.
const MAX_REQUEST: usize = 1024;

impl Health {
    /// The service. Names are those of [`Health::router`]; the empty one is for whether the server is
    /// alive. `Check` fails with `not_found` for a name of nothing.
    ///
    /// A `Watch` ends after its last message when the server is told to stop, since the server waits
    /// for what is under way.
    pub fn server(self: &Arc<Self>) -> HealthServer<Self> {
        HealthServer::from_arc(Arc::clone(self)).max_decoding_message_size(MAX_REQUEST)
    }
}

#[async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let asked = self.asked(&request.get_ref().service);
        let asked = asked.ok_or_else(|| Status::not_found("no such service"))?;
        let status = status(&self.report().borrow(), Some(asked));
        Ok(Response::new(message(status)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let slot = Arc::clone(&self.watchers).try_acquire_owned();
        let slot = slot.map_err(|_| Status::resource_exhausted("too many watch"))?;
        let asked = self.asked(&request.get_ref().service);
        let watching = Watching { reports: self.report(), asked, told: None, _slot: slot };
        Ok(Response::new(Box::pin(stream::unfold(watching, Watching::next))))
    }
}

/// A client of `Watch`.
struct Watching {
    reports: watch::Receiver<Report>,
    asked: Option<Asked>,
    told: Option<ServingStatus>,
    _slot: OwnedSemaphorePermit,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            let (status, draining) = {
                let report = self.reports.borrow_and_update();
                (status(&report, self.asked), report.draining)
            };
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((Ok(message(status)), self));
            }
            if draining || self.reports.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn status(report: &Report, asked: Option<Asked>) -> ServingStatus {
    match asked.map(|asked| report.is_serving(asked)) {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    }
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
