use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use kasbah_platform::ClientCredentials;
use kasbah_trust::SecretSource;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// An identity provider that gives out `t1`, `t2` and so on.
#[derive(Clone)]
pub(crate) struct Issuer {
    address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    /// Answers with status and body, `{n}` in which is the number of the request.
    pub(crate) async fn answering(status: &'static str, body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = Self { address, requests: Arc::default() };
        let serving = issuer.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let n = {
                    let mut requests = serving.requests.lock().unwrap();
                    requests.push(text);
                    requests.len()
                };
                let body = body.replace("{n}", &n.to_string());
                let answer = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Who asked may have hung up over a body that is too large.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        issuer
    }

    pub(crate) async fn granting(expires_in: u32) -> Self {
        let body = format!(
            r#"{{"access_token":"t{{n}}","token_type":"Bearer","expires_in":{expires_in}}}"#
        );
        Self::answering("200 OK", body).await
    }

    pub(crate) fn credentials(&self, secret: PathBuf) -> ClientCredentials {
        ClientCredentials {
            token_endpoint: format!("http://{}/token", self.address).parse().unwrap(),
            client_id: "kas one".to_owned(),
            client_secret: SecretSource::File(secret),
            scope: Some("a b".to_owned()),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}
