//! What a line looks like.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use kasbah_audit::{AuditLog, MemorySink, NotKept, OpenError, Settings, SigningKey};
use serde_json::{Value, json};

use crate::common::{LONG, LinesOf, NODE, event, json_lines, keep, open, refused};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

#[tokio::test]
async fn an_event_stays_what_it_is_and_carries_the_chain() {
    let sink = MemorySink::default();
    let log = open(Settings::new(NODE, sink.clone()));
    keep(&log, 7..9).await;
    let bytes = sink.lines();
    let raw: Vec<_> = bytes.lines_of().collect();
    let mut lines = json_lines(&bytes);
    let genesis = sha256(b"kasbah audit log v1: the chain of node kas-1 begins");
    for (at, previous) in [(0, genesis), (1, sha256(raw[0]))] {
        let kasbah = lines[at]["audit"]["eventMetaData"]["kasbah"].as_object_mut().unwrap();
        let chain = kasbah.remove("chain").unwrap();
        assert_eq!(chain, json!({ "node": NODE, "sequence": at + 1, "previous": previous }));
        assert_eq!(lines[at], event(7 + at as u64));
    }
}

#[tokio::test]
async fn the_chain_finds_room() {
    let sink = MemorySink::default();
    let log = open(Settings::new(NODE, sink.clone()));
    let roomy = [
        json!({}),
        json!({ "audit": null }),
        json!({ "audit": { "eventMetaData": null } }),
        json!({ "audit": { "eventMetaData": { "kasbah": null, "a": 1 } } }),
    ];
    for event in roomy {
        log.append(event).wait().await.unwrap();
    }
    let lines = json_lines(&sink.lines());
    let sequences: Vec<_> = lines
        .iter()
        .map(|line| line["audit"]["eventMetaData"]["kasbah"]["chain"]["sequence"].clone())
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(lines[3]["audit"]["eventMetaData"]["a"], 1);
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_counted() {
    let sink = MemorySink::default();
    let log = open(Settings::new(NODE, sink.clone()));
    let forged = json!({ "audit": { "eventMetaData": { "kasbah": { "checkpoint": {} } } } });
    let wrong = [
        json!(1),
        json!([]),
        json!({ "audit": "x" }),
        json!({ "audit": { "eventMetaData": [] } }),
        json!({ "audit": { "eventMetaData": { "kasbah": 1 } } }),
        forged,
    ];
    let count = wrong.len() as u64;
    for event in wrong {
        assert_eq!(log.append(event).wait().await, Err(NotKept::Failed));
    }
    assert_eq!(log.stats().lost, count);
    assert!(sink.lines().is_empty());
}

#[tokio::test]
async fn a_checkpoint_is_an_event_too() {
    let sink = MemorySink::default();
    let mut settings = Settings::new(NODE, sink.clone());
    settings.signing_key = Some(SigningKey::generate().unwrap().0);
    let log = open(settings);
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    let lines = json_lines(&sink.lines());
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let event = &lines[0];
    let checkpoint = &lines[1];
    assert_eq!(keys(checkpoint), keys(event));
    assert_eq!(keys(&checkpoint["audit"]), keys(&event["audit"]));
    for key in ["object", "action", "actor", "clientInfo"] {
        assert_eq!(keys(&checkpoint["audit"][key]), keys(&event["audit"][key]), "{key}");
    }
    assert_eq!(checkpoint["msg"], "audit checkpoint");
    assert_eq!(
        (&checkpoint["level"], &checkpoint["namespace"]),
        (&json!("AUDIT"), &json!("audit"))
    );
    assert_eq!(checkpoint["audit"]["eventMetaData"]["kasbah"]["checkpoint"]["sequence"], 1);
}

#[tokio::test]
async fn a_closed_log_takes_nothing() {
    let sink = MemorySink::default();
    let log = open(Settings::new(NODE, sink.clone()));
    let other = log.clone();
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    other.close(LONG).unwrap();
    assert_eq!(other.append(event(1)).wait().await, Err(NotKept::Failed));
    assert_eq!(json_lines(&sink.lines()).len(), 1);
}

#[tokio::test]
async fn dropping_the_last_one_writes_what_waits() {
    let sink = MemorySink::default();
    let mut settings = Settings::new(NODE, sink.clone());
    settings.durability = kasbah_audit::Durability::Buffered;
    let log = open(settings);
    let other = log.clone();
    drop(log);
    keep(&other, 0..1000).await;
    drop(other);
    assert_eq!(json_lines(&sink.lines()).len(), 1000);
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let settings = || Settings::new(NODE, MemorySink::default());
    let refuse = |settings, said: &str| match refused(settings) {
        OpenError::Setting(text) => assert!(text.contains(said), "{text}"),
        error => panic!("{error}"),
    };
    refuse(Settings::new("", MemorySink::default()), "name of the node");
    refuse(Settings::new("x".repeat(256), MemorySink::default()), "name of the node");
    refuse(Settings { queue: 0, ..settings() }, "queue");
    refuse(Settings { checkpoint_events: 0, ..settings() }, "checkpoint_events");
    refuse(Settings { checkpoint_file: Some("x".into()), ..settings() }, "signing key");
    let at_most = AuditLog::open(Settings::new("x".repeat(255), MemorySink::default()));
    at_most.unwrap().close(Duration::from_mins(1)).unwrap();
}
