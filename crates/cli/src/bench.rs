//! `kasbah bench`

mod sample;
mod subject;

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kasbah_pkcs11::{MANAGER, bench::raw, provision, token::Token, uri::KeyUri};
use kasbah_trust::{Algorithm, KeyManager, PublicKey};
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

use self::{
    sample::{Figures, Sample, median},
    subject::{Software, Subject, hsm},
};
use crate::{
    config::{Config, KeyIndex, Kind, Private, RegistrySettings, TokenSettings, names},
    control_plane,
    exit::{Exit, Failure, OrExit},
    output::{Output, columns},
    plan::Plan,
    throw_away::ThrowAway,
};

/// How often a manager and its raw loop take turns; the medians are what is told.
const ROUNDS: u32 = 5;
/// Rounds of the raw loop that find out how long it takes.
const CALIBRATION: usize = 40;
/// Requests under way for each thread: one is worked on, one waits.
const IN_FLIGHT: usize = 2;

/// Measure rewraps beside what the token itself can do
///
/// Runs the key manager in this process, without a network, and the bare PKCS#11 calls on the same
/// token and the same number of threads in turn; likewise the basic manager and bare RSA
/// decryption. Without --config it makes a throw-away SoftHSM token. Use a release build on a
/// machine that is otherwise idle.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration with the key to measure
    #[arg(long, value_name = "FILE", requires = "kid")]
    config: Option<PathBuf>,
    /// An RSA key of its keyring or registry that lives in a token
    #[arg(long, requires = "config")]
    kid: Option<String>,
    /// Another PKCS#11 library than SoftHSM for the throw-away token: Kryoptic
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    module: Option<PathBuf>,
    /// Worker threads, and threads of the raw loops
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u8).range(1..=64),
    )]
    threads: u8,
    /// How long to measure each of them
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN.saturating_add(4))]
    seconds: NonZeroU32,
}

/// What is measured: a key in a token.
struct Target {
    settings: TokenSettings,
    key: KeyUri,
    /// Made for this run, gone after it.
    _directory: Option<TempDir>,
}

/// How to measure.
#[derive(Clone, Copy)]
struct Effort {
    threads: usize,
    slice: Duration,
}

#[derive(Serialize)]
struct Report {
    build: &'static str,
    module: PathBuf,
    threads: usize,
    in_flight: usize,
    comparisons: Vec<Comparison>,
}

/// A manager beside the bare operation.
#[derive(Serialize)]
struct Comparison {
    manager: &'static str,
    custody: &'static str,
    managed: Figures,
    bare: &'static str,
    raw: Figures,
    /// Rate of the manager over that of the bare operation.
    ratio: f64,
}

/// Plans the measurement.
pub(crate) fn plan(arguments: &Arguments, output: Output) -> Result<Plan, Failure> {
    let effort = Effort {
        threads: arguments.threads.into(),
        slice: Duration::from_secs(arguments.seconds.get().into()) / ROUNDS,
    };
    if let (Some(file), Some(kid)) = (&arguments.config, &arguments.kid) {
        let mut config = Config::load(file).or_exit(Exit::Usage)?;
        let environment = std::mem::take(&mut config.environment);
        let kid = kid.clone();
        let task = async move {
            let (settings, key) = match &config.index {
                KeyIndex::Registry(registry) => registered(&config, registry, &kid).await?,
                _ => key_of(&config, &kid)?,
            };
            let target = Target { settings, key, _directory: None };
            run(&target, effort, output).await
        };
        return Ok(Plan::tool(task).with_environment(environment));
    }
    let directory = tempfile::Builder::new().prefix("kasbah-bench-").tempdir();
    let directory = directory.or_exit(Exit::Unavailable)?;
    let token = ThrowAway::prepare(directory.path(), arguments.module.as_deref())?;
    let environment = token.environment();
    let task = async move { run(&throw_away(&token, directory)?, effort, output).await };
    Ok(Plan::tool(task).with_environment(environment))
}

fn key_of(config: &Config, kid: &str) -> Result<(TokenSettings, KeyUri), Failure> {
    let Some(key) = config.keyring.iter().find(|key| key.kid.as_str() == kid) else {
        let known = names(config.keyring.iter().map(|key| &key.kid));
        return Err(Failure::usage(format!("--kid: the keyring has no {kid}; it has {known}")));
    };
    match &key.private {
        Private::Token { provider, uri, .. } if key.algorithm.is_rsa() => {
            match &config.providers[*provider].kind {
                Kind::Hsm(settings) => Ok((settings.clone(), uri.clone())),
                Kind::Basic | Kind::Unknown => {
                    Err(Failure::usage("--kid: its provider has no token"))
                }
            }
        }
        _ => Err(Failure::usage(format!("--kid: {kid} is no RSA key in a token"))),
    }
}

/// The key of this name in the registry, with the token of its provider.
async fn registered(
    config: &Config,
    settings: &RegistrySettings,
    kid: &str,
) -> Result<(TokenSettings, KeyUri), Failure> {
    let registry = control_plane::open_registry(config, settings).await?;
    let keys = registry.keys_of(&config.kas_uri).await.or_exit(Exit::Unavailable)?;
    let Some(key) = keys.iter().find(|key| key.kid == kid) else {
        let known = names(keys.iter().map(|key| &key.kid));
        return Err(Failure::usage(format!("--kid: the registry has no {kid}; it has {known}")));
    };
    let is_rsa = [Algorithm::Rsa2048, Algorithm::Rsa4096].iter().any(|algorithm| {
        PublicKey::from_pem(&key.public_pem).is_ok_and(|key| key.algorithm() == Some(*algorithm))
    });
    match (&key.provider, &key.private_key) {
        (Some(provider), Some(private))
            if is_rsa && private.wrapped_key.is_none() && provider.manager == MANAGER =>
        {
            let json = std::str::from_utf8(&provider.config_json).or_exit(Exit::Usage)?;
            let settings = TokenSettings::of(config, &json.parse().or_exit(Exit::Usage)?)?;
            Ok((settings, private.key_id.parse().or_exit(Exit::Usage)?))
        }
        _ => Err(Failure::usage(format!("--kid: {kid} is no RSA key in a token"))),
    }
}

