use std::{path::PathBuf, sync::Arc, time::Duration};

use kasbah_http::{TlsError, Uri};
use kasbah_trust::SecretSource;

/// Where the platform is and which keys to read there.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// Where it listens: `http` or `https`, a host, no path.
    pub endpoint: Uri,
    /// PEM certificates of the authorities to trust instead of the system's, for the platform and
    /// for the token endpoint.
    pub ca_file: Option<PathBuf>,
    /// URI under which this KAS is registered there, byte for byte.
    pub kas_uri: Arc<str>,
    /// How to get a token; `None` sends none.
    pub auth: Option<ClientCredentials>,
    /// Keys per page, 1 to 2500; at most the platform's `list_request_limit_max`.
    pub page_size: u16,
    /// How long one call may take, a token included.
    pub request_timeout: Duration,
}

/// How to reach a platform, whatever is asked of it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Where it listens: `http` or `https`, a host, no path.
    pub endpoint: Uri,
    /// PEM certificates of the authorities to trust instead of the system's, for the platform and
    /// for the token endpoint.
    pub ca_file: Option<PathBuf>,
    /// How to get a token; `None` sends none.
    pub auth: Option<ClientCredentials>,
}

/// Client credentials of OAuth 2.0 (RFC 6749, section 4.4), sent by HTTP Basic.
#[derive(Debug, Clone)]
pub struct ClientCredentials {
    /// Token endpoint of the identity provider: `http` or `https`.
    pub token_endpoint: Uri,
    /// Name of the client. It needs a role that may do what is asked for.
    pub client_id: String,
    /// Its secret; read again for every token.
    pub client_secret: SecretSource,
    /// Scope to ask for.
    pub scope: Option<String>,
}

/// The configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An address that cannot be called.
    #[error("{name} is not usable: {reason}")]
    Address {
        /// Which setting.
        name: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting of decisions that leaves no room for any.
    #[error("{0} is 0, so nothing could be decided")]
    Zero(&'static str),
    /// A page size out of bounds.
    #[error("page_size is {0}; use 1 to 2500")]
    PageSize(u16),
    /// There is no TLS to call it with.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl PlatformConfig {
    /// The keys of the KAS registered as `kas_uri` at the platform at `endpoint`, without a token,
    /// in pages of 500, 5 seconds per call.
    pub fn new(endpoint: Uri, kas_uri: &str) -> Self {
        Self {
            endpoint,
            ca_file: None,
            kas_uri: kas_uri.into(),
            auth: None,
            page_size: 500,
            request_timeout: Duration::from_secs(5),
        }
    }

    /// How to reach the platform.
    pub fn connection(&self) -> Connection {
        Connection {
            endpoint: self.endpoint.clone(),
            ca_file: self.ca_file.clone(),
            auth: self.auth.clone(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), SetupError> {
        if !(1..=2500).contains(&self.page_size) {
            return Err(SetupError::PageSize(self.page_size));
        }
        Ok(())
    }
}

impl Connection {
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        check_address("endpoint", &self.endpoint)?;
        if !matches!(self.endpoint.path(), "" | "/") || self.endpoint.query().is_some() {
            let reason = "it has a path; gRPC starts at the root";
            return Err(SetupError::Address { name: "endpoint", reason });
        }
        if let Some(auth) = &self.auth {
            check_address("token_endpoint", &auth.token_endpoint)?;
        }
        Ok(())
    }

    /// Whether anything is called by https.
    pub(crate) fn uses_tls(&self) -> bool {
        let token_endpoint = self.auth.as_ref().map(|auth| &auth.token_endpoint);
        token_endpoint.into_iter().chain([&self.endpoint]).any(is_https)
    }
}

pub(crate) fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

fn check_address(name: &'static str, uri: &Uri) -> Result<(), SetupError> {
    let refuse = |reason| Err(SetupError::Address { name, reason });
    let Some(authority) = uri.authority() else {
        return refuse("it is not absolute; write https://host:port");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return refuse("its scheme is neither http nor https");
    }
    if authority.as_str().contains('@') {
        return refuse("it holds credentials, which would be logged; name a secret instead");
    }
    Ok(())
}
