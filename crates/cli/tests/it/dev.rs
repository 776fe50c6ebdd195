//! `kasbah dev`, and `kasbah smoke` against it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::common::{Ended, Kasbah, Scratch, Server};

const ALGORITHMS: [&str; 5] =
    ["rsa:2048", "rsa:4096", "ec:secp256r1", "ec:secp384r1", "ec:secp521r1"];

fn smoke<const N: usize>(url: &str, token: &str, arguments: [&str; N]) -> Ended {
    Kasbah::new(["smoke", url, "--token-env", "KASBAH_TEST_TOKEN", "--output", "json"])
        .args(&arguments)
        .env("KASBAH_TEST_TOKEN", token)
        .run()
}

#[test]
fn it_tells_what_it_made_and_leaves_it_behind() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let keys: Vec<_> = ready["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let text = |name: &str| key[name].as_str().unwrap().to_owned();
            assert!(text("public_key").starts_with("-----BEGIN PUBLIC KEY-----\n"));
            [text("kid"), text("algorithm"), text("manager"), text("custody")].join(" ")
        })
        .collect();
    assert_eq!(
        keys,
        [
            "r1 rsa:2048 opentdf.io/hsm sealed",
            "e1 ec:secp256r1 opentdf.io/hsm transient",
            "b1 rsa:2048 opentdf.io/basic transient",
        ]
    );
    let dir = scratch.path().join("dev");
    assert_eq!(ready["config"], dir.join("config.yaml").to_str().unwrap());
    assert_eq!(ready["access_token"], fs::read_to_string(dir.join("access-token")).unwrap());
    for name in ["pin", "so-pin", "root", "access-token"] {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(server.stop(), 0);

    let check = Kasbah::new(["config", "check", "--config"]).arg(dir.join("config.yaml")).run();
    assert_eq!((check.code, check.stdout.trim()), (0, "the configuration is fine"));
    let server = Server::serve(&scratch, &dir.join("config.yaml"));
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    assert_eq!(smoke(url, token, []).json()["custody"], "sealed");
    assert_eq!(server.stop(), 0);
}

#[test]
fn every_kind_of_key_and_of_client_works() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    for (algorithm, kid, custody) in
        [("rsa:2048", "r1", "sealed"), ("ec:secp256r1", "e1", "transient")]
    {
        for client in ALGORITHMS {
            let ended =
                smoke(url, token, ["--algorithm", algorithm, "--client", client, "--count", "3"]);
            assert_eq!(ended.code, 0, "{algorithm} for {client}: {}", ended.stderr);
            let report = ended.json();
            assert_eq!((&report["ok"], &report["count"]), (&true.into(), &3.into()));
            assert_eq!(report["kid"], kid);
            // SoftHSM cannot wrap for an EC client inside.
            let expected = if client.starts_with("ec") { "transient" } else { custody };
            assert_eq!(report["custody"], expected, "{algorithm} for {client}");
            assert!(report["latency_us"]["p50"].as_u64().unwrap() > 0);
        }
    }
    let audit = server.log();
    assert_eq!(audit.matches("\"level\":\"AUDIT\"").count(), 30, "one event for each");
    assert!(!audit.contains(token), "tokens are not logged");
    let pin = fs::read_to_string(scratch.path().join("dev/pin")).unwrap();
    assert!(!audit.contains(&pin), "PINs are not logged");
}

#[test]
fn what_is_refused_exits_with_1() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    let ended = smoke(url, token, ["--algorithm", "ec:secp384r1"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("no public key for ec:secp384r1"), "{}", ended.stderr);
    let forged = format!("{}x", &token[..token.len() - 8]);
    for forged in [&forged, "e30.e30.e30"] {
        let ended = smoke(url, forged, []);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("Unauthenticated"), "{}", ended.stderr);
    }
    let ended = Kasbah::new(["smoke", url]).run();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("--token-file"), "{}", ended.stderr);
}

#[test]
fn a_key_that_is_not_handed_out_can_be_asked_about() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    assert_eq!(smoke(url, token, ["--kid", "r1"]).code, 0);
    let other = smoke(url, token, ["--kid", "b1"]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    assert!(other.stderr.contains("the server hands out r1 for rsa:2048, not b1"));

    let file = scratch.path().join("dev/b1.pem");
    let file = file.to_str().unwrap();
    let given = smoke(url, token, ["--kid", "b1", "--public-key-file", file]);
    assert_eq!(given.code, 0, "{}", given.stderr);
    assert_eq!(
        (&given.json()["kid"], &given.json()["custody"]),
        (&"b1".into(), &"transient".into())
    );
    let wrong = smoke(url, token, ["--kid", "r1", "--public-key-file", file]);
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    let no_key = scratch.write("no.pem", "nothing");
    let no_key = smoke(url, token, ["--kid", "r1", "--public-key-file", no_key.to_str().unwrap()]);
    assert_eq!(no_key.code, 2, "{}", no_key.stderr);
}

#[test]
fn its_log_can_be_json() {
    let scratch = Scratch::new();
    let server = Server::dev_with(&scratch, &["--log-format", "json"]);
    let log = server.log();
    let kids: Vec<_> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line))
        .filter(|line| line["message"] == "key is ready")
        .map(|line| line["kid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kids.len(), 3, "{log}");
}
