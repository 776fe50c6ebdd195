//! From the protocol runtime to gRPC services in this process, and back.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::{
    CodecFormat, ConnectError, EncodedResponse, Payload, Protocol, RequestContext, Response,
    dispatcher::{
        Dispatcher, MethodDescriptor, RequestStream, StreamingResult, UnaryResult,
        unimplemented_streaming, unimplemented_unary,
    },
    response::EncodedBody,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use prost_reflect::DynamicMessage;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;

use crate::{
    error::{bare, error, own_headers},
    front::{Services, WholeMessages},
    json,
    methods::{Method, Methods},
};

/// Length of the prefix of a gRPC message: a flag and four bytes of length.
const PREFIX: usize = 5;

/// Carries unary calls to gRPC services.
#[derive(Clone)]
pub(crate) struct Bridge {
    pub(crate) services: Services,
    pub(crate) methods: Arc<Methods>,
}

impl Dispatcher for Bridge {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        self.methods.get(path).map(|method| method.runtime)
    }

    fn call_unary(
        &self,
        path: &str,
        context: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> UnaryResult {
        let bridge = self.clone();
        let path = path.to_owned();
        Box::pin(async move {
            let Some(method) = bridge.methods.get(&path) else {
                return unimplemented_unary(&path).await;
            };
            let protocol = context.protocol();
            let whole = context.extensions().get::<WholeMessages>().is_some();
            let message = message_of(request.encoded()?, format, method)?;
            let answer = call(bridge.services, &path, context, &message).await;
            let Answer { message, headers, trailers } = answer.map_err(|refusal| {
                refusal.unless_malformed(message, method).into_error(protocol)
            })?;
            let body = body_of(message, format, method, whole)?;
            let mut response = Response::new(EncodedBody::Contiguous(body));
            response.headers = headers;
            response.trailers = trailers;
            Ok::<EncodedResponse, ConnectError>(response)
        })
    }

    fn call_server_streaming(
        &self,
        path: &str,
        _: RequestContext,
        _: Bytes,
        _: CodecFormat,
    ) -> StreamingResult {
        unimplemented_streaming(path)
    }

    fn call_client_streaming(
        &self,
        path: &str,
        _: RequestContext,
        _: RequestStream,
        _: CodecFormat,
    ) -> UnaryResult {
        unimplemented_unary(path)
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        _: RequestContext,
        _: RequestStream,
        _: CodecFormat,
    ) -> StreamingResult {
        unimplemented_streaming(path)
    }
}

/// What a service answered.
struct Answer {
    message: Bytes,
    headers: HeaderMap,
    trailers: HeaderMap,
}

/// What a service refused with.
struct Refused {
    status: Status,
    /// Headers that came before the status; `None` if the status was all there was.
    headers: Option<HeaderMap>,
}

impl Refused {
    fn alone(status: Status) -> Self {
        Self { status, headers: None }
    }

    /// Services of tonic call it internal that a message cannot be read: it is its sender's mistake.
    fn unless_malformed(self, message: Bytes, method: &Method) -> Self {
        let is_internal = self.headers.is_none() && self.status.code() == Code::Internal;
        if is_internal && DynamicMessage::decode(method.input.clone(), message).is_err() {
            let name = method.input.full_name();
            return Self::alone(Status::invalid_argument(format!("the message is no {name}")));
        }
        self
    }

    fn into_error(self, protocol: Option<Protocol>) -> ConnectError {
        let Some(headers) = self.headers else { return error(&self.status, protocol) };
        let trailers = own_headers(self.status.metadata().clone().into_headers());
        bare(&self.status).with_headers(headers).with_trailers(trailers)
    }
}

fn message_of(body: Bytes, format: CodecFormat, method: &Method) -> Result<Bytes, ConnectError> {
    match format {
        CodecFormat::Proto => Ok(body),
        _ => json::read(&body, method.input.clone()).map_err(ConnectError::invalid_argument),
    }
}

fn body_of(
    message: Bytes,
    format: CodecFormat,
    method: &Method,
    whole: bool,
) -> Result<Bytes, ConnectError> {
    if format == CodecFormat::Proto {
        return Ok(message);
    }
    json::write(message, method.output.clone(), whole).map_err(|error| {
        tracing::error!(error, "an answer cannot be written as JSON");
        ConnectError::internal("internal error")
    })
}

async fn call(
    services: Services,
    path: &str,
    context: RequestContext,
    message: &[u8],
) -> Result<Answer, Refused> {
    let request = grpc_request(path, context, message).map_err(Refused::alone)?;
    let response = match services.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return Err(Refused::alone(match status.code() {
            Code::Ok => Status::internal("the service gave no answer"),
            _ => status,
        }));
    }
    let headers = own_headers(parts.headers);
    let collected = body.collect().await.map_err(Refused::alone)?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() == Code::Ok => {}
        Some(status) => return Err(Refused { status, headers: Some(headers) }),
        None => return Err(Refused::alone(Status::internal("the service gave no status"))),
    }
    let message = unframed(collected.to_bytes()).map_err(Refused::alone)?;
    Ok(Answer { message, headers, trailers: own_headers(trailers) })
}

fn grpc_request(
    path: &str,
    mut context: RequestContext,
    message: &[u8],
) -> Result<Request<Body>, Status> {
    let length = u32::try_from(message.len())
        .map_err(|_| Status::resource_exhausted("the message is too large"))?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    let timeout = context.time_remaining().and_then(|left| grpc_timeout(left).parse().ok());
    let mut request = Request::new(Body::new(Full::new(frame.freeze())));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = format!("/{path}")
        .parse()
        .map_err(|_| Status::internal("a path of a method is no path"))?;
    *request.extensions_mut() = std::mem::take(context.extensions_mut());
    let headers = request.headers_mut();
    *headers = passed_on(std::mem::take(context.headers_mut()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        headers.insert("grpc-timeout", timeout);
    }
    Ok(request)
}

/// What of a client's headers is for the service, and not for the protocol.
fn passed_on(mut headers: HeaderMap) -> HeaderMap {
    const OF_THE_PROTOCOL: [HeaderName; 9] = [
        header::ACCEPT_ENCODING,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::EXPECT,
    ];
    for name in OF_THE_PROTOCOL {
        headers.remove(name);
    }
    for name in [
        "connect-accept-encoding",
        "connect-content-encoding",
        "connect-protocol-version",
        "connect-timeout-ms",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-timeout",
    ] {
        headers.remove(name);
    }
    headers
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(left: Duration) -> String {
    const EIGHT_DIGITS: u128 = 99_999_999;
    match left.as_millis() {
        millis @ ..=EIGHT_DIGITS => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(EIGHT_DIGITS)),
    }
}

/// The one message of an answer.
fn unframed(mut frame: Bytes) -> Result<Bytes, Status> {
    let wrong = || Status::internal("the service gave no message");
    let prefix: [u8; PREFIX] =
        frame.get(..PREFIX).and_then(|prefix| prefix.try_into().ok()).ok_or_else(wrong)?;
    let [compressed, length @ ..] = prefix;
    let message = frame.split_off(PREFIX);
    let fits = usize::try_from(u32::from_be_bytes(length)).is_ok_and(|len| len == message.len());
    if compressed != 0 || !fits {
        return Err(wrong());
    }
    Ok(message)
}
