//! TLS (RFC 8446, RFC 5246), with certificates that change while the server runs.

use std::{
    fmt,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use secrecy::{ExposeSecret, SecretString};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How connections are encrypted, and who may open one.
///
/// TLS 1.3 and 1.2. Key exchange is X25519MLKEM768 (hybrid, post-quantum) where the client, too, has
/// it first.
pub struct Tls {
    source: Arc<dyn TlsSource>,
    client_certificate_required: bool,
    current: RwLock<Arc<ServerConfig>>,
}

/// Where certificates and keys come from.
pub trait TlsSource: Send + Sync + 'static {
    /// Reads them, blocking.
    ///
    /// # Errors
    /// Why not, for people.
    fn load(&self) -> Result<TlsMaterial, String>;

    /// Files that are looked at every two seconds; a change of one has everything loaded again.
    fn files(&self) -> Vec<PathBuf>;
}

/// Certificates and a key.
#[derive(Clone)]
pub struct TlsMaterial {
    /// PEM certificates: the server's, then those of the authorities in between.
    pub certificates: String,
    /// PEM private key of the first certificate.
    pub private_key: SecretString,
    /// PEM certificates of the authorities whose client certificates are accepted. With `None`
    /// clients are not asked for one.
    pub client_authorities: Option<String>,
}

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// They cannot be read.
    #[error("{0}")]
    Source(String),
    /// The certificates are no PEM certificates, or there are none.
    #[error("there is no certificate in the certificate file, or it is not PEM")]
    Certificates,
    /// The key is no PEM private key.
    #[error("the private key is not a PEM private key")]
    PrivateKey,
    /// The authorities of clients are no PEM certificates, or there are none.
    #[error("there is no certificate in the file of client authorities, or it is not PEM")]
    ClientAuthorities,
    /// The authorities of clients cannot be used.
    #[error("the client authorities cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    /// They do not go together, for example the key is not the certificate's.
    #[error("the certificate and its private key cannot be used")]
    Rustls(#[from] rustls::Error),
}

impl Tls {
    /// Loads what is in `source`.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn new(
        source: Arc<dyn TlsSource>,
        client_certificate_required: bool,
    ) -> Result<Self, TlsError> {
        let current = config(&load(&*source)?, client_certificate_required)?;
        Ok(Self { source, client_certificate_required, current: RwLock::new(current) })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads everything again whenever a file has changed. What cannot be used leaves everything as
    /// it is, and is tried again. Never ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut seen = self.stamps();
        let mut failed = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            let tls = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => {
                    tracing::info!("the certificate of the listener was loaded again");
                    (seen, failed) = (stamps, None);
                }
                Ok(Err(error)) if failed.as_ref() != Some(&stamps) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the certificate of the listener stays as it was");
                    failed = Some(stamps);
                }
                Ok(Err(_)) => {}
                Err(error) => tracing::error!(%error, "the certificate was not loaded again"),
            }
        }
    }

    fn reload(&self) -> Result<(), TlsError> {
        let new = config(&load(&*self.source)?, self.client_certificate_required)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.source.files().into_iter().map(stamp).collect()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("client_certificate_required", &self.client_certificate_required)
            .finish_non_exhaustive()
    }
}

impl TlsSource for TlsMaterial {
    fn load(&self) -> Result<TlsMaterial, String> {
        Ok(self.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

/// Time of change, length and number of a file.
type Stamp = (SystemTime, u64, u64);

fn stamp(file: PathBuf) -> Option<Stamp> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len(), about.ino()))
}

fn load(source: &dyn TlsSource) -> Result<TlsMaterial, TlsError> {
    source.load().map_err(TlsError::Source)
}

fn config(material: &TlsMaterial, required: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    });
    let certificates = certificates(&material.certificates).ok_or(TlsError::Certificates)?;
    let key = PrivateKeyDer::from_pem_slice(material.private_key.expose_secret().as_bytes())
        .map_err(|_| TlsError::PrivateKey)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match &material.client_authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in self::certificates(authorities).ok_or(TlsError::ClientAuthorities)? {
                roots.add(authority)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty())
}
