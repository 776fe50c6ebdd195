use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_http::{
    Bytes, Full, Http, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    task,
    time::{error::Elapsed, timeout},
};
use tonic::metadata::AsciiMetadataValue;
use zeroize::Zeroizing;

use crate::ClientCredentials;

/// No token could be had. Names the endpoint and the reason, never the secret or a token.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no token from {endpoint} for client {client_id}: {reason}")]
pub(crate) struct TokenError {
    endpoint: Arc<str>,
    client_id: Arc<str>,
    reason: Arc<str>,
}

/// Gets tokens and keeps the last until it is about to expire.
#[derive(Debug)]
pub(crate) struct Tokens {
    credentials: ClientCredentials,
    http: Http,
    timeout: Duration,
    /// Held while a token is fetched, so that one is, however many need it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    failed: Option<(Instant, TokenError)>,
}

/// `Bearer ...`, marked as sensitive, so that it does not print.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    header: AsciiMetadataValue,
    usable_until: Instant,
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Token {
    pub(crate) fn header(&self) -> AsciiMetadataValue {
        self.header.clone()
    }
}

impl Tokens {
    pub(crate) fn new(credentials: ClientCredentials, http: Http, timeout: Duration) -> Self {
        Self { credentials, http, timeout, state: Mutex::default() }
    }

    /// A token that is good for a while.
    pub(crate) async fn get(&self) -> Result<Token, TokenError> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = state.token.as_ref().filter(|token| now < token.usable_until) {
            return Ok(token.clone());
        }
        if let Some((at, error)) = &state.failed
            && at.elapsed() < BACK_OFF
        {
            return Err(error.clone());
        }
        let fetched = timeout(self.timeout, self.fetch()).await;
        match fetched.unwrap_or_else(|_: Elapsed| Err("no answer in time".to_owned())) {
            Ok(token) => {
                *state = State { token: Some(token.clone()), failed: None };
                Ok(token)
            }
            Err(reason) => {
                let error = self.error(&reason);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The platform does not accept `refused`, so it is not used again.
    pub(crate) async fn forget(&self, refused: &Token) {
        self.state.lock().await.token.take_if(|token| token.header == refused.header);
    }

    async fn fetch(&self) -> Result<Token, String> {
        let asked = Instant::now();
        let (status, body) = self.http.send(self.request().await?).await?;
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        // serde_json's error could quote the body.
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| "its answer is no JSON object with an access_token".to_owned())?;
        if !granted.token_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer")) {
            return Err("the token is not of type Bearer".to_owned());
        }
        let lifetime = granted.expires_in.map_or(UNSAID, Duration::from_secs).min(LONGEST);
        let text = Zeroizing::new(granted.access_token);
        let text = Zeroizing::new(format!("Bearer {}", text.as_str()));
        let mut header = AsciiMetadataValue::try_from(text.as_str())
            .map_err(|_| "the token has characters that no header can carry".to_owned())?;
        header.set_sensitive(true);
        Ok(Token {
            header,
            usable_until: asked + lifetime.saturating_sub(MARGIN.min(lifetime / 5)),
        })
    }

    async fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.credentials.scope {
            form = format!("{form}&scope={}", form_encode(scope).as_str());
        }
        Request::post(self.credentials.token_endpoint.clone())
            .header(AUTHORIZATION, self.basic().await?)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Full::from(form))
            .map_err(|error| error.to_string())
    }

    /// `client_secret_basic`: RFC 6749, section 2.3.1.
    async fn basic(&self) -> Result<HeaderValue, String> {
        let source = self.credentials.client_secret.clone();
        // A secret may come from a command.
        let secret = task::spawn_blocking(move || source.read()).await;
        let secret = secret
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("client_secret: {error}"))?;
        let id = form_encode(&self.credentials.client_id);
        let secret = form_encode(secret.expose_secret());
        let pair = Zeroizing::new(format!("{}:{}", id.as_str(), secret.as_str()));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value = HeaderValue::try_from(text.as_str()).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn error(&self, reason: &str) -> TokenError {
        TokenError {
            endpoint: self.credentials.token_endpoint.to_string().into(),
            client_id: self.credentials.client_id.as_str().into(),
            reason: reason.into(),
        }
    }
}

/// The status, and the error code where it is one; nothing else of what the server wrote.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let code = serde_json::from_slice::<Refused>(body).ok().map(|refused| refused.error);
    let is_code = |code: &String| {
        code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let code = code.filter(is_code).map_or(String::new(), |code| format!(" ({code})"));
    let hint = if status.is_client_error() { "; check client_id and client_secret" } else { "" };
    format!("it answered {status}{code}{hint}")
}

/// `application/x-www-form-urlencoded`, RFC 6749, appendix B.
fn form_encode(text: &str) -> Zeroizing<String> {
    // Large enough that it never moves.
    let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// A token is replaced this long before it expires, or in the last fifth of a short life.
const MARGIN: Duration = Duration::from_secs(30);

/// Lifetime of a token that does not say.
const UNSAID: Duration = Duration::from_mins(1);

const LONGEST: Duration = Duration::from_hours(24);

/// How long a failure stands, so that a wrong secret does not lock the client out.
const BACK_OFF: Duration = Duration::from_secs(1);
