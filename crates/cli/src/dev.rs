//! `kasbah dev`

use std::{
    collections::BTreeMap,
    fs, future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Curve, PrivateKeyParts, PublicKey, envelope::RootKey};
use kasbah_issuer::{Client, Issuer, Settings, SigningKeys};
use kasbah_pkcs11::provision::{self, KeyEntry};
use kasbah_proto::policy::KeyMode;
use kasbah_registry::{KeyName, NewKas, NewKey, PrivateKey, ProviderName};
use kasbah_trust::{Algorithm, Custody, Deadline, KeyService};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::{
    arguments::LogArguments,
    config::Config,
    exit::{Exit, Failure, OrExit},
    output::{Output, columns, print},
    plan::Plan,
    server::{self, Ready},
    throw_away::{LABEL, PIN, ThrowAway, random_hex, write_secret},
};

const TOKEN_LIFETIME_SECONDS: u64 = 30 * 24 * 3600;
/// Subject of the access token.
const ADMIN: &str = "admin";
/// The client that the issuer knows.
const CLIENT: &str = "kasbah-dev";
/// Name of the root key and of its file.
const ROOT: &str = "root";
/// How long one key may take to prove itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Kids of the keys that are always made.
const KIDS: [&str; 3] = [FIRST, "e1", "b1"];
/// Kid of the base key.
const FIRST: &str = "r1";

/// Try everything at once: a server with throw-away keys
///
/// Makes a SoftHSM token with an RSA and a P-256 key, a key wrapped by a root key, an access token
/// for an administrator and a configuration, and serves on a loopback address until told to stop.
/// What it wrote stays: `kasbah serve` starts the same server again.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Loopback address to listen on; with port 0, any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Directory for what it writes; a new one under the system's temporary directory if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Import a private key into the token under this kid; may be repeated
    #[arg(long = "import", value_name = "KID=PEMFILE", value_parser = import)]
    imports: Vec<Import>,
    /// Another PKCS#11 library than SoftHSM: Kryoptic
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    #[command(flatten)]
    log: LogArguments,
}

#[derive(Debug, Clone)]
struct Import {
    kid: String,
    file: PathBuf,
}

/// What a server was made of.
struct Made {
    directory: PathBuf,
    url: String,
    access_token: String,
    issuer: Arc<Issuer>,
    client_secret: SecretString,
}

/// Plans the server; takes its port and makes its directory.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Result<Plan, Failure> {
    if !arguments.listen.ip().is_loopback() {
        return Err(Failure::usage(
            "--listen: throw-away keys are served on loopback addresses only, such as \
             127.0.0.1:8080; elsewhere use `kasbah serve`",
        ));
    }
    let listener = server::listen(arguments.listen)?;
    let directory = directory(arguments.dir.as_deref())?;
    let token = ThrowAway::prepare(&directory, arguments.module.as_deref())?;
    let environment = token.environment();
    let imports = arguments.imports;
    let task = async move { run(directory, &token, &imports, listener, output).await };
    Ok(Plan::server(arguments.log.format, task).with_environment(environment))
}

async fn run(
    directory: PathBuf,
    token: &ThrowAway,
    imports: &[Import],
    listener: std::net::TcpListener,
    output: Output,
) -> Result<(), Failure> {
    let address = listener.local_addr().or_exit(Exit::Unavailable)?;
    let url = format!("http://{address}");
    let mut keys = in_token(token, imports)?;
    keys.push(wrapped(&directory)?);
    let issuing = server::listen((Ipv4Addr::LOCALHOST, 0).into())?;
    let issuer = issuer(&issuing, &url).or_exit(Exit::Unavailable)?;
    let client_secret = SecretString::from(random_hex::<32>()?);
    let access_token = issue(&directory, &url, &issuer, &client_secret)?;
    let configuration = configuration(token, address, &url, &issuer);
    write_secret(&directory.join("config.yaml"), &configuration)?;
    let made = Made { directory, url, access_token, issuer, client_secret };
    let config = Config::load(&made.config_file()).or_exit(Exit::Usage)?;
    let server = server::build(config, None).await?;
    let keys = register(&server, &made.url, keys).await?;
    let listener = TcpListener::from_std(listener).or_exit(Exit::Unavailable)?;
    match output {
        Output::Json => print(&made.json(&keys).to_string())?,
        Output::Table => print(&made.story(&keys))?,
    }
    let issuing = TcpListener::from_std(issuing).or_exit(Exit::Unavailable)?;
    let issuing = tokio::spawn(Arc::clone(&made.issuer).serve(issuing, future::pending()));
    let served = server.serve(listener).await;
    issuing.abort();
    served
}

