//! `kasbah audit`

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use kasbah_audit::{AuditLog, FileSettings, FileSink, Settings, SigningKey};
use secrecy::SecretString;
use serde_json::json;

use crate::common::{Ended, Kasbah, Scratch};

/// A log with a signing key made by the command: one event, a checkpoint, and one file per event.
struct Log {
    scratch: Scratch,
    public_key: PathBuf,
}

impl Log {
    fn new(events: u64) -> Self {
        let scratch = Scratch::new();
        let private_key = scratch.path().join("key.pem");
        let made = Kasbah::new(["audit", "key", "--out"]).arg(&private_key).run();
        assert_eq!(made.code, 0, "{}", made.stderr);
        let public_key = scratch.write("public.pem", &made.stdout);
        let file = FileSettings::new(scratch.path().join("audit.log"));
        let sink = FileSink::new(FileSettings { max_bytes: Some(1), ..file });
        let mut settings = Settings::new("kas-1", sink);
        let pem = SecretString::from(fs::read_to_string(private_key).unwrap());
        settings.signing_key = Some(SigningKey::from_pem(&pem).unwrap());
        settings.checkpoint_file = Some(scratch.path().join("checkpoints"));
        let log = AuditLog::open(settings).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for id in 0..events {
            runtime.block_on(log.append(json!({ "msg": id })).wait()).unwrap();
        }
        log.close(Duration::from_mins(1)).unwrap();
        Self { scratch, public_key }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `kasbah audit verify` of these files against everything that there is.
    fn verify(&self, files: &[&str], arguments: &[&str]) -> Ended {
        let mut command = Kasbah::new(["audit", "verify", "--checkpoints"])
            .arg(self.file("checkpoints"))
            .arg("--public-key")
            .arg(&self.public_key);
        for file in files {
            command = command.arg(self.file(file));
        }
        command.args(arguments).run()
    }
}

const FILES: [&str; 3] = ["audit.log", "audit.log.000000000003", "audit.log.000000000001"];

#[test]
fn an_untouched_log_is_fine() {
    let log = Log::new(2);
    let ended = log.verify(&FILES, &["--require-signed-end"]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(
        ended.stdout,
        "the log of kas-1 is whole from 1 to 4\nsigned checkpoints in it: 2\n\
         exported checkpoints that agree with it: 2\n"
    );
    let ended = log.verify(&FILES[..2], &["--output", "json"]);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(
        ended.json(),
        json!({
            "ok": true, "problem": null, "node": "kas-1", "first": 3, "last": 4, "lines": 2,
            "signed_checkpoints": 1, "exported_checkpoints": 1, "unvouched": 0,
        })
    );
}

#[test]
fn what_is_wrong_is_said_and_exits_with_1() {
    let log = Log::new(2);
    let first = log.file(FILES[2]);
    let text = fs::read_to_string(&first).unwrap();
    let cut = log.verify(&FILES[2..], &[]);
    assert_eq!(cut.code, 1, "{}{}", cut.stdout, cut.stderr);
    assert!(
        cut.stdout.contains("the log was cut off: it ends at 2, a checkpoint of"),
        "{}",
        cut.stdout
    );
    assert_eq!(cut.stderr, "");

    fs::write(&first, text.replacen("\"msg\":0", "\"msg\":1", 1)).unwrap();
    let changed = log.verify(&FILES, &["--output", "json"]);
    assert_eq!(changed.code, 1, "{}{}", changed.stdout, changed.stderr);
    let report = changed.json();
    assert_eq!((&report["ok"], &report["problem"]["line"]), (&json!(false), &json!(1)));
    assert_eq!(report["problem"]["file"], first.to_str().unwrap());
    let message = report["problem"]["message"].as_str().unwrap();
    assert!(message.starts_with("was changed, or line 2 was"), "{message}");
}

#[test]
fn a_chain_alone_is_told_for_what_it_is() {
    let log = Log::new(1);
    let bare = Kasbah::new(["audit", "verify"]).arg(log.file(FILES[2])).run();
    assert_eq!(bare.code, 0, "{}{}", bare.stdout, bare.stderr);
    assert!(
        bare.stdout.contains("no checkpoint vouches for the last 2 lines yet"),
        "{}",
        bare.stdout
    );
    assert!(bare.stdout.contains("a chain that was computed anew is whole"), "{}", bare.stdout);
    let begins = log.verify(&FILES[2..], &["--begins-at", "2"]);
    assert_eq!(begins.code, 1, "{}{}", begins.stdout, begins.stderr);
}

#[test]
fn wrong_usage_says_what() {
    let log = Log::new(1);
    let wrong = |ended: Ended, said: &str| {
        assert_eq!(ended.code, 2, "{}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    };
    wrong(Kasbah::new(["audit", "verify"]).run(), "FILE");
    wrong(Kasbah::new(["audit", "verify", "x", "--require-signed-end"]).run(), "--public-key");
    wrong(Kasbah::new(["audit", "verify", "/no/such"]).run(), "cannot read /no/such");
    wrong(log.verify(&FILES[2..], &["--public-key", "/no/such"]), "cannot read /no/such");
    let private = log.file("key.pem");
    let private = private.to_str().unwrap();
    wrong(
        log.verify(&FILES[2..], &["--public-key", private]),
        "expected a PEM file with an Ed25519 public key",
    );
}

#[test]
fn a_key_is_for_its_owner_and_never_replaced() {
    let scratch = Scratch::new();
    let out = scratch.path().join("key.pem");
    let make = || Kasbah::new(["audit", "key", "--output", "json", "--out"]).arg(&out).run();
    let made = make().json();
    assert!(made["public_key"].as_str().unwrap().starts_with("-----BEGIN PUBLIC KEY-----"));
    assert_eq!(made["key"].as_str().unwrap().len(), 16);
    assert!(!made.to_string().contains("PRIVATE"), "{made}");
    let pem = fs::read_to_string(&out).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let again = make();
    assert_eq!(again.code, 2, "{}{}", again.stdout, again.stderr);
    assert_eq!(fs::read_to_string(&out).unwrap(), pem);
}
