//! Tokens and keys that go away: never a bad request, and used again once they are back.

use std::{fs, process::Command, time::Duration};

use cryptoki::object::{Attribute, ObjectClass};
use kasbah_pkcs11::{HsmManager, provision};
use kasbah_testkit::tokens::{Kryoptic, LABEL, PIN, SO_PIN, SoftHsm, TestToken};
use kasbah_trust::{
    Algorithm, Deadline, Error, Health, KeyDetails, KeyManager, Result, RewrappedKey,
};

use crate::harness::{Client, PREFER, REQUIRE, Rig, Sample, details};

const RSA: Algorithm = Algorithm::Rsa2048;

/// One sound and one damaged data key.
async fn both(manager: &HsmManager, key: &KeyDetails) -> [Result<RewrappedKey>; 2] {
    let recipient = Client::new(RSA).in_host();
    let mut answers = Vec::new();
    for sample in [Sample::damaged(key), Sample::new(key)] {
        answers.push(sample.rewrap(manager, key, &recipient).await);
    }
    answers.try_into().unwrap()
}

fn expect_gone(what: &str, answers: &[Result<RewrappedKey>]) {
    for answer in answers {
        let fits = matches!(answer, Err(Error::Unavailable(_) | Error::NotFound(_)));
        assert!(fits, "{what}: {answer:?}");
    }
}

async fn serves_again(manager: &HsmManager, key: &KeyDetails) {
    let recipient = Client::new(RSA).in_host();
    let deadline = Deadline::after(Duration::from_secs(10));
    loop {
        let Err(error) = Sample::new(key).rewrap(manager, key, &recipient).await else { break };
        assert!(!matches!(error, Error::Decrypt), "{error:?}");
        assert!(!deadline.has_passed(), "it does not come back: {error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(manager.health().await, Health::Ready);
}

#[tokio::test]
async fn a_softhsm_directory_that_vanishes_is_an_outage_until_it_is_back() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    let (here, away) = (rig.fixture.dir().join("tokens"), rig.fixture.dir().join("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    for round in 0..3 {
        let answers = both(&manager, &key).await;
        assert!(
            answers.iter().all(|answer| matches!(answer, Err(Error::Unavailable(_)))),
            "round {round}: {answers:?}"
        );
    }
    assert!(matches!(manager.health().await, Health::NotReady(_)));
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    serves_again(&manager, &key).await;
}

async fn a_destroyed_key_is_gone(fixture: TestToken) {
    let rig = Rig::new(fixture);
    let key = rig.generate(RSA);
    let other = rig.generate_as("other", RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    destroy(&rig, &key);
    for _ in 0..3 {
        expect_gone("destroyed", &both(&manager, &key).await);
    }
    // The token is well, and so are its other keys.
    Sample::new(&other).rewrap(&manager, &other, &recipient).await.unwrap();
    assert_eq!(manager.health().await, Health::Ready);
}

/// Both halves of a key, by another session.
fn destroy(rig: &Rig, key: &KeyDetails) {
    let session = rig.token().open_rw_session().unwrap();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let label = Attribute::Label(key.kid.as_str().into());
        for object in session.find_objects(&[Attribute::Class(class), label]).unwrap() {
            session.destroy_object(object).unwrap();
        }
    }
}

/// Its handle is another one now; nobody must notice.
async fn a_key_that_is_restored_serves_at_once(fixture: TestToken) {
    let rig = Rig::new(fixture);
    let pem = include_str!("../../../testkit/data/golden-r1.pem");
    let import = || provision::import(&rig.token(), "r1", pem).unwrap();
    let key = details("r1", RSA, import().public_key.unwrap());
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    for _ in 0..4 {
        Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    }
    destroy(&rig, &key);
    import();
    for _ in 0..4 {
        Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_restored_on_softhsm_serves_at_once() {
    a_key_that_is_restored_serves_at_once(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn a_key_restored_on_kryoptic_serves_at_once() {
    a_key_that_is_restored_serves_at_once(Kryoptic::fresh()).await;
}

/// A module is restarted only when none of its managers has a session.
#[tokio::test]
async fn two_managers_of_one_token_both_come_back() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let managers = [rig.manager(REQUIRE), rig.manager(PREFER)];
    let recipient = Client::new(RSA).in_host();
    for manager in &managers {
        Sample::new(&key).rewrap(manager, &key, &recipient).await.unwrap();
    }
    let (here, away) = (rig.fixture.dir().join("tokens"), rig.fixture.dir().join("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    for manager in &managers {
        assert!(matches!(manager.health().await, Health::NotReady(_)));
    }
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    for manager in &managers {
        serves_again(manager, &key).await;
    }
}

#[tokio::test]
async fn a_key_destroyed_on_softhsm_is_gone() {
    a_destroyed_key_is_gone(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn a_key_destroyed_on_kryoptic_is_gone() {
    a_destroyed_key_is_gone(Kryoptic::fresh()).await;
}

/// A key made by somebody else while the manager runs is found without a restart.
#[tokio::test]
async fn a_new_key_serves_at_once() {
    let rig = Rig::new(SoftHsm::fresh());
    let manager = rig.manager(PREFER);
    let old = rig.generate_as("old", RSA);
    let recipient = Client::new(RSA).in_host();
    Sample::new(&old).rewrap(&manager, &old, &recipient).await.unwrap();
    let new = rig.generate_as("new", RSA);
    Sample::new(&new).rewrap(&manager, &new, &recipient).await.unwrap();
}

fn run(fixture: &TestToken, program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .envs(fixture.env())
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start, is it installed? {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_softhsm_token_made_anew_has_no_keys() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    run(
        &rig.fixture,
        "softhsm2-util",
        &["--init-token", "--token", LABEL, "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN],
    );
    for _ in 0..5 {
        expect_gone("made anew", &both(&manager, &key).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The keys of the new token serve, without a restart.
    let key = again(&rig, &manager).await;
    serves_again(&manager, &key).await;
}

#[tokio::test]
async fn a_kryoptic_token_made_anew_has_no_keys() {
    let rig = Rig::new(Kryoptic::fresh());
    let key = rig.generate(RSA);
    let manager = rig.manager(REQUIRE);
    let recipient = Client::new(RSA).in_host();
    Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    let module = rig.fixture.module_path().to_str().unwrap().to_owned();
    let common = ["--module", &module, "--slot", "1", "--so-pin", SO_PIN];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    run(&rig.fixture, "pkcs11-tool", &with(&["--init-token", "--label", LABEL]));
    run(
        &rig.fixture,
        "pkcs11-tool",
        &with(&["--login", "--login-type", "so", "--init-pin", "--pin", PIN]),
    );
    for _ in 0..5 {
        expect_gone("made anew", &both(&manager, &key).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let key = again(&rig, &manager).await;
    serves_again(&manager, &key).await;
}

/// Makes a key in the new token once the manager has noticed it.
async fn again(rig: &Rig, manager: &HsmManager) -> KeyDetails {
    let deadline = Deadline::after(Duration::from_secs(10));
    while manager.health().await != Health::Ready {
        assert!(!deadline.has_passed(), "{:?}", manager.health().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.generate_as("again", RSA)
}