/// A key that is served.
struct ProvenKey {
    kid: String,
    algorithm: Algorithm,
    /// Name of its manager.
    manager: String,
    public_key: PublicKey,
    custody: Custody,
}

/// A key to be registered.
struct NewRecord {
    kid: String,
    public_key: PublicKey,
    private_key: PrivateKey,
    mode: KeyMode,
}

/// Makes the keys of the token.
fn in_token(token: &ThrowAway, imports: &[Import]) -> Result<Vec<NewRecord>, Failure> {
    let token = token.make()?;
    let mut keys = vec![
        provision::generate(&token, FIRST, Algorithm::Rsa2048)?,
        provision::generate(&token, KIDS[1], Algorithm::Ec(Curve::P256))?,
    ];
    for import in imports {
        let pem = fs::read_to_string(&import.file)
            .with_context(|| format!("--import: cannot read {}", import.file.display()))
            .or_exit(Exit::Usage)?;
        keys.push(provision::import(&token, &import.kid, &Zeroizing::new(pem))?);
    }
    keys.into_iter().map(record_of).collect()
}

fn record_of(key: KeyEntry) -> Result<NewRecord, Failure> {
    let uri = key.uri().map(|uri| uri.to_string());
    let (Some(key_id), Some(public_key)) = (uri, key.public_key) else {
        return Err(Failure::not_fine(format!(
            "key {} came out of the token incomplete",
            key.label
        )));
    };
    Ok(NewRecord {
        kid: key.label,
        public_key,
        private_key: PrivateKey { key_id, wrapped_key: None },
        mode: KeyMode::Remote,
    })
}

/// Makes a key that is wrapped by a root key.
fn wrapped(directory: &Path) -> Result<NewRecord, Failure> {
    let root = Zeroizing::new(random_hex::<32>()?);
    let (public_key, wrapped) = wrap(&root).or_exit(Exit::Unavailable)?;
    write_secret(&directory.join(ROOT), &root)?;
    write_secret(&directory.join(format!("{}.pem", KIDS[2])), &public_key.to_pem())?;
    write_secret(&directory.join(format!("{}.b64", KIDS[2])), &wrapped)?;
    Ok(NewRecord {
        kid: KIDS[2].to_owned(),
        public_key,
        private_key: PrivateKey { key_id: ROOT.to_owned(), wrapped_key: Some(wrapped) },
        mode: KeyMode::ConfigRootKey,
    })
}

/// Registers the server and its keys, and uses each key once.
async fn register(
    server: &Ready,
    url: &str,
    keys: Vec<NewRecord>,
) -> Result<Vec<ProvenKey>, Failure> {
    let control = server.control.as_ref().context("a throw-away server has a registry");
    let registry = &control.or_exit(Exit::Usage)?.registry;
    let new = NewKas { uri: url.to_owned(), name: "dev".to_owned(), ..NewKas::default() };
    let kas = registry.create_kas(new).await.or_exit(Exit::Unavailable)?;
    let main = ProviderName::Pair { name: "main".into(), manager: kasbah_pkcs11::MANAGER.into() };
    let main = registry.provider(&main).await.or_exit(Exit::Unavailable)?;
    for key in keys.iter().rev() {
        let new = NewKey {
            kid: key.kid.clone(),
            algorithm: number_of(&key.public_key),
            mode: key.mode as i32,
            public_pem: key.public_key.to_pem(),
            private_key: Some(key.private_key.clone()),
            provider_id: (key.mode == KeyMode::Remote).then(|| main.id.clone()),
            ..NewKey::default()
        };
        let made = registry.create_key(&kas.id, &new).await.or_exit(Exit::Unavailable)?;
        if made.kid == FIRST {
            registry.set_base_key(&KeyName::Id(made.id)).await.or_exit(Exit::Unavailable)?;
        }
    }
    let mut served = Vec::new();
    for key in keys {
        served.push(prove(&server.key_service(), &key.kid).await?);
    }
    Ok(served)
}

