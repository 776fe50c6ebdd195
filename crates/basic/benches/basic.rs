//! A rewrap by the manager beside the bare private-key operation of aws-lc-rs, which is what it
//! spends its time on; for an RSA client it also has a public-key operation to do. On one thread,
//! and on two at once.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/basic/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests, which need all of it")]
mod fixture;

use std::{
    hint::black_box,
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
    rsa_client: Recipient,
    ec_client: Recipient,
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
        let client =
            |algorithm| Recipient::in_host(&Clients::shared().public_key(algorithm)).unwrap();
        Self {
            manager: fixture::manager(&[("a", fixture::ROOT)]),
            wrapped: key.public_key.wrap(&dek).unwrap(),
            binding: PolicyBinding::from(*binding::compute(&dek, POLICY)),
            rsa_client: client(Algorithm::Rsa2048),
            ec_client: client(Algorithm::Ec(Curve::P256)),
            raw,
            key,
        }
    }

    fn for_rsa(&self) {
        self.rewrap(&self.rsa_client);
    }

    fn for_ec(&self) {
        self.rewrap(&self.ec_client);
    }

    fn rewrap(&self, recipient: &Recipient) {
        let request = RewrapRequest {
            key: &self.key,
            wrapped: &self.wrapped,
            policy: POLICY,
            binding: &self.binding,
            recipient,
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
fn on_two_threads(work: &Work, rounds: u64, run: fn(&Work)) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for share in [rounds / 2, rounds - rounds / 2] {
            scope.spawn(move || (0..share).for_each(|_| run(work)));
        }
    });
    start.elapsed()
}

fn rewraps(criterion: &mut Criterion) {
    for algorithm in [Algorithm::Rsa2048, Algorithm::Rsa4096, Algorithm::Ec(Curve::P256)] {
        let work = Work::new(algorithm);
        let mut group = criterion.benchmark_group(algorithm.as_str());
        let mut measure = |name: &str, run: fn(&Work)| {
            group.bench_function(name, |bencher| bencher.iter(|| run(&work)));
            group.bench_function(format!("{name}, two threads"), |bencher| {
                bencher.iter_custom(|rounds| on_two_threads(&work, rounds, run));
            });
        };
        if algorithm.is_rsa() {
            measure("bare decrypt", Work::decrypt);
        }
        measure("rewrap for RSA-2048", Work::for_rsa);
        measure("rewrap for P-256", Work::for_ec);
        group.finish();
    }
}

criterion_group!(benches, rewraps);
criterion_main!(benches);
