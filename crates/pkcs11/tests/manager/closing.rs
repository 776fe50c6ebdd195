//! The end of a manager.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use kasbah_testkit::tokens::{Kryoptic, SoftHsm};
use kasbah_trust::{Algorithm, Curve, Deadline, Error, Health, KeyManager};

use crate::{
    harness::{Client, PREFER, REQUIRE, Rig, Sample},
    load::session_objects,
};

const RSA: Algorithm = Algorithm::Rsa2048;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_finished() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = Arc::new(rig.manager(REQUIRE));
    let recipient = Client::new(RSA).in_host();
    let sample = Sample::new(&key);
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
    assert_eq!(session_objects(&rig), 0, "with all sessions open");
    let under_way = join_all((0..32).map(|_| sample.rewrap(&manager, &key, &recipient)));
    let (answers, ()) = tokio::join!(under_way, manager.close());
    for answer in answers {
        answer.unwrap();
    }
    let late = sample.rewrap(&manager, &key, &recipient).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert!(matches!(manager.health().await, Health::NotReady(_)));
    assert_eq!(session_objects(&rig), 0);
}

#[tokio::test]
async fn failures_that_wait_for_a_canary_are_answered() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(PREFER);
    let recipient = Client::new(RSA).in_host();
    let damaged = Sample::damaged(&key);
    let waiting = join_all((0..8).map(|_| damaged.rewrap(&manager, &key, &recipient)));
    let (answers, ()) = tokio::join!(waiting, manager.close());
    for answer in answers {
        let fits = matches!(answer, Err(Error::Decrypt | Error::Unavailable(_)));
        assert!(fits, "{answer:?}");
    }
}

#[tokio::test]
async fn a_session_key_may_outlive_its_manager() {
    let rig = Rig::new(Kryoptic::fresh());
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(Algorithm::Ec(Curve::P256)).opened_by(&manager).await;
    manager.close().await;
    drop(recipient);
    assert_eq!(session_objects(&rig), 0);
}

#[tokio::test]
async fn a_manager_that_is_dropped_ends_its_workers() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    Sample::new(&key).rewrap(&manager, &key, &Client::new(RSA).in_host()).await.unwrap();
    assert!(threads() >= 2);
    drop(manager);
    let deadline = Deadline::after(Duration::from_secs(5));
    while threads() > 0 {
        assert!(!deadline.has_passed(), "{} workers live on", threads());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Worker threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("hsm-"))
        .count()
}
