use std::{error::Error as StdError, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::ClientConfig;

/// An HTTP/1.1 client for small answers; follows no redirects.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    body_limit: usize,
}

impl Http {
    /// A client that gives up connecting after `connect_timeout` and reads no more than `body_limit`
    /// bytes of an answer.
    pub fn new(tls: ClientConfig, connect_timeout: Duration, body_limit: usize) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, body_limit }
    }

    /// Status and body of the answer. Bounded in size, not in time.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.body_limit).collect().await;
        let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?;
        Ok((head.status, body.to_bytes()))
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
