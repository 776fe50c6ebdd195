//! How managers are chosen, built, replaced and closed.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future};
use kasbah_crypto::ec::EcPrivateKey;
use kasbah_trust::{
    Algorithm, Curve, Deadline, EcPublicKey, Error, Health, KeyDetails, KeyFilter, KeyId, KeyIndex,
    KeyManager, KeyManagerFactory, KeyManagers, KeyMode, KeyService, KeyStatus, Lease,
    PrivateKeyRef, ProtectedKey, ProviderConfig, PublicKey, RegistrationError, Result,
    UnknownManager, WrappedDek,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

const BASIC: &str = "opentdf.io/basic";
const HSM: &str = "opentdf.io/hsm";

#[derive(Debug)]
struct NoKeys;

#[async_trait]
impl KeyIndex for NoKeys {
    async fn find_by_id(&self, kid: &KeyId, _: Deadline) -> Result<Arc<KeyDetails>> {
        Err(Error::NotFound(kid.clone()))
    }

    async fn list(&self, _: KeyFilter, _: Deadline) -> Result<Vec<Arc<KeyDetails>>> {
        Ok(Vec::new())
    }
}

/// A manager without keys, whose life is on record.
#[derive(Debug)]
struct Hollow {
    config: ProviderConfig,
    life: Arc<Life>,
}

/// What happened to the managers of one factory.
#[derive(Debug)]
struct Life {
    started: AtomicUsize,
    built: AtomicUsize,
    /// Versions in the order in which they were closed.
    closed: Mutex<Vec<u64>>,
    /// A construction takes one permit.
    gate: Semaphore,
    fails: AtomicBool,
    panics: AtomicBool,
}

#[derive(Debug, Clone)]
struct HollowFactory(Arc<Life>);

#[async_trait]
impl KeyManager for Hollow {
    fn name(&self) -> &str {
        self.config.manager.as_str()
    }

    async fn decrypt(
        &self,
        key: &KeyDetails,
        _: &WrappedDek,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::NotFound(key.kid.clone()))
    }

    async fn derive(
        &self,
        _: &KeyDetails,
        _: &EcPublicKey,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::Unsupported("this manager is hollow"))
    }

    async fn health(&self) -> Health {
        Health::NotReady(format!("version {}", self.config.version))
    }

    async fn close(&self) {
        tokio::task::yield_now().await;
        self.life.closed.lock().unwrap().push(self.config.version);
    }
}

#[async_trait]
impl KeyManagerFactory for HollowFactory {
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        let life = &self.0;
        life.started.fetch_add(1, Ordering::SeqCst);
        life.gate.acquire().await.unwrap().forget();
        assert!(!life.panics.load(Ordering::SeqCst), "asked to panic");
        if life.fails.load(Ordering::SeqCst) {
            return Err(Error::unavailable("no token in slot 7"));
        }
        life.built.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Hollow { config: config.clone(), life: Arc::clone(life) }))
    }
}

impl Life {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            started: AtomicUsize::new(0),
            built: AtomicUsize::new(0),
            closed: Mutex::default(),
            gate: Semaphore::new(permits),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        })
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    fn built(&self) -> usize {
        self.built.load(Ordering::SeqCst)
    }

    fn closed(&self) -> Vec<u64> {
        self.closed.lock().unwrap().clone()
    }
}

struct Bench {
    service: Arc<KeyService>,
    basic: Arc<Life>,
    hsm: Arc<Life>,
}

/// A service with `opentdf.io/basic` as default and `opentdf.io/hsm`, whose factory builds
/// `permits` times before it has to wait.
fn bench(permits: usize, unknown: UnknownManager) -> Bench {
    let (basic, hsm) = (Life::new(usize::MAX >> 3), Life::new(permits));
    let mut managers = KeyManagers::default();
    let all = [Algorithm::Ec(Curve::P256), Algorithm::Rsa2048];
    managers.register(BASIC, &all, Arc::new(HollowFactory(Arc::clone(&basic)))).unwrap();
    let some = [Algorithm::Rsa4096, Algorithm::Rsa2048];
    managers.register(HSM, &some, Arc::new(HollowFactory(Arc::clone(&hsm)))).unwrap();
    let service = KeyService::new(Arc::new(NoKeys), managers, BASIC, unknown).unwrap();
    Bench { service: Arc::new(service), basic, hsm }
}

