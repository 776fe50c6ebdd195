//! The command line itself.

use crate::common::{Kasbah, Scratch};

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        vec![],
        vec!["rewrap"],
        vec!["serve"],
        vec!["serve", "--config"],
        vec!["config"],
        vec!["config", "check"],
        vec!["--output", "xml", "serve"],
        vec!["dev", "--listen", "localhost"],
        vec!["dev", "--import", "r2"],
        vec!["dev", "--import", "=file"],
        vec!["dev", "--import", "b1=file"],
        vec!["smoke"],
        vec!["smoke", "http://127.0.0.1:1", "--algorithm", "rsa:1024"],
        vec!["smoke", "http://127.0.0.1:1", "--count", "0"],
        vec!["smoke", "http://127.0.0.1:1", "--out", "x"],
        vec!["smoke", "http://127.0.0.1:1", "--token-file", "a", "--token-env", "B"],
        vec!["smoke", "https://127.0.0.1:1"],
        vec!["smoke", "http://127.0.0.1:1", "--token-file", "/no/such"],
        vec!["smoke", "http://127.0.0.1:1", "--token-env", "KASBAH_TEST_UNSET"],
        vec!["smoke", "http://127.0.0.1:1", "--tdf", "/no/such.tdf"],
        vec!["smoke", "http://127.0.0.1:1", "--public-key-file", "a"],
        vec!["smoke", "http://127.0.0.1:1", "--kid", "a", "--tdf", "b"],
        vec!["dev", "--log-format", "xml"],
        vec!["bench", "--threads", "0"],
        vec!["bench", "--kid", "r1"],
        vec!["hsm", "list"],
        vec!["hsm", "list", "--module", "m"],
        vec!["hsm", "list", "--module", "m", "--token", "t"],
        vec!["hsm", "list", "--module", "m", "--token", "t", "--pin", "12345678"],
        vec!["hsm", "list", "--module", "m", "--token", "t", "--pin-file", "a", "--pin-env", "B"],
        vec!["hsm", "list", "--config", "c"],
        vec!["hsm", "public", "--module", "m", "--token", "t", "--pin-env", "P", "--key", "r1"],
    ] {
        let ended = Kasbah::new([]).args(&arguments).run();
        assert_eq!(ended.code, 2, "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_command_has_help() {
    for arguments in [
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["dev", "--help"],
        vec!["smoke", "--help"],
        vec!["bench", "--help"],
        vec!["config", "check", "--help"],
        vec!["hsm", "init", "--help"],
        vec!["hsm", "generate", "--help"],
        vec!["hsm", "import", "--help"],
        vec!["hsm", "list", "--help"],
        vec!["hsm", "public", "--help"],
    ] {
        let ended = Kasbah::new([]).args(&arguments).run();
        assert_eq!(ended.code, 0, "{arguments:?}");
        assert!(ended.stdout.contains("Usage: kasbah"), "{arguments:?}: {}", ended.stdout);
    }
}

#[test]
fn an_unreachable_server_exits_with_3() {
    let ended = Kasbah::new(["smoke", "http://127.0.0.1:1"]).run();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot reach http://127.0.0.1:1"), "{}", ended.stderr);
}

#[test]
fn dev_stays_on_loopback_and_in_a_directory_of_its_own() {
    let scratch = Scratch::new();
    let dir = scratch.path().to_str().unwrap();
    let ended = Kasbah::new(["dev", "--listen", "0.0.0.0:0", "--dir", dir]).run();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("loopback"), "{}", ended.stderr);
    scratch.write("config.yaml", "");
    let ended = Kasbah::new(["dev", "--listen", "127.0.0.1:0", "--dir", dir]).run();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("kasbah serve --config"), "{}", ended.stderr);
}

#[test]
fn a_taken_port_exits_with_3() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Kasbah::new(["dev", "--listen", &address]).run();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("cannot listen on {address}")), "{}", ended.stderr);
}
