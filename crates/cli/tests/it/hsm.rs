//! `kasbah hsm` on a SoftHSM token.

use std::fs;

use kasbah_testkit::tokens::{PIN, SO_PIN, SoftHsm, TestToken};
use serde_json::Value;

use crate::common::{Ended, Kasbah};

const RSA_PEM: &str = include_str!("../../../testkit/data/golden-r1.pem");

/// `kasbah hsm COMMAND` on the token.
fn hsm<const N: usize>(token: &TestToken, command: &str, arguments: [&str; N]) -> Ended {
    Kasbah::new(["hsm", command, "--token", token.label(), "--module"])
        .arg(token.module_path())
        .arg("--pin-file")
        .arg(token.pin_file())
        .args(&arguments)
        .run()
}

fn ok(ended: Ended) -> Ended {
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    ended
}

fn wrong(ended: &Ended, expected: &str) {
    assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.starts_with("kasbah: "), "{}", ended.stderr);
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "one message: {}", ended.stderr);
}

#[test]
fn keys_are_made_imported_and_listed() {
    let token = SoftHsm::fresh();
    let made = ok(hsm(&token, "generate", ["--kid", "r1", "--algorithm", "rsa:2048"]));
    assert!(made.stdout.contains("generated r1 (rsa:2048, "), "{}", made.stdout);
    assert!(made.stdout.contains("key: \"pkcs11:object=r1"), "{}", made.stdout);
    let made = ok(hsm(
        &token,
        "generate",
        ["--kid", "e1", "--algorithm", "ec:secp256r1", "--output", "json"],
    ));
    assert_eq!(made.json()["algorithm"], "ec:secp256r1");
    let pem = token.dir().join("old.pem");
    fs::write(&pem, RSA_PEM).unwrap();
    let pem = pem.to_str().unwrap();
    ok(hsm(&token, "import", ["--kid", "old1", "--private-key-file", pem]));

    let listed = ok(hsm(&token, "list", ["--output", "json"])).json();
    let kids: Vec<_> = listed.as_array().unwrap().iter().map(|key| &key["kid"]).collect();
    assert_eq!(kids, ["e1", "old1", "r1"]);
    for key in listed.as_array().unwrap() {
        assert_eq!((&key["hardened"], &key["missing"]), (&true.into(), &Value::Array(vec![])));
    }
    let table = ok(hsm(&token, "list", [])).stdout;
    assert!(table.starts_with("KID   ALGORITHM     ID"), "{table}");
    assert_eq!(table.matches("  hardened").count(), 3, "{table}");

    let public = ok(hsm(&token, "public", ["--key", "pkcs11:object=old1"])).stdout;
    assert_eq!(public.trim_end(), listed[1]["public_key"].as_str().unwrap().trim_end());
    let public = ok(hsm(&token, "public", ["--key", "pkcs11:object=r1", "--output", "json"]));
    assert_eq!(public.json()["public_key"], listed[2]["public_key"]);
}

#[test]
fn each_error_says_what_to_do() {
    let token = SoftHsm::fresh();
    let (dir, module) = (token.dir(), token.module_path().to_str().unwrap());
    ok(hsm(&token, "generate", ["--kid", "r1", "--algorithm", "rsa:2048"]));
    let again = hsm(&token, "generate", ["--kid", "r1", "--algorithm", "rsa:2048"]);
    wrong(&again, "already has key r1");
    wrong(&hsm(&token, "public", ["--key", "pkcs11:object=r2"]), "see `kasbah hsm list`");
    let pem = dir.join("bad.pem");
    fs::write(&pem, "nothing").unwrap();
    let pem = pem.to_str().unwrap();
    let bad = hsm(&token, "import", ["--kid", "x", "--private-key-file", pem]);
    wrong(&bad, "expected an unencrypted PEM file");
    let bad = hsm(&token, "import", ["--kid", "x", "--private-key-file", "/no/such.pem"]);
    wrong(&bad, "cannot read /no/such.pem");

    let list = |module: &str, label: &str, pin: &str| {
        fs::write(dir.join("given"), pin).unwrap();
        let given = dir.join("given");
        Kasbah::new(["hsm", "list", "--module", module, "--token", label, "--pin-file"])
            .arg(given)
            .run()
    };
    wrong(&list("/no/such.so", "kas", PIN), "--module: /no/such.so cannot be opened");
    wrong(&list("/bin/true", "kas", PIN), "is no PKCS#11 module");
    wrong(&list(module, "other", PIN), "make one with `kasbah hsm init`");
    wrong(&list(module, "kas", ""), "it is empty");
    let refused = list(module, "kas", "00000000");
    wrong(&refused, "refused PIN");
    assert!(!refused.stderr.contains("00000000"), "{}", refused.stderr);
}

