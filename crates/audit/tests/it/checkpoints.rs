//! Checkpoints and the keys that sign them.

use std::{fs, os::unix::fs::symlink, thread, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use kasbah_audit::{Check, Checkpoint, PublicKey, Settings, SigningKey};
use pem_rfc7468::decode_vec;
use secrecy::{ExposeSecret, SecretString};

use crate::common::{LONG, LinesOf, Place, fine, json_lines, keep, open, verify_bytes};

fn exported(place: &Place) -> Vec<Checkpoint> {
    let bytes = fs::read(place.checkpoints()).unwrap();
    bytes.lines_of().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn sequences(place: &Place) -> Vec<u64> {
    exported(place).iter().map(|checkpoint| checkpoint.sequence).collect()
}

#[tokio::test]
async fn they_come_every_so_many_events_and_at_the_end() {
    let place = Place::new();
    let log = open(Settings { checkpoint_events: 3, ..place.settings() });
    keep(&log, 0..8).await;
    log.close(LONG).unwrap();
    assert_eq!(sequences(&place), [3, 7, 10]);
    let report = place.fine();
    assert_eq!((report.last, report.signed, report.exported, report.unvouched), (11, 3, 3, 0));
}

#[tokio::test]
async fn they_come_in_time_but_only_after_events() {
    let place = Place::new();
    let interval = Duration::from_millis(30);
    let log = open(Settings { checkpoint_interval: interval, ..place.settings() });
    for round in 1..4 {
        keep(&log, 0..1).await;
        while log.stats().checkpoints < round {
            thread::sleep(Duration::from_millis(5));
        }
    }
    thread::sleep(Duration::from_millis(300));
    assert_eq!(log.stats().checkpoints, 3);
    log.close(LONG).unwrap();
    assert_eq!(sequences(&place), [1, 3, 5]);
}

#[tokio::test]
async fn what_a_crash_left_unvouched_is_vouched_for_later() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..3).await;
    let crashed = fs::read(place.log()).unwrap();
    log.close(LONG).unwrap();
    let place = Place::new();
    fs::write(place.log(), crashed).unwrap();
    let signed_end = Check { require_signed_end: true, ..place.check() };
    let bytes = fs::read(place.log()).unwrap();
    let report = verify_bytes(&bytes, None, &signed_end);
    assert_eq!(report.unvouched, 3);
    let problem = report.problem.unwrap().to_string();
    assert_eq!(problem, "log: no signed checkpoint vouches for the last 3 lines");
    open(place.settings()).close(LONG).unwrap();
    assert_eq!(sequences(&place), [3]);
    let bytes = fs::read(place.log()).unwrap();
    assert_eq!(fine(verify_bytes(&bytes, None, &signed_end)).unvouched, 0);
}

#[tokio::test]
async fn anybody_can_check_the_signature() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..2).await;
    log.close(LONG).unwrap();
    let checkpoint = exported(&place).remove(0);
    let bytes = fs::read(place.log()).unwrap();
    let second = bytes.lines_of().nth(1).unwrap();
    assert_eq!(checkpoint.head, hex::encode(digest(&SHA256, second)));
    let (_, spki) = decode_vec(place.public.to_pem().as_bytes()).unwrap();
    assert_eq!(checkpoint.key, hex::encode(digest(&SHA256, &spki))[..16]);
    let fields = [
        checkpoint.node.as_bytes(),
        &2_u64.to_be_bytes(),
        checkpoint.head.as_bytes(),
        checkpoint.time.as_bytes(),
        checkpoint.key.as_bytes(),
    ];
    let mut message = b"kasbah audit checkpoint v1\0".to_vec();
    for field in fields {
        message.extend((field.len() as u64).to_be_bytes());
        message.extend(field);
    }
    let signature = hex::decode(&checkpoint.signature).unwrap();
    UnparsedPublicKey::new(&ED25519, &spki[12..]).verify(&message, &signature).unwrap();
}

#[tokio::test]
async fn a_second_place_that_fails_stops_nothing_and_is_caught_up_with() {
    let place = Place::new();
    symlink("/dev/full", place.checkpoints()).unwrap();
    let log = open(Settings { checkpoint_events: 2, ..place.settings() });
    keep(&log, 0..4).await;
    while log.stats().export_failures < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!log.stats().failed);
    fs::remove_file(place.checkpoints()).unwrap();
    keep(&log, 4..6).await;
    log.close(LONG).unwrap();
    assert_eq!(sequences(&place), [2, 5, 8]);
    assert_eq!(log.stats().export_failures, 2);
    place.fine();
}

