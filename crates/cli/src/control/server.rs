//! The server that is acted on.

use std::{
    env,
    io::{Read, stdin},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use kasbah_proto::{
    kasbah::admin::v1::admin_service_client::AdminServiceClient,
    policy::{
        kasregistry::key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
        keymanagement::key_management_service_client::KeyManagementServiceClient,
        r#unsafe::unsafe_service_client::UnsafeServiceClient,
    },
};
use kasbah_trust::SecretSource;
use secrecy::{ExposeSecret, SecretString};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure, OrExit};

/// Holds the access token itself.
const TOKEN_VARIABLE: &str = "KASBAH_TOKEN";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An RSA-4096 key takes some devices half a minute.
const TIMEOUT_SECONDS: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// The states of all keys come in one answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Which server, and who is asking.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArguments {
    /// Address of the server
    #[arg(
        long,
        global = true,
        env = "KASBAH_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// File with the access token of an administrator, `-` for standard input; without it, the
    /// token is taken from `KASBAH_TOKEN`, never from the command line, where everybody on the
    /// machine could read it
    #[arg(long, global = true, env = "KASBAH_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS)]
    timeout: NonZeroU32,
}

/// A server that calls can be made to.
pub(crate) struct Server {
    channel: Channel,
    bearer: Bearer,
}

/// The transport of every call.
pub(crate) type Authorized = InterceptedService<Channel, Bearer>;

/// Puts the access token, if there is one, on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl ServerArguments {
    /// Reads the token. Nothing is sent before the first call.
    pub(crate) fn server(&self) -> Result<Server, Failure> {
        let endpoint = endpoint(&self.url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(Duration::from_secs(self.timeout.get().into()));
        let token = self.token()?;
        let bearer = Bearer(token.as_ref().map(authorization).transpose()?);
        Ok(Server { channel: endpoint.connect_lazy(), bearer })
    }

    fn token(&self) -> Result<Option<SecretString>, Failure> {
        match &self.token_file {
            Some(file) if file == Path::new("-") => from_stdin().map(Some),
            Some(file) => SecretSource::File(file.clone()).read().map(Some).or_exit(Exit::Usage),
            None if env::var_os(TOKEN_VARIABLE).is_some() => {
                SecretSource::Env(TOKEN_VARIABLE.into()).read().map(Some).or_exit(Exit::Usage)
            }
            None => Ok(None),
        }
    }
}

impl Server {
    pub(crate) fn registry(&self) -> KeyAccessServerRegistryServiceClient<Authorized> {
        let (channel, bearer) = self.parts();
        KeyAccessServerRegistryServiceClient::with_interceptor(channel, bearer)
    }

    pub(crate) fn key_management(&self) -> KeyManagementServiceClient<Authorized> {
        let (channel, bearer) = self.parts();
        KeyManagementServiceClient::with_interceptor(channel, bearer)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Authorized> {
        let (channel, bearer) = self.parts();
        AdminServiceClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn dangerous(&self) -> UnsafeServiceClient<Authorized> {
        let (channel, bearer) = self.parts();
        UnsafeServiceClient::with_interceptor(channel, bearer)
    }

    fn parts(&self) -> (Channel, Bearer) {
        (self.channel.clone(), self.bearer.clone())
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.0 {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

fn endpoint(url: &str) -> Result<Endpoint, Failure> {
    if url.starts_with("https://") {
        return Err(Failure::usage(
            "--url: https is not available in this version; reach the server by http on loopback \
             or through a tunnel",
        ));
    }
    if !url.starts_with("http://") {
        return Err(Failure::usage(format!("--url: `{url}` does not begin with http://")));
    }
    Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("--url: `{url}` is no address"))
        .or_exit(Exit::Usage)
}

fn from_stdin() -> Result<SecretString, Failure> {
    let mut text = Zeroizing::new(String::new());
    stdin()
        .read_to_string(&mut text)
        .context("cannot read the access token from standard input")
        .or_exit(Exit::Usage)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage("standard input has no access token"));
    }
    Ok(SecretString::from(token))
}

fn authorization(token: &SecretString) -> Result<MetadataValue<Ascii>, Failure> {
    let header = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    let mut value: MetadataValue<_> = header
        .parse()
        .map_err(|_| Failure::usage("the access token is no printable ASCII text"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_is_spoken() {
        assert!(endpoint("http://127.0.0.1:8080").is_ok());
        for (url, reason) in [
            ("https://kas.example", "https is not available in this version"),
            ("kas.example:8080", "does not begin with http://"),
            ("", "does not begin with http://"),
            ("http://", "is no address"),
            ("http://a b", "is no address"),
        ] {
            let failure = format!("{:?}", endpoint(url).unwrap_err());
            assert!(failure.contains("Usage") && failure.contains(reason), "{url}: {failure}");
        }
    }

    #[test]
    fn a_token_is_marked_and_must_be_text() {
        let value = authorization(&SecretString::from("abc")).unwrap();
        assert!(value.is_sensitive());
        assert_eq!(value.to_str().unwrap(), "Bearer abc");
        for token in ["a\nb", "a\0"] {
            let failure = authorization(&SecretString::from(token)).unwrap_err();
            assert!(format!("{failure:?}").contains("Usage"), "{failure:?}");
        }
    }

    #[test]
    fn every_call_carries_the_token() {
        let mut bearer = Bearer(Some("Bearer abc".parse().unwrap()));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer abc");
        let request = Bearer(None).call(Request::new(())).unwrap();
        assert!(request.metadata().get("authorization").is_none());
    }
}
