use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How connections are encrypted, and who may open one.
pub struct Tls {
    /// PEM certificates: the server's, then those of the authorities in between.
    pub certificates: String,
    /// PEM private key of the first certificate.
    pub private_key: SecretString,
    /// PEM certificates of the authorities whose client certificates are accepted. With `None`
    /// clients are not asked for one.
    pub client_authorities: Option<String>,
    /// Whether clients without a certificate are turned away.
    pub client_certificate_required: bool,
}

impl Tls {
    pub(crate) fn config(&self) -> ServerTlsConfig {
        let identity = Identity::from_pem(&self.certificates, self.private_key.expose_secret());
        let config = ServerTlsConfig::new().identity(identity);
        match &self.client_authorities {
            Some(authorities) => config
                .client_ca_root(Certificate::from_pem(authorities))
                .client_auth_optional(!self.client_certificate_required),
            None => config,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("client_certificate_required", &self.client_certificate_required)
            .finish_non_exhaustive()
    }
}
