//! Making, listing and destroying keys through the manager.

use std::{fs, sync::Arc, time::Duration};

use cryptoki::object::{Attribute, ObjectClass};
use kasbah_pkcs11::{HsmManager, provision};
use kasbah_testkit::tokens::SoftHsm;
use kasbah_trust::{
    Algorithm, Curve, Deadline, Error, Health, KeyDetails, KeyId, KeyManager, KeyMode, KeyStore,
    NewKey, Result, StoredKey,
};

use crate::harness::{Client, PREFER, REQUIRE, Rig, Sample, details, on_both_modules, soon};

const RSA: Algorithm = Algorithm::Rsa2048;
const EC: Algorithm = Algorithm::Ec(Curve::P256);

on_both_modules! {
    a_key_that_was_made_serves
    a_name_is_given_once
    one_of_many_who_ask_at_once_gets_the_name
    an_unusable_name_is_refused
    halves_are_listed_and_destroyed
    what_is_not_there_is_not_destroyed
    one_name_for_two_keys_is_not_destroyed
    a_destroyed_key_serves_no_more
    what_is_late_is_finished
    nothing_is_made_after_the_end
    a_manager_outlives_the_pin_it_started_with
}

pub(crate) async fn make(
    manager: &HsmManager,
    kid: &str,
    algorithm: Algorithm,
    mode: KeyMode,
) -> Result<NewKey> {
    store(manager).generate(&KeyId::from(kid), algorithm, mode, soon()).await
}

/// What the registry would keep of a key.
pub(crate) fn registered(
    kid: &str,
    algorithm: Algorithm,
    mode: KeyMode,
    made: &NewKey,
) -> KeyDetails {
    let mut key = details(kid, algorithm, made.public_key.clone());
    key.mode = mode;
    key.private_key = made.private_key.clone();
    key
}

pub(crate) fn store(manager: &HsmManager) -> &dyn KeyStore {
    manager.key_store().unwrap()
}

async fn inventory(manager: &HsmManager) -> Vec<StoredKey> {
    store(manager).inventory(soon()).await.unwrap()
}

async fn a_key_that_was_made_serves(rig: Rig) {
    let manager = rig.manager(PREFER);
    let client = Client::new(RSA);
    for algorithm in [RSA, EC] {
        let kid = algorithm.as_str();
        let made = make(&manager, kid, algorithm, KeyMode::Remote).await.unwrap();
        let key_id = made.private_key.key_id.clone().unwrap();
        assert!(key_id.starts_with("pkcs11:object="), "{key_id}");
        assert_eq!(made.private_key.wrapped_key, None);
        let key = registered(kid, algorithm, KeyMode::Remote, &made);
        manager.probe(&key, soon()).await.unwrap();
        let (sample, recipient) = (Sample::new(&key), client.in_host());
        let answer = sample.rewrap(&manager, &key, &recipient).await.unwrap();
        let opened = client.opens(&recipient, &answer);
        assert!(opened.expose_secret() == sample.dek.expose_secret());
    }
    let stored = inventory(&manager).await;
    assert_eq!(stored.len(), 2);
    for key in stored {
        assert!(key.has_private_key && key.public_key.is_some() && key.key_id.is_some());
        assert_eq!(key.algorithm.map(Algorithm::as_str), Some(key.kid.as_str()));
    }
}

async fn a_name_is_given_once(rig: Rig) {
    let manager = rig.manager(PREFER);
    make(&manager, "k", EC, KeyMode::Remote).await.unwrap();
    for mode in [KeyMode::Remote, KeyMode::ProviderRootKey] {
        for algorithm in [EC, RSA] {
            let again = make(&manager, "k", algorithm, mode).await;
            assert!(matches!(&again, Err(Error::Exists(kid)) if kid.as_str() == "k"), "{again:?}");
        }
    }
    assert_eq!(inventory(&manager).await.len(), 1);
    for mode in [KeyMode::ConfigRootKey, KeyMode::PublicKeyOnly] {
        let outcome = make(&manager, "other", EC, mode).await;
        assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
    }
}

