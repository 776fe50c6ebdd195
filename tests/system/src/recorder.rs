//! The recording PKCS#11 module, and what it wrote down.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kasbah_testkit::tokens::set_env;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::server::built;

/// A recording module around a real one.
pub struct Recorder {
    dir: TempDir,
}

/// When to kill the process that makes a call.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// When the function is called, before the real module is.
    Before,
    /// So long after that, whatever happens then.
    During(Duration),
    /// So long after the real module returned; with zero, before the caller learns of it.
    After(Duration),
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
    /// Whether that code is an injected fault, so the real module was not asked.
    pub injected: bool,
    /// What went in and came out.
    pub details: Value,
}

impl Recorder {
    /// Records calls to `module` in this process and those that it starts; for the start of a test.
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn around(module: &Path) -> Self {
        let dir = TempDir::with_prefix("kasbah-record-").expect("a temporary directory");
        set_env("KASBAH_RECORDER_MODULE", module.to_str().expect("UTF-8"));
        set_env("KASBAH_RECORDER_LOG", dir.path().join("log").to_str().expect("UTF-8"));
        set_env("KASBAH_RECORDER_KILL", dir.path().join("kill").to_str().expect("UTF-8"));
        Self { dir }
    }

    /// Has the `from`th and every later call of `function` answer `code` instead of reaching the
    /// real module; for the start of a test.
    pub fn fault(&self, function: &str, code: u64, from: u64) {
        set_env("KASBAH_RECORDER_FAULT", &format!("{function}:{code:#x}:{from}"));
    }

    /// Has the process that calls `function` next die as by `kill -9`; until [`Recorder::spare`].
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn kill(&self, function: &str, moment: Moment) {
        let order = match moment {
            Moment::Before => format!("{function}:before"),
            Moment::During(delay) => format!("{function}:during:{}", delay.as_micros()),
            Moment::After(delay) => format!("{function}:after:{}", delay.as_micros()),
        };
        // In one piece: another process may be reading.
        let (draft, file) = (self.dir.path().join("draft"), self.dir.path().join("kill"));
        fs::write(&draft, order).expect("writable");
        fs::rename(draft, file).expect("writable");
    }

    /// Has nobody die any more; who is dying already does.
    pub fn spare(&self) {
        let _ = fs::remove_file(self.dir.path().join("kill"));
    }

    /// Path of the recording module: `KASBAH_RECORDER_LIB`, or what cargo built.
    ///
    /// # Panics
    /// When it is not built.
    pub fn module() -> PathBuf {
        let module = env::var_os("KASBAH_RECORDER_LIB")
            .map_or_else(|| built("libkasbah_recorder.so"), PathBuf::from);
        let path = module.display();
        assert!(module.exists(), "{path} is missing: run `cargo build -p kasbah-recorder`");
        module
    }

    /// The record so far, as text; whole lines only, for another may be on its way.
    ///
    /// # Panics
    /// When nothing was recorded.
    pub fn text(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).expect("something was recorded");
        log.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default()
    }

    /// What was recorded so far.
    ///
    /// # Panics
    /// When nothing was.
    pub fn calls(&self) -> Vec<Call> {
        let parse = |line| serde_json::from_str(line).expect("a line is JSON");
        self.text().lines().map(parse).collect()
    }

    /// Number of the last call so far.
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
    ///
    /// # Panics
    /// When the recorder wrote something else there.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.details[name].as_str().map(|text| hex::decode(text).expect("hex"))
    }

    /// The value of an attribute in a template, or one that was read.
    pub fn attribute(&self, list: &str, kind: u64) -> Option<&str> {
        let mut pairs = self.details[list].as_array()?.iter();
        pairs.find(|pair| pair[0] == kind).and_then(|pair| pair[1].as_str())
    }

    /// Whether these bytes occur anywhere in it.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.details.to_string().contains(&hex::encode(bytes))
    }
}
