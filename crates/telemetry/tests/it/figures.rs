//! What Prometheus reads.

use std::time::{Duration, Instant};

use kasbah_telemetry::{Rewrap, Settings, Telemetry, instruments};

fn started() -> Telemetry {
    let settings = Settings { prometheus: true, version: "1.2.3", ..Settings::default() };
    Telemetry::start(&settings).unwrap()
}

fn text(telemetry: &Telemetry) -> String {
    telemetry.figures().unwrap().text().unwrap()
}

/// The value of a line.
#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let line =
        text.lines().find(|line| line.strip_prefix(series).is_some_and(|r| r.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line[series.len()..].trim().parse().unwrap()
}

#[test]
fn everything_has_its_name_and_its_labels() {
    let telemetry = started();
    let on = instruments();
    assert!(on.is_on());
    on.rewrap(Rewrap {
        outcome: "success",
        key_type: "rsa:2048",
        manager: "opentdf.io/hsm",
        custody: "sealed",
    });
    drop(on.rewrap_request(Instant::now()));
    on.queued("opentdf.io/hsm", "rewrap").taken();
    on.executed("opentdf.io/hsm", "rewrap", Duration::from_millis(3));
    on.not_done("opentdf.io/hsm", "busy");
    on.token_error("gone");
    on.cache_lookup("keys", true);
    on.cache_lookup("tokens", false);
    on.stale_served("keys");
    on.decision("permit");
    on.decided("answered", Duration::from_millis(1));
    on.call("admitted");
    on.http("grpc", 200, Duration::from_millis(4));
    on.export_failed("traces");
    let text = text(&telemetry);
    for (series, expected) in [
        (
            "kasbah_rewraps_total{custody=\"sealed\",key_type=\"rsa:2048\",\
             manager=\"opentdf.io/hsm\",outcome=\"success\"}",
            1.0,
        ),
        ("kasbah_rewrap_duration_seconds_count", 1.0),
        (
            "kasbah_manager_queue_time_seconds_count{manager=\"opentdf.io/hsm\",operation=\"rewrap\"}",
            1.0,
        ),
        (
            "kasbah_manager_execution_time_seconds_sum{manager=\"opentdf.io/hsm\",\
             operation=\"rewrap\"}",
            0.003,
        ),
        (
            "kasbah_manager_execution_time_seconds_bucket{manager=\"opentdf.io/hsm\",\
             operation=\"rewrap\",le=\"0.0025\"}",
            0.0,
        ),
        (
            "kasbah_manager_execution_time_seconds_bucket{manager=\"opentdf.io/hsm\",\
             operation=\"rewrap\",le=\"0.005\"}",
            1.0,
        ),
        ("kasbah_manager_refusals_total{manager=\"opentdf.io/hsm\",reason=\"busy\"}", 1.0),
        ("kasbah_token_errors_total{class=\"gone\"}", 1.0),
        // There before the first of its kind, so that a rate begins with it.
        ("kasbah_token_errors_total{class=\"fatal\"}", 0.0),
        ("kasbah_cache_lookups_total{cache=\"keys\",result=\"hit\"}", 1.0),
        ("kasbah_cache_lookups_total{cache=\"tokens\",result=\"miss\"}", 1.0),
        ("kasbah_cache_stale_served_total{cache=\"keys\"}", 1.0),
        ("kasbah_decisions_total{result=\"permit\"}", 1.0),
        ("kasbah_decision_duration_seconds_count{result=\"answered\"}", 1.0),
        ("kasbah_calls_total{result=\"admitted\"}", 1.0),
        ("kasbah_http_requests_total{protocol=\"grpc\",status=\"200\"}", 1.0),
        ("kasbah_http_request_duration_seconds_sum{protocol=\"grpc\"}", 0.004),
        ("kasbah_telemetry_failures_total{signal=\"traces\"}", 1.0),
    ] {
        let found = value(&text, series);
        assert!((found - expected).abs() < 1e-9, "{series}: {found}");
    }
    assert!(text.contains("service_version=\"1.2.3\""), "{text}");
    assert!(!text.contains("otel_scope"), "{text}");
    // Each is explained.
    for line in text.lines().filter(|line| line.starts_with("# TYPE kasbah_")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[test]
fn what_is_under_way_ends_with_its_guard() {
    let telemetry = started();
    let on = instruments();
    let guards = (on.rewrap_request(Instant::now()), on.call_in_flight());
    let waiting = [on.queued("opentdf.io/hsm", "rewrap"), on.queued("opentdf.io/hsm", "probe")];
    let series = [
        ("kasbah_rewrap_requests_in_flight", 1.0),
        ("kasbah_calls_in_flight", 1.0),
        ("kasbah_manager_queue_depth{manager=\"opentdf.io/hsm\"}", 2.0),
    ];
    let during = text(&telemetry);
    let is = |text: &str, series, expected: f64| (value(text, series) - expected).abs() < 1e-9;
    assert!(series.iter().all(|(series, expected)| is(&during, series, *expected)), "{during}");
    assert!(!during.contains("kasbah_rewrap_duration_seconds"), "it is not done yet: {during}");
    assert!(!during.contains("kasbah_manager_queue_time_seconds"), "nor these: {during}");
    drop(guards);
    let [taken, given_up] = waiting;
    taken.taken();
    drop(given_up);
    let after = text(&telemetry);
    assert!(series.iter().all(|(series, _)| is(&after, series, 0.0)), "{after}");
    assert!(is(&after, "kasbah_rewrap_duration_seconds_count", 1.0));
    let waited = "kasbah_manager_queue_time_seconds_count{manager=\"opentdf.io/hsm\",operation=";
    assert!(is(&after, &format!("{waited}\"rewrap\"}}"), 1.0), "{after}");
    assert!(!after.contains(&format!("{waited}\"probe\"}}")), "nobody took it: {after}");
}

#[test]
fn without_telemetry_nothing_is_recorded() {
    assert!(!instruments().is_on());
    instruments().decision("permit");
    drop(instruments().rewrap_request(Instant::now()));
    instruments().queued("opentdf.io/hsm", "rewrap").taken();
    let telemetry = started();
    assert!(!text(&telemetry).contains("kasbah_decisions"));
    assert!(Telemetry::start(&Settings::default()).is_err(), "once in a process");
}
