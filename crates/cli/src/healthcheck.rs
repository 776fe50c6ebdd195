//! `kasbah healthcheck`

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use kasbah_http::{Full, Http, Request, RootCertStore, StatusCode, Uri};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    config::{Config, TlsSettings},
    exit::{Exit, Failure, OrExit},
    output::Output,
    plan::Plan,
};

/// How long connecting may take, and the answer after it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer that is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Ask a server whether it is well, as a container or a unit does
///
/// Exits with 0 when it is alive, or ready with --ready; with 1 when it says that it is not; with 3
/// when it cannot be reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Server,
    /// PEM certificates of the authorities to trust with --url, instead of the system's
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
    /// Ask whether it can serve requests now, with all that it needs
    #[arg(long)]
    ready: bool,
}

/// Which server.
#[derive(Debug, clap::Args)]
#[group(multiple = false, required = true)]
struct Server {
    /// Address of the server, for example `http://127.0.0.1:8080`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Configuration of a server on this machine, which says where it listens and what its certificate
    /// is
    #[arg(long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    url: String,
    /// What the server said.
    answer: Value,
}

/// Plans the question.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(async move { ask(&arguments, output).await })
}

async fn ask(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let (url, tls) = match (&arguments.server.url, &arguments.server.config) {
        (Some(url), _) => (url.clone(), of_authorities(url, arguments.ca_file.as_deref())?),
        (None, Some(file)) => of_config(file)?,
        (None, None) => return Err(Failure::usage("give --url or --config")),
    };
    let path = if arguments.ready { "/readyz" } else { "/healthz" };
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let uri: Uri = url.parse().context("--url").or_exit(Exit::Usage)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(Failure::usage(
            "--url: expected an http or https URL, for example http://127.0.0.1:8080",
        ));
    }
    let request = Request::get(uri).body(Full::default()).or_exit(Exit::Usage)?;
    let http = Http::new(tls, PATIENCE, ANSWER_BYTES);
    let answer = timeout(PATIENCE * 2, http.send(request)).await;
    let (status, body) = answer
        .map_err(|_| "no answer in time".to_owned())
        .flatten()
        .map_err(|why| Failure::new(Exit::Unavailable, anyhow!("cannot reach {url}: {why}")))?;
    let Ok(answer) = serde_json::from_slice(&body) else {
        let text = format!("{url} answered {status}, but not as Kasbah does; is it the server?");
        return Err(Failure::not_fine(text));
    };
    let report = Report { ok: status == StatusCode::OK, url, answer };
    output.print(&report, line)?;
    if report.ok { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
}

/// What the server said: one status, and what it lacks.
fn line(report: &Report) -> String {
    let word = |value: &Value| value["status"].as_str().unwrap_or("unknown").to_lowercase();
    let dependencies = report.answer["dependencies"].as_object();
    let unwell = dependencies.into_iter().flatten().filter(|(_, value)| value["status"] != "up");
    let unwell = unwell.map(|(name, value)| {
        let detail = value["detail"].as_str().map(|text| format!(": {text}"));
        format!("; {name} is {}{}", word(value), detail.unwrap_or_default())
    });
    let text = format!("{}{}", word(&report.answer), unwell.collect::<String>());
    text.replace(char::is_control, " ")
}

fn of_authorities(url: &str, ca_file: Option<&Path>) -> Result<ClientConfig, Failure> {
    let roots = if url.starts_with("https:") {
        kasbah_http::authorities(ca_file).context("--ca-file").or_exit(Exit::Usage)?
    } else {
        RootCertStore::empty()
    };
    kasbah_http::client_config(roots).or_exit(Exit::Usage)
}

/// Where the server of a configuration is, and how to know it.
fn of_config(file: &Path) -> Result<(String, ClientConfig), Failure> {
    let server = Config::load(file).or_exit(Exit::Usage)?.server;
    let address = here(server.listen);
    match &server.tls {
        None => Ok((format!("http://{address}"), of_authorities("http:", None)?)),
        Some(tls) => Ok((format!("https://{address}"), of_certificate(tls)?)),
    }
}

/// An address that reaches whoever listens on `listen`.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Trusts the certificate of the configuration, and no other.
fn of_certificate(tls: &TlsSettings) -> Result<ClientConfig, Failure> {
    let name = || format!("server.tls.certificate_file: {}", tls.certificate_file.display());
    let certificate = CertificateDer::pem_file_iter(&tls.certificate_file)
        .with_context(name)
        .or_exit(Exit::Usage)?
        .next()
        .ok_or_else(|| Failure::usage(format!("{}: there is no certificate in it", name())))?
        .with_context(name)
        .or_exit(Exit::Usage)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(ThisOne { certificate, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .or_exit(Exit::Usage)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Accepts one certificate, whoever issued it to whatever name: the server is known by it. That the
/// server has its key is verified as always.
#[derive(Debug)]
struct ThisOne {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ThisOne {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wildcard_address_is_reached_on_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(here(listen.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn a_line_names_what_is_not_up_and_stays_a_line() {
        let answer = json!({ "status": "degraded", "dependencies": {
            "a": { "status": "up" },
            "b": { "status": "degraded", "detail": "one\nof two" },
            "c": { "status": "down" },
        }});
        let report = Report { ok: true, url: String::new(), answer };
        assert_eq!(line(&report), "degraded; b is degraded: one of two; c is down");
        let report =
            Report { ok: true, url: String::new(), answer: json!({ "status": "SERVING" }) };
        assert_eq!(line(&report), "serving");
        let report = Report { ok: false, url: String::new(), answer: json!([]) };
        assert_eq!(line(&report), "unknown");
    }
}
