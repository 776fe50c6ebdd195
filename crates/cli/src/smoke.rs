//! `kasbah smoke`

use std::{
    fs::{self, File},
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_trust::{Algorithm, Dek, PublicKey, SecretSource};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    client::{Client, KasKey},
    exit::{Exit, Failure, OrExit},
    output::Output,
    plan::Plan,
    tdf::Tdf,
};

/// Ask a server for rewraps, as a client does, and check the answers
///
/// Wraps a fresh data key for the server's public key, binds it to a policy, has it rewrapped and
/// compares what comes back. With --tdf, opens an existing TDF instead. Exits with 1 when an answer
/// is wrong or refused, with 3 when the server cannot be reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server, for example `http://127.0.0.1:8080`
    url: String,
    #[command(flatten)]
    token: Token,
    /// Which of the server's keys to wrap with
    #[arg(long, default_value = "rsa:2048", conflicts_with = "tdf")]
    algorithm: Algorithm,
    /// Expect the server to hand out this key; with --public-key-file, ask about a key that it does
    /// not hand out, such as a legacy one
    #[arg(long, conflicts_with = "tdf")]
    kid: Option<String>,
    /// PEM of the public key of --kid
    #[arg(long, value_name = "FILE", requires = "kid", conflicts_with = "algorithm")]
    public_key_file: Option<PathBuf>,
    /// What kind of key to have the answer encrypted to
    #[arg(long, value_name = "ALGORITHM", default_value = "rsa:2048")]
    client: Algorithm,
    /// How often to ask
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN, conflicts_with = "tdf")]
    count: NonZeroU32,
    /// Open this TDF: rewrap its key, decrypt its payload
    #[arg(long, value_name = "FILE")]
    tdf: Option<PathBuf>,
    /// Write the decrypted payload here
    #[arg(long, value_name = "FILE", requires = "tdf")]
    out: Option<PathBuf>,
}

/// Where the access token comes from.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Token {
    /// File with the access token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Environment variable with the access token
    #[arg(long, value_name = "VARIABLE")]
    token_env: Option<String>,
}

/// What came of fresh data keys.
#[derive(Serialize)]
struct Report {
    ok: bool,
    kid: String,
    algorithm: &'static str,
    client: &'static str,
    custody: Option<String>,
    count: u32,
    latency_us: Latency,
}

#[derive(Serialize)]
struct Latency {
    p50: u128,
    p99: u128,
    max: u128,
}

/// What came of a TDF.
#[derive(Serialize)]
struct Opened {
    ok: bool,
    kids: Vec<String>,
    custody: Option<String>,
    latency_us: u128,
    sha256: String,
    length: u64,
}

/// Plans the requests.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(async move {
        match &arguments.tdf {
            None => rewrap(&arguments, output).await,
            Some(file) => open(&arguments, file, output).await,
        }
    })
}

async fn rewrap(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let mut client = connect(arguments).await?;
    let key = key(arguments, &mut client).await?;
    let mut latencies = Vec::new();
    let mut custody = None;
    for _ in 0..arguments.count.get() {
        let policy = open_policy();
        let dek = Dek::generate().or_exit(Exit::Unavailable)?;
        let object = key.wrap(&arguments.url, &dek, &policy).or_exit(Exit::NotFine)?;
        let started = Instant::now();
        let rewrapped = client.rewrap(&[object], &policy).await?;
        latencies.push(started.elapsed());
        let same = rewrapped.iter().all(|back| back.dek.expose_secret() == dek.expose_secret());
        if !same {
            return Err(Failure::not_fine("another data key came back"));
        }
        custody = rewrapped.into_iter().next().and_then(|back| back.custody);
    }
    let report = Report {
        ok: true,
        algorithm: key.public_key.algorithm().map_or("unknown", Algorithm::as_str),
        kid: key.kid,
        client: arguments.client.as_str(),
        custody,
        count: arguments.count.get(),
        latency_us: Latency::of(latencies),
    };
    output.print(&report, told)
}

