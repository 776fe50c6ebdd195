//! What recording costs: all instruments of one rewrap, and the same when nobody listens.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use kasbah_telemetry::{Instruments, Rewrap};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};

/// What a rewrap of one data key by a token records.
fn record(instruments: &Instruments) {
    let started = Instant::now();
    let call = instruments.call_in_flight();
    instruments.cache_lookup("tokens", true);
    instruments.call("admitted");
    let request = instruments.rewrap_request(started);
    instruments.decision("permit");
    instruments.decided("answered", started.elapsed());
    instruments.cache_lookup("keys", true);
    instruments.queued("opentdf.io/hsm", "rewrap").taken();
    instruments.executed("opentdf.io/hsm", "rewrap", Duration::from_micros(1500));
    instruments.rewrap(Rewrap {
        outcome: "success",
        key_type: "rsa:2048",
        manager: black_box("opentdf.io/hsm"),
        custody: "sealed",
    });
    drop(request);
    drop(call);
    instruments.http("grpc", 200, started.elapsed());
}

fn benches(criterion: &mut Criterion) {
    let meters = SdkMeterProvider::builder().with_reader(ManualReader::default()).build();
    let on = Instruments::new(&meters.meter("bench"));
    let mut group = criterion.benchmark_group("record");
    group.bench_function("rewrap", |bencher| bencher.iter(|| record(&on)));
    group.bench_function("rewrap, off", |bencher| {
        bencher.iter(|| record(kasbah_telemetry::instruments()));
    });
    group.bench_function("one counter", |bencher| bencher.iter(|| on.decision("permit")));
    group.finish();
}

criterion_group!(record_benches, benches);
criterion_main!(record_benches);
