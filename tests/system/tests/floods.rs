//! What a hostile network sends, at full rate, while a client goes on working.
//!
//! `KASBAH_FLOOD_SECONDS` says for how long; a minute if it is not set, ten in `make floods`.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io::Write,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use jsonwebtoken::Header;
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{POLICY, SessionKey, body, kao, random_dek, request_claims},
    issuer::{Issuer, now},
    server::{Server, Setup},
    token,
};
use kasbah_testkit::tokens::SoftHsm;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    time::{sleep, timeout},
};

/// How often the client that is not hostile asks.
const BEAT: Duration = Duration::from_millis(100);
/// How long it waits for an answer: one core answers everybody here.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time after which memory has reached its working size.
const WARM_UP: Duration = Duration::from_secs(20);
const REWRAP: &str = "/kas.AccessService/Rewrap";
const PUBLIC_KEY: &str = "/kas.AccessService/PublicKey";

/// Where to send it, and with which token.
struct Target {
    address: String,
    token: String,
    bomb: Vec<u8>,
}

type Attack = fn(Arc<Target>) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// One round of each attack. An attack that gets another answer than it should is an error.
const ATTACKS: [(&str, usize, Attack); 18] = [
    ("rapid reset", 2, |t| Box::pin(rapid_reset(t))),
    ("settings", 2, |t| Box::pin(frames(t, SETTINGS, 0, b""))),
    ("pings", 2, |t| Box::pin(frames(t, PING, 0, b"pingpong"))),
    ("window updates", 1, |t| Box::pin(frames(t, WINDOW_UPDATE, 0, &[0, 0, 0, 1]))),
    ("priorities", 1, |t| Box::pin(frames(t, PRIORITY, 1, &[0, 0, 0, 3, 16]))),
    ("continuations", 1, |t| Box::pin(continuations(t))),
    ("empty data", 1, |t| Box::pin(empty_data(t))),
    ("header without end", 1, |t| Box::pin(endless_header(t))),
    ("slow headers", 20, |t| Box::pin(drip(t, b"POST / HTTP/1.1\r\nhost: kas\r\nx-slow: y"))),
    ("slow bodies", 20, |t| Box::pin(slow_body(t))),
    ("silence", 50, |t| Box::pin(silence(t))),
    ("noise", 1, |t| Box::pin(noise(t))),
    ("gzip bombs", 2, |t| Box::pin(gzip_bombs(t))),
    ("frames that lie", 2, |t| Box::pin(lying_frames(t))),
    ("JSON that is none", 2, |t| Box::pin(bad_json(t))),
    ("content types", 1, |t| Box::pin(content_types(t))),
    ("tokens that are none", 2, |t| Box::pin(bad_tokens(t))),
    ("bodies that stay", 8, |t| Box::pin(bodies_that_stay(t))),
];

