//! A client nobody here wrote: Python's gRPC with the messages that `otdf-python` ships.

use std::{path::Path, process::Command};

use kasbah_pkcs11::provision;
use kasbah_system_tests::{server::Setup, token};
use kasbah_testkit::tokens::SoftHsm;
use kasbah_trust::Algorithm;
use serde_json::{Value, json};

#[test]
fn python_grpc_rewraps_through_a_token() {
    let fixture = SoftHsm::fresh();
    let token = token::open(&fixture);
    provision::generate(&token, "r1", Algorithm::Rsa2048).unwrap();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    let server = setup.serve();

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/python-venv/bin/python");
    assert!(python.exists(), "{} is missing; make python", python.display());
    let output = Command::new(python)
        .arg(root.join("tests/python/grpc_client.py"))
        .args([server.url().as_str(), server.token("python").as_str()])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{}", server.log());
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["kid"], "r1");
    assert_eq!(result["custody"], "sealed");
    assert_eq!(result["rewrapped"], true);
    assert_eq!(result["tampered"], "bad request");
}
