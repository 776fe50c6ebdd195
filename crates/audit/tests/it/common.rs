//! Logs to test with.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use kasbah_audit::{
    AuditLog, Check, Durability, FileSettings, FileSink, NotKept, OpenError, PublicKey, Receipt,
    Report, Settings, SigningKey, Source, verify, verify_files,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const NODE: &str = "kas-1";
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// An event in the shape of a rewrap.
pub(crate) fn event(id: u64) -> Value {
    json!({
        "time": "2026-03-04T10:15:30.482913Z",
        "level": "AUDIT",
        "msg": "rewrap",
        "namespace": "kas",
        "audit": {
            "object": { "type": "key_object", "id": format!("{id}"), "name": "", "attributes": {
                "assertions": [], "attrs": ["https://acme.example/attr/project/value/falcon"],
                "permissions": [],
            } },
            "action": { "type": "rewrap", "result": "error" },
            "actor": { "id": "user-8841", "attributes": [] },
            "eventMetaData": { "keyID": "r1", "kasbah": { "outcome": "denied" } },
            "clientInfo": { "userAgent": "x", "platform": "kas", "requestIP": "198.51.100.7" },
            "original": null, "updated": null,
            "requestID": "0a3f6c1e-7d2b-4e57-8f0a-5a1c9d3e2b44",
            "timestamp": "2026-03-04T10:15:30Z",
        },
    })
}

/// A directory with a log in it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) key: SecretString,
    pub(crate) public: PublicKey,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (key, pem) = SigningKey::generate().unwrap();
        let dir = TempDir::with_prefix("kasbah-audit-").unwrap();
        Self { dir, key: pem, public: key.public_key().clone() }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }

    /// A log of this file, with checkpoints that no time makes.
    pub(crate) fn settings(&self) -> Settings {
        self.settings_of(FileSettings::new(self.log()))
    }

    pub(crate) fn settings_of(&self, file: FileSettings) -> Settings {
        let mut settings = Settings::new(NODE, FileSink::new(file));
        settings.signing_key = Some(SigningKey::from_pem(&self.key).unwrap());
        settings.checkpoint_file = Some(self.checkpoints());
        settings.checkpoint_interval = Duration::from_hours(1);
        settings.queue = 100_000;
        settings
    }

    pub(crate) fn check(&self) -> Check {
        Check { public_keys: vec![self.public.clone()], ..Check::default() }
    }

    /// What is found in these files, against the checkpoints and the key.
    pub(crate) fn verify(&self, files: &[PathBuf]) -> Report {
        verify_files(files, Some(&self.checkpoints()), &self.check()).unwrap()
    }

    /// What is found in the log; it must be fine, to its very end.
    pub(crate) fn fine(&self) -> Report {
        fine(self.verify(&self.files()))
    }

    /// The files of the log, in no order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        names(self.dir.path(), |name| name == "audit.log" || name.starts_with("audit.log."))
    }
}

pub(crate) fn names(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut names: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| wanted(path.file_name().unwrap().to_str().unwrap()));
    names.sort();
    names
}

pub(crate) fn fine(report: Report) -> Report {
    assert!(report.problem.is_none(), "{}", report.problem.unwrap());
    report
}

/// Has these events kept.
pub(crate) async fn keep(log: &AuditLog, ids: std::ops::Range<u64>) {
    assert_eq!(append(log, ids).await, Ok(()));
}

/// Appends events; the first that is not kept.
pub(crate) async fn append(log: &AuditLog, ids: std::ops::Range<u64>) -> Result<(), NotKept> {
    let receipts: Vec<_> = ids.map(|id| log.append(event(id))).collect();
    join_all(receipts.into_iter().map(Receipt::wait)).await.into_iter().collect()
}

pub(crate) fn open(settings: Settings) -> AuditLog {
    AuditLog::open(settings).unwrap()
}

pub(crate) fn refused(settings: Settings) -> OpenError {
    AuditLog::open(settings).map(|_| ()).unwrap_err()
}

/// What is found in lines in memory.
pub(crate) fn verify_bytes(log: &[u8], exported: Option<&[u8]>, check: &Check) -> Report {
    fn source<'a>(name: &str, bytes: &'a [u8]) -> Source<'a> {
        Source { name: name.to_owned(), lines: Box::new(Cursor::new(bytes)) }
    }
    let exported = exported.map(|exported| source("checkpoints", exported));
    verify([source("log", log)], exported, check).unwrap()
}

/// The lines as JSON.
pub(crate) fn json_lines(bytes: &[u8]) -> Vec<Value> {
    bytes.lines_of().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

pub(crate) trait LinesOf {
    /// Lines without their ends; the last must have one.
    fn lines_of(&self) -> impl Iterator<Item = &[u8]>;
}

impl LinesOf for [u8] {
    fn lines_of(&self) -> impl Iterator<Item = &[u8]> {
        assert!(self.is_empty() || self.ends_with(b"\n"));
        self.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1])
    }
}

/// Ids of the events in a log, in its order.
pub(crate) fn ids(bytes: &[u8]) -> Vec<u64> {
    json_lines(bytes)
        .iter()
        .filter(|line| line["msg"] == "rewrap")
        .map(|line| line["audit"]["object"]["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Every durability there is.
pub(crate) const DURABILITIES: [Durability; 3] =
    [Durability::Buffered, Durability::Written, Durability::Synced];
