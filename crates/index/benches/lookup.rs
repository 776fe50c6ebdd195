//! A key that is current, among few and many.
//!
//! `cargo bench -p kasbah-index`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::{hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use kasbah_crypto::PrivateKey;
use kasbah_index::{CacheRules, CachedIndex, KeySource};
use kasbah_trust::{
    Algorithm, Curve, Deadline, KeyDetails, KeyFilter, KeyId, KeyIndex, KeyMode, KeyStatus,
    PrivateKeyRef, Result,
};
use tokio::runtime::Runtime;

/// Keys that are there already: what is measured is the cache.
#[derive(Debug)]
struct Fixed(Vec<KeyDetails>);

#[async_trait]
impl KeySource for Fixed {
    async fn find(&self, kid: &KeyId) -> Result<Option<KeyDetails>> {
        Ok(self.0.iter().find(|key| key.kid == *kid).cloned())
    }

    async fn list(&self) -> Result<Vec<KeyDetails>> {
        Ok(self.0.clone())
    }

    async fn revision(&self) -> Result<Option<u64>> {
        Ok(Some(1))
    }
}

fn keys(count: usize) -> Vec<KeyDetails> {
    let algorithm = Algorithm::Ec(Curve::P256);
    let public_key = PrivateKey::generate(algorithm).expect("a key").public_key();
    let key = |n| KeyDetails {
        kas_uri: "https://kas.example".into(),
        kid: kid(n),
        algorithm,
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key: public_key.clone(),
        private_key: PrivateKeyRef::default(),
        provider: None,
    };
    (0..count).map(key).collect()
}

fn kid(n: usize) -> KeyId {
    KeyId::from(format!("00000000-0000-0000-0000-{n:012}").as_str())
}

fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit");
    for count in [10, 1_000, 100_000] {
        let runtime = Runtime::new().expect("a runtime");
        let rules =
            CacheRules { capacity: count, poll: Duration::from_hours(1), ..CacheRules::default() };
        let index = CachedIndex::new(Arc::new(Fixed(keys(count))), rules);
        let deadline = Deadline::after(Duration::from_hours(1));
        runtime.block_on(index.list(KeyFilter::default(), deadline)).expect("a list");
        let kids: Vec<_> = (0..count).map(kid).collect();
        // Most rewraps name a few keys. All of them in turn, in no order that a cache line helps,
        // measures the memory of the machine.
        for (which, in_use) in [("10 of", 10), ("each of", count)] {
            let mut n = 0;
            group.bench_function(BenchmarkId::new(which, count), |b| {
                b.iter(|| {
                    n = (n + 7_919) % in_use;
                    let found = index.find_by_id(black_box(&kids[n]), deadline).now_or_never();
                    found.expect("an answer at once").expect("a key")
                });
            });
        }
        assert_eq!(index.stats().misses, 1, "only the list was read");
    }
    group.finish();
}

criterion_group!(benches, hit);
criterion_main!(benches);
