//! Which services there are, for tools that ask.

use futures_util::stream;
use kasbah_kas::Kas;
use tonic::{Code, Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::*;

async fn services(server: &Server) -> Result<Vec<String>, Status> {
    let url = format!("http://{}", server.address);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(stream::iter([ask])).await?;
    match answers.into_inner().message().await?.unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn services_are_told_where_that_is_wanted() {
    let server = Server::beside(vec![key("r1", RSA)], |builder| builder, Kas::reflection).await;
    let mut told = services(&server).await.unwrap();
    told.sort();
    assert_eq!(
        told,
        [
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "kas.AccessService",
        ],
        "and nothing that is not served"
    );
}

#[tokio::test]
async fn nothing_is_told_by_itself() {
    let server = Server::start(vec![key("r1", RSA)]).await;
    assert_eq!(services(&server).await.unwrap_err().code(), Code::Unimplemented);
}
