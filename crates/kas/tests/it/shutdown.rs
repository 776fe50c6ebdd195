//! How a server ends.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use kasbah_kas::Limits;

use crate::{
    harness::*,
    scripted::{Record, scripted, scripted_key},
};

fn slow_request(kid: &str) -> (kasbah_trust::KeyDetails, serde_json::Value) {
    let key = scripted_key(kid, RSA, "hsm");
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let request = body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    (key, request)
}

#[tokio::test]
async fn requests_under_way_finish_and_managers_are_closed() {
    let (key, request) = slow_request("slow");
    let record: Arc<Record> = Arc::default();
    let mut server = Server::with(vec![key], scripted(&record)).await;
    let mut client = server.client.clone();
    let under_way =
        tokio::spawn(async move { client.rewrap(crate::harness::request(&srt(&request))).await });
    while record.running.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.signal();
    let response = under_way.await.unwrap().unwrap().into_inner();
    assert_eq!(outcomes(&response), [Ok(b"slow".to_vec())]);
    let address = server.address;
    server.end().await.unwrap();
    assert_eq!(record.closed.load(Ordering::SeqCst), 1);
    tokio::net::TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn the_end_waits_no_longer_than_the_drain_timeout() {
    let (key, request) = slow_request("stuck");
    let record: Arc<Record> = Arc::default();
    let limits = Limits { drain_timeout: Duration::from_millis(200), ..Limits::default() };
    let configure = scripted(&record);
    let mut server = Server::with(vec![key], |builder| configure(builder).limits(limits)).await;
    let mut client = server.client.clone();
    let under_way =
        tokio::spawn(async move { client.rewrap(crate::harness::request(&srt(&request))).await });
    while record.running.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    server.signal();
    server.end().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    under_way.abort();
}