fn key(mode: KeyMode, provider: Option<(&str, &str, u64)>) -> KeyDetails {
    let public = EcPrivateKey::generate(Curve::P256).unwrap().public_key().clone();
    KeyDetails {
        kas_uri: "https://kas.example.com".into(),
        kid: "k1".into(),
        algorithm: Algorithm::Ec(Curve::P256),
        mode,
        status: KeyStatus::Active,
        legacy: false,
        public_key: PublicKey::Ec(public),
        private_key: PrivateKeyRef::default(),
        provider: provider.map(|(manager, name, version)| {
            Arc::new(ProviderConfig {
                name: name.to_owned(),
                manager: manager.to_owned(),
                config_json: "{}".to_owned(),
                version,
            })
        }),
    }
}

fn hsm_key(version: u64) -> KeyDetails {
    key(KeyMode::Remote, Some((HSM, "one", version)))
}

/// The whole chain of an `Unavailable`, as a log shows it.
fn unavailable(outcome: Result<Lease>) -> String {
    let Err(Error::Unavailable(source)) = outcome else {
        panic!("expected Unavailable, got {outcome:?}")
    };
    let mut text = source.to_string();
    let mut next = source.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test]
async fn no_provider_means_the_default_manager() {
    let bench = bench(1, UnknownManager::Refuse);
    let lease = bench.service.manager_for(&key(KeyMode::ConfigRootKey, None)).await.unwrap();
    assert_eq!(lease.designation().to_string(), "opentdf.io/basic#");
    assert_eq!(lease.name(), BASIC);
    assert_eq!((bench.basic.built(), bench.hsm.built()), (1, 0));
    assert_eq!(bench.service.fallbacks(), 0);
}

#[tokio::test]
async fn one_manager_per_designation() {
    let bench = bench(9, UnknownManager::Refuse);
    let one = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    let same = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    let other_name = key(KeyMode::Remote, Some((HSM, "two", 1)));
    let other_name = bench.service.manager_for(&other_name).await.unwrap();
    let other_manager = key(KeyMode::Remote, Some((BASIC, "one", 1)));
    let other_manager = bench.service.manager_for(&other_manager).await.unwrap();
    assert!(one.is_same(&same));
    assert!(!one.is_same(&other_name) && !one.is_same(&other_manager));
    assert_eq!((bench.hsm.built(), bench.basic.built()), (2, 1));
}

#[tokio::test]
async fn a_manager_name_is_case_sensitive() {
    let bench = bench(9, UnknownManager::Refuse);
    let shouted = key(KeyMode::Remote, Some(("OpenTDF.io/HSM", "one", 1)));
    assert!(unavailable(bench.service.manager_for(&shouted).await).contains("OpenTDF.io/HSM"));
}

#[tokio::test]
async fn a_default_nobody_registered_is_refused_at_once() {
    let outcome =
        KeyService::new(Arc::new(NoKeys), KeyManagers::default(), BASIC, UnknownManager::Default);
    let Err(Error::Internal(source)) = outcome else { panic!("accepted: {outcome:?}") };
    assert!(source.to_string().contains("opentdf.io/basic is not registered"), "{source}");
}

#[test]
fn registrations_need_a_free_name() {
    let mut managers = KeyManagers::default();
    let factory: Arc<dyn KeyManagerFactory> = Arc::new(HollowFactory(Life::new(0)));
    let mut register = |name: &str| managers.register(name, &[], Arc::clone(&factory));
    assert_eq!(register(""), Err(RegistrationError::EmptyName));
    assert_eq!(register(HSM), Ok(()));
    assert_eq!(register(HSM), Err(RegistrationError::Duplicate(HSM.to_owned())));
}

