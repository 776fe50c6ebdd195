//! How long finding a key takes, with few and with many keys: from the cache, from SQLite, and from
//! a PostgreSQL server; and what the index adds to a rewrap.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up ends")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use kasbah_basic::{BasicFactory, MANAGER, RootKeys, wrap_private_key};
use kasbah_crypto::{Algorithm, Dek, PolicyBinding, PrivateKeyParts, binding, envelope::RootKey};
use kasbah_index::{CacheRules, CachedIndex, KeySource};
use kasbah_kas::Keyring;
use kasbah_registry::{
    Database, NewKas, NewKey, PrivateKey, Registry, RegistrySource, SettingsCheck,
};
use kasbah_testkit::postgres::Postgres;
use kasbah_trust::{
    Deadline, KeyDetails, KeyId, KeyIndex, KeyManagers, KeyService, Recipient, RewrapRequest,
    UnknownManager, WrappedDek,
};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const URI: &str = "https://kas.example.com";
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const COUNTS: [usize; 3] = [10, 1_000, 100_000];
const POLICY: &str = "eyJ1dWlkIjoiMSJ9";

#[derive(Debug)]
struct AnySettings;

impl SettingsCheck for AnySettings {
    fn check(&self, _: &str, _: &str, _: &str) -> Result<(), Cow<'static, str>> {
        Ok(())
    }
}

/// A registry of one key access server with `count` keys, all the same but for their names.
async fn filled(url: &str, count: usize) -> Registry {
    let database = Database::open(url).await.unwrap();
    database.migrate().await.unwrap();
    let registry = Registry::new(database, Arc::new(AnySettings));
    let new = NewKas { uri: URI.to_owned(), ..NewKas::default() };
    let kas = registry.create_kas(new).await.unwrap();
    let root = RootKey::from_hex(ROOT).unwrap();
    let key = PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap();
    let new = NewKey {
        kid: "k0".to_owned(),
        algorithm: 1,
        mode: 1,
        public_pem: key.public_key().to_pem(),
        private_key: Some(PrivateKey {
            key_id: "root".to_owned(),
            wrapped_key: Some(wrap_private_key(&root, &key.to_pem().unwrap()).unwrap()),
        }),
        ..NewKey::default()
    };
    registry.create_key(&kas.id, &new).await.unwrap();
    let copy = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO kas_key (id, kas_id, kid, algorithm, status, mode, public_pem, \
         private_key_id, wrapped_key, legacy, labels, created_at, updated_at) \
         SELECT 'id' || n.i, kas_id, 'k' || n.i, algorithm, status, mode, public_pem, \
         private_key_id, wrapped_key, legacy, labels, created_at + n.i, updated_at \
         FROM kas_key, n WHERE kid = 'k0'",
        count - 1
    );
    execute(url, copy).await;
    registry
}

async fn execute(url: &str, sql: String) {
    let mut connection = AnyConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

fn kids(count: usize) -> impl FnMut() -> KeyId {
    let mut next = 0_usize;
    move || {
        next = (next + 7_919) % count;
        KeyId::from(format!("k{next}").as_str())
    }
}

fn from_database(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    count: usize,
    registry: &Registry,
) {
    let source = RegistrySource::new(registry.clone(), URI.to_owned());
    let mut next = kids(count);
    group.bench_function(format!("{name}/{count}"), |bencher| {
        bencher.iter(|| runtime.block_on(source.find(&next())).unwrap().unwrap());
    });
}

fn lookup(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("lookup");
    for count in COUNTS {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        let registry = runtime.block_on(filled(&url, count));
        from_database(&mut group, &runtime, "sqlite", count, &registry);
        let postgres = Postgres::start();
        let registry = runtime.block_on(filled(&postgres.url(), count));
        runtime.block_on(execute(&postgres.url(), "ANALYZE".to_owned()));
        from_database(&mut group, &runtime, "postgres", count, &registry);
    }
    group.finish();
}

/// Rewraps of one key through an index, as a request does them.
async fn rewrap(
    service: &KeyService,
    wrapped: &WrappedDek,
    binding: &PolicyBinding,
    to: &Recipient,
) {
    let deadline = Deadline::after(Duration::from_secs(10));
    let key = service.index().find_by_id(&"k0".into(), deadline).await.unwrap();
    let manager = service.manager_for(&key).await.unwrap();
    let request =
        RewrapRequest { key: &key, wrapped, policy: POLICY, binding, recipient: to, deadline };
    manager.rewrap(request).await.unwrap();
}

fn service(index: Arc<dyn KeyIndex>) -> KeyService {
    let keys = BTreeMap::from([("root".to_owned(), RootKey::from_hex(ROOT).unwrap())]);
    let basic = BasicFactory::new(RootKeys::new("root".to_owned(), keys).unwrap());
    let mut managers = KeyManagers::default();
    managers.register(MANAGER, &kasbah_basic::ALGORITHMS, Arc::new(basic)).unwrap();
    KeyService::new(index, managers, MANAGER, UnknownManager::Refuse).unwrap()
}

/// Both indexes in turn, so that what else the machine does hits both alike; prints the ratio.
fn through_index(criterion: &mut Criterion) {
    const TURNS: usize = 40;
    const SLICE: Duration = Duration::from_millis(250);
    let runtime = Runtime::new().unwrap();
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}", dir.path().join("registry.db").display());
    let registry = runtime.block_on(filled(&url, 1_000));
    let source = Arc::new(RegistrySource::new(registry, URI.to_owned()));
    let details: KeyDetails = runtime.block_on(source.find(&"k0".into())).unwrap().unwrap();
    let _inside = runtime.enter();
    let cached = CachedIndex::new(source, CacheRules::default());
    let watching = Arc::clone(&cached);
    runtime.spawn(async move { watching.watch().await });
    let keyring = service(Arc::new(Keyring::new(URI, vec![details.clone()]).unwrap()));
    let registered = service(cached);

    let dek = Dek::generate().unwrap();
    let binding = PolicyBinding::from(*binding::compute(&dek, POLICY));
    let wrapped = details.public_key.wrap(&dek).unwrap();
    let recipient = Recipient::in_host(&details.public_key).unwrap();
    let rate = |service: &KeyService| {
        let (start, mut done) = (Instant::now(), 0_u32);
        while start.elapsed() < SLICE {
            runtime.block_on(rewrap(service, &wrapped, &binding, &recipient));
            done += 1;
        }
        f64::from(done) / start.elapsed().as_secs_f64()
    };
    rate(&keyring);
    let mut ratios: Vec<_> = (0..TURNS).map(|_| rate(&registered) / rate(&keyring)).collect();
    ratios.sort_by(f64::total_cmp);
    println!("rewrap/registry over rewrap/keyring: {:.3} (median of {TURNS})", ratios[TURNS / 2]);

    let mut group = criterion.benchmark_group("rewrap");
    for (name, service) in [("keyring", &keyring), ("registry", &registered)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(rewrap(service, &wrapped, &binding, &recipient)));
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, through_index);
criterion_main!(benches);
