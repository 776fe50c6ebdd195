//! Requests as bytes: HTTP/1.1 and HTTP/2, with TLS or without, and nothing of any RPC library.

use std::{error::Error, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::HeaderValue,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without an upgrade.
    Http2,
}

impl Version {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Where a server is, and how to speak to it.
#[derive(Debug, Clone)]
pub struct Wire {
    /// Its address.
    pub address: String,
    /// The version of HTTP.
    pub version: Version,
    /// How to encrypt, if so.
    pub tls: Option<Arc<ClientConfig>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The one value of a header.
    ///
    /// # Panics
    /// When there are several, or it is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        only(&self.headers, name)
    }
}

/// The one value of a header.
///
/// # Panics
/// When there are several, or it is no text.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    assert!(values.next().is_none(), "`{name}` is there twice: {headers:?}");
    Some(value.to_str().expect("a header is text"))
}

impl Wire {
    /// Sends one request on a connection of its own. Its URI has no host.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Panics
    /// When another version of HTTP is agreed on.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Answer, Failure> {
        match timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".into()),
        }
    }

    async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Answer, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        match &self.tls {
            None => self.over(stream, request).await,
            Some(config) => {
                let stream = handshake(stream, config, &[self.version]).await?;
                let (_, session) = stream.get_ref();
                assert_eq!(session.alpn_protocol(), Some(self.version.alpn()));
                self.over(stream, request).await
            }
        }
    }

    async fn over<S>(&self, stream: S, mut request: Request<Vec<u8>>) -> Result<Answer, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let io = TokioIo::new(stream);
        match self.version {
            Version::Http1 => {
                request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
                let (mut sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                collected(sender.send_request(request.map(body)).await?).await
            }
            Version::Http2 => {
                *request.uri_mut() = format!("{scheme}://localhost{}", request.uri()).parse()?;
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                collected(sender.send_request(request.map(body)).await?).await
            }
        }
    }
}

/// Encrypts a connection to `localhost`.
///
/// # Errors
/// When the handshake fails.
pub async fn handshake(
    stream: TcpStream,
    config: &ClientConfig,
    versions: &[Version],
) -> Result<TlsStream<TcpStream>, Failure> {
    let mut config = config.clone();
    config.alpn_protocols = versions.iter().map(|version| version.alpn().to_vec()).collect();
    let name = ServerName::try_from("localhost")?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector.connect(name, stream).await?)
}

/// Trusts the certificates of an authority, in PEM.
///
/// # Panics
/// When it is no certificate.
pub fn trusting(authority: &str) -> Arc<ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(trusting_with(authority, provider, rustls::DEFAULT_VERSIONS))
}

/// As [`trusting`], with other cryptography and versions of TLS.
///
/// # Panics
/// When it is no certificate.
pub fn trusting_with(
    authority: &str,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).expect("versions of TLS");
    builder.with_root_certificates(roots).with_no_client_auth()
}

fn body(bytes: Vec<u8>) -> Full<Bytes> {
    Full::new(bytes.into())
}

async fn collected(answer: hyper::Response<Incoming>) -> Result<Answer, Failure> {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
}
