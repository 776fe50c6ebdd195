//! A PostgreSQL server of a test's own.
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Where Debian and Ubuntu put the servers, one directory per major version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Text sorts by code point, so that every test machine sees one order.
const INITDB: [&str; 6] = [
    "--no-sync",
    "--auth=trust",
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C",
    "--wal-segsize=1",
];
const FIRST_STATEMENTS: &str = "CREATE ROLE kasbah LOGIN;\nCREATE DATABASE kasbah OWNER kasbah;\n";
const SETTINGS: [&str; 4] =
    ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "max_connections=50"];
/// Below the ports that Linux hands to outgoing connections, which could else take the port of a
/// stopped server.
const PORTS: std::ops::Range<u16> = 20_000..32_768;
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A PostgreSQL server with its data in a temporary directory; both are gone when this is dropped,
/// and the server also when the test is killed.
///
/// Role `kasbah` owns the database `kasbah` and is no superuser; role `postgres` is one. Neither
/// has a password. Durability is the default except that nothing is flushed to disk; only a crash of
/// the machine would show that.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    dir: TempDir,
    port: u16,
    server: Option<Server>,
}

impl Postgres {
    /// A server that accepts connections.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Self {
        let programs = Programs::find();
        let dir = programs.directory();
        Template::of(&programs).unpack(&programs, dir.path());
        let mut postgres = Self { programs, dir, port: 0, server: None };
        let deadline = Instant::now() + PATIENCE;
        while postgres.server.is_none() {
            postgres.port = free_port();
            postgres.try_start(deadline);
        }
        postgres
    }

    /// URL of the database, for role `kasbah`.
    pub fn url(&self) -> String {
        format!("postgres://kasbah@{}:{}/kasbah", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Port on 127.0.0.1, the same for the life of this value.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the server as a crash would: connections break, and what was committed stays. Does
    /// nothing when it is stopped.
    ///
    /// # Panics
    /// When it does not stop by itself.
    pub fn stop(&mut self) {
        self.halt().unwrap_or_else(|error| panic!("PostgreSQL does not stop: {error}"));
    }

    /// Starts a stopped server with the data and the port that it had. Does nothing when it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.server.is_none() {
            self.try_start(deadline);
        }
    }

    /// The server is gone in any case; it clears up behind itself only when told to stop.
    fn halt(&mut self) -> Result<(), String> {
        let Some(_killed_at_last) = self.server.take() else { return Ok(()) };
        let mut pg_ctl = self.programs.command(self.programs.bin.join("pg_ctl"));
        pg_ctl.args(["stop", "--wait", "--mode=immediate", "--pgdata"]).arg(self.data());
        self.programs.run(&mut pg_ctl).map(drop)
    }

    /// Leaves `server` empty when the port is taken.
    fn try_start(&mut self, deadline: Instant) {
        let log = self.dir.path().join("log");
        let mut server = self.spawn(&log);
        while !self.accepts_connections(&server.child) {
            let ended = server.child.try_wait().expect("a child can be waited for").is_some();
            let report = || fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not start in time: {}", report());
            if ended {
                let report = report();
                assert!(report.contains("Address already in use"), "PostgreSQL ended: {report}");
                thread::sleep(POLL);
                return;
            }
            thread::sleep(POLL);
        }
        self.server = Some(server);
    }

    fn spawn(&self, log: &Path) -> Server {
        let mut command = self.programs.command(self.programs.bin.join("postgres"));
        command
            .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
            .args(["-p", &self.port.to_string()])
            .arg("-k")
            .arg(self.dir.path())
            .arg("-D")
            .arg(self.data())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).expect("the log is writable"));
        Server::spawn(command)
    }

    /// What the server says in its lock file: its process in the first line, its state in the
    /// eighth. Asking at the port could be answered by somebody else's server.
    fn accepts_connections(&self, child: &Child) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let line = |number| text.lines().nth(number).unwrap_or_default().trim();
        line(0) == child.id().to_string() && line(7) == "ready"
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.halt();
    }
}

/// The server process, killed when dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    /// Ends the thread that started the process.
    _parent: Sender<()>,
}