async fn prove(keys: &KeyService, kid: &str) -> Result<ProvenKey, Failure> {
    let deadline = Deadline::after(PROBE_TIMEOUT);
    let key = keys.index().find_by_id(&kid.into(), deadline).await.or_exit(Exit::Unavailable)?;
    let custody = keys.prove(&key, deadline).await.or_exit(Exit::Unavailable)?;
    let manager = keys.manager_for(&key).await.or_exit(Exit::Unavailable)?;
    Ok(ProvenKey {
        kid: key.kid.to_string(),
        algorithm: key.algorithm,
        manager: manager.designation().manager.clone(),
        public_key: key.public_key.clone(),
        custody,
    })
}

/// `policy.Algorithm`.
fn number_of(key: &PublicKey) -> i32 {
    match key.algorithm() {
        Some(Algorithm::Rsa2048) => 1,
        Some(Algorithm::Rsa4096) => 2,
        Some(Algorithm::Ec(Curve::P256)) => 3,
        Some(Algorithm::Ec(Curve::P384)) => 4,
        Some(Algorithm::Ec(Curve::P521)) => 5,
        None => 0,
    }
}

fn wrap(root: &str) -> anyhow::Result<(PublicKey, String)> {
    let key = PrivateKeyParts::generate(Algorithm::Rsa2048)?;
    let wrapped = wrap_private_key(&RootKey::from_hex(root)?, &key.to_pem()?)?;
    Ok((key.public_key(), wrapped))
}

/// Makes the issuer; its keys are not kept.
fn issuer(listener: &std::net::TcpListener, url: &str) -> anyhow::Result<Arc<Issuer>> {
    let keys = SigningKeys::generate()?;
    let settings = Settings::new(listener.local_addr()?, vec![url.to_owned()], keys);
    Ok(Arc::new(Issuer::new(settings)?))
}

/// Tells the issuer of its client, and issues an access token for an administrator.
fn issue(
    directory: &Path,
    url: &str,
    issuer: &Issuer,
    secret: &SecretString,
) -> Result<String, Failure> {
    let claims = claims_of_admin();
    let client = Client { id: CLIENT.to_owned(), secret: secret.clone(), claims: claims.clone() };
    issuer.add_client(client).or_exit(Exit::Unavailable)?;
    let token = long_lived(issuer, url, claims).or_exit(Exit::Unavailable)?;
    write_secret(&directory.join("jwks.json"), &issuer.jwks().to_string())?;
    write_secret(&directory.join("access-token"), &token)?;
    write_secret(&directory.join("client-secret"), secret.expose_secret())?;
    let credentials =
        BTreeMap::from([("clientId", CLIENT), ("clientSecret", secret.expose_secret())]);
    let credentials = Zeroizing::new(serde_json::to_string(&credentials).or_exit(Exit::Usage)?);
    write_secret(&directory.join("credentials.json"), &credentials)?;
    Ok(token)
}

fn claims_of_admin() -> Map<String, Value> {
    let roles = json!({ "roles": ["opentdf-admin", "opentdf-standard"] });
    [("sub", ADMIN.into()), ("realm_access", roles)]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// A token that outlives those of the token endpoint.
fn long_lived(
    issuer: &Issuer,
    url: &str,
    mut claims: Map<String, Value>,
) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for (name, value) in [
        ("iss", issuer.url().into()),
        ("aud", url.into()),
        ("azp", CLIENT.into()),
        ("iat", now.into()),
        ("exp", (now + TOKEN_LIFETIME_SECONDS).into()),
    ] {
        claims.insert(name.to_owned(), value);
    }
    Ok(issuer.sign(&claims)?)
}