async fn one_of_many_who_ask_at_once_gets_the_name(rig: Rig) {
    let managers = [rig.manager(PREFER), rig.manager(REQUIRE)];
    let attempts = (0..8).map(|number| make(&managers[number % 2], "k", EC, KeyMode::Remote));
    let outcomes = futures_util::future::join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let refused = |outcome: &&Result<NewKey>| matches!(outcome, Err(Error::Exists(_)));
    assert_eq!(outcomes.iter().filter(refused).count(), 7, "{outcomes:?}");
    assert_eq!(inventory(&managers[0]).await.len(), 1);
}

async fn an_unusable_name_is_refused(rig: Rig) {
    let manager = rig.manager(PREFER);
    for kid in ["", "a\nb", "a\0", &"k".repeat(129)] {
        for mode in [KeyMode::Remote, KeyMode::ProviderRootKey] {
            let outcome = make(&manager, kid, EC, mode).await;
            assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
        }
        let outcome = store(&manager).destroy(&KeyId::from(kid), soon()).await;
        assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    }
    assert!(inventory(&manager).await.is_empty());
}

/// A pair of which an interruption left one half.
fn halve(rig: &Rig, kid: &str, lost: ObjectClass) {
    let session = rig.token().open_rw_session().unwrap();
    let filter = [Attribute::Class(lost), Attribute::Label(kid.into()), Attribute::Token(true)];
    let [half] = session.find_objects(&filter).unwrap()[..] else { panic!("one {lost}") };
    session.destroy_object(half).unwrap();
}

async fn halves_are_listed_and_destroyed(rig: Rig) {
    let manager = rig.manager(PREFER);
    for (kid, algorithm, lost) in [
        ("a", EC, ObjectClass::PRIVATE_KEY),
        ("b", RSA, ObjectClass::PRIVATE_KEY),
        ("c", EC, ObjectClass::PUBLIC_KEY),
        ("d", RSA, ObjectClass::PUBLIC_KEY),
    ] {
        make(&manager, kid, algorithm, KeyMode::Remote).await.unwrap();
        halve(&rig, kid, lost);
    }
    make(&manager, "e", EC, KeyMode::Remote).await.unwrap();
    let stored = inventory(&manager).await;
    let rows: Vec<_> = stored
        .iter()
        .map(|key| {
            let halves = (key.has_private_key, key.public_key.is_some(), key.key_id.is_some());
            (key.kid.as_str(), halves)
        })
        .collect();
    let (public, private) = ((false, true, false), (true, false, true));
    let expected =
        [("a", public), ("b", public), ("c", private), ("d", private), ("e", (true, true, true))];
    assert_eq!(rows, expected);
    assert_eq!(stored[0].algorithm, Some(EC));
    assert_eq!(stored[1].algorithm, Some(RSA));
    for kid in ["a", "b", "c", "d"] {
        let taken = make(&manager, kid, EC, KeyMode::Remote).await;
        assert!(matches!(taken, Err(Error::Exists(_))), "{kid}: {taken:?}");
        store(&manager).destroy(&KeyId::from(kid), soon()).await.unwrap();
        make(&manager, kid, EC, KeyMode::Remote).await.unwrap();
    }
    assert_eq!(inventory(&manager).await.len(), 5);
}

async fn what_is_not_there_is_not_destroyed(rig: Rig) {
    let manager = rig.manager(PREFER);
    make(&manager, "k", EC, KeyMode::Remote).await.unwrap();
    for kid in ["j", "kk", "K"] {
        let outcome = store(&manager).destroy(&KeyId::from(kid), soon()).await;
        assert!(
            matches!(&outcome, Err(Error::NotFound(named)) if named.as_str() == kid),
            "{outcome:?}"
        );
    }
    assert_eq!(inventory(&manager).await.len(), 1);
}

async fn one_name_for_two_keys_is_not_destroyed(rig: Rig) {
    let manager = rig.manager(PREFER);
    make(&manager, "k", EC, KeyMode::Remote).await.unwrap();
    // Another tool heeds no names.
    let session = rig.token().open_rw_session().unwrap();
    let named = [Attribute::Token(true), Attribute::Label("k".into())];
    let mut public = named.to_vec();
    public.push(Attribute::ModulusBits(2048.into()));
    let mechanism = cryptoki::mechanism::Mechanism::RsaPkcsKeyPairGen;
    session.generate_key_pair(&mechanism, &public, &named).unwrap();
    let outcome = store(&manager).destroy(&KeyId::from("k"), soon()).await;
    assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
    assert_eq!(provision::list(&rig.token()).unwrap().len(), 2);
}

