use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities to trust cannot be had.
    #[error("no certificate authority to check https with: {0}")]
    Authorities(String),
    /// The TLS library refuses the settings.
    #[error("TLS cannot be set up")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The authorities of `ca_file`, or else of the system.
///
/// # Errors
/// When there are none.
pub fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let origin = if let Some(path) = ca_file {
        let refuse = |error: &dyn std::fmt::Display| {
            TlsError::Authorities(format!("{}: {error}", path.display()))
        };
        let read = CertificateDer::pem_file_iter(path).map_err(|error| refuse(&error))?;
        for certificate in read {
            let certificate = certificate.map_err(|error| refuse(&error))?;
            roots.add(certificate).map_err(|error| refuse(&error))?;
        }
        path.display().to_string()
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        "the system; install its CA certificates or set ca_file".to_owned()
    };
    if roots.is_empty() {
        return Err(TlsError::Authorities(format!("none found in {origin}")));
    }
    Ok(roots)
}

/// TLS that trusts `roots`, on the workspace's crypto stack whatever the process default is.
///
/// # Errors
/// When the TLS library refuses.
pub fn client_config(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Settings(error.into()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