/// YAML; JSON values are YAML too, which saves quoting. Old clients find their REST routes, and pages
/// of any origin may call, as they may call the issuer: without a token nothing but public keys is
/// to be had.
fn configuration(token: &ThrowAway, address: SocketAddr, url: &str, issuer: &Issuer) -> String {
    let kind = token.kind;
    let module = json!({ "path": token.module, "env": { kind.variable: kind.file } });
    let provider =
        json!({ "module": kind.name, "token": LABEL, "pin": PIN, "custody": "prefer-sealed" });
    let auth = json!({
        "mode": "jwt", "issuer": issuer.url(), "audience": url, "jwks_file": "jwks.json",
        "token_endpoint": issuer.token_url(),
    });
    format!(
        "# Written by `kasbah dev`; `kasbah serve` starts the same server again.\n\
         server: {}\nkas: {}\nauth: {auth}\ndecisions: {}\nregistry: {}\nsecrets:\n  {PIN}: {{ file: {PIN} }}\n  \
         {ROOT}: {{ file: {ROOT} }}\nroot_keys: [{ROOT}]\nmodules:\n  {}: {module}\nproviders:\n  \
         - name: main\n    manager: {}\n    config: {provider}\n",
        json!({ "listen": address, "rest": {}, "cors": { "origins": ["*"] } }),
        json!({ "uri": url, "key_index": "registry" }),
        json!({ "mode": "local", "from": "registry" }),
        json!({ "database": "sqlite:registry.db" }),
        kind.name,
        kasbah_pkcs11::MANAGER,
    )
}

impl Made {
    fn config_file(&self) -> PathBuf {
        self.directory.join("config.yaml")
    }

    fn json(&self, keys: &[ProvenKey]) -> Value {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "kid": key.kid,
                    "algorithm": key.algorithm.as_str(),
                    "manager": key.manager,
                    "custody": key.custody.level.as_str(),
                    "public_key": key.public_key.to_pem(),
                })
            })
            .collect();
        json!({
            "url": self.url,
            "access_token": self.access_token,
            "issuer": self.issuer.url(),
            "client_id": CLIENT,
            "client_secret": self.client_secret.expose_secret(),
            "config": self.config_file(),
            "keys": keys,
        })
    }

    fn story(&self, keys: &[ProvenKey]) -> String {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                let algorithm = key.algorithm.to_string();
                [key.kid.clone(), algorithm, key.manager.clone(), key.custody.level.as_str().into()]
            })
            .collect();
        let (url, issuer, directory) = (&self.url, self.issuer.url(), self.directory.display());
        format!(
            "Kasbah serves Connect, gRPC and REST on {url}. Its keys were made just now, each was used once:\n\n{}\n\
             Everything is in {directory} and stays there:\n  \
             config.yaml    its configuration\n  \
             registry.db    which keys there are\n  \
             b1.b64         the private key of b1, wrapped by the root key in `root`\n  \
             tokens         the token; its PIN is in `pin`\n  \
             access-token   an access token for an administrator, good for 30 days\n\n\
             Its issuer gives access tokens to the client {CLIENT}, whose secret is in\n\
             `client-secret`, until Ctrl-C; `credentials.json` has both for SDKs:\n  \
             {issuer}\n\n\
             Ask it for a rewrap:\n  \
             kasbah smoke {url} --token-file {directory}/access-token\n\
             Look at its keys, as its administrator:\n  \
             kasbah keys list --url {url} --token-file {directory}/access-token\n\
             Start the same server again after Ctrl-C:\n  \
             kasbah serve --config {directory}/config.yaml",
            columns(["KID", "ALGORITHM", "MANAGER", "CUSTODY"], &keys),
        )
    }
}

/// The directory to write to, which must not hold an earlier server.
fn directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(directory) = given else {
        let made = tempfile::Builder::new().prefix("kasbah-dev-").tempdir();
        return Ok(made.or_exit(Exit::Unavailable)?.keep());
    };
    let directory = std::path::absolute(directory).or_exit(Exit::Usage)?;
    let config = directory.join("config.yaml");
    if config.exists() {
        return Err(Failure::usage(format!(
            "--dir: {} holds a server already; start it with `kasbah serve --config {}`, or name \
             another directory",
            directory.display(),
            config.display()
        )));
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("--dir: cannot make {}", directory.display()))
        .or_exit(Exit::Usage)?;
    Ok(directory)
}

fn import(text: &str) -> Result<Import, anyhow::Error> {
    let (kid, file) = text
        .split_once('=')
        .filter(|(kid, file)| !kid.is_empty() && !file.is_empty())
        .ok_or_else(|| anyhow!("expected KID=PEMFILE"))?;
    if KIDS.contains(&kid) {
        return Err(anyhow!("{kid} is made anyway; choose another kid"));
    }
    Ok(Import { kid: kid.into(), file: file.into() })
}
