//! The official conformance suite of Connect, against a server that is Kasbah's edge.

use std::{path::Path, process::Command};

/// As many cases as `config.yaml` asks for in v1.0.5.
const CASES: usize = 1407;

#[test]
fn the_edge_conforms() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let suite = here.join("../../target/conformance/connectconformance");
    assert!(suite.exists(), "{} is missing; run tests/conformance/setup.sh", suite.display());
    let run = Command::new(suite)
        .args(["--mode", "server", "--conf"])
        .arg(here.join("config.yaml"))
        .args(["--", env!("CARGO_BIN_EXE_kasbah-conformance")])
        .output()
        .unwrap();
    let told = [run.stdout, run.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(run.status.success(), "{told}");
    let (cases, passed) =
        (figure(&told, "Total cases: ", ""), figure(&told, "", " passed, 0 failed"));
    println!("{passed} of {cases} cases passed");
    assert!(cases >= CASES && passed == cases, "{told}");
}

/// The number of a line between these texts.
fn figure(told: &str, before: &str, after: &str) -> usize {
    let mut numbers = told
        .lines()
        .filter_map(|line| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok());
    numbers.next().unwrap_or_else(|| panic!("no `{before}…{after}`: {told}"))
}