#[test]
fn a_client_is_served_while_the_network_is_hostile() {
    let seconds = std::env::var("KASBAH_FLOOD_SECONDS").ok();
    let time = Duration::from_secs(seconds.map_or(60, |seconds| seconds.parse().unwrap()));
    assert!(time >= 2 * WARM_UP, "{time:?} say little");
    let fixture = SoftHsm::fresh();
    let entry = provision::generate(&token::open(&fixture), "r1", Algorithm::Rsa2048).unwrap();
    let pem = entry.public_key.unwrap().to_pem();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    let server = setup.serve();
    // The client has a thread of its own: it must not wait for its attackers.
    let calm = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let good = Good::new(&server, &pem);
    calm.block_on(good.ask()).unwrap();
    let idle = Figures::of(&server);

    let attackers = Attackers::start(&server, time);
    let (mut asked, mut slowest, mut warm, mut peak) = (0, Duration::ZERO, 0, 0);
    let started = Instant::now();
    while started.elapsed() < time {
        let begun = Instant::now();
        let answered = calm.block_on(good.ask());
        let took = begun.elapsed();
        answered.unwrap_or_else(|error| {
            panic!("rewrap {asked} failed after {:?}: {error}\n{}", started.elapsed(), server.log())
        });
        (asked, slowest) = (asked + 1, slowest.max(took));
        let largest = if started.elapsed() < WARM_UP { &mut warm } else { &mut peak };
        *largest = Figures::of(&server).kib.max(*largest);
        thread::sleep(BEAT.saturating_sub(took));
    }
    let (rounds, wrong) = attackers.stop();
    thread::sleep(Duration::from_secs(2));
    calm.block_on(good.ask()).unwrap();
    let after = Figures::of(&server);
    println!(
        "{asked} rewraps, the slowest {slowest:?}; KiB up to {warm} at first, up to {peak} then; \
         idle {idle:?}, after {after:?}; rounds {rounds:?}"
    );

    let first = &wrong[..wrong.len().min(10)];
    assert!(wrong.is_empty(), "{} wrong answers, such as {first:#?}", wrong.len());
    assert!(rounds.values().all(|rounds| *rounds > 0), "an attack made no round: {rounds:?}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(after.threads, idle.threads, "a worker was lost, or is left over");
    assert!(peak * 5 <= warm * 6, "memory grows under attack: {warm} KiB, then {peak} KiB");
    assert!(after.connections <= idle.connections + 4, "connections stay: {idle:?} {after:?}");
}

/// Everybody who attacks, with what they did and saw.
struct Attackers {
    runtime: runtime::Runtime,
    rounds: BTreeMap<&'static str, Arc<AtomicU64>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Attackers {
    fn start(server: &Server, time: Duration) -> Self {
        let target = Arc::new(Target {
            address: server.address.clone(),
            token: long_lived(server, "attacker"),
            bomb: bomb(),
        });
        let runtime = runtime::Runtime::new().unwrap();
        let rounds: BTreeMap<_, Arc<AtomicU64>> =
            ATTACKS.iter().map(|(name, ..)| (*name, Arc::default())).collect();
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let end = Instant::now() + time;
        for (name, many, attack) in ATTACKS {
            for _ in 0..many {
                let (target, rounds, wrong) =
                    (Arc::clone(&target), Arc::clone(&rounds[name]), Arc::clone(&wrong));
                runtime.spawn(async move {
                    while Instant::now() < end {
                        match attack(Arc::clone(&target)).await {
                            Ok(()) => _ = rounds.fetch_add(1, Ordering::Relaxed),
                            Err(error) => wrong.lock().unwrap().push(format!("{name}: {error}")),
                        }
                    }
                });
            }
        }
        Self { runtime, rounds, wrong }
    }

    /// Rounds of each attack, and answers that should have been others.
    fn stop(self) -> (BTreeMap<&'static str, u64>, Vec<String>) {
        self.runtime.shutdown_background();
        let rounds = self.rounds.iter();
        let rounds = rounds.map(|(name, rounds)| (*name, rounds.load(Ordering::Relaxed))).collect();
        let wrong = self.wrong.lock().unwrap().clone();
        (rounds, wrong)
    }
}

/// What the system says of the server.
#[derive(Debug)]
struct Figures {
    kib: u64,
    /// How many of each name. Tokio's come and go.
    threads: BTreeMap<String, usize>,
    connections: usize,
}

impl Figures {
    fn of(server: &Server) -> Self {
        let process = PathBuf::from(format!("/proc/{}", server.pid()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(process.join("task")).unwrap().flatten() {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if !name.starts_with("tokio") {
                *threads.entry(name.trim().to_owned()).or_default() += 1;
            }
        }
        let is_socket = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        let files = fs::read_dir(process.join("fd")).unwrap().flatten();
        Self {
            kib: memory.split_whitespace().next().unwrap().parse().unwrap(),
            threads,
            connections: files.filter(is_socket).count(),
        }
    }
}

/// The client that is not hostile: a new connection for each rewrap, as attackers would have it.
struct Good {
    address: String,
    token: String,
    body: Value,
    dek: Vec<u8>,
    session: SessionKey,
}

impl Good {
    fn new(server: &Server, pem: &str) -> Self {
        let (session, dek) = (SessionKey::rsa(), random_dek());
        let kao = kao("r1", pem, &dek, POLICY);
        let (address, token) = (server.address.clone(), long_lived(server, "client"));
        Self { address, token, body: body(&session, POLICY, &[kao]), dek, session }
    }

    async fn ask(&self) -> Result<(), String> {
        let authorization = format!("authorization: Bearer {}\r\n", self.token);
        let header = Header::new(jsonwebtoken::Algorithm::ES256);
        let signed = Issuer::new().sign(&header, &request_claims(&self.body));
        let request = json!({ "signedRequestToken": signed }).to_string();
        let request = post(REWRAP, "application/json", &authorization, request.as_bytes());
        let (status, answer) = exchange(&self.address, &request).await?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|_| format!("{status}: {answer}"))?;
        let wrapped = answer["responses"][0]["results"][0]["kasWrappedKey"].as_str();
        let wrapped = wrapped.and_then(|wrapped| BASE64_STANDARD.decode(wrapped).ok());
        let opened = wrapped.and_then(|wrapped| self.session.open(&wrapped, ""));
        (opened.as_ref() == Some(&self.dek)).then_some(()).ok_or_else(|| answer.to_string())
    }
}

fn long_lived(server: &Server, subject: &str) -> String {
    server.token_with(subject, &json!({ "exp": now() + 3600 }))
}

// HTTP/1.1 by hand.

fn post(path: &str, content_type: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: kas\r\ncontent-type: {content_type}\r\n{headers}\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends a request on a connection of its own; status and body.
async fn exchange(address: &str, request: &[u8]) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // An answer may come before all is sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer)
    };
    let answer = timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = String::from_utf8_lossy(&answer.map_err(|error| error.to_string())?).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((status.ok_or_else(|| format!("no HTTP: {answer:.60}"))?, body.unwrap_or_default()))
}

/// As [`exchange`], and one of these statuses must come.
async fn expect(address: &str, request: &[u8], statuses: &[u16]) -> Result<(), String> {
    match exchange(address, request).await {
        Ok((status, _)) if statuses.contains(&status) => Ok(()),
        // Overloaded it may refuse anybody, and a connection that is not read to its end is reset.
        Ok((429, _)) | Err(_) => Ok(()),
        Ok((status, body)) => Err(format!("{status} instead of {statuses:?}: {body:.200}")),
    }
}

async fn endless_header(target: Arc<Target>) -> Result<(), String> {
    let head = format!("POST / HTTP/1.1\r\nhost: kas\r\nx-long: {}", "a".repeat(1 << 20));
    expect(&target.address, head.as_bytes(), &[431]).await
}

async fn drip(target: Arc<Target>, bytes: &'static [u8]) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(&target.address).await else { return Ok(()) };
    for byte in bytes {
        sleep(Duration::from_millis(50)).await;
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn slow_body(target: Arc<Target>) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(&target.address).await else { return Ok(()) };
    let head = format!(
        "POST {PUBLIC_KEY} HTTP/1.1\r\nhost: kas\r\ncontent-type: application/json\r\n\
         content-length: 4000\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    for _ in 0..40 {
        sleep(Duration::from_millis(50)).await;
        if stream.write_all(b" ").await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Connections on which nothing comes.
async fn silence(target: Arc<Target>) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(&target.address).await else { return Ok(()) };
    match timeout(Duration::from_secs(20), stream.read_u8()).await {
        Ok(Err(_)) => Ok(()),
        Ok(Ok(byte)) => Err(format!("answered {byte} to nothing")),
        Err(_) => Err("a connection without a request stays open".to_owned()),
    }
}

async fn noise(target: Arc<Target>) -> Result<(), String> {
    let mut bytes = vec![0; 4096];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    expect(&target.address, &bytes, &[400]).await
}

/// 64 MiB of spaces.
fn bomb() -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let spaces = vec![b' '; 1 << 20];
    (0..64).for_each(|_| gzip.write_all(&spaces).unwrap());
    gzip.finish().unwrap()
}

async fn gzip_bombs(target: Arc<Target>) -> Result<(), String> {
    let headers = format!("authorization: Bearer {}\r\ncontent-encoding: gzip\r\n", target.token);
    for path in [PUBLIC_KEY, REWRAP] {
        for content_type in ["application/json", "application/proto"] {
            let request = post(path, content_type, &headers, &target.bomb);
            expect(&target.address, &request, &[429]).await?;
        }
    }
    Ok(())
}

async fn bad_json(target: Arc<Target>) -> Result<(), String> {
    let deep = "[".repeat(10_000);
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"{\"algorithm\":\"\xff\xfe\"}",
        b"{\"algorithm\":\"rsa:2048\",\"algorithm\":\"rsa:2048\"}",
        b"{} {}",
        b"[]",
        b"{\"algorithm\":7}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let request = post(PUBLIC_KEY, "application/json", "", body);
        expect(&target.address, &request, &[400]).await?;
    }
    Ok(())
}

async fn content_types(target: Arc<Target>) -> Result<(), String> {
    for content_type in ["text/plain", "application/xml", "application/jsonx", "", "application"] {
        let request = post(PUBLIC_KEY, content_type, "", b"{}");
        expect(&target.address, &request, &[415]).await?;
    }
    Ok(())
}

async fn bad_tokens(target: Arc<Target>) -> Result<(), String> {
    let other_end = target.token.rsplit_once('.').unwrap().0;
    for token in [format!("{other_end}.AAAA"), "a.b.c".to_owned(), "x".repeat(8000)] {
        let headers = format!("authorization: Bearer {token}\r\n");
        let request = post(REWRAP, "application/json", &headers, b"{}");
        expect(&target.address, &request, &[401]).await?;
    }
    Ok(())
}

/// Almost all of a large body, and then nothing.
async fn bodies_that_stay(target: Arc<Target>) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(&target.address).await else { return Ok(()) };
    let head = format!(
        "POST {REWRAP} HTTP/1.1\r\nhost: kas\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: 4000000\r\n\r\n",
        target.token
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = timeout(PATIENCE, stream.write_all(&vec![b' '; 3_000_000])).await;
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

// HTTP/2 by hand, RFC 9113.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK without its table: a POST of gRPC.
fn grpc_header(path: &str) -> Vec<u8> {
    let mut header = vec![0x83, 0x86];
    for (name, value) in
        [(&[0x04][..], path), (&[0x01], "kas"), (&[0x0f, 0x10], "application/grpc")]
    {
        header.extend(name);
        header.push(u8::try_from(value.len()).unwrap());
        header.extend(value.as_bytes());
    }
    header
}

/// A connection that was greeted, and whose answers are read and forgotten.
async fn http2(address: &str) -> Option<tokio::net::tcp::OwnedWriteHalf> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut answers, mut requests) = stream.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
    requests.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.ok()?;
    requests.write_all(&frame(SETTINGS, 0, 0, b"")).await.ok()?;
    Some(requests)
}

