//! A server with two issuers, and a client that sends anything.

use std::sync::Arc;

use http_body_util::BodyExt;
use kasbah_auth::{DpopSettings, IssuerSettings, KeySource, TokenRules, Tokens};
use kasbah_proto::kas::{RewrapRequest, RewrapResponse};
use prost::Message;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, Request},
    },
    transport::Channel,
};

use super::{
    keys::{Keys, encode},
    log::Log,
    sent::Sent,
};
use crate::harness::*;

/// In everything that is sent and must not be logged.
pub(super) const CANARY: &str = "canary-4f1d8f0e7c";
pub(super) const ISSUER_A: &str = "https://issuer.example/realms/a";
pub(super) const ISSUER_B: &str = "https://issuer.example/realms/b";
pub(super) const AUDIENCE: &str = "kas-of-a";
pub(super) const AUDIENCE_B: &str = "kas-of-b";
pub(super) const PATH: &str = "/kas.AccessService/Rewrap";

/// A request as it goes over the wire.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, Vec<u8>)>,
    pub(super) srt: String,
}

impl Wire {
    /// The text behind the scheme.
    pub(super) fn access_token(&self) -> String {
        self.value("authorization").split_once(' ').unwrap().1.to_owned()
    }

    pub(super) fn proof(&self) -> String {
        self.value("dpop").to_owned()
    }

    fn value(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| *header == name);
        str::from_utf8(&found.unwrap().1).unwrap()
    }

    /// What must not be in a log: the tokens, and each part of them that is long enough to be told
    /// from chance.
    fn secrets(&self) -> Vec<String> {
        let values = self.headers.iter().map(|(_, value)| String::from_utf8_lossy(value));
        let values = values.chain([self.srt.as_str().into()]);
        let split = |value: &str| -> Vec<_> {
            value.split(['.', ' ', ',', '"']).map(str::to_owned).collect()
        };
        values.flat_map(|value| split(&value)).filter(|part| part.len() >= 16).collect()
    }
}

/// What the client is told.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: Code,
    pub(super) message: String,
    /// With those at the end.
    pub(super) headers: HeaderMap,
    /// The first data key, if there is one.
    pub(super) outcome: Option<Outcome>,
}

impl Answer {
    pub(super) fn is_good(&self) -> bool {
        self.code == Code::Ok && self.outcome.as_ref().is_some_and(Result::is_ok)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(super) struct Rig {
    pub(super) keys: Arc<Keys>,
    pub(super) server: Server,
    pub(super) log: Log,
    pub(super) nonce: Option<String>,
    channel: Channel,
    body: String,
}

impl Rig {
    pub(super) async fn new(keys: &Arc<Keys>, log: &Log, dpop: DpopSettings) -> Self {
        let [of_a, of_b] = keys.jwks();
        let settings = [(ISSUER_A, AUDIENCE, of_a), (ISSUER_B, AUDIENCE_B, of_b)];
        let settings = settings.map(|(issuer, audience, keys)| IssuerSettings {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            algorithms: Vec::new(),
            keys: KeySource::Jwks(keys.to_string()),
        });
        let tokens = Tokens::new(settings.into(), TokenRules::default()).unwrap();
        Self::with(keys, log, tokens, dpop).await
    }

    pub(super) async fn with(
        keys: &Arc<Keys>,
        log: &Log,
        tokens: Tokens,
        dpop: DpopSettings,
    ) -> Self {
        let gate = gate(Arc::new(tokens), dpop).await;
        let key = key("p1", P256);
        let server = Server::with(vec![key.clone()], |builder| builder.gate(gate)).await;
        let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
        let kao = kao("k", &key, &dek(), OPEN_POLICY);
        let client = Session::new(P256).public_key();
        Self {
            keys: Arc::clone(keys),
            server,
            log: log.clone(),
            nonce: None,
            channel: channel.connect().await.unwrap(),
            body: body(&client, &[entry(CANARY, OPEN_POLICY, &[&kao])]).to_string(),
        }
    }

    /// A good request.
    pub(super) fn request(&self) -> Sent {
        Sent::new(&self.keys, &self.body, self.nonce.as_deref())
    }

    /// # Errors
    /// When there is no answer.
    pub(super) async fn send(&self, wire: &Wire) -> Result<Answer, String> {
        let message = RewrapRequest { signed_request_token: wire.srt.clone() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), &message].concat();
        let mut request = Request::builder()
            .method(wire.method)
            .uri(&wire.path)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in &wire.headers {
            request = request.header(*name, value.as_slice());
        }
        let body = Body::new(http_body_util::Full::from(framed));
        let mut channel = self.channel.clone();
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .map_err(|error| error.to_string())?;
        let response = channel.call(request.body(body).unwrap()).await;
        let (parts, body) = response.map_err(|error| error.to_string())?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let mut headers = parts.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        let status = Status::from_header_map(&headers);
        let status = status.ok_or_else(|| format!("HTTP status {}", parts.status))?;
        let bytes = body.to_bytes();
        let message = bytes.get(5..).map(|bytes| RewrapResponse::decode(bytes).unwrap());
        let outcome = message.map(|message| outcomes(&message).remove(0));
        Ok(Answer { code: status.code(), message: status.message().to_owned(), headers, outcome })
    }

    /// What was logged since the last time, in which nothing of `wire` may be.
    pub(super) fn logged(&self, wire: &Wire, name: &str) -> String {
        let log = self.log.take();
        assert!(!log.contains(CANARY), "{name}: a value that was sent is in the log:\n{log}");
        let encoded = encode(CANARY);
        assert!(!log.contains(&encoded[..encoded.len() - 2]), "{name}: encoded, too:\n{log}");
        for secret in wire.secrets() {
            assert!(!log.contains(&secret), "{name}: a part of a token is in the log:\n{log}");
        }
        log
    }
}
