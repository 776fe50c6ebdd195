//! `kasbah serve` with configurations that cannot work, and one that can without a token.

use std::{fs, path::PathBuf};

use crate::common::{Kasbah, Scratch, Server};

/// What a server left behind: a token with keys, and a configuration, made over to name the keys
/// in a keyring.
fn left_behind(scratch: &Scratch) -> (PathBuf, String) {
    assert_eq!(Server::dev(scratch).stop(), 0);
    let config = scratch.path().join("dev/config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let of_registry = &["registry:", "decisions:"];
    let is_kept = |line: &&str| !of_registry.iter().any(|section| line.starts_with(section));
    let kept = text.lines().filter(is_kept);
    let text = kept.collect::<Vec<_>>().join("\n").replace("\"registry\"", "\"keyring\"");
    let keyring = r#"
keyring:
  - {"algorithm":"rsa:2048","key":"pkcs11:object=r1","kid":"r1","provider":"main"}
  - {"algorithm":"ec:secp256r1","key":"pkcs11:object=e1","kid":"e1","provider":"main"}
  - {"algorithm":"rsa:2048","kid":"b1","public_key_file":"b1.pem","wrapped_key_file":"b1.b64","wrapping_key":"root"}
"#;
    let text = text + keyring;
    fs::write(&config, &text).unwrap();
    (config, text)
}

#[test]
fn what_is_declared_must_work() {
    let scratch = Scratch::new();
    let (config, text) = left_behind(&scratch);
    let dir = config.parent().unwrap();
    fs::write(dir.join("wrong-pin"), "00000000").unwrap();
    fs::write(dir.join("wrong-root"), "00".repeat(32)).unwrap();
    fs::write(dir.join("short-root"), "0011").unwrap();
    fs::write(dir.join("wrong.b64"), "AAAA").unwrap();
    fs::write(dir.join("empty.conf"), "").unwrap();
    for (find, replacement, expected) in [
        ("\"listen\"", "\"lissen\"", "server.lissen: unknown field"),
        ("libsofthsm2.so", "nothing.so", "modules.softhsm.path: /"),
        ("\"token\":\"kas\"", "\"token\":\"other\"", "token other: there is none"),
        ("pin: { file: pin }", "pin: { file: wrong-pin }", "token kas refused PIN pin"),
        (
            "pin: { file: pin }",
            "pin: { env: KASBAH_TEST_UNSET }",
            "environment variable KASBAH_TEST_UNSET",
        ),
        ("pkcs11:object=r1", "pkcs11:object=r9", "key r1: token kas has no private key"),
        (
            "{\"algorithm\":\"rsa:2048\",\"key\"",
            "{\"algorithm\":\"rsa:4096\",\"key\"",
            "key r1: the key in the token is not of its algorithm, rsa:4096",
        ),
        (
            "\"kid\":\"r1\"",
            "\"kid\":\"r1\",\"public_key_file\":\"b1.pem\"",
            "key r1: the key in the token has another public key",
        ),
        ("\"prefer-sealed\"", "\"require-sealed\"", "key e1: "),
        (
            "root: { file: root }",
            "root: { file: wrong-root }",
            "does not open with root key `root`",
        ),
        (
            "root: { file: root }",
            "root: { file: short-root }",
            "secrets.root: expected 32, 48 or 64 hexadecimal digits",
        ),
        ("b1.b64", "wrong.b64", "key b1: "),
        (
            "keyring:",
            "  - { name: idle, manager: opentdf.io/hsm, config: { module: softhsm, token: none, \
             pin: pin } }\nkeyring:",
            "provider idle: token none: there is none",
        ),
    ] {
        assert!(text.contains(find), "{find}");
        fs::write(&config, text.replacen(find, replacement, 1)).unwrap();
        let ended = Kasbah::new(["serve", "--config"]).arg(&config).env("RUST_LOG", "off").run();
        assert_eq!(ended.code, 2, "{replacement}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("kasbah: "), "{replacement}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{replacement}: {}", ended.stderr);
        assert!(!ended.stderr.contains("00000000"), "{replacement}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "one message: {}", ended.stderr);
    }
}

#[test]
fn a_taken_port_exits_with_3() {
    let scratch = Scratch::new();
    let (config, text) = left_behind(&scratch);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (before, rest) = text.split_once("\"listen\":\"").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    let address = taken.local_addr().unwrap();
    fs::write(&config, format!("{before}\"listen\":\"{address}\"{after}")).unwrap();
    let ended = Kasbah::new(["serve", "--config"]).arg(&config).run();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
}

#[test]
fn an_optional_provider_may_be_down() {
    let scratch = Scratch::new();
    let (config, text) = left_behind(&scratch);
    let text = text
        .replace("\"token\":\"kas\"", "\"token\":\"other\"")
        .replace("    config:", "    required: false\n    config:")
        .replace("\"kid\":\"e1\"", "\"kid\":\"e1\",\"public_key_file\":\"e1.pem\"");
    let dev = config.parent().unwrap();
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJh7701UM8GjvAT7XNmujL11v5Ve0
sqvOit5Yy6FopV4XiKCymlamq+xAhMDJa9PcvKa1B/NdvqnphXCEedi9yQ==
-----END PUBLIC KEY-----
";
    fs::write(dev.join("e1.pem"), pem).unwrap();
    fs::write(&config, &text).unwrap();
    let server = Server::serve(&scratch, &config);
    let log = server.log();
    assert!(
        log.contains("key is left out until the next start") && log.contains("kid=r1"),
        "{log}"
    );
    assert!(log.contains("key is not ready; its provider is optional"), "{log}");
    let from = text.find("\"listen\":\"").unwrap() + 10;
    let url = format!("http://{}", text[from..].split('"').next().unwrap());
    let smoke = |algorithm: &str| {
        Kasbah::new(["smoke", &url, "--algorithm", algorithm, "--output", "json", "--token-file"])
            .arg(dev.join("access-token"))
            .run()
    };
    let basic = smoke("rsa:2048");
    assert_eq!((basic.code, &basic.json()["kid"]), (0, &"b1".into()), "{}", basic.stderr);
    let down = smoke("ec:secp256r1");
    assert_eq!(down.code, 3, "{}", down.stderr);
    assert!(down.stderr.contains("key manager unavailable"), "{}", down.stderr);
    assert_eq!(server.stop(), 0);
}