/// A write to the second place that failed may have left what it wrote.
#[tokio::test]
async fn what_the_second_place_has_is_not_written_again() {
    let place = Place::new();
    symlink("/dev/full", place.checkpoints()).unwrap();
    let log = open(Settings { checkpoint_events: 2, ..place.settings() });
    keep(&log, 0..2).await;
    while log.stats().export_failures < 1 {
        thread::sleep(Duration::from_millis(5));
    }
    let lines = json_lines(&fs::read(place.log()).unwrap());
    let left = &lines[2]["audit"]["eventMetaData"]["kasbah"]["checkpoint"];
    fs::remove_file(place.checkpoints()).unwrap();
    fs::write(place.checkpoints(), format!("{left}\n")).unwrap();
    keep(&log, 2..4).await;
    log.close(LONG).unwrap();
    assert_eq!(sequences(&place), [2, 5]);
    place.fine();
}

#[tokio::test]
async fn a_torn_checkpoint_in_the_second_place_is_removed() {
    let place = Place::new();
    for run in 0..2 {
        let log = open(place.settings());
        keep(&log, run..run + 1).await;
        log.close(LONG).unwrap();
        drop(log);
        let mut bytes = fs::read(place.checkpoints()).unwrap();
        if run == 0 {
            let torn = bytes[..50].to_vec();
            bytes.extend(torn);
            fs::write(place.checkpoints(), bytes).unwrap();
        }
    }
    assert_eq!(sequences(&place), [1, 3]);
    place.fine();
}

#[tokio::test]
async fn without_a_key_there_is_the_chain_alone() {
    let place = Place::new();
    let keyless = || Settings { signing_key: None, checkpoint_file: None, ..place.settings() };
    for _ in 0..2 {
        let log = open(Settings { checkpoint_events: 2, ..keyless() });
        keep(&log, 0..5).await;
        log.close(LONG).unwrap();
    }
    let bytes = fs::read(place.log()).unwrap();
    let report = fine(verify_bytes(&bytes, None, &place.check()));
    assert_eq!((report.last, report.signed, report.unvouched), (10, 0, 10));
}

#[tokio::test]
async fn a_key_may_be_replaced() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    drop(log);
    let (second, _) = SigningKey::generate().unwrap();
    let second_public = second.public_key().clone();
    let log = open(Settings { signing_key: Some(second), ..place.settings() });
    keep(&log, 1..2).await;
    log.close(LONG).unwrap();
    let bytes = fs::read(place.log()).unwrap();
    let check = |public_keys| Check { public_keys, ..Check::default() };
    let both = check(vec![place.public.clone(), second_public.clone()]);
    assert_eq!(fine(verify_bytes(&bytes, None, &both)).signed, 2);
    let problem = verify_bytes(&bytes, None, &place.check()).problem.unwrap().to_string();
    let said = format!(
        "line 4: is a checkpoint with a wrong signature, or by an unknown key ({})",
        second_public.id()
    );
    assert!(problem.ends_with(&said), "{problem}");
}

/// RFC 8410, section 10.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

#[test]
fn keys_are_read_in_the_usual_form() {
    let key = SigningKey::from_pem(&SecretString::from(PRIVATE)).unwrap();
    assert_eq!(key.public_key().to_pem(), PUBLIC);
    assert_eq!(&PublicKey::from_pem(PUBLIC).unwrap(), key.public_key());
    let trimmed = SecretString::from(PRIVATE.trim_end());
    assert_eq!(SigningKey::from_pem(&trimmed).unwrap().public_key(), key.public_key());
    let (made, pem) = SigningKey::generate().unwrap();
    assert_ne!(made.public_key(), key.public_key());
    assert_eq!(SigningKey::from_pem(&pem).unwrap().public_key(), made.public_key());
    assert_eq!(pem.expose_secret().lines().count(), 3);
}

#[test]
fn other_keys_are_refused() {
    // An X25519 key differs in one byte of its algorithm.
    let x25519 = PRIVATE.replace("K2Vw", "K2Vu");
    let garbled = PRIVATE.replace("MC4CAQ", "MC5CAQ");
    let cut = PRIVATE.replace("INTuctv5", "");
    for wrong in ["", "nothing", PUBLIC, &x25519, &garbled, &cut] {
        let error = SigningKey::from_pem(&SecretString::from(wrong)).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("expected an unencrypted PEM file"), "{error}");
    }
    let x25519 = PUBLIC.replace("K2Vw", "K2Vu");
    for wrong in ["", "nothing", PRIVATE, &x25519] {
        let error = PublicKey::from_pem(wrong).unwrap_err();
        assert!(error.to_string().starts_with("expected a PEM file with"), "{error}");
    }
}

static_assertions::assert_not_impl_any!(SigningKey: std::fmt::Debug, Clone, PartialEq);
