//! Running the command.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// A run of the command that is yet to start.
pub(crate) struct Kasbah(Command);

/// A run of the command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Kasbah {
    pub(crate) fn new<const N: usize>(arguments: [&str; N]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kasbah"));
        command.args(arguments).env_remove("RUST_LOG");
        Self(command)
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it to its end, which must come within a minute.
    pub(crate) fn run(mut self) -> Ended {
        let scratch = Scratch::new();
        let (stdout, stderr) = (scratch.path().join("stdout"), scratch.path().join("stderr"));
        self.0.stdout(fs::File::create(&stdout).unwrap());
        self.0.stderr(fs::File::create(&stderr).unwrap());
        let mut child = self.0.spawn().unwrap();
        let status = wait(&mut child, Duration::from_mins(1));
        let (stdout, stderr) =
            (fs::read_to_string(stdout).unwrap(), fs::read_to_string(stderr).unwrap());
        let Some(status) = status else {
            let _ = child.kill();
            panic!("it did not end: {stdout}{stderr}");
        };
        Ended { code: status.code().expect("it was not killed"), stdout, stderr }
    }
}

/// Waits for the end of a process; `None` when it has not come in time.
fn wait(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + at_most;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

impl Ended {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// A directory of a test's own.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempDir::with_prefix("kasbah-cli-").unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }
}

/// A server that runs until it is stopped.
pub(crate) struct Server {
    child: Child,
    stderr: PathBuf,
    /// The first line of its standard output.
    pub(crate) first_line: String,
}

impl Server {
    /// `kasbah dev` in a directory of the test's.
    pub(crate) fn dev(scratch: &Scratch) -> Self {
        Self::dev_with(scratch, &[])
    }

    /// As [`Server::dev`], with more arguments.
    pub(crate) fn dev_with(scratch: &Scratch, arguments: &[&str]) -> Self {
        let command = Kasbah::new(["dev", "--output", "json", "--listen", "127.0.0.1:0", "--dir"])
            .arg(scratch.path().join("dev"))
            .args(arguments);
        let mut server = Self::start(command, scratch);
        let stdout = server.child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut server.first_line).unwrap();
        assert!(!server.first_line.is_empty(), "{}", server.log());
        server
    }

    /// Waits until its log says that it serves.
    pub(crate) fn serve(scratch: &Scratch, config: &Path) -> Self {
        let mut server = Self::start(Kasbah::new(["serve", "--config"]).arg(config), scratch);
        for _ in 0..300 {
            if server.log().contains(" serving ") {
                return server;
            }
            assert!(server.child.try_wait().unwrap().is_none(), "{}", server.log());
            thread::sleep(Duration::from_millis(50));
        }
        panic!("not ready after 15 s: {}", server.log());
    }

    fn start(mut command: Kasbah, scratch: &Scratch) -> Self {
        let stderr = scratch.path().join(format!("log-{}", std::process::id()));
        let child = command
            .0
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self { child, stderr, first_line: String::new() }
    }

    /// What it printed when it was ready.
    pub(crate) fn ready(&self) -> Value {
        serde_json::from_str(&self.first_line).unwrap()
    }

    /// Its log so far, audit events included.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Asks it to stop and returns its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        if let Some(status) = wait(&mut self.child, Duration::from_secs(10)) {
            return status.code().expect("it was not killed");
        }
        panic!("still there 10 s after SIGTERM: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Of a server that was stopped nothing is left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