async fn a_destroyed_key_serves_no_more(rig: Rig) {
    let manager = rig.manager(PREFER);
    let made = make(&manager, "k", RSA, KeyMode::Remote).await.unwrap();
    let key = registered("k", RSA, KeyMode::Remote, &made);
    let (sample, recipient) = (Sample::new(&key), Client::new(RSA).in_host());
    for _ in 0..4 {
        sample.rewrap(&manager, &key, &recipient).await.unwrap();
    }
    store(&manager).destroy(&key.kid, soon()).await.unwrap();
    for _ in 0..4 {
        let outcome = sample.rewrap(&manager, &key, &recipient).await;
        assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    }
    assert!(inventory(&manager).await.is_empty());
}

async fn what_is_late_is_finished(rig: Rig) {
    let manager = rig.manager(PREFER);
    let past = Deadline::after(Duration::ZERO);
    let kid = KeyId::from("never");
    let outcome = store(&manager).generate(&kid, EC, KeyMode::Remote, past).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let outcome = store(&manager).inventory(past).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let outcome = store(&manager).destroy(&kid, past).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    assert!(inventory(&manager).await.is_empty());

    // What began in time is in the token in the end; what follows waits for it.
    for number in 0..20 {
        let kid = KeyId::from(&*format!("late{number}"));
        let soon = Deadline::after(Duration::from_millis(20));
        match store(&manager).generate(&kid, RSA, KeyMode::Remote, soon).await {
            Ok(_) => {}
            Err(Error::Unavailable(_)) => {
                if inventory(&manager).await.iter().any(|key| key.kid == kid) {
                    return;
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("no key was made late");
}

async fn nothing_is_made_after_the_end(rig: Rig) {
    let manager = Arc::new(rig.manager(PREFER));
    make(&manager, "k", EC, KeyMode::Remote).await.unwrap();
    manager.close().await;
    let late = make(&manager, "late", EC, KeyMode::Remote).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    let late = store(&manager).inventory(soon()).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    let late = store(&manager).destroy(&KeyId::from("k"), soon()).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert_eq!(provision::list(&rig.token()).unwrap().len(), 1);
}

/// A token that has vanished is not one without keys.
#[tokio::test]
async fn a_lost_token_is_an_outage_and_comes_back() {
    let rig = Rig::new(SoftHsm::fresh());
    let manager = rig.manager(PREFER);
    make(&manager, "k", EC, KeyMode::Remote).await.unwrap();
    let (here, away) = (rig.fixture.dir().join("tokens"), rig.fixture.dir().join("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    for _ in 0..3 {
        let outcome = store(&manager).inventory(soon()).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
        let outcome = make(&manager, "k2", EC, KeyMode::Remote).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
        let outcome = store(&manager).destroy(&KeyId::from("k"), soon()).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    let deadline = soon();
    while store(&manager).inventory(soon()).await.is_err() {
        assert!(!deadline.has_passed(), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(inventory(&manager).await.len(), 1);
}

#[tokio::test]
async fn keys_keep_their_wrapping_key() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(EC);
    let manager = rig.manager(PREFER);
    let outcome = store(&manager).wrap_again(&key, "other", soon()).await;
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
}

async fn a_manager_outlives_the_pin_it_started_with(rig: Rig) {
    let manager = rig.manager(PREFER);
    let made = make(&manager, "k", RSA, KeyMode::Remote).await.unwrap();
    let key = registered("k", RSA, KeyMode::Remote, &made);
    let (sample, recipient) = (Sample::new(&key), Client::new(RSA).in_host());
    sample.rewrap(&manager, &key, &recipient).await.unwrap();
    let new = "0123456789";
    provision::change_pin(&rig.token(), &Box::<str>::from(new).into()).unwrap();
    fs::write(rig.fixture.pin_file(), new).unwrap();
    for _ in 0..8 {
        sample.rewrap(&manager, &key, &recipient).await.unwrap();
    }
    make(&manager, "k2", RSA, KeyMode::Remote).await.unwrap();
    assert_eq!(manager.health().await, Health::Ready);
}
