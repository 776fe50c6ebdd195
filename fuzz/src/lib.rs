//! The edge in memory, in front of a service that repeats what it was asked.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use kasbah_edge::{Call, Edge, EdgeLimits, Open};
use kasbah_proto::kas::{
    LegacyPublicKeyRequest, PublicKeyRequest, PublicKeyResponse, RewrapRequest, RewrapResponse,
    access_service_server::{AccessService, AccessServiceServer},
};
use tokio::runtime::{Builder, Runtime};
use tonic::{Response, Status, service::Routes};

/// Paths of the methods of [`Echo`], and one that is none.
pub const PATHS: [&str; 4] = [
    "/kas.AccessService/PublicKey",
    "/kas.AccessService/LegacyPublicKey",
    "/kas.AccessService/Rewrap",
    "/kas.AccessService/Nothing",
];
/// Answers are no longer than what was asked, and the words around it.
const MOST: usize = 1 << 24;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

static EDGE: LazyLock<Call> = LazyLock::new(|| {
    let routes = Routes::new(AccessServiceServer::new(Echo));
    let (names, descriptors) = (["kas.AccessService"], [kasbah_proto::DESCRIPTORS]);
    let edge = Edge::new(routes, &names, &descriptors, Arc::new(Open), EdgeLimits::default());
    edge.expect("descriptors").call()
});

/// Status and body of the answer to a call. Whatever is asked, nothing breaks.
pub fn call(request: Request<Body>) -> (StatusCode, Vec<u8>) {
    RUNTIME.block_on(async {
        let (parts, body) = EDGE.call(request).await.into_parts();
        assert_ne!(parts.status, StatusCode::INTERNAL_SERVER_ERROR, "nothing in here breaks");
        let body = to_bytes(body, MOST).await.expect("an answer ends");
        (parts.status, body.to_vec())
    })
}

struct Echo;

#[tonic::async_trait]
impl AccessService for Echo {
    async fn public_key(
        &self,
        request: tonic::Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyResponse>, Status> {
        let PublicKeyRequest { algorithm, fmt, v } = request.into_inner();
        Ok(Response::new(PublicKeyResponse { public_key: algorithm, kid: fmt + &v }))
    }

    async fn legacy_public_key(
        &self,
        request: tonic::Request<LegacyPublicKeyRequest>,
    ) -> Result<Response<String>, Status> {
        Ok(Response::new(request.into_inner().algorithm))
    }

    async fn rewrap(
        &self,
        request: tonic::Request<RewrapRequest>,
    ) -> Result<Response<RewrapResponse>, Status> {
        let session_public_key = request.into_inner().signed_request_token;
        Ok(Response::new(RewrapResponse { session_public_key, ..RewrapResponse::default() }))
    }
}
