//! A KAS that does nothing, for measuring what stands before it: `tests/bin/bench-edge`.
//!
//! Its rewrap answers at once with a key of 256 bytes, whoever asks. Prints its address.

use std::{net::Ipv4Addr, sync::Arc};

use kasbah_edge::{Edge, EdgeLimits, Open};
use kasbah_proto::{
    DESCRIPTORS,
    kas::{
        KeyAccessRewrapResult, LegacyPublicKeyRequest, PolicyRewrapResult, PublicKeyRequest,
        PublicKeyResponse, RewrapRequest, RewrapResponse,
        access_service_server::{AccessService, AccessServiceServer},
        key_access_rewrap_result::Result as Outcome,
    },
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, async_trait, service::Routes};

struct Nothing;

#[async_trait]
impl AccessService for Nothing {
    async fn rewrap(
        &self,
        request: Request<RewrapRequest>,
    ) -> Result<Response<RewrapResponse>, Status> {
        if request.into_inner().signed_request_token.is_empty() {
            return Err(Status::invalid_argument("no token"));
        }
        let result = KeyAccessRewrapResult {
            key_access_object_id: "kao-0".to_owned(),
            status: "permit".to_owned(),
            result: Some(Outcome::KasWrappedKey(vec![7; 256])),
            ..KeyAccessRewrapResult::default()
        };
        let response = PolicyRewrapResult { policy_id: "policy".to_owned(), results: vec![result] };
        Ok(Response::new(RewrapResponse { responses: vec![response], ..RewrapResponse::default() }))
    }

    async fn public_key(
        &self,
        _: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyResponse>, Status> {
        Err(Status::unimplemented("it does nothing"))
    }

    async fn legacy_public_key(
        &self,
        _: Request<LegacyPublicKeyRequest>,
    ) -> Result<Response<String>, Status> {
        Err(Status::unimplemented("it does nothing"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let routes = Routes::new(AccessServiceServer::new(Nothing));
    let (services, limits) = (["kas.AccessService"], EdgeLimits::default());
    let edge = Edge::new(routes, &services, &[DESCRIPTORS], Arc::new(Open), limits)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    edge.serve(listener, std::future::pending()).await;
    Ok(())
}
