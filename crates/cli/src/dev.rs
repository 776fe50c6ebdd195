//! `kasbah dev`

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use jsonwebtoken::{EncodingKey, Header};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Curve, PrivateKeyParts, PublicKey, ec::EcPublicKey, envelope::RootKey};
use kasbah_pkcs11::provision::{self, KeyEntry};
use kasbah_trust::Algorithm;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::{
    arguments::LogArguments,
    config::Config,
    exit::{Exit, Failure, OrExit},
    output::{Output, columns, print},
    plan::Plan,
    server::{self, Proven, ProvenKey},
    throw_away::{LABEL, PIN, ThrowAway, random_hex, write_secret},
};

const ISSUER: &str = "urn:kasbah:dev";
const TOKEN_LIFETIME_SECONDS: u64 = 30 * 24 * 3600;
/// Kids of the keys that are always made.
const KIDS: [&str; 3] = ["r1", "e1", "b1"];

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
    let mut keyring = in_token(token, imports)?;
    keyring.push(wrapped(&directory)?);
    let access_token = issue(&directory, &url)?;
    write_secret(&directory.join("config.yaml"), &configuration(token, address, &url, &keyring))?;
    let made = Made { directory, url, access_token };
    let config = Config::load(&made.config_file()).or_exit(Exit::Usage)?;
    let proven = server::build(config, None).await?;
    let listener = TcpListener::from_std(listener).or_exit(Exit::Unavailable)?;
    match output {
        Output::Json => print(&made.json(&proven).to_string())?,
        Output::Table => print(&made.story(&proven))?,
    }
    proven.serve(listener).await
}

/// The keys of the token, as lines of a keyring.
fn in_token(token: &ThrowAway, imports: &[Import]) -> Result<Vec<Value>, Failure> {
    let token = token.make()?;
    let mut keys = vec![
        provision::generate(&token, KIDS[0], Algorithm::Rsa2048)?,
        provision::generate(&token, KIDS[1], Algorithm::Ec(Curve::P256))?,
    ];
    for import in imports {
        let pem = fs::read_to_string(&import.file)
            .with_context(|| format!("--import: cannot read {}", import.file.display()))
            .or_exit(Exit::Usage)?;
        keys.push(provision::import(&token, &import.kid, &Zeroizing::new(pem))?);
    }
    Ok(keys.iter().map(line_of).collect())
}

fn line_of(key: &KeyEntry) -> Value {
    json!({
        "kid": key.label,
        "algorithm": key.algorithm.map(Algorithm::as_str),
        "provider": "main",
        "key": key.uri().map(|uri| uri.to_string()),
    })
}

/// A key wrapped by a root key, as a line of a keyring.
fn wrapped(directory: &Path) -> Result<Value, Failure> {
    let kid = KIDS[2];
    let root = Zeroizing::new(random_hex::<32>()?);
    let (public_key, wrapped) = wrap(&root).or_exit(Exit::Unavailable)?;
    write_secret(&directory.join("root"), &root)?;
    write_secret(&directory.join(format!("{kid}.pem")), &public_key)?;
    write_secret(&directory.join(format!("{kid}.b64")), &wrapped)?;
    Ok(json!({
        "kid": kid,
        "algorithm": Algorithm::Rsa2048.as_str(),
        "public_key_file": format!("{kid}.pem"),
        "wrapped_key_file": format!("{kid}.b64"),
        "wrapping_key": "root",
    }))
}

fn wrap(root: &str) -> anyhow::Result<(String, String)> {
    let key = PrivateKeyParts::generate(Algorithm::Rsa2048)?;
    let wrapped = wrap_private_key(&RootKey::from_hex(root)?, &key.to_pem()?)?;
    Ok((key.public_key().to_pem(), wrapped))
}

/// Issues an access token for an administrator; the key that signs it is not kept.
fn issue(directory: &Path, url: &str) -> Result<String, Failure> {
    let (jwks, token) = sign(url).or_exit(Exit::Unavailable)?;
    write_secret(&directory.join("jwks.json"), &jwks)?;
    write_secret(&directory.join("access-token"), &token)?;
    Ok(token)
}

