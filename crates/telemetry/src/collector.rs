use std::{path::PathBuf, time::Duration};

use kasbah_http::{TlsError, Uri, authorities};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

/// An OpenTelemetry collector: OTLP over gRPC.
pub struct Collector {
    /// Where it listens: `http` or `https`, a host, no path.
    pub endpoint: Uri,
    /// PEM certificates of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Headers to send, such as `authorization`.
    pub headers: Vec<(String, SecretString)>,
    /// How long one call may take.
    pub timeout: Duration,
}

/// The collector cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// A header that HTTP does not allow.
    #[error("the name or value of header `{0}` is not allowed in HTTP")]
    Header(String),
    /// Started where no Tokio runtime is.
    #[error("an OpenTelemetry exporter needs a Tokio runtime")]
    NoRuntime,
    /// There is no TLS to call it with.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Collector {
    /// Connects when first used.
    ///
    /// # Errors
    /// Without a Tokio runtime, or when there is no TLS to call it with.
    pub fn channel(&self) -> Result<Channel, CollectorError> {
        if Handle::try_current().is_err() {
            return Err(CollectorError::NoRuntime);
        }
        let mut endpoint = Endpoint::from(self.endpoint.clone())
            .connect_timeout(self.timeout)
            .timeout(self.timeout);
        if self.endpoint.scheme_str() == Some("https") {
            let roots = authorities(self.ca_file.as_deref())?;
            let tls = ClientTlsConfig::new().trust_anchors(roots.roots.iter().cloned());
            endpoint =
                endpoint.tls_config(tls).map_err(|error| TlsError::Settings(error.into()))?;
        }
        Ok(endpoint.connect_lazy())
    }

    /// The headers, which are not for logs.
    ///
    /// # Errors
    /// When HTTP does not allow one.
    pub fn metadata(&self) -> Result<MetadataMap, CollectorError> {
        let mut map = MetadataMap::new();
        for (name, value) in &self.headers {
            let refuse = || CollectorError::Header(name.clone());
            let key = name.parse::<AsciiMetadataKey>().map_err(|_| refuse())?;
            let value = value.expose_secret().parse::<AsciiMetadataValue>();
            let mut value = value.map_err(|_| refuse())?;
            value.set_sensitive(true);
            map.insert(key, value);
        }
        Ok(map)
    }
}
