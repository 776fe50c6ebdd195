//! `kasbah dev`: a throw-away server with an issuer of its own.
#![expect(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::kasbah;

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running `kasbah dev`, in a directory of its own.
pub struct Dev {
    child: Child,
    dir: TempDir,
    /// What it told when it was ready.
    pub ready: Value,
}

impl Dev {
    /// Starts it, on a port that is free.
    pub fn start() -> Self {
        let dir = TempDir::with_prefix("kasbah-dev-").unwrap();
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
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Id and secret of its client, for SDKs.
    pub fn credentials(&self) -> PathBuf {
        self.dir().join("dev/credentials.json")
    }

    /// A text of what it told when it was ready.
    pub fn told(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        self.told("url")
    }

    /// What it wrote on standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap()
    }

    /// The audit events after the first so many, of which there must be one soon: that of a refusal
    /// may come after the answer.
    pub fn events_after(&self, count: usize) -> Vec<Value> {
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
    pub fn events(&self) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = lines.filter(|line| line["level"] == "AUDIT" && line["msg"] == "rewrap");
        events.map(|line| line["audit"].clone()).collect()
    }

    /// Runs `kasbah` with these words as the administrator.
    pub fn administer(&self, words: &[&str]) {
        let output = kasbah()
            .args(words)
            .args(["--url", self.url(), "--token-file"])
            .arg(self.dir().join("dev/access-token"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Has the token make the key of old clients, whose TDFs name none.
    pub fn make_legacy_key(&self, kid: &str) {
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
