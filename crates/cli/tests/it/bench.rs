//! `kasbah bench`

use crate::common::{Kasbah, Scratch, Server};

#[test]
fn managers_are_measured_beside_raw_loops() {
    let ended =
        Kasbah::new(["bench", "--seconds", "1", "--threads", "1", "--output", "json"]).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = ended.json();
    let comparisons = report["comparisons"].as_array().unwrap();
    let custody: Vec<_> = comparisons.iter().map(|c| c["custody"].as_str().unwrap()).collect();
    assert_eq!(custody, ["sealed", "transient"]);
    for comparison in comparisons {
        let number = |name: &str| comparison.pointer(name).unwrap().as_f64().unwrap();
        let ratio = number("/ratio");
        assert!(ratio > 0.0 && number("/managed/rate") > 0.0 && number("/raw/rate") > 0.0);
        assert!(number("/managed/p50_us") <= number("/managed/p99_us"), "{comparison}");
    }
}

#[test]
fn a_key_of_a_configuration_is_measured() {
    let scratch = Scratch::new();
    assert_eq!(Server::dev(&scratch).stop(), 0);
    let config = scratch.path().join("dev/config.yaml");
    let bench = |kid: &str| {
        Kasbah::new(["bench", "--seconds", "1", "--kid", kid, "--config"]).arg(&config).run()
    };
    let ended = bench("r1");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("opentdf.io/hsm (sealed)"), "{}", ended.stdout);
    for (kid, expected) in [("e1", "is no RSA key"), ("b1", "is no RSA key"), ("x", "it has `r1`")]
    {
        let ended = bench(kid);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}
