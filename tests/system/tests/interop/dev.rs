//! `kasbah dev`, which every client of this tier asks.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kasbah_system_tests::server::kasbah;
use serde_json::Value;
use tempfile::TempDir;

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running `kasbah dev`, in a directory of its own.
pub(crate) struct Dev {
    child: Child,
    dir: TempDir,
    /// What it told when it was ready.
    pub(crate) ready: Value,
}

impl Dev {
    pub(crate) fn start() -> Self {
        let dir = TempDir::with_prefix("kasbah-interop-").unwrap();
        let mut child = kasbah()
            .args(["dev", "--output", "json", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path().join("dev"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut dev = Self { child, dir, ready: Value::Null };
        dev.ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}", dev.log()));
        dev
    }

    /// A directory for files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Id and secret of its client, for SDKs.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.dir().join("dev/credentials.json")
    }

    /// A text of what it told when it was ready.
    pub(crate) fn told(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        self.told("url")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap()
    }

    /// The audit events after the first so many, of which there must be one soon: that of a refusal
    /// may come after the answer.
    pub(crate) fn events_after(&self, count: usize) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let events = self.events().split_off(count);
            if !events.is_empty() {
                return events;
            }
            assert!(Instant::now() < until, "the server was not asked: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The audit events of rewraps so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = lines.filter(|line| line["level"] == "AUDIT" && line["msg"] == "rewrap");
        events.map(|line| line["audit"].clone()).collect()
    }

    /// Runs `kasbah` with these words as the administrator.
    pub(crate) fn administer(&self, words: &[&str]) {
        let output = kasbah()
            .args(words)
            .args(["--url", self.url(), "--token-file"])
            .arg(self.dir().join("dev/access-token"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output.stderr));
    }

    /// Has the token make the key of old clients, whose TDFs name none.
    pub(crate) fn make_legacy_key(&self, kid: &str) {
        self.administer(&[
            "keys",
            "create",
            "--kid",
            kid,
            "--algorithm",
            "rsa:2048",
            "--legacy",
            "--mode",
            "remote",
            "--provider",
            "main",
            "--manager",
            "opentdf.io/hsm",
        ]);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program said.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file of the repository, or one that was built.
pub(crate) fn repository(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    assert!(file.exists(), "{} is missing; make interop-clients", file.display());
    std::path::absolute(file).unwrap()
}

/// A program that must be there.
pub(crate) fn program(name: &str) -> Command {
    Command::new(repository(name))
}
