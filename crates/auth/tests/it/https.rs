use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use kasbah_auth::{IssuerSettings, KeySource, RefusalKind, TokenRules, TokenVerifier, Tokens};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::json;

use crate::signer::{Signer, claims, jwks};

/// An issuer behind TLS, with a certificate authority of its own.
struct TlsIdp {
    address: SocketAddr,
    authority: String,
}

impl TlsIdp {
    /// Serves `jwks` at its `jwks_uri`, which has this scheme.
    fn new(scheme: &'static str, jwks: String) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = config(certificate.der().clone(), key);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Who does not trust the certificate hangs up.
                let _ = answer(stream.unwrap(), &config, address, scheme, &jwks);
            }
        });
        Self { address, authority: authority.pem() }
    }

    fn issuer(&self) -> String {
        format!("https://{}", self.address)
    }

    fn tokens(&self, ca_file: PathBuf) -> Tokens {
        let keys = KeySource::Discovery {
            jwks_uri: None,
            ca_file: Some(ca_file),
            timeout: Duration::from_secs(20),
        };
        let settings = IssuerSettings {
            issuer: self.issuer(),
            audience: "kasbah".to_owned(),
            algorithms: Vec::new(),
            keys,
        };
        Tokens::new(vec![settings], TokenRules::default()).unwrap()
    }
}

fn config(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.unwrap())
}

/// One request of a connection.
fn answer(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    address: SocketAddr,
    scheme: &str,
    jwks: &str,
) -> std::io::Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let body = if request.starts_with(b"GET /keys ") {
        jwks.to_owned()
    } else {
        let jwks_uri = format!("{scheme}://{address}/keys");
        json!({ "issuer": format!("https://{address}"), "jwks_uri": jwks_uri }).to_string()
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[tokio::test]
async fn keys_come_by_https_from_who_can_be_trusted() {
    let signer = Signer::new("1", "ES256");
    let idp = TlsIdp::new("https", jwks(&[&signer]));
    let token = signer.token(&claims(&idp.issuer()));
    let directory = tempfile::tempdir().unwrap();
    let (own, other) = (directory.path().join("own.pem"), directory.path().join("other.pem"));
    fs::write(&own, &idp.authority).unwrap();
    fs::write(&other, TlsIdp::new("https", String::new()).authority).unwrap();
    idp.tokens(own).verify(&token).await.unwrap();
    let refusal = idp.tokens(other).verify(&token).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert_eq!(refusal.reason, "the issuer cannot be reached, or its answer cannot be read");
}

#[tokio::test]
async fn an_https_issuer_cannot_send_us_to_http() {
    let signer = Signer::new("1", "ES256");
    let idp = TlsIdp::new("http", jwks(&[&signer]));
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own.pem");
    fs::write(&own, &idp.authority).unwrap();
    let token = signer.token(&claims(&idp.issuer()));
    let refusal = idp.tokens(own).verify(&token).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    let reason = "the issuer's jwks_uri is no https URL; http is for issuers with http alone";
    assert_eq!(refusal.reason, reason);
}