#[tokio::test]
async fn an_unknown_manager_falls_back_where_the_default_could_hold_the_key() {
    let bench = bench(0, UnknownManager::Default);
    let lost = key(KeyMode::ConfigRootKey, Some(("example.com/gone", "one", 3)));
    for _ in 0..2 {
        let lease = bench.service.manager_for(&lost).await.unwrap();
        assert_eq!(lease.designation().to_string(), "opentdf.io/basic#");
    }
    assert_eq!(bench.service.fallbacks(), 2);
    assert_eq!(bench.basic.built(), 1);
}

#[tokio::test]
async fn an_unknown_manager_is_named_where_the_default_could_not_hold_the_key() {
    let bench = bench(0, UnknownManager::Default);
    for mode in [KeyMode::ProviderRootKey, KeyMode::Remote] {
        let lost = key(mode, Some(("example.com/gone", "one", 3)));
        let text = unavailable(bench.service.manager_for(&lost).await);
        assert_eq!(
            text,
            "key k1 needs key manager example.com/gone, which is not registered; \
             registered are: opentdf.io/basic, opentdf.io/hsm"
        );
    }
    assert_eq!(bench.service.fallbacks(), 0);
    assert_eq!(bench.basic.started(), 0);
}

#[tokio::test]
async fn an_unknown_manager_is_refused_for_every_mode_when_told_so() {
    let bench = bench(0, UnknownManager::Refuse);
    for mode in [KeyMode::ConfigRootKey, KeyMode::ProviderRootKey, KeyMode::Remote] {
        let lost = key(mode, Some(("example.com/gone", "one", 3)));
        let text = unavailable(bench.service.manager_for(&lost).await);
        assert!(text.contains("example.com/gone"), "{text}");
    }
    assert_eq!(bench.basic.started(), 0);
}

#[tokio::test]
async fn a_key_without_private_part_never_reaches_a_manager() {
    let bench = bench(9, UnknownManager::Default);
    for provider in [None, Some((HSM, "one", 1)), Some(("example.com/gone", "one", 1))] {
        let outcome = bench.service.manager_for(&key(KeyMode::PublicKeyOnly, provider)).await;
        assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
    }
    assert_eq!((bench.basic.started(), bench.hsm.started()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_first_use_builds_once() {
    let bench = bench(0, UnknownManager::Refuse);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let service = Arc::clone(&bench.service);
            tokio::spawn(async move { service.manager_for(&hsm_key(1)).await.unwrap() })
        })
        .collect();
    eventually("construction starts", || bench.hsm.started() > 0).await;
    bench.hsm.gate.add_permits(100);
    let leases = future::try_join_all(tasks).await.unwrap();
    assert!(leases.iter().all(|lease| lease.is_same(&leases[0])));
    assert_eq!((bench.hsm.started(), bench.hsm.built()), (1, 1));
}

#[tokio::test]
async fn a_cancelled_first_caller_leaves_the_construction_to_the_next() {
    let bench = bench(0, UnknownManager::Refuse);
    let key = hsm_key(1);
    let mut first = Box::pin(bench.service.manager_for(&key));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(bench.service.manager_for(&key));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    bench.hsm.gate.add_permits(9);
    timeout(Duration::from_secs(5), second).await.expect("the second caller was woken").unwrap();
    assert_eq!((bench.hsm.started(), bench.hsm.built()), (1, 1));
}

#[tokio::test]
async fn a_construction_that_all_have_left_is_resumed() {
    let bench = bench(0, UnknownManager::Refuse);
    let key = hsm_key(1);
    assert!(bench.service.manager_for(&key).now_or_never().is_none());
    bench.hsm.gate.add_permits(9);
    bench.service.manager_for(&key).await.unwrap();
    assert_eq!((bench.hsm.started(), bench.hsm.built()), (1, 1));
}

#[tokio::test]
async fn a_failure_is_shared_remembered_for_a_second_and_then_tried_again() {
    let bench = bench(9, UnknownManager::Refuse);
    bench.hsm.fails.store(true, Ordering::SeqCst);
    let key = hsm_key(1);
    let outcomes = future::join_all((0..10).map(|_| bench.service.manager_for(&key))).await;
    for outcome in outcomes {
        let text = unavailable(outcome);
        assert!(text.starts_with("key manager opentdf.io/hsm#one could not be built"), "{text}");
        assert!(text.ends_with("no token in slot 7"), "{text}");
    }
    bench.hsm.fails.store(false, Ordering::SeqCst);
    unavailable(bench.service.manager_for(&key).await);
    assert_eq!(bench.hsm.started(), 1);
    sleep(Duration::from_millis(1100)).await;
    bench.service.manager_for(&key).await.unwrap();
    assert_eq!((bench.hsm.started(), bench.hsm.built()), (2, 1));
}

#[tokio::test]
async fn a_newer_configuration_is_tried_before_the_back_off_ends() {
    let bench = bench(9, UnknownManager::Refuse);
    bench.hsm.fails.store(true, Ordering::SeqCst);
    unavailable(bench.service.manager_for(&hsm_key(1)).await);
    bench.hsm.fails.store(false, Ordering::SeqCst);
    bench.service.manager_for(&hsm_key(2)).await.unwrap();
}

#[tokio::test]
async fn a_newer_configuration_that_fails_leaves_the_older_manager_serving() {
    let bench = bench(9, UnknownManager::Refuse);
    let old = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    bench.hsm.fails.store(true, Ordering::SeqCst);
    unavailable(bench.service.manager_for(&hsm_key(2)).await);
    assert!(bench.service.manager_for(&hsm_key(1)).await.unwrap().is_same(&old));
    assert!(bench.hsm.closed().is_empty());
}

#[tokio::test]
async fn a_factory_that_panics_is_a_failure_like_any_other() {
    let bench = bench(9, UnknownManager::Refuse);
    bench.hsm.panics.store(true, Ordering::SeqCst);
    let text = unavailable(bench.service.manager_for(&hsm_key(1)).await);
    assert!(text.contains("opentdf.io/hsm#one"), "{text}");
    bench.hsm.panics.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(1100)).await;
    bench.service.manager_for(&hsm_key(1)).await.unwrap();
}

