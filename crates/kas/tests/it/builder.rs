//! A server is built right or not at all, and nothing can be granted from outside.

use std::sync::Arc;

use kasbah_auth::{DevTokens, DpopSettings};
use kasbah_kas::{Kas, Keyring, Limits, MemorySink, ServeError};
use kasbah_trust::Algorithm;
use tokio::net::TcpListener;

use crate::harness::{BASIC, RSA, URI, basic, gate, key};

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let limits = Limits { kaos: 0, ..Limits::default() };
    let error = Kas::builder()
        .uri("localhost")
        .key_manager("", &Algorithm::ALL, basic())
        .key_manager("twice", &Algorithm::ALL, basic())
        .key_manager("twice", &Algorithm::ALL, basic())
        .default_manager("nobody")
        .limits(limits)
        .build()
        .unwrap_err();
    let text = error.to_string();
    for part in [
        "localhost",
        "needs a name",
        "twice is registered twice",
        "default key manager nobody is not registered",
        "no key index",
        "no gate",
        "no audit sink",
        "limit kaos is 0",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert_eq!(error.problems().len(), 8, "{text}");
}

#[test]
fn a_keyring_has_each_kid_once() {
    let error = Keyring::new(URI, vec![key("r1", RSA), key("r1", RSA)]).unwrap_err();
    assert!(error.to_string().contains("r1"), "{error}");
}

#[tokio::test]
async fn a_lenient_gate_serves_loopback_only() {
    let kas = Kas::builder()
        .uri(URI)
        .key_manager(BASIC, &Algorithm::ALL, basic())
        .default_manager(BASIC)
        .key_index(Arc::new(Keyring::new(URI, Vec::new()).unwrap()))
        .gate(gate(Arc::new(DevTokens), DpopSettings::default()).await)
        .audit(Arc::new(MemorySink::default()))
        .build()
        .unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let outcome = kas.serve(listener, std::future::pending()).await;
    assert!(matches!(outcome, Err(ServeError::NotLoopback(_))), "{outcome:?}");
}

#[test]
fn access_cannot_be_forged() {
    trybuild::TestCases::new().compile_fail("tests/forged/*.rs");
}
