//! From appending an event to its receipt, on a file.
//!
//! `cargo bench -p kasbah-audit`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::try_join_all;
use kasbah_audit::{AuditLog, Durability, FileSettings, FileSink, Settings, SigningKey};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A rewrap, as the data plane tells of it.
fn event() -> Value {
    json!({
        "time": "2026-03-04T10:15:30.482913Z", "level": "AUDIT", "msg": "rewrap", "namespace": "kas",
        "audit": {
            "object": {
                "type": "key_object", "id": "3b7e0d6e-52f4-4c0e-9a3d-6f1d2c9b8a10", "name": "",
                "attributes": {
                    "assertions": [], "permissions": [],
                    "attrs": ["https://acme.example/attr/project/value/falcon"],
                },
            },
            "action": { "type": "rewrap", "result": "success" },
            "actor": { "id": "user-8841", "attributes": [] },
            "eventMetaData": {
                "algorithm": "rsa:2048", "keyID": "r1", "tdfFormat": "tdf3",
                "policyBinding": "MDg5NTUzNDQ3YWFlMGFlMDM2YmNjNDkxYjlmZWYxNWQ3OTdiNGRhZDQwOGYxOTE=",
                "kasbah": { "custody": "sealed", "outcome": "success", "latency_us": 1234 },
            },
            "clientInfo": {
                "userAgent": "connect-go/1.20.0", "platform": "kas", "requestIP": "198.51.100.7",
            },
            "original": null, "updated": null,
            "requestID": "0a3f6c1e-7d2b-4e57-8f0a-5a1c9d3e2b44",
            "timestamp": "2026-03-04T10:15:30Z",
        },
    })
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    let runtime = Runtime::new().expect("a runtime");
    let event = event();
    for durability in [Durability::Buffered, Durability::Written, Durability::Synced] {
        for at_once in [1_u64, 64] {
            let dir = tempfile::tempdir().expect("a directory");
            let file = FileSettings::new(dir.path().join("audit.log"));
            let mut settings = Settings::new("bench", FileSink::new(file));
            settings.durability = durability;
            settings.signing_key = Some(SigningKey::generate().expect("a key").0);
            settings.checkpoint_file = Some(dir.path().join("checkpoints"));
            let log = AuditLog::open(settings).expect("a log");
            group.throughput(Throughput::Elements(at_once));
            group.bench_function(BenchmarkId::new(format!("{durability:?}"), at_once), |b| {
                b.iter(|| {
                    let receipts: Vec<_> =
                        (0..at_once).map(|_| log.append(event.clone()).wait()).collect();
                    // A receipt of `Buffered` says no when the writer falls behind.
                    let kept = runtime.block_on(try_join_all(receipts));
                    assert!(kept.is_ok() || durability == Durability::Buffered, "{kept:?}");
                });
            });
            log.close(Duration::from_mins(1)).expect("all was written");
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
