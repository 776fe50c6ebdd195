use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::SetupError;

/// The authorities of `ca_file`, or else of the system.
pub(crate) fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    let origin = if let Some(path) = ca_file {
        let refuse = |error: &dyn std::fmt::Display| {
            SetupError::Authorities(format!("{}: {error}", path.display()))
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
        return Err(SetupError::Authorities(format!("none found in {origin}")));
    }
    Ok(roots)
}

/// TLS that trusts `roots`, on the workspace's crypto stack whatever the process default is.
pub(crate) fn client(roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Tls(error.into()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