/// Sends until the server has had enough, or it was a lot.
async fn pour(target: &Target, mut next: impl FnMut(u32) -> Vec<u8>) {
    let Some(mut connection) = http2(&target.address).await else { return };
    for round in 0..200 {
        let batch: Vec<u8> = (0..100).flat_map(|number| next(round * 100 + number)).collect();
        let sent = timeout(PATIENCE, connection.write_all(&batch)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

async fn rapid_reset(target: Arc<Target>) -> Result<(), String> {
    let header = grpc_header(REWRAP);
    let next = |number: u32| {
        let stream = 2 * number + 1;
        let mut frames = frame(HEADERS, END_HEADERS, stream, &header);
        frames.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        frames
    };
    pour(&target, next).await;
    Ok(())
}

async fn frames(
    target: Arc<Target>,
    kind: u8,
    stream: u32,
    payload: &'static [u8],
) -> Result<(), String> {
    pour(&target, |_| frame(kind, 0, stream, payload)).await;
    Ok(())
}

async fn continuations(target: Arc<Target>) -> Result<(), String> {
    let header = grpc_header(REWRAP);
    // A literal without indexing: `x: 100 times a`.
    let more: Vec<u8> = [&[0, 1, b'x', 100][..], &[b'a'; 100]].concat();
    let next = |number: u32| match number {
        0 => frame(HEADERS, 0, 1, &header),
        _ => frame(CONTINUATION, 0, 1, &more),
    };
    pour(&target, next).await;
    Ok(())
}

async fn empty_data(target: Arc<Target>) -> Result<(), String> {
    let header = grpc_header(PUBLIC_KEY);
    let next = |number: u32| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &header),
        _ => frame(DATA, 0, 1, b""),
    };
    pour(&target, next).await;
    Ok(())
}

async fn lying_frames(target: Arc<Target>) -> Result<(), String> {
    for payload in [
        &b"\0\0"[..],
        b"\0\xff\xff\xff\xffabc",
        b"\0\0\0\0\x09abc",
        b"\0\0\0\0\x01abc",
        b"\x01\0\0\0\x03abc",
        b"\x07\0\0\0\0",
        b"\0\0\0\0\x02\xff\xff",
    ] {
        let Some(mut connection) = http2(&target.address).await else { return Ok(()) };
        let mut frames = frame(HEADERS, END_HEADERS, 1, &grpc_header(PUBLIC_KEY));
        frames.extend(frame(DATA, END_STREAM, 1, payload));
        let _ = connection.write_all(&frames).await;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