/// The key to wrap with.
async fn key(arguments: &Arguments, client: &mut Client) -> Result<KasKey, Failure> {
    if let (Some(kid), Some(file)) = (&arguments.kid, &arguments.public_key_file) {
        let text = fs::read_to_string(file)
            .with_context(|| format!("--public-key-file: cannot read {}", file.display()))
            .or_exit(Exit::Usage)?;
        let public_key =
            PublicKey::from_pem(&text).context("--public-key-file").or_exit(Exit::Usage)?;
        return Ok(KasKey { kid: kid.clone(), public_key });
    }
    let key = client.public_key(arguments.algorithm).await?;
    match &arguments.kid {
        Some(kid) if *kid != key.kid => Err(Failure::not_fine(format!(
            "the server hands out {} for {}, not {kid}; to ask about {kid}, give its public key \
             with --public-key-file",
            key.kid, arguments.algorithm
        ))),
        _ => Ok(key),
    }
}

async fn open(
    arguments: &Arguments,
    file: &std::path::Path,
    output: Output,
) -> Result<(), Failure> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()));
    let mut tdf = Tdf::read(opened.or_exit(Exit::Usage)?)
        .with_context(|| format!("{} is no TDF that can be opened here", file.display()))
        .or_exit(Exit::Usage)?;
    let mut client = connect(arguments).await?;
    let started = Instant::now();
    let rewrapped = client.rewrap(&tdf.objects, &tdf.policy).await?;
    let latency = started.elapsed();
    let custody = rewrapped.first().and_then(|back| back.custody.clone());
    let deks: Vec<_> = rewrapped.into_iter().map(|back| back.dek).collect();
    let plaintext = tdf
        .decrypt(&deks, arguments.out.as_deref())
        .with_context(|| format!("the payload of {}", file.display()))
        .or_exit(Exit::NotFine)?;
    let report = Opened {
        ok: true,
        kids: tdf.kids(),
        custody,
        latency_us: latency.as_micros(),
        sha256: hex::encode(plaintext.sha256),
        length: plaintext.length,
    };
    output.print(&report, |report| {
        format!(
            "opened {} with {}: {} bytes, SHA-256 {}\nrewrapped in {}, custody {}",
            file.display(),
            report.kids.join(", "),
            report.length,
            report.sha256,
            milliseconds(report.latency_us),
            report.custody.as_deref().unwrap_or("not told"),
        )
    })
}

async fn connect(arguments: &Arguments) -> Result<Client, Failure> {
    let token = arguments.token.read()?;
    Client::connect(&arguments.url, token.as_ref(), arguments.client).await
}

impl Token {
    fn read(&self) -> Result<Option<SecretString>, Failure> {
        let file = self.token_file.clone().map(SecretSource::File);
        let source = file.or_else(|| self.token_env.clone().map(SecretSource::Env));
        source.map(|source| source.read()).transpose().or_exit(Exit::Usage)
    }
}

impl Latency {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |percent: usize| {
            let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies.get(index).map_or(0, Duration::as_micros)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

/// A policy that asks for no attributes, base64 text.
fn open_policy() -> String {
    let policy = json!({
        "uuid": Uuid::new_v4().to_string(),
        "body": { "dataAttributes": [], "dissem": [] },
    });
    STANDARD.encode(policy.to_string())
}

fn told(report: &Report) -> String {
    format!(
        "{} of {}: the data key came back from key {} ({}) for a client with {}\ncustody {}, \
         latency p50 {}, p99 {}, max {}",
        report.count,
        report.count,
        report.kid,
        report.algorithm,
        report.client,
        report.custody.as_deref().unwrap_or("not told"),
        milliseconds(report.latency_us.p50),
        milliseconds(report.latency_us.p99),
        milliseconds(report.latency_us.max),
    )
}

fn milliseconds(us: u128) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}
