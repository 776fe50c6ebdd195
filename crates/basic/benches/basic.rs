//! A rewrap by the manager beside the bare private-key operation of aws-lc-rs, which is what it
//! spends its time on. On one thread, and on two at once.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/basic/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests, which need all of it")]
mod fixture;

use std::{
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use criterion::{Criterion, criterion_group, criterion_main};
use kasbah_basic::BasicManager;
use kasbah_crypto::{Dek, PolicyBinding, WrappedDek, binding};
use kasbah_trust::{
    Algorithm, Curve, KeyDetails, KeyManager, Recipient, RewrapRequest, conformance::Clients,
};

const POLICY: &str = "eyJ1dWlkIjoiNjJjNzZjNjgtZDczZC00NjI4LThjY2MtNGMxZTE4MTE4YzIyIn0=";

/// Everything for one rewrap over and over.
struct Work {
    manager: BasicManager,
    key: KeyDetails,
    wrapped: WrappedDek,
    binding: PolicyBinding,
    recipient: Recipient,
    raw: Option<OaepPrivateDecryptingKey>,
}

impl Work {
    fn new(algorithm: Algorithm) -> Self {
        let pem = fixture::private_pem(algorithm);
        let key = fixture::stored("k", &pem);
        let dek = Dek::generate().unwrap();
        let (_, der) = pem_rfc7468::decode_vec(pem.as_bytes()).unwrap();
        let raw = algorithm.is_rsa().then(|| {
            OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(&der).unwrap()).unwrap()
        });
        let client = Clients::shared().public_key(Algorithm::Rsa2048);
        Self {
            manager: fixture::manager(&[("a", fixture::ROOT)]),
            wrapped: key.public_key.wrap(&dek).unwrap(),
            binding: PolicyBinding::from(*binding::compute(&dek, POLICY)),
            recipient: Recipient::in_host(&client).unwrap(),
            raw,
            key,
        }
    }

    fn rewrap(&self) {
        let request = RewrapRequest {
            key: &self.key,
            wrapped: &self.wrapped,
            policy: POLICY,
            binding: &self.binding,
            recipient: &self.recipient,
            deadline: fixture::soon(),
        };
        let answer = self.manager.rewrap(request);
        // Nothing in it waits, so that one poll ends it and no runtime takes part.
        black_box(futures_util::FutureExt::now_or_never(answer).unwrap().unwrap());
    }

    fn decrypt(&self) {
        let (Some(raw), WrappedDek::Rsa(ciphertext)) = (&self.raw, &self.wrapped) else {
            panic!("only RSA has a bare counterpart")
        };
        let mut dek = [0; 512];
        black_box(raw.decrypt(&OAEP_SHA1_MGF1SHA1, ciphertext, &mut dek, None).unwrap());
    }
}

/// Time for `rounds` of `work` shared by two threads.
fn on_two_threads(work: &Arc<Work>, rounds: u64, run: fn(&Work)) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for share in [rounds / 2, rounds - rounds / 2] {
            scope.spawn(move || (0..share).for_each(|_| run(work)));
        }
    });
    start.elapsed()
}

fn rewrap(criterion: &mut Criterion) {
    for algorithm in [Algorithm::Rsa2048, Algorithm::Rsa4096, Algorithm::Ec(Curve::P256)] {
        let work = Arc::new(Work::new(algorithm));
        let mut group = criterion.benchmark_group(algorithm.as_str());
        if algorithm.is_rsa() {
            group.bench_function("bare decrypt", |bencher| bencher.iter(|| work.decrypt()));
            group.bench_function("bare decrypt, two threads", |bencher| {
                bencher.iter_custom(|rounds| on_two_threads(&work, rounds, Work::decrypt));
            });
        }
        group.bench_function("rewrap", |bencher| bencher.iter(|| work.rewrap()));
        group.bench_function("rewrap, two threads", |bencher| {
            bencher.iter_custom(|rounds| on_two_threads(&work, rounds, Work::rewrap));
        });
        group.finish();
    }
}

criterion_group!(benches, rewrap);
criterion_main!(benches);
