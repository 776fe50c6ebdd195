//! Overload, deadlines, callers who leave, and strangers who send garbage.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use kasbah_trust::{Algorithm, Curve, Deadline, Error, Health, KeyManager};

use crate::harness::{Client, PREFER, REQUIRE, Rig, Sample};

const RSA: Algorithm = Algorithm::Rsa2048;

#[tokio::test]
async fn a_full_queue_is_busy_and_loses_nothing() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(&format!(r#"{PREFER},"workers":1,"queue":1"#));
    let (client, sample) = (Client::new(RSA), Sample::new(&key));
    let recipient = client.in_host();
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
    let answers = join_all((0..32).map(|_| sample.rewrap(&manager, &key, &recipient))).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Err(Error::Busy))).count();
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(busy + done, 32, "{answers:?}");
    assert!(busy >= 1 && done >= 1, "{busy} busy, {done} done");
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
}

#[tokio::test]
async fn sixty_four_at_once_are_not_too_many() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    let sample = Sample::new(&key);
    for answer in join_all((0..64).map(|_| sample.rewrap(&manager, &key, &recipient))).await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn who_gives_up_at_the_deadline_costs_the_token_nothing() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(Algorithm::Rsa4096);
    let manager = rig.manager(&format!(r#"{PREFER},"workers":1"#));
    let recipient = Client::new(RSA).in_host();
    let sample = Sample::new(&key);
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
    let done = manager.stats().done.load(Ordering::Relaxed);
    let (start, wait) = (Instant::now(), Duration::from_millis(20));
    let all = (0..60).map(|_| sample.rewrap_by(&manager, &key, &recipient, Deadline::after(wait)));
    let answers = join_all(all).await;
    assert!(start.elapsed() < 25 * wait, "waited {:?}", start.elapsed());
    let late = answers.iter().filter(|answer| matches!(answer, Err(Error::Unavailable(_)))).count();
    assert!(late > 30, "{late} late");
    assert!(answers.iter().all(|answer| !matches!(answer, Err(Error::Decrypt))), "{answers:?}");
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
    let done = manager.stats().done.load(Ordering::Relaxed) - done;
    let skipped = manager.stats().skipped.load(Ordering::Relaxed);
    assert_eq!(done + skipped, 61, "{done} done, {skipped} skipped");
    assert!(skipped > 30, "{skipped} skipped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_leaks_nothing() {
    let rig = Rig::new(Kryoptic::fresh());
    let keys = [RSA, Algorithm::Ec(Curve::P256)].map(|algorithm| rig.generate(algorithm));
    let manager = Arc::new(rig.manager(REQUIRE));
    let client = Client::new(Algorithm::Ec(Curve::P384)).public();
    for round in 0..200 {
        let (manager, key) = (Arc::clone(&manager), keys[round % 2].clone());
        let client = client.clone();
        let task = tokio::spawn(async move {
            let deadline = Deadline::after(Duration::from_secs(10));
            let recipient = manager.open_recipient(&client, deadline).await.unwrap();
            Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
        });
        tokio::time::sleep(Duration::from_micros(37 * (round as u64 % 100))).await;
        task.abort();
        let _ = task.await;
    }
    let recipient = Client::new(RSA).in_host();
    Sample::new(&keys[0]).rewrap(&manager, &keys[0], &recipient).await.unwrap();
    expect_objects(&rig, 0).await;
    assert_eq!(manager.stats().live_objects.load(Ordering::Relaxed), 0);
    assert_eq!(manager.stats().live_recipients.load(Ordering::Relaxed), 0);
}

/// Waits, while all sessions are open, until there are this many session objects: workers destroy
/// the session keys of responses when they come round to it.
async fn expect_objects(rig: &Rig, expected: usize) {
    let start = Instant::now();
    while session_objects(rig) != expected {
        let left = session_objects(rig);
        assert!(start.elapsed() < Duration::from_secs(5), "{left} objects, expected {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Session objects in the process, whosever they are.
pub(crate) fn session_objects(rig: &Rig) -> usize {
    use cryptoki::object::{Attribute, ObjectClass};
    let session = rig.token().open_session().unwrap();
    [ObjectClass::SECRET_KEY, ObjectClass::PUBLIC_KEY, ObjectClass::PRIVATE_KEY]
        .into_iter()
        .map(|class| [Attribute::Class(class), Attribute::Token(false)])
        .map(|filter| session.find_objects(&filter).unwrap().len())
        .sum()
}

#[tokio::test]
async fn live_session_keys_are_bounded() {
    let rig = Rig::new(Kryoptic::fresh());
    let manager = rig.manager(REQUIRE);
    let client = Client::new(Algorithm::Ec(Curve::P256)).public();
    let deadline = Deadline::after(Duration::from_secs(20));
    let mut live = Vec::new();
    let refused = loop {
        match manager.open_recipient(&client, deadline).await {
            Ok(recipient) => live.push(recipient),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Busy), "{refused:?}");
    assert_eq!(live.len(), 256);
    assert_eq!(session_objects(&rig), 256);
    live.clear();
    expect_objects(&rig, 0).await;
    manager.open_recipient(&client, deadline).await.unwrap();
}

/// Garbage is bad requests, whatever its amount, and stays cheap; the rest is served meanwhile.
async fn garbage_is_never_an_outage(fixture: TestToken) {
    let rig = Rig::new(fixture);
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    let (sound, damaged) = (Sample::new(&key), Sample::damaged(&key));
    sound.rewrap(&manager, &key, &recipient).await.unwrap();
    let start = Instant::now();
    for round in 0..20 {
        let storm = (0..60).map(|_| damaged.rewrap(&manager, &key, &recipient));
        let (storm, good) = tokio::join!(join_all(storm), sound.rewrap(&manager, &key, &recipient));
        good.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        for outcome in storm {
            assert!(matches!(outcome, Err(Error::Decrypt)), "round {round}: {outcome:?}");
        }
    }
    let canaries = u128::from(manager.stats().canaries.load(Ordering::Relaxed));
    let most = start.elapsed().as_millis() / 100 + 2;
    assert!(canaries <= most, "{canaries} canaries in {:?}", start.elapsed());
    assert_eq!(manager.health().await, Health::Ready);
    let lonely = damaged.rewrap(&manager, &key, &recipient).await;
    assert!(matches!(lonely, Err(Error::Decrypt)), "{lonely:?}");
    assert!(manager.stats().canaries.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn garbage_is_never_an_outage_on_softhsm() {
    garbage_is_never_an_outage(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn garbage_is_never_an_outage_on_kryoptic() {
    garbage_is_never_an_outage(Kryoptic::fresh()).await;
}