fn sign(url: &str) -> anyhow::Result<(String, String)> {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())?;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref())?;
    let public_key = EcPublicKey::from_sec1(Curve::P256, key.public_key().as_ref())?;
    let mut jwk: Value = serde_json::from_str(&PublicKey::Ec(public_key).to_jwk())?;
    for (name, value) in [("kid", "dev"), ("alg", "ES256"), ("use", "sig")] {
        jwk[name] = value.into();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": ISSUER,
        "aud": url,
        "sub": "admin",
        "iat": now,
        "exp": now + TOKEN_LIFETIME_SECONDS,
        "realm_access": { "roles": ["opentdf-admin"] },
    });
    let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some("dev".into());
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(pkcs8.as_ref()))?;
    Ok((json!({ "keys": [jwk] }).to_string(), token))
}

/// YAML; JSON values are YAML too, which saves quoting.
fn configuration(token: &ThrowAway, address: SocketAddr, url: &str, keyring: &[Value]) -> String {
    let kind = token.kind;
    let module = json!({ "path": token.module, "env": { kind.variable: kind.file } });
    let provider =
        json!({ "module": kind.name, "token": LABEL, "pin": PIN, "custody": "prefer-sealed" });
    let auth = json!({
        "mode": "jwt", "issuer": ISSUER, "audience": url, "jwks_file": "jwks.json",
    });
    let keyring: Vec<_> = keyring.iter().map(|key| format!("  - {key}")).collect();
    format!(
        "# Written by `kasbah dev`; `kasbah serve` starts the same server again.\n\
         server: {}\nkas: {}\nauth: {auth}\nsecrets:\n  {PIN}: {{ file: {PIN} }}\n  root: {{ file: \
         root }}\nmodules:\n  {}: {module}\nproviders:\n  - name: main\n    manager: {}\n    \
         config: {provider}\nkeyring:\n{}\n",
        json!({ "listen": address }),
        json!({ "uri": url }),
        kind.name,
        kasbah_pkcs11::MANAGER,
        keyring.join("\n"),
    )
}

impl Made {
    fn config_file(&self) -> PathBuf {
        self.directory.join("config.yaml")
    }

    fn json(&self, proven: &Proven) -> Value {
        let keys: Vec<_> = proven
            .keys
            .iter()
            .map(|key| {
                json!({
                    "kid": key.kid,
                    "algorithm": key.algorithm.as_str(),
                    "manager": key.manager,
                    "custody": custody(key),
                    "public_key": key.public_key.to_pem(),
                })
            })
            .collect();
        json!({
            "url": self.url,
            "access_token": self.access_token,
            "config": self.config_file(),
            "keys": keys,
        })
    }

    fn story(&self, proven: &Proven) -> String {
        let keys: Vec<_> = proven
            .keys
            .iter()
            .map(|key| {
                let algorithm = key.algorithm.to_string();
                [
                    key.kid.clone(),
                    algorithm,
                    key.manager.clone(),
                    custody(key).unwrap_or("-").into(),
                ]
            })
            .collect();
        let (url, directory) = (&self.url, self.directory.display());
        format!(
            "Kasbah serves gRPC on {url}. Its keys were made just now, each was used once:\n\n{}\n\
             Everything is in {directory} and stays there:\n  \
             config.yaml    its configuration\n  \
             tokens         the token; its PIN is in `pin`\n  \
             b1.b64         a private key wrapped by the root key in `root`\n  \
             access-token   an access token for an administrator, good for 30 days\n\n\
             Ask it for a rewrap:\n  \
             kasbah smoke {url} --token-file {directory}/access-token\n\
             Start the same server again after Ctrl-C:\n  \
             kasbah serve --config {directory}/config.yaml",
            columns(["KID", "ALGORITHM", "MANAGER", "CUSTODY"], &keys),
        )
    }
}

fn custody(key: &ProvenKey) -> Option<&'static str> {
    key.custody.map(|custody| custody.level.as_str())
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
