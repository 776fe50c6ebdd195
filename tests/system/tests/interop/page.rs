//! A page in a browser, and the server that it is from.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::files::repository;

/// How long a browser may take to start, open the page and make its attempts.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where a page is from.
pub(crate) struct Origin {
    listener: TcpListener,
    /// Such as `http://127.0.0.1:1234`.
    pub(crate) url: String,
}

impl Origin {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// What came of these attempts in a browser.
    pub(crate) fn outcomes(self, attempts: &Value) -> Vec<Value> {
        let page = fs::read(repository("tests/interop/browser/page.html")).unwrap();
        let attempts = attempts.to_string().into_bytes();
        let _browser = Browser::open(&self.url);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for stream in self.listener.incoming().map_while(Result::ok) {
                let mut request = Request::read(&stream);
                match request.path.as_str() {
                    "/" => answer(&stream, "text/html", &page),
                    "/attempts.json" => answer(&stream, "application/json", &attempts),
                    "/outcomes" => {
                        answer(&stream, "application/json", b"{}");
                        let _ = tell.send(std::mem::take(&mut request.body));
                    }
                    _ => answer(&stream, "text/plain", b""),
                }
            }
        });
        let outcomes = told.recv_timeout(PATIENCE).expect("the page tells in time what came of it");
        serde_json::from_slice(&outcomes).unwrap()
    }
}

/// As much of a request as the page makes use of.
struct Request {
    path: String,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            // A browser may connect and say nothing.
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            head.push(line.to_lowercase());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        Self { path: path.to_owned(), body }
    }
}

fn answer(mut stream: &TcpStream, kind: &str, body: &[u8]) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    // The browser may be gone.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

/// Chromium without a window, gone when this is dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = TempDir::with_prefix("kasbah-chromium-").unwrap();
        // It need not be sandboxed from a page of ours, and as root it cannot be.
        let child = Command::new(chromium())
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg("--disable-dev-shm-usage")
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            // All that it writes goes into its profile.
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It takes its other processes with it, when it is asked.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let until = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chromium() -> PathBuf {
    let path = env::var_os("PATH").unwrap();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file())
        .expect("no Chromium; tests/bin/install-deps test installs it")
}