impl Server {
    /// Starts it from a thread that stays: the kernel kills it together with its parent, which
    /// is a thread.
    fn spawn(mut command: Command) -> Self {
        let (parent, gone) = mpsc::channel::<()>();
        let (started, child) = mpsc::channel();
        thread::spawn(move || {
            let _ = started.send(command.spawn());
            let _ = gone.recv();
        });
        let child = child.recv().expect("the thread answers");
        Self { child: child.unwrap_or_else(|error| no_setpriv(&error)), _parent: parent }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL's programs, and the user they run as: the own one, or `postgres` instead of root, as
/// which they refuse to run.
#[derive(Debug)]
struct Programs {
    bin: PathBuf,
    uid: u32,
}

impl Programs {
    fn find() -> Self {
        let uid = fs::metadata("/proc/self").expect("Linux").uid();
        Self { bin: newest(Path::new(VERSIONS)), uid }
    }

    /// A command that the kernel kills with the thread that starts it.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.uid == 0 {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg(program);
        command
    }

    /// What a command said; an error when it failed.
    fn run(&self, command: &mut Command) -> Result<String, String> {
        let Output { status, stdout, stderr } =
            command.output().unwrap_or_else(|error| no_setpriv(&error));
        let said = [stdout, stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if status.success() {
            return Ok(said);
        }
        Err(format!("{status}: {said} (user {}, programs of {})", self.uid, self.bin.display()))
    }

    /// An empty directory of the user they run as.
    fn directory(&self) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if self.uid == 0 {
            let chown = Command::new("chown").arg("postgres:postgres").arg(dir.path()).status();
            assert!(chown.is_ok_and(|status| status.success()), "there is no user postgres");
        }
        dir
    }
}

fn newest(versions: &Path) -> PathBuf {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let major = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(major)
        .unwrap_or_else(|| panic!("PostgreSQL is not installed: apt-get install postgresql"))
        .join("bin")
}

fn no_setpriv(error: &std::io::Error) -> ! {
    panic!("setpriv does not start: {error}; apt-get install util-linux")
}

/// An archive of the data of a server that never ran, kept among the temporary files because
/// making it anew takes many times as long as unpacking it.
struct Template(PathBuf);

impl Template {
    /// The archive, made now unless it is there.
    fn of(programs: &Programs) -> Self {
        let archive = env::temp_dir().join(format!(
            "kasbah-postgres-{}-{:016x}.tar",
            programs.uid,
            recipe(programs)
        ));
        let lock = File::create(archive.with_extension("lock")).expect("a lock file");
        lock.lock().expect("the lock is had in the end");
        if !archive.exists() {
            pack(programs, &archive);
        }
        let owner = fs::metadata(&archive).expect("the archive is there").uid();
        assert_eq!(owner, programs.uid, "{} is somebody else's; remove it", archive.display());
        Self(archive)
    }

    fn unpack(&self, programs: &Programs, dir: &Path) {
        let archive = File::open(&self.0).expect("the archive is readable");
        let mut tar = programs.command("tar");
        programs.run(tar.arg("-x").arg("-C").arg(dir).stdin(archive)).unwrap_or_else(|error| {
            panic!("{} does not unpack: {error}", self.0.display());
        });
    }
}

/// Tells archives of other programs or other settings apart.
fn recipe(programs: &Programs) -> u64 {
    let mut version = programs.command(programs.bin.join("postgres"));
    let version = programs.run(version.arg("--version"));
    let mut hasher = DefaultHasher::new();
    (version, INITDB, FIRST_STATEMENTS).hash(&mut hasher);
    hasher.finish()
}

/// Makes the archive beside its place and moves it there, so that it is whole or absent.
fn pack(programs: &Programs, archive: &Path) {
    let dir = programs.directory();
    let data = dir.path().join("data");
    let mut initdb = programs.command(programs.bin.join("initdb"));
    initdb.args(INITDB).arg("--pgdata").arg(&data).current_dir(dir.path());
    programs.run(&mut initdb).unwrap_or_else(|error| panic!("initdb fails: {error}"));
    first_statements(programs, &data);
    let unfinished = archive.with_extension("new");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&unfinished).arg("-C").arg(dir.path()).arg("data");
    programs.run(&mut tar).unwrap_or_else(|error| panic!("the data is not packed: {error}"));
    fs::rename(unfinished, archive).expect("the archive can be moved");
}

/// Gives them to a server without a network, which reports errors but does not end with one.
fn first_statements(programs: &Programs, data: &Path) {
    let file = data.with_extension("sql");
    fs::write(&file, FIRST_STATEMENTS).expect("the directory is writable");
    let mut single = programs.command(programs.bin.join("postgres"));
    single.args(["--single", "-F", "-D"]).arg(data).arg("postgres").current_dir(data);
    let said = programs.run(single.stdin(File::open(file).expect("just written")));
    assert!(said.as_ref().is_ok_and(|said| !said.contains("ERROR")), "first statements: {said:?}");
}

fn free_port() -> u16 {
    let random = RandomState::new().hash_one(Instant::now());
    let ports = PORTS.end - PORTS.start;
    let first = u16::try_from(random % u64::from(ports)).expect("a port");
    (0..ports)
        .map(|step| PORTS.start + (first + step) % ports)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
