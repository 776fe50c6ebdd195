use std::{sync::Arc, time::Duration};

use kasbah_http::{Http, RootCertStore, TlsError};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    Connection, SetupError,
    config::is_https,
    token::{TokenError, Tokens},
};

/// One connection to a platform, and a token for every call over it.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    tokens: Option<Tokens>,
    /// For errors.
    endpoint: Arc<str>,
}

/// A call without an answer.
#[derive(Debug)]
pub(crate) enum CallError {
    Token(TokenError),
    Status(Status),
}

impl From<TokenError> for CallError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Link {
    /// Connects when first used. `limit` is for connecting and for a token, each. Must be called on
    /// a Tokio runtime.
    pub(crate) fn new(connection: &Connection, limit: Duration) -> Result<Self, SetupError> {
        connection.check()?;
        let roots = if connection.uses_tls() {
            kasbah_http::authorities(connection.ca_file.as_deref())?
        } else {
            RootCertStore::empty()
        };
        let channel = endpoint(connection, limit, &roots)?.connect_lazy();
        let tokens = match &connection.auth {
            Some(auth) => {
                let http = Http::new(kasbah_http::client_config(roots)?, limit, BODY_LIMIT);
                Some(Tokens::new(auth.clone(), http, limit))
            }
            None => None,
        };
        Ok(Self { channel, tokens, endpoint: connection.endpoint.to_string().into() })
    }

    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    /// The answer of the platform, with a new token when it does not accept the one there is.
    pub(crate) async fn call<Q: Clone, A>(
        &self,
        message: Q,
        call: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CallError> {
        let mut retried = false;
        loop {
            let mut request = Request::new(message.clone());
            kasbah_telemetry::inject(request.metadata_mut().as_mut());
            let token = match &self.tokens {
                Some(tokens) => Some((tokens, tokens.get().await?)),
                None => None,
            };
            if let Some((_, token)) = &token {
                request.metadata_mut().insert("authorization", token.header());
            }
            match (call(self.channel.clone(), request).await, token) {
                (Ok(answer), _) => return Ok(answer.into_inner()),
                (Err(status), Some((tokens, token)))
                    if status.code() == Code::Unauthenticated && !retried =>
                {
                    tokens.forget(&token).await;
                    retried = true;
                }
                (Err(status), _) => return Err(CallError::Status(status)),
            }
        }
    }
}

fn endpoint(
    connection: &Connection,
    limit: Duration,
    roots: &RootCertStore,
) -> Result<Endpoint, SetupError> {
    let endpoint = Endpoint::from(connection.endpoint.clone())
        .connect_timeout(limit)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .keep_alive_timeout(limit);
    if !is_https(&connection.endpoint) {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new().trust_anchors(roots.roots.iter().cloned());
    endpoint.tls_config(tls).map_err(|error| TlsError::Settings(error.into()).into())
}

/// Tokens have a few KiB.
const BODY_LIMIT: usize = 64 * 1024;

/// Finds out about a connection that died silently before a request has to.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
