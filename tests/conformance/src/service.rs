//! `ConformanceService`, as far as its methods are unary: each answers what its request says, and
//! tells what it was asked.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderName, HeaderValue, Method, request::Parts};
use kasbah_edge::Guard;
use kasbah_proto::google::rpc;
use prost::{Message, Name};
use prost_types::Any;
use tonic::{Code, Extensions, Request, Response, Status, async_trait, metadata::MetadataMap};

use crate::{
    proto::{
        ConformancePayload, Error, Header, IdempotentUnaryRequest, IdempotentUnaryResponse,
        UnaryRequest, UnaryResponse, UnaryResponseDefinition,
        conformance_payload::{ConnectGetInfo, RequestInfo},
        conformance_service_server::ConformanceService,
        unary_response_definition::Response as Wanted,
    },
    trailers::TRAILER,
};

/// Lets everybody in, and keeps for the service what the edge would not tell it.
pub(crate) struct Watch;

/// What a client sent.
#[derive(Clone)]
struct Sent {
    /// The query string of a GET.
    query: Option<String>,
    /// Whether there was a timeout; the edge gives one to calls without.
    has_timeout: bool,
}

#[async_trait]
impl Guard for Watch {
    async fn admit(&self, parts: &mut Parts) -> Result<HeaderMap, Status> {
        let is_get = parts.method == Method::GET;
        let query = is_get.then(|| parts.uri.query().unwrap_or_default().to_owned());
        let timeouts = ["connect-timeout-ms", "grpc-timeout"];
        let has_timeout = timeouts.iter().any(|name| parts.headers.contains_key(*name));
        parts.extensions.insert(Sent { query, has_timeout });
        Ok(HeaderMap::new())
    }

    fn is_open(&self, _: &str) -> bool {
        false
    }
}

pub(crate) struct Service;

#[async_trait]
impl ConformanceService for Service {
    async fn unary(
        &self,
        mut request: Request<UnaryRequest>,
    ) -> Result<Response<UnaryResponse>, Status> {
        let info = info(&request).map_err(|error| wrong(&error))?;
        let payload = answer(info, request.get_mut().response_definition.take()).await?;
        Ok(payload.map(|payload| UnaryResponse { payload: Some(payload) }))
    }

    async fn idempotent_unary(
        &self,
        mut request: Request<IdempotentUnaryRequest>,
    ) -> Result<Response<IdempotentUnaryResponse>, Status> {
        let info = info(&request).map_err(|error| wrong(&error))?;
        let payload = answer(info, request.get_mut().response_definition.take()).await?;
        Ok(payload.map(|payload| IdempotentUnaryResponse { payload: Some(payload) }))
    }
}

async fn answer(
    info: RequestInfo,
    definition: Option<UnaryResponseDefinition>,
) -> Result<Response<ConformancePayload>, Status> {
    let definition = definition.unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
    let metadata = metadata(&definition).map_err(|error| wrong(&error))?;
    let data = match definition.response {
        Some(Wanted::Error(error)) => {
            return Err(refusal(error, &info, metadata).map_err(|error| wrong(&error))?);
        }
        Some(Wanted::ResponseData(data)) => data,
        None => Vec::new(),
    };
    let payload = ConformancePayload { data, request_info: Some(info) };
    Ok(Response::from_parts(metadata, payload, Extensions::default()))
}

fn refusal(mut error: Error, info: &RequestInfo, metadata: MetadataMap) -> Result<Status> {
    error.details.push(Any::from_msg(info)?);
    let (code, message) = (error.code, error.message.unwrap_or_default());
    let status = rpc::Status { code, message: message.clone(), details: error.details };
    let details = status.encode_to_vec().into();
    Ok(Status::with_details_and_metadata(Code::from(code), message, details, metadata))
}

/// Headers, and trailers under names that [`crate::trailers`] knows.
fn metadata(definition: &UnaryResponseDefinition) -> Result<MetadataMap> {
    let mut headers = HeaderMap::new();
    let marked = [("", &definition.response_headers), (TRAILER, &definition.response_trailers)];
    for (mark, list) in marked {
        for header in list {
            let name = HeaderName::from_str(&format!("{mark}{}", header.name))?;
            for value in &header.value {
                headers.append(&name, HeaderValue::from_str(value)?);
            }
        }
    }
    Ok(MetadataMap::from_headers(headers))
}

fn info<M: Message + Name>(request: &Request<M>) -> Result<RequestInfo> {
    let headers = request.metadata().clone().into_headers();
    let sent = request.extensions().get::<Sent>().context("the guard did not see it")?;
    let deadline = headers.get("grpc-timeout").filter(|_| sent.has_timeout);
    Ok(RequestInfo {
        request_headers: headers.keys().map(|name| header(&headers, name)).collect(),
        timeout_ms: deadline.and_then(timeout),
        requests: vec![Any::from_msg(request.get_ref())?],
        connect_get_info: sent.query.as_deref().map(parameters),
    })
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Header {
    let values = headers.get_all(name).iter();
    let value = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into()).collect();
    Header { name: name.to_string(), value }
}

/// As the edge writes it: milliseconds or seconds.
fn timeout(value: &HeaderValue) -> Option<i64> {
    let value = value.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let unit = match unit {
        "m" => 1,
        "S" => 1000,
        _ => return None,
    };
    Some(digits.parse::<i64>().ok()? * unit)
}

fn parameters(query: &str) -> ConnectGetInfo {
    let pairs = form_urlencoded::parse(query.as_bytes());
    let query_params = pairs
        .map(|(name, value)| Header { name: name.into(), value: vec![value.into()] })
        .collect();
    ConnectGetInfo { query_params }
}

fn wrong(error: &anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}
