//! The recording PKCS#11 module, and what it wrote down.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use kasbah_testkit::tokens::set_env;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// A recording module around a real one.
pub struct Recorder {
    dir: TempDir,
}

/// One recorded call.
#[derive(Debug, Deserialize)]
pub struct Call {
    /// Its number.
    pub seq: u64,
    /// Its function.
    pub function: String,
    /// Its return code.
    pub rv: u64,
    /// What went in and came out.
    pub details: Value,
}

impl Recorder {
    /// Records calls to `module` in this process; for the start of a test.
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn around(module: &Path) -> Self {
        let dir = TempDir::with_prefix("kasbah-record-").expect("a temporary directory");
        set_env("KASBAH_RECORDER_MODULE", module.to_str().expect("UTF-8"));
        set_env("KASBAH_RECORDER_LOG", dir.path().join("log").to_str().expect("UTF-8"));
        Self { dir }
    }

    /// Path of the recording module.
    ///
    /// # Panics
    /// When it is not built.
    pub fn module() -> PathBuf {
        let test = env::current_exe().expect("a test has a path");
        let target = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
        let module = target.join("libkasbah_recorder.so");
        assert!(module.exists(), "{} is missing; cargo build -p kasbah-recorder", module.display());
        module
    }

    /// What was recorded so far.
    ///
    /// # Panics
    /// When nothing was.
    pub fn calls(&self) -> Vec<Call> {
        let log = fs::read_to_string(self.dir.path().join("log")).expect("something was recorded");
        log.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// Forgets what was recorded so far: only later calls count.
    pub fn mark(&self) -> u64 {
        self.calls().last().map_or(0, |call| call.seq)
    }

    /// Calls after a mark.
    pub fn since(&self, mark: u64) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.seq > mark).collect()
    }
}

impl Call {
    /// Whether it is a successful call of this function.
    pub fn is(&self, function: &str) -> bool {
        self.function == function && self.rv == 0
    }

    /// A handle or a number in its details.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.details[name].as_u64()
    }

    /// Bytes in its details.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.details[name].as_str().map(|text| hex::decode(text).expect("hex"))
    }

    /// Whether these bytes occur anywhere in it.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.details.to_string().contains(&hex::encode(bytes))
    }
}
