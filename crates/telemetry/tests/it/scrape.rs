//! The listener for Prometheus.

use std::{net::SocketAddr, time::Duration};

use kasbah_telemetry::{Settings, Telemetry, instruments, serve_metrics};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::LONG;

async fn serve() -> SocketAddr {
    let settings = Settings { prometheus: true, ..Settings::default() };
    let telemetry = Telemetry::start(&settings).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_metrics(telemetry.figures().unwrap(), listener));
    // The figures must outlive it.
    std::mem::forget(telemetry);
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn it_answers_one_path_by_one_method() {
    let address = serve().await;
    instruments().decision("permit");
    let found = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
    assert!(
        found.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{found}"
    );
    assert!(found.contains("\nkasbah_decisions_total{result=\"permit\"} 1\n"), "{found}");
    for path in ["/", "/metrics/", "/Metrics", "/debug", "/kas.AccessService/PublicKey"] {
        let found = ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!(found.starts_with("HTTP/1.1 404 "), "{path}: {found}");
        assert!(!found.contains("kasbah_"), "{path}: {found}");
    }
    let posted = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let found = ask(address, posted).await;
    assert!(found.starts_with("HTTP/1.1 405 ") && found.contains("allow: GET\r\n"), "{found}");
}

#[tokio::test]
async fn who_sends_nonsense_or_too_much_is_cut_off() {
    let address = serve().await;
    let endless = format!("GET /metrics HTTP/1.1\r\nx: {}", "a".repeat(64 * 1024));
    for request in ["\u{0}\u{1}\u{2}\r\n\r\n", "HELLO\r\n\r\n", &endless] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be cut off while it sends.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it is cut off");
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    let found = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
}

#[tokio::test]
async fn who_holds_all_places_loses_them() {
    let address = serve().await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // All 16 places are theirs until the limit of 30 seconds: it takes a while, and it is answered.
    let asked = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let found = timeout(Duration::from_mins(2), asked).await.unwrap();
    assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
    drop(silent);
}
