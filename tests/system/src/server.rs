//! The `kasbah` binary as a server.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kasbah_testkit::tokens::TestToken;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    admin::{ADMIN, Admin},
    client::Kas,
    issuer::{AUDIENCE, ISSUER, Issuer},
};

/// A directory with a configuration.
pub struct Setup {
    dir: TempDir,
    /// Signs access tokens that the configuration accepts.
    pub issuer: Issuer,
    /// Where the server is to listen.
    pub address: String,
    /// The configuration.
    pub config: Value,
}

/// A running `kasbah serve`.
pub struct Server {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Where it listens.
    pub address: String,
    setup: Setup,
}

impl Setup {
    /// A configuration without providers and keys.
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("kasbah-serve-").expect("a temporary directory");
        let issuer = Issuer::new();
        fs::write(dir.path().join("jwks.json"), issuer.jwks().to_string()).expect("writable");
        let address = free_address();
        let config = json!({
            "server": { "listen": address },
            "kas": { "uri": "http://localhost:8080", "key_index": "keyring" },
            "auth": {
                "mode": "jwt", "issuer": ISSUER, "audience": AUDIENCE, "jwks_file": "jwks.json",
            },
            "secrets": {}, "modules": {}, "providers": [], "keyring": [],
        });
        Self { dir, issuer, address, config }
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file beside the configuration.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), content).expect("writable");
    }

    /// Adds an `opentdf.io/hsm` provider called `name` for a test token.
    pub fn hsm(&mut self, name: &str, token: &TestToken, custody: &str) {
        let module: Value = json!({
            "path": token.module_path(),
            "env": token.env().map(|(k, v)| (k.to_owned(), v.into()))
                .collect::<serde_json::Map<String, Value>>(),
        });
        self.config["modules"][name] = module;
        self.config["secrets"][name] = json!({ "file": token.pin_file() });
        let config =
            json!({ "module": name, "token": token.label(), "pin": name, "custody": custody });
        let provider = json!({ "name": name, "manager": "opentdf.io/hsm", "config": config });
        push(&mut self.config["providers"], provider);
    }

    /// Adds the module and the PIN of a test token under `name`, without a provider; the settings
    /// of a provider configuration that uses them.
    pub fn token(&mut self, name: &str, token: &TestToken, custody: &str) -> Value {
        self.hsm(name, token, custody);
        let provider = self.config["providers"].as_array_mut().and_then(Vec::pop);
        provider.unwrap_or_default()["config"].clone()
    }

    /// Keeps keys in a registry: `sqlite:FILE`, relative to the configuration, or a PostgreSQL URL.
    pub fn registry(&mut self, database: &str) {
        self.config["kas"]["key_index"] = "registry".into();
        self.config["registry"] = json!({ "database": database });
    }

    /// Adds a root key under `name`, 64 hexadecimal digits.
    pub fn root_key(&mut self, name: &str, hex: &str) {
        self.write(name, hex);
        self.config["secrets"][name] = json!({ "file": name });
        match self.config["root_keys"].as_array_mut() {
            Some(names) => names.push(name.into()),
            None => self.config["root_keys"] = json!([name]),
        }
    }

    /// Adds a key to the keyring.
    pub fn key(&mut self, key: Value) {
        push(&mut self.config["keyring"], key);
    }

    /// Path of the configuration, written as it is now. JSON is YAML.
    pub fn file(&self) -> PathBuf {
        self.write("kasbah.yaml", self.config.to_string());
        self.dir.path().join("kasbah.yaml")
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn serve(self) -> Server {
        self.serve_with(&[])
    }

    /// Starts the server with further arguments and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn serve_with(self, arguments: &[&str]) -> Server {
        let mut child = kasbah()
            .args(["serve", "--config"])
            .arg(self.file())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kasbah starts");
        let lines = Arc::default();
        let stderr = child.stderr.take().expect("it is piped");
        thread::spawn({
            let lines: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        let address = self.address.clone();
        let mut server = Server { child, lines, address, setup: self };
        let start = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            let ended = server.child.try_wait().expect("it is our child");
            let waited = start.elapsed() > Duration::from_mins(1);
            assert!(ended.is_none() && !waited, "kasbah serve: {ended:?}\n{}", server.log());
            thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Setup {
    /// Runs `kasbah serve` with further arguments, which must end by itself before it listens;
    /// its exit code and what it said.
    ///
    /// # Panics
    /// When it serves, or is killed.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let mut child = kasbah()
            .args(["serve", "--config"])
            .arg(self.file())
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kasbah starts");
        let start = Instant::now();
        while child.try_wait().expect("it is our child").is_none() {
            let listens = TcpStream::connect(&self.address).is_ok();
            if listens || start.elapsed() > Duration::from_secs(30) {
                let _ = child.kill();
                let said = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                panic!("it should have ended; it listens: {listens}; it said: {said}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().expect("it is our child");
        let code = output.status.code().expect("no signal ended it");
        (code, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An access token for `subject`.
    pub fn token(&self, subject: &str) -> String {
        self.setup.issuer.token(subject)
    }

    /// An access token for `subject` with further claims.
    pub fn token_with(&self, subject: &str, claims: &Value) -> String {
        self.setup.issuer.token_with(subject, claims)
    }

    /// A connection as `subject`.
    pub async fn connect(&self, subject: &str) -> Kas {
        Kas::connect(self.url(), self.token(subject)).await
    }

    /// A connection as an administrator.
    pub fn admin(&self) -> Admin {
        let kas_uri = self.setup.config["kas"]["uri"].as_str().unwrap_or_default();
        Admin::new(self.url(), &self.token(ADMIN), kas_uri)
    }

    /// Kills it (SIGKILL); what to start it again with, on the same address and files.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Setup {
        let _ = self.child.kill();
        self.child.wait().expect("it is our child");
        std::mem::take(&mut self.setup)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The audit events so far.
    pub fn audit(&self) -> Vec<Value> {
        // The reader thread may be a moment behind the answer.
        thread::sleep(Duration::from_millis(200));
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["level"] == "AUDIT")
            .map(|event| event["audit"].clone())
            .collect()
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGHUP.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for its end; the exit code.
    ///
    /// # Panics
    /// When a signal ended it.
    pub fn wait(&mut self) -> i32 {
        self.child.wait().expect("it is our child").code().expect("no signal ended it")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `kasbah` command: `KASBAH_BIN`, or what `cargo build -p kasbah-cli` built.
///
/// # Panics
/// When it is not built.
pub fn kasbah() -> Command {
    let binary = env::var_os("KASBAH_BIN").map_or_else(|| built("kasbah"), PathBuf::from);
    assert!(binary.exists(), "{} is missing: run `cargo build -p kasbah-cli`", binary.display());
    let mut command = Command::new(binary);
    // The server is to see its own configuration, not what the test set for itself.
    command.env_remove("SOFTHSM2_CONF").env_remove("KRYOPTIC_CONF").env("RUST_LOG", "info");
    command
}

/// Where cargo puts what this workspace builds, in the profile of this test.
///
/// # Panics
/// When the test is not where cargo puts tests.
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join(name)
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

/// A loopback address nobody listens on, for a moment.
///
/// # Panics
/// When there is none.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