fn throw_away(token: &ThrowAway, directory: TempDir) -> Result<Target, Failure> {
    let key = provision::generate(&*token.make()?, "r1", Algorithm::Rsa2048)?;
    let key = key.uri().ok_or_else(|| Failure::not_fine("the key that was made has no name"))?;
    Ok(Target { settings: token.settings(), key, _directory: Some(directory) })
}

async fn run(target: &Target, effort: Effort, output: Output) -> Result<(), Failure> {
    let comparisons = vec![compare_hsm(target, effort).await?, compare_basic(effort).await?];
    let report = Report {
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        module: target.settings.module.clone(),
        threads: effort.threads,
        in_flight: effort.threads * IN_FLIGHT,
        comparisons,
    };
    output.print(&report, table)
}

async fn compare_hsm(target: &Target, effort: Effort) -> Result<Comparison, Failure> {
    let token = target.settings.open()?;
    let public_key = provision::public(&token, &target.key)?;
    let manager = hsm(&target.settings, effort.threads)?;
    let subject = Subject::in_token(&target.key, public_key).or_exit(Exit::NotFine)?;
    let subject = Arc::new(subject);
    let calibration = raw_loop(&token, target, &subject, effort.threads, CALIBRATION)?;
    let rounds = (calibration.rate * effort.slice.as_secs_f64()).max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, positive")]
    let rounds = rounds as usize;
    let mut turns = Vec::new();
    for _ in 0..ROUNDS {
        let rewraps = rewrap(&manager, &subject, effort).await?;
        let raw = block_in_place(|| raw_loop(&token, target, &subject, effort.threads, rounds))?;
        turns.push((rewraps, raw));
    }
    manager.close().await;
    Ok(Comparison::of(kasbah_pkcs11::MANAGER, &subject, "raw PKCS#11", &turns))
}

fn raw_loop(
    token: &Token,
    target: &Target,
    subject: &Subject,
    threads: usize,
    rounds: usize,
) -> Result<Sample, Failure> {
    let PublicKey::Rsa(client) = subject.client() else {
        return Err(Failure::not_fine("the client has no RSA key"));
    };
    let run = raw(token, &target.key, &client, threads, rounds)?;
    Ok(Sample::new(run.latencies, run.elapsed))
}

async fn compare_basic(effort: Effort) -> Result<Comparison, Failure> {
    let software = Software::make().await?;
    let mut turns = Vec::new();
    for _ in 0..ROUNDS {
        let rewraps = rewrap(&software.manager, &software.subject, effort).await?;
        let raw = block_in_place(|| software.decrypt(effort.threads, effort.slice));
        turns.push((rewraps, raw.or_exit(Exit::NotFine)?));
    }
    software.manager.close().await;
    Ok(Comparison::of(kasbah_basic::MANAGER, &software.subject, "raw RSA decryption", &turns))
}

/// Rewraps for a while, with as many requests under way as keep the workers busy.
async fn rewrap(
    manager: &Arc<dyn KeyManager>,
    subject: &Arc<Subject>,
    effort: Effort,
) -> Result<Sample, Failure> {
    let started = Instant::now();
    let until = started + effort.slice;
    let mut callers = JoinSet::new();
    for _ in 0..effort.threads * IN_FLIGHT {
        let (manager, subject) = (Arc::clone(manager), Arc::clone(subject));
        callers.spawn(async move { subject.repeat(manager.as_ref(), until).await });
    }
    let mut latencies = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies.extend(caller.or_exit(Exit::NotFine)?.or_exit(Exit::NotFine)?);
    }
    Ok(Sample::new(latencies, started.elapsed()))
}

impl Comparison {
    fn of(
        manager: &'static str,
        subject: &Subject,
        bare: &'static str,
        turns: &[(Sample, Sample)],
    ) -> Self {
        Self {
            manager,
            custody: subject.custody(),
            managed: Figures::of(turns.iter().map(|turn| &turn.0)),
            bare,
            raw: Figures::of(turns.iter().map(|turn| &turn.1)),
            ratio: median(turns.iter().map(|(rewraps, raw)| rewraps.rate / raw.rate)),
        }
    }
}

fn table(report: &Report) -> String {
    let row = |what: String, figures: &Figures, ratio: String| {
        let number = |value: f64| format!("{value:.0}");
        [what, number(figures.rate), number(figures.p50_us), number(figures.p99_us), ratio]
    };
    let mut rows = Vec::new();
    for comparison in &report.comparisons {
        let what = format!("{} ({})", comparison.manager, comparison.custody);
        rows.push(row(what, &comparison.managed, format!("{:.3}", comparison.ratio)));
        rows.push(row(comparison.bare.to_owned(), &comparison.raw, String::new()));
    }
    let warning =
        if report.build == "debug" { " (debug build: the figures mean little)" } else { "" };
    format!(
        "{}\n{} threads, {} requests under way, medians of {ROUNDS} rounds, module {}{warning}",
        columns(["RSA-2048", "PER SECOND", "P50 US", "P99 US", "RATIO"], &rows),
        report.threads,
        report.in_flight,
        report.module.display(),
    )
}