#[test]
fn tokens_are_made_once() {
    let token = SoftHsm::fresh();
    let so_pin = token.dir().join("so-pin");
    fs::write(&so_pin, SO_PIN).unwrap();
    let init = |label: &str| {
        Kasbah::new(["hsm", "init", "--token", label, "--module"])
            .arg(token.module_path())
            .arg("--pin-env")
            .arg("KASBAH_TEST_PIN")
            .arg("--so-pin-file")
            .arg(&so_pin)
            .env("KASBAH_TEST_PIN", PIN)
            .run()
    };
    assert!(ok(init("second")).stdout.contains("made token second"));
    wrong(&init("second"), "token second exists");
    wrong(&init("kas"), "token kas exists");
    let empty = Kasbah::new(["hsm", "list", "--token", "second", "--pin-env", "P", "--module"])
        .arg(token.module_path())
        .env("P", PIN)
        .run();
    assert!(ok(empty).stdout.contains("no private keys"));
}

#[test]
fn a_provider_names_a_token_too() {
    let token = SoftHsm::fresh();
    let config = token.dir().join("config.yaml");
    let text = format!(
        "kas: {{ uri: \"http://localhost\" }}\nauth: {{ mode: dev }}\nsecrets: {{ p: {{ file: pin }} \
         }}\nmodules: {{ m: {{ path: {}, env: {{ SOFTHSM2_CONF: module.conf }} }} }}\nproviders:\n  - \
         {{ name: main, manager: opentdf.io/hsm, config: {{ module: m, token: kas, pin: p }} }}\n",
        token.module_path().display()
    );
    fs::write(&config, text).unwrap();
    let hsm = |provider: &str| {
        Kasbah::new(["hsm", "list", "--provider", provider, "--config"])
            .arg(&config)
            .env("SOFTHSM2_CONF", "/no/such/file")
            .run()
    };
    assert!(ok(hsm("main")).stdout.contains("no private keys"));
    wrong(&hsm("other"), "no provider `other`");
}

#[test]
fn the_pin_is_changed() {
    let token = SoftHsm::fresh();
    ok(hsm(&token, "generate", ["--kid", "r1", "--algorithm", "rsa:2048"]));
    let new = token.dir().join("new-pin");
    fs::write(&new, "0123456789\n").unwrap();
    let file = new.to_str().unwrap();
    let changed = ok(hsm(&token, "change-pin", ["--new-pin-file", file])).stdout;
    assert!(changed.contains("now put the new one where the old one was"), "{changed}");
    assert!(!changed.contains("0123456789"), "{changed}");
    wrong(&hsm(&token, "list", []), "refused PIN");
    fs::copy(&new, token.pin_file()).unwrap();
    assert!(ok(hsm(&token, "list", [])).stdout.contains("r1"));
    wrong(&hsm(&token, "change-pin", ["--new-pin-file", file]), "the new PIN is the old one");
}

#[test]
fn a_new_pin_never_stands_on_the_command_line() {
    let token = SoftHsm::fresh();
    for arguments in [["--new-pin", "0123456789"], ["--new-pin-secret", "pin2"]] {
        let ended = hsm(&token, "change-pin", arguments);
        assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
    }
    let ended = hsm(&token, "change-pin", []);
    assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
    fs::write(token.dir().join("short"), "1").unwrap();
    let short = token.dir().join("short");
    let ended = hsm(&token, "change-pin", ["--new-pin-file", short.to_str().unwrap()]);
    wrong(&ended, "the new PIN must have");
}
