//! gRPC statuses as errors of every protocol.

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use connectrpc::{ConnectError, ErrorCode, ErrorDetail, Protocol};
use http::{HeaderMap, HeaderName, Response};
use prost::Message;
use tonic::{Code, Status};

use crate::front::sized;

/// `google.rpc.Status`, of which only the details count.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

/// A status as an answer in the protocol that `request_headers` speak. Its metadata become headers,
/// and trailers too in gRPC.
pub fn error_response(status: &Status, request_headers: &HeaderMap) -> Response<Body> {
    let protocol = Protocol::detect(request_headers).map(|request| request.protocol);
    error(status, protocol).into_http_response(request_headers).map(sized)
}

/// A status that comes before anything else. Clients of gRPC look for its metadata in the trailers or,
/// where a status is in the headers, there; those of Connect in the headers.
pub(crate) fn error(status: &Status, protocol: Option<Protocol>) -> ConnectError {
    let metadata = own_headers(status.metadata().clone().into_headers());
    let error = bare(status).with_headers(metadata.clone());
    match protocol {
        Some(Protocol::Grpc | Protocol::GrpcWeb) => error.with_trailers(metadata),
        _ => error,
    }
}

/// A status without its metadata.
pub(crate) fn bare(status: &Status) -> ConnectError {
    let code = ErrorCode::from_grpc_code(number(status.code())).unwrap_or(ErrorCode::Unknown);
    let error = ConnectError::new(code, status.message());
    details(status).into_iter().fold(error, ConnectError::with_detail)
}

fn details(status: &Status) -> Vec<ErrorDetail> {
    let decoded = RpcStatus::decode(status.details()).unwrap_or_default();
    let detail = |any: Any| ErrorDetail {
        type_url: any.type_url.rsplit('/').next().unwrap_or_default().to_owned(),
        value: Some(STANDARD_NO_PAD.encode(&any.value)),
        debug: None,
    };
    decoded.details.into_iter().map(detail).collect()
}

fn number(code: Code) -> u32 {
    // Codes are 0 to 16.
    u32::try_from(code as i32).unwrap_or_default()
}

/// The headers that a service set itself.
pub(crate) fn own_headers(mut headers: HeaderMap) -> HeaderMap {
    const OF_THE_PROTOCOL: [HeaderName; 4] = [
        http::header::CONTENT_TYPE,
        http::header::CONTENT_LENGTH,
        http::header::TRAILER,
        http::header::DATE,
    ];
    for name in OF_THE_PROTOCOL {
        headers.remove(name);
    }
    for name in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-encoding",
        "grpc-accept-encoding",
    ] {
        headers.remove(name);
    }
    headers
}