#[tokio::test]
async fn a_greater_version_replaces_and_the_old_one_drains() {
    let bench = bench(9, UnknownManager::Refuse);
    let drain = tokio::spawn({
        let service = Arc::clone(&bench.service);
        async move { service.drain_replaced().await }
    });
    let old = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    let also_old = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    let new = bench.service.manager_for(&hsm_key(2)).await.unwrap();
    assert!(!old.is_same(&new));
    let older_details = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    assert!(older_details.is_same(&new), "an older version uses the live manager");

    drop(old);
    sleep(Duration::from_millis(50)).await;
    assert!(bench.hsm.closed().is_empty(), "closed while leased");
    drop(also_old);
    eventually("the old manager closes", || bench.hsm.closed() == [1]).await;

    let newest = bench.service.manager_for(&hsm_key(3)).await.unwrap();
    drop((new, older_details));
    eventually("the second manager closes", || bench.hsm.closed() == [1, 2]).await;
    drop(newest);
    bench.service.close().await;
    drain.await.unwrap();
    assert_eq!(bench.hsm.closed(), [1, 2, 3]);
    assert_eq!(bench.hsm.built(), 3);
}

#[tokio::test]
async fn one_leased_manager_does_not_hold_up_the_draining_of_others() {
    let bench = bench(9, UnknownManager::Refuse);
    let service = Arc::clone(&bench.service);
    tokio::spawn(async move { service.drain_replaced().await });
    let _stuck = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    for version in 2..=4 {
        bench.service.manager_for(&hsm_key(version)).await.unwrap();
    }
    eventually("2 and 3 close", || {
        let mut closed = bench.hsm.closed();
        closed.sort_unstable();
        closed == [2, 3]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_lease_outlives_its_manager_under_churn() {
    let bench = bench(usize::MAX >> 3, UnknownManager::Refuse);
    let service = Arc::clone(&bench.service);
    let drain = tokio::spawn(async move { service.drain_replaced().await });
    let tasks = (0..8_u64).map(|task| {
        let (service, life) = (Arc::clone(&bench.service), Arc::clone(&bench.hsm));
        tokio::spawn(async move {
            for round in 0..200 {
                let lease = service.manager_for(&hsm_key(1 + (round + task) / 10)).await.unwrap();
                tokio::task::yield_now().await;
                let Health::NotReady(version) = lease.health().await else { unreachable!() };
                let closed = life.closed();
                assert!(!closed.iter().any(|closed| version == format!("version {closed}")));
            }
        })
    });
    future::try_join_all(tasks).await.unwrap();
    bench.service.close().await;
    drain.await.unwrap();
    let mut closed = bench.hsm.closed();
    closed.sort_unstable();
    let before = closed.len();
    closed.dedup();
    assert_eq!(closed.len(), before, "closed twice");
    assert_eq!(closed.len(), bench.hsm.built(), "left open");
}

#[tokio::test]
async fn close_waits_for_leases_refuses_new_ones_and_closes_each_manager_once() {
    let bench = bench(9, UnknownManager::Refuse);
    // Nobody drains: the replaced manager is left to `close`.
    let old = bench.service.manager_for(&hsm_key(1)).await.unwrap();
    let new = bench.service.manager_for(&hsm_key(2)).await.unwrap();
    bench.service.manager_for(&key(KeyMode::ConfigRootKey, None)).await.unwrap();

    let mut closing = Box::pin(bench.service.close());
    assert!(closing.as_mut().now_or_never().is_none());
    assert!(unavailable(bench.service.manager_for(&hsm_key(2)).await).contains("closed"));
    drop(closing); // cancelled: the next call takes over
    let closing = tokio::spawn({
        let service = Arc::clone(&bench.service);
        async move { future::join(service.close(), service.close()).await }
    });
    drop(new);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.hsm.closed(), [2]);
    assert!(!closing.is_finished(), "did not wait for the lease of the replaced manager");
    drop(old);
    closing.await.unwrap();
    bench.service.close().await;
    assert_eq!(bench.hsm.closed(), [2, 1]);
    assert_eq!(bench.basic.closed(), [0]);
    unavailable(bench.service.manager_for(&hsm_key(3)).await);
    timeout(Duration::from_secs(5), bench.service.drain_replaced()).await.expect("drain ends");
}

#[tokio::test]
async fn close_ends_a_construction_that_is_under_way_and_closes_what_it_yields() {
    let bench = bench(0, UnknownManager::Refuse);
    let key = hsm_key(1);
    let mut waiting = Box::pin(bench.service.manager_for(&key));
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut closing = Box::pin(bench.service.close());
    assert!(closing.as_mut().now_or_never().is_none());
    bench.hsm.gate.add_permits(1);
    let (outcome, ()) = future::join(waiting, closing).await;
    assert!(unavailable(outcome).contains("closed"));
    assert_eq!((bench.hsm.built(), bench.hsm.closed()), (1, vec![1]));
}

#[tokio::test]
async fn algorithms_are_a_sorted_union_and_build_nothing() {
    let bench = bench(0, UnknownManager::Refuse);
    let expected = [Algorithm::Rsa2048, Algorithm::Rsa4096, Algorithm::Ec(Curve::P256)];
    assert_eq!(bench.service.algorithms(), expected);
    assert_eq!((bench.basic.started(), bench.hsm.started()), (0, 0));
}

#[tokio::test]
async fn health_reports_live_managers_only() {
    let bench = bench(9, UnknownManager::Refuse);
    assert!(bench.service.health().await.is_empty());
    assert_eq!((bench.basic.started(), bench.hsm.started()), (0, 0));
    bench.service.manager_for(&hsm_key(1)).await.unwrap();
    bench.service.manager_for(&hsm_key(2)).await.unwrap();
    bench.service.manager_for(&key(KeyMode::ConfigRootKey, None)).await.unwrap();
    let health: Vec<_> = bench
        .service
        .health()
        .await
        .into_iter()
        .map(|(designation, health)| (designation.to_string(), health))
        .collect();
    let not_ready = |version: u64| Health::NotReady(format!("version {version}"));
    assert_eq!(
        health,
        [("opentdf.io/basic#".into(), not_ready(0)), ("opentdf.io/hsm#one".into(), not_ready(2))]
    );
    bench.service.close().await;
    assert!(bench.service.health().await.is_empty());
}
