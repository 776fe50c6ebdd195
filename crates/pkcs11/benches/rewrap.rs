//! The manager against the raw PKCS#11 loop, on SoftHSM and Kryoptic: `cargo bench -p kasbah-pkcs11`.
//!
//! Both run in turns, so that whatever else the machine does falls on both. The ratio is of the best
//! turns.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kasbah_crypto::{Dek, PolicyBinding, PrivateKey, PublicKey, binding};
use kasbah_pkcs11::{HsmFactory, HsmManager, bench, module::Module, provision, token, uri::KeyUri};
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use kasbah_trust::{
    Algorithm, CustodyPolicy, Deadline, KeyDetails, KeyId, KeyManager, KeyMode, KeyStatus,
    PrivateKeyRef, Recipient, RewrapRequest, SecretSource,
};

const THREADS: usize = 2;
const TURNS: usize = 5;
const ROUNDS: usize = 1000;
/// Requests under way at a time: enough to keep every worker busy.
const CALLERS: usize = 2 * THREADS;

fn main() -> Result<()> {
    // One module after the other: each reads its own environment variable.
    run("softhsm", &SoftHsm::fresh())?;
    run("kryoptic", &Kryoptic::fresh())
}

fn run(name: &str, fixture: &TestToken) -> Result<()> {
    let module = Module::load("modules.bench.path", fixture.module_path())?;
    let source = SecretSource::File(fixture.pin_file());
    let pin = token::PinSource { name: "pin1".into(), source: source.clone() };
    let token = token::Token::open(&module, fixture.label(), None, pin)?;
    let entry = provision::generate(&token, "r1", Algorithm::Rsa2048)?;
    let key = details(entry.public_key.context("a generated key has its public half")?);

    let client = PrivateKey::generate(Algorithm::Rsa2048)?.public_key();
    let PublicKey::Rsa(public) = &client else { bail!("an RSA key is RSA") };
    let factory = HsmFactory::new(
        [("bench".to_owned(), fixture.module_path().to_owned())].into(),
        [("pin1".to_owned(), source)].into(),
        CustodyPolicy::RequireSealed,
    );
    let config = format!(
        r#"{{"module":"bench","token":"{}","pin":"pin1","workers":{THREADS}}}"#,
        fixture.label()
    );
    let manager = Arc::new(factory.start(&config)?);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    let (mut best_raw, mut best_manager, mut in_raw) = (0.0_f64, 0.0_f64, Duration::ZERO);
    for _ in 0..TURNS {
        let raw = bench::raw(&token, &KeyUri::for_label("r1"), public, THREADS, ROUNDS)?;
        in_raw += raw.latencies.iter().sum::<Duration>();
        best_raw = best_raw.max(raw.rate());
        let rate = runtime.block_on(through_manager(&manager, &key, &client))?;
        best_manager = best_manager.max(rate);
    }
    let stats = manager.stats();
    let (done, exec) = (stats.done.load(Relaxed), stats.exec_ns.load(Relaxed));
    println!(
        "{name}: raw {best_raw:.0}/s, manager {best_manager:.0}/s, ratio {:.3}; mean on a thread: \
         raw {} us, manager {} us",
        best_manager / best_raw,
        in_raw.as_micros() / (TURNS * ROUNDS) as u128,
        exec / done / 1000
    );
    runtime.block_on(manager.close());
    Ok(())
}

async fn through_manager(
    manager: &Arc<HsmManager>,
    key: &KeyDetails,
    client: &PublicKey,
) -> Result<f64> {
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(caller(Arc::clone(manager), key.clone(), client.clone())))
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(f64::from(u32::try_from(ROUNDS)?) / start.elapsed().as_secs_f64())
}

async fn caller(manager: Arc<HsmManager>, key: KeyDetails, client: PublicKey) -> Result<()> {
    let policy = "A".repeat(256);
    let dek = Dek::generate()?;
    let binding = PolicyBinding::from(*binding::compute(&dek, &policy));
    let wrapped = key.public_key.wrap(&dek)?;
    let recipient = Recipient::in_host(&client)?;
    for _ in 0..ROUNDS / CALLERS {
        let request = RewrapRequest {
            key: &key,
            wrapped: &wrapped,
            policy: &policy,
            binding: &binding,
            recipient: &recipient,
            deadline: Deadline::after(Duration::from_secs(10)),
        };
        manager.rewrap(request).await?;
    }
    Ok(())
}

fn details(public_key: PublicKey) -> KeyDetails {
    KeyDetails {
        kas_uri: "https://kas.example".into(),
        kid: KeyId::from("r1"),
        algorithm: Algorithm::Rsa2048,
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key,
        private_key: PrivateKeyRef { key_id: Some("pkcs11:object=r1".into()), wrapped_key: None },
        provider: None,
    }
}
