//! A server for the official conformance suite of Connect: its service behind Kasbah's edge.
//!
//! The suite starts it, says on standard input what is wanted, and reads on standard output where the
//! server is (`server_compat.proto`); it ends on SIGTERM.
#![forbid(unsafe_code)]

mod service;
mod trailers;

use std::{
    io::{Read, Write, stdin, stdout},
    net::Ipv4Addr,
    sync::Arc,
};

use anyhow::{Context, Result};
use axum::middleware::map_response;
use kasbah_edge::{Edge, EdgeLimits, Tls, TlsMaterial};
use prost::Message;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::service::Routes;

use crate::{
    proto::{
        ServerCompatRequest, ServerCompatResponse,
        conformance_service_server::ConformanceServiceServer,
    },
    service::{Service, Watch},
    trailers::at_the_end,
};

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated code"
)]
mod proto {
    tonic::include_proto!("connectrpc.conformance.v1");
}

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
const SERVICE: &str = "connectrpc.conformance.v1.ConformanceService";

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: ServerCompatRequest = read(stdin().lock()).context("no request of the suite")?;
    let edge = edge(&wanted)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let answer = ServerCompatResponse {
        host: address.ip().to_string(),
        port: address.port().into(),
        pem_cert: wanted.server_creds.filter(|_| wanted.use_tls).unwrap_or_default().cert,
    };
    write(stdout().lock(), &answer)?;
    let mut end = signal(SignalKind::terminate())?;
    edge.serve(listener, async { _ = end.recv().await }).await;
    Ok(())
}

fn edge(wanted: &ServerCompatRequest) -> Result<Edge> {
    let mut limits = EdgeLimits::default();
    if wanted.message_receive_limit > 0 {
        limits.message_bytes = usize::try_from(wanted.message_receive_limit)?;
    }
    let largest = limits.message_bytes;
    let service = ConformanceServiceServer::new(Service).max_decoding_message_size(largest);
    let routes = Routes::new(service).into_axum_router().layer(map_response(at_the_end)).into();
    let edge = Edge::new(routes, &[SERVICE], &[DESCRIPTORS], Arc::new(Watch), limits)?;
    Ok(edge.tls(tls(wanted)?))
}

fn tls(wanted: &ServerCompatRequest) -> Result<Option<Tls>> {
    if !wanted.use_tls {
        return Ok(None);
    }
    let ours = wanted.server_creds.as_ref().context("the suite gave no certificate")?;
    let text = |pem: &[u8]| String::from_utf8(pem.to_vec());
    let clients = Some(&wanted.client_tls_cert[..]).filter(|pem| !pem.is_empty());
    let material = TlsMaterial {
        certificates: text(&ours.cert)?,
        private_key: text(&ours.key)?.into(),
        client_authorities: clients.map(text).transpose()?,
    };
    Ok(Some(Tls::new(Arc::new(material), true)?))
}

/// A message behind its length.
fn read<M: Message + Default>(mut from: impl Read) -> Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    from.read_exact(&mut message)?;
    Ok(M::decode(&*message)?)
}

fn write(mut to: impl Write, message: &impl Message) -> Result<()> {
    to.write_all(&u32::try_from(message.encoded_len())?.to_be_bytes())?;
    to.write_all(&message.encode_to_vec())?;
    Ok(to.flush()?)
}
