//! Private keys that are stored outside the token, wrapped.

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass},
};
use kasbah_pkcs11::{HsmManager, provision};
use kasbah_testkit::tokens::{Kryoptic, SoftHsm};
use kasbah_trust::{
    Algorithm, Boundary, Curve, Custody, CustodyLevel, Error, Health, KeyDetails, KeyManager,
    KeyMode, Recipient,
    conformance::{self, Subject},
};

use crate::{
    harness::{Client, PREFER, REQUIRE, Rig, Sample, details, on_both_modules, soon},
    load::session_objects,
    store::{make, registered, store},
};

const RSA: Algorithm = Algorithm::Rsa2048;
const EC: Algorithm = Algorithm::Ec(Curve::P256);
const WRAPPED: KeyMode = KeyMode::ProviderRootKey;

on_both_modules! {
    every_algorithm_is_wrapped_opened_and_served
    custody_is_by_use_and_never_by_the_key
    wrapping_keys_are_made_once_and_are_no_key_pairs
    the_opened_key_cannot_be_weakened
    an_ec_record_with_a_flipped_byte_is_an_outage
    an_rsa_record_with_a_flipped_byte_is_an_outage
    a_record_serves_its_own_key_only
    a_record_with_the_private_key_of_another_is_refused
    what_is_no_record_is_refused
    another_manager_opens_the_record
    a_wrapping_key_that_was_lost_is_an_outage
    a_wrapping_key_of_another_value_is_no_dead_device
    a_loose_wrapping_key_wraps_nothing
    a_loose_wrapping_key_opens_nothing
    many_keys_share_a_few_places
    nothing_stays_open_after_the_end
    a_failing_generation_leaves_nothing
}

async fn wrapped(manager: &HsmManager, kid: &str, algorithm: Algorithm) -> KeyDetails {
    let made = make(manager, kid, algorithm, WRAPPED).await.unwrap();
    registered(kid, algorithm, WRAPPED, &made)
}

async fn serves(manager: &HsmManager, key: &KeyDetails) {
    let client = Client::new(EC);
    let (sample, recipient) = (Sample::new(key), client.in_host());
    let answer = sample.rewrap(manager, key, &recipient).await.unwrap();
    let opened = client.opens(&recipient, &answer);
    assert!(opened.expose_secret() == sample.dek.expose_secret());
}

/// The stored record, as bytes.
fn record(key: &KeyDetails) -> Vec<u8> {
    STANDARD.decode(key.private_key.wrapped_key.as_ref().unwrap()).unwrap()
}

fn with_record(key: &KeyDetails, record: &[u8]) -> KeyDetails {
    let mut key = key.clone();
    key.private_key.wrapped_key = Some(STANDARD.encode(record));
    key
}

/// Neither a bad request nor a dead device: the key's own record is of no use, and that is said.
async fn refused(manager: &HsmManager, key: &KeyDetails, what: &str) -> String {
    let recipient = Client::new(EC).in_host();
    let outcome = Sample::new(key).rewrap(manager, key, &recipient).await;
    let Err(Error::Unavailable(why)) = outcome else { panic!("{what}: {outcome:?}") };
    let probe = manager.probe(key, soon()).await;
    assert!(matches!(probe, Err(Error::Unavailable(_))), "{what}: {probe:?}");
    why.to_string()
}

async fn every_algorithm_is_wrapped_opened_and_served(rig: Rig) {
    let manager = rig.manager(PREFER);
    for algorithm in Algorithm::ALL {
        let key = wrapped(&manager, algorithm.as_str(), algorithm).await;
        assert_eq!(key.public_key.algorithm(), Some(algorithm));
        manager.probe(&key, soon()).await.unwrap();
        serves(&manager, &key).await;
        let damaged = Sample::damaged(&key);
        let outcome = damaged.rewrap(&manager, &key, &Client::new(EC).in_host()).await;
        assert!(matches!(outcome, Err(Error::Decrypt)), "{algorithm}: {outcome:?}");
    }
    assert_eq!(manager.health().await, Health::Ready);
}

async fn custody_is_by_use_and_never_by_the_key(rig: Rig) {
    let manager = rig.manager(REQUIRE);
    let key = wrapped(&manager, "k", RSA).await;
    let by_use = Custody {
        level: CustodyLevel::Sealed,
        enforced_by_key: false,
        boundary: Boundary::SameProcess,
    };
    assert_eq!(manager.probe(&key, soon()).await.unwrap(), by_use);
    let recipient = Client::new(RSA).in_host();
    let answer = Sample::new(&key).rewrap(&manager, &key, &recipient).await.unwrap();
    assert_eq!(answer.custody, by_use);
    // The same manager reports a key that lives in the token as enforcing it.
    let resident = rig.generate_as("resident", RSA);
    assert!(manager.probe(&resident, soon()).await.unwrap().enforced_by_key);
}

async fn wrapping_keys_are_made_once_and_are_no_key_pairs(rig: Rig) {
    let manager = rig.manager(PREFER);
    for (number, algorithm) in [EC, RSA, EC, RSA].into_iter().enumerate() {
        let key = wrapped(&manager, &format!("k{number}"), algorithm).await;
        let label = if algorithm.is_rsa() { "kasbah-kek-rsa" } else { "kasbah-kek-ec" };
        assert_eq!(key.private_key.key_id.as_deref(), Some(label));
    }
    assert!(store(&manager).inventory(soon()).await.unwrap().is_empty());
    let session = rig.token().open_session().unwrap();
    let filter = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
    let found = session.find_objects(&filter).unwrap();
    assert_eq!(found.len(), 3);
    for key in found {
        let secret = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Value];
        assert_eq!(
            session.get_attributes(key, &secret).unwrap(),
            [Attribute::Sensitive(true), Attribute::Extractable(false)]
        );
        let origin = [AttributeType::Local, AttributeType::NeverExtractable];
        assert_eq!(
            session.get_attributes(key, &origin).unwrap(),
            [Attribute::Local(true), Attribute::NeverExtractable(true)]
        );
        let changes = [Attribute::Encrypt(true), Attribute::Extractable(true)];
        for change in changes {
            assert!(session.update_attributes(key, &[change]).is_err());
        }
    }
}

async fn the_opened_key_cannot_be_weakened(rig: Rig) {
    let manager = rig.manager(PREFER);
    for algorithm in [RSA, EC] {
        let key = wrapped(&manager, algorithm.as_str(), algorithm).await;
        serves(&manager, &key).await;
    }
    let session = rig.token().open_rw_session().unwrap();
    let filter = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(false)];
    let found = session.find_objects(&filter).unwrap();
    assert!(!found.is_empty(), "no key is open");
    for key in found {
        let secret = [AttributeType::PrivateExponent, AttributeType::Value];
        assert_eq!(session.get_attributes(key, &secret).unwrap(), []);
        for change in [
            Attribute::Extractable(true),
            Attribute::Sensitive(false),
            Attribute::Decrypt(true),
            Attribute::Sign(true),
            Attribute::Token(true),
            Attribute::Modifiable(true),
        ] {
            assert!(session.copy_object(key, std::slice::from_ref(&change)).is_err());
            assert!(session.update_attributes(key, &[change]).is_err());
        }
    }
}

async fn flipped(rig: Rig, algorithm: Algorithm, step: usize) {
    let manager = rig.manager(PREFER);
    let key = wrapped(&manager, "k", algorithm).await;
    let sound = record(&key);
    let (sample, recipient) = (Sample::new(&key), Client::new(EC).in_host());
    for position in (0..sound.len()).step_by(step) {
        let mut record = sound.clone();
        record[position] ^= 1 << (position % 8);
        let damaged = with_record(&key, &record);
        let outcome = sample.rewrap(&manager, &damaged, &recipient).await;
        let Err(Error::Unavailable(why)) = outcome else { panic!("byte {position}: {outcome:?}") };
        let why = why.to_string();
        assert!(why.contains("the stored private key of k is damaged"), "byte {position}: {why}");
    }
    assert_eq!(manager.health().await, Health::Ready);
    serves(&manager, &key).await;
}

async fn an_ec_record_with_a_flipped_byte_is_an_outage(rig: Rig) {
    flipped(rig, EC, 1).await;
}

async fn an_rsa_record_with_a_flipped_byte_is_an_outage(rig: Rig) {
    flipped(rig, RSA, 7).await;
}

async fn a_record_serves_its_own_key_only(rig: Rig) {
    let manager = rig.manager(PREFER);
    let (one, two) = (wrapped(&manager, "one", EC).await, wrapped(&manager, "two", EC).await);
    let rsa = wrapped(&manager, "one", RSA).await;
    serves(&manager, &one).await;

    let mut swapped = one.clone();
    swapped.private_key = two.private_key.clone();
    let why = refused(&manager, &swapped, "swapped records").await;
    assert!(why.contains("private key of one") && why.contains("another name"), "{why}");

    let mut renamed = one.clone();
    renamed.kid = two.kid.clone();
    let why = refused(&manager, &renamed, "another name").await;
    assert!(why.contains("private key of two") && why.contains("another name"), "{why}");

    let mut stranger = one.clone();
    stranger.public_key = Client::new(EC).public();
    let why = refused(&manager, &stranger, "another public key").await;
    assert!(why.contains("another public key"), "{why}");

    let mut other_kind = rsa.clone();
    other_kind.private_key = one.private_key.clone();
    let why = refused(&manager, &other_kind, "another algorithm").await;
    assert!(why.contains("another algorithm"), "{why}");

    let mut other_kek = one.clone();
    other_kek.private_key.key_id = Some("kasbah-kek-rsa".into());
    let why = refused(&manager, &other_kek, "another wrapping key").await;
    assert!(why.contains("another wrapping key"), "{why}");

    for key in [&one, &two, &rsa] {
        serves(&manager, key).await;
    }
}

async fn what_is_no_record_is_refused(rig: Rig) {
    let manager = rig.manager(PREFER);
    let key = wrapped(&manager, "k", EC).await;
    let sound = record(&key);
    for text in ["", "r1", "====", &STANDARD.encode(&sound[..sound.len() - 1]), &"A".repeat(9000)] {
        let mut damaged = key.clone();
        damaged.private_key.wrapped_key = Some(text.into());
        refused(&manager, &damaged, text).await;
    }
    let mut nothing = key.clone();
    nothing.private_key.wrapped_key = None;
    let outcome = manager.probe(&nothing, soon()).await;
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
    let mut remote = key.clone();
    remote.mode = KeyMode::Remote;
    let outcome = manager.probe(&remote, soon()).await;
    assert!(outcome.is_err(), "{outcome:?}");
    let mut config = key.clone();
    config.mode = KeyMode::ConfigRootKey;
    let outcome = manager.probe(&config, soon()).await;
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
}

async fn another_manager_opens_the_record(rig: Rig) {
    let first = rig.manager(PREFER);
    let keys = [wrapped(&first, "r", RSA).await, wrapped(&first, "e", EC).await];
    first.close().await;
    drop(first);
    assert_eq!(session_objects(&rig), 0);
    let second = rig.manager(PREFER);
    for key in &keys {
        second.probe(key, soon()).await.unwrap();
        serves(&second, key).await;
    }
}

/// Destroys the secret key of this label.
fn lose(rig: &Rig, label: &str) {
    let session = rig.token().open_rw_session().unwrap();
    let filter = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.into())];
    let [key] = session.find_objects(&filter).unwrap()[..] else { panic!("one {label}") };
    session.destroy_object(key).unwrap();
}

async fn a_wrapping_key_that_was_lost_is_an_outage(rig: Rig) {
    let manager = rig.manager(PREFER);
    let (ec, rsa) = (wrapped(&manager, "e", EC).await, wrapped(&manager, "r", RSA).await);
    lose(&rig, "kasbah-kek-ec");
    let why = refused(&manager, &ec, "no wrapping key").await;
    assert!(why.contains("no secret key labelled kasbah-kek-ec"), "{why}");
    serves(&manager, &rsa).await;
    let manager = rig.manager(PREFER);
    lose(&rig, "kasbah-kek-mac");
    let why = refused(&manager, &rsa, "no HMAC key").await;
    assert!(why.contains("no secret key labelled kasbah-kek-mac"), "{why}");
    assert_eq!(manager.health().await, Health::Ready);
}

/// Kryoptic answers what does not unwrap with `CKR_DEVICE_ERROR`.
async fn a_wrapping_key_of_another_value_is_no_dead_device(rig: Rig) {
    let manager = rig.manager(PREFER);
    let old = wrapped(&manager, "old", EC).await;
    lose(&rig, "kasbah-kek-ec");
    let new = wrapped(&manager, "new", EC).await;
    for _ in 0..4 {
        let why = refused(&manager, &old, "another wrapping key").await;
        assert!(why.contains("opening a wrapped private key"), "{why}");
        serves(&manager, &new).await;
    }
    assert_eq!(manager.health().await, Health::Ready);
}

/// A wrapping key as another tool may make it: without `CKA_UNWRAP_TEMPLATE`.
fn loose_wrapping_key(rig: &Rig, label: &str) {
    let session = rig.token().open_rw_session().unwrap();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(label.into()),
        Attribute::ValueLen(32.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

async fn a_loose_wrapping_key_wraps_nothing(rig: Rig) {
    loose_wrapping_key(&rig, "kasbah-kek-ec");
    loose_wrapping_key(&rig, "kasbah-kek-rsa");
    let manager = rig.manager(PREFER);
    for algorithm in [EC, RSA] {
        let outcome = make(&manager, "k", algorithm, WRAPPED).await;
        let Err(Error::NotPermitted(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.contains("wrapping key lets private keys out"), "{text}");
    }
    assert_eq!(session_objects(&rig), 0);
}

/// What was wrapped by a good one is wrapped again by a loose one of the same value only by who has
/// that value; here the token has it, and lets it out.
async fn a_loose_wrapping_key_opens_nothing(rig: Rig) {
    let value = Attribute::Value(vec![7; 32]);
    let session = rig.token().open_rw_session().unwrap();
    let loose = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label("kasbah-kek-ec".into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        value,
    ];
    let manager = rig.manager(PREFER);
    let key = wrapped(&manager, "k", EC).await;
    lose(&rig, "kasbah-kek-ec");
    session.create_object(&loose).unwrap();
    // A private key wrapped by the known value, in a record that this token vouches for.
    let sound = record(&key);
    let private = kasbah_crypto::PrivateKeyParts::generate(EC).unwrap();
    let blob = wrap_known(&private);
    let header = [&sound[..header_len(&sound) - 32], &private.public_key().fingerprint()].concat();
    let mut forged = with_record(&key, &vouched(&rig, &header, &blob));
    forged.public_key = private.public_key();
    let outcome = manager.probe(&forged, soon()).await;
    let Err(Error::NotPermitted(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("wrapping key lets private keys out"), "{text}");
}

/// Length of a record up to the public key's SHA-256.
fn header_len(record: &[u8]) -> usize {
    let name = |at: usize| 2 + usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
    let kek = 5 + name(5);
    kek + name(kek) + 32
}

/// The wrapped key in a record.
fn blob(record: &[u8]) -> &[u8] {
    &record[header_len(record) + 4..record.len() - 32]
}

/// A record that the token vouches for, as who has the PIN can make it.
fn vouched(rig: &Rig, header: &[u8], blob: &[u8]) -> Vec<u8> {
    let length = u32::try_from(blob.len()).unwrap().to_be_bytes();
    let unsigned = [header, &length, blob].concat();
    let session = rig.token().open_session().unwrap();
    let label = Attribute::Label("kasbah-kek-mac".into());
    let [key] =
        session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), label]).unwrap()[..]
    else {
        panic!("one HMAC key")
    };
    let mac = session.sign(&Mechanism::Sha256Hmac, key, &unsigned).unwrap();
    [unsigned, mac].concat()
}

async fn a_record_with_the_private_key_of_another_is_refused(rig: Rig) {
    let manager = rig.manager(PREFER);
    for algorithm in [EC, RSA] {
        let (one, two) =
            (wrapped(&manager, "one", algorithm).await, wrapped(&manager, "two", algorithm).await);
        let (record_one, record_two) = (record(&one), record(&two));
        let header = &record_one[..header_len(&record_one)];
        // The forgery is good where nothing is swapped.
        assert_eq!(vouched(&rig, header, blob(&record_one)), record_one);
        let forged = with_record(&one, &vouched(&rig, header, blob(&record_two)));
        let why = refused(&manager, &forged, algorithm.as_str()).await;
        assert!(why.contains("holds another private key"), "{why}");
        serves(&manager, &one).await;
    }
    manager.close().await;
    assert_eq!(session_objects(&rig), 0);
}

/// PKCS#8, wrapped as RFC 5649 says by the key of sevens.
fn wrap_known(private: &kasbah_crypto::PrivateKeyParts) -> Vec<u8> {
    use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
    let pem = private.to_pem().unwrap();
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(lines).unwrap();
    let mut wrapped = vec![0; der.len() + 16];
    let kek = AesKek::new(&AES_256, &[7; 32]).unwrap();
    kek.wrap_with_padding(&der, &mut wrapped).unwrap().to_vec()
}

async fn many_keys_share_a_few_places(rig: Rig) {
    let manager = Arc::new(rig.manager(&format!(r#"{PREFER},"open_keys":8"#)));
    let mut keys = Vec::new();
    for number in 0..200 {
        keys.push(wrapped(&manager, &format!("k{number}"), EC).await);
    }
    for round in 0..2 {
        for key in &keys {
            serves(&manager, key).await;
        }
        let open = session_objects(&rig);
        assert!((1..=8).contains(&open), "round {round}: {open} keys are open");
    }
    for chunk in keys.chunks(40) {
        futures_util::future::join_all(chunk.iter().map(|key| serves(&manager, key))).await;
    }
    assert!(session_objects(&rig) <= 8);
    assert_eq!(manager.stats().live_objects.load(std::sync::atomic::Ordering::Relaxed), 0);
    manager.close().await;
    assert_eq!(session_objects(&rig), 0);
}

async fn nothing_stays_open_after_the_end(rig: Rig) {
    let manager = rig.manager(PREFER);
    let keys = [wrapped(&manager, "r", RSA).await, wrapped(&manager, "e", EC).await];
    assert_eq!(session_objects(&rig), 0, "making keys leaves something");
    for key in &keys {
        for _ in 0..4 {
            serves(&manager, key).await;
        }
    }
    let open = session_objects(&rig);
    // Two workers, two keys.
    assert!((2..=4).contains(&open), "{open} keys are open");
    manager.close().await;
    assert_eq!(session_objects(&rig), 0);
    let late = manager.probe(&keys[0], soon()).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
}

async fn a_failing_generation_leaves_nothing(rig: Rig) {
    let manager = rig.manager(PREFER);
    provision::generate(&rig.token(), "taken", EC).unwrap();
    let outcome = make(&manager, "taken", EC, WRAPPED).await;
    assert!(matches!(outcome, Err(Error::Exists(_))), "{outcome:?}");
    let session = rig.token().open_session().unwrap();
    let filter = [Attribute::Class(ObjectClass::SECRET_KEY)];
    assert!(session.find_objects(&filter).unwrap().is_empty());
    assert_eq!(session_objects(&rig), 0);
}

/// The private keys went with the sessions; they are opened again when the token is back.
#[tokio::test]
async fn keys_are_opened_again_when_a_lost_token_is_back() {
    let rig = Rig::new(SoftHsm::fresh());
    let manager = rig.manager(PREFER);
    let keys = [wrapped(&manager, "r", RSA).await, wrapped(&manager, "e", EC).await];
    for key in &keys {
        serves(&manager, key).await;
    }
    let (here, away) = (rig.fixture.dir().join("tokens"), rig.fixture.dir().join("away"));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    assert!(matches!(manager.health().await, Health::NotReady(_)));
    for key in &keys {
        let outcome = Sample::new(key).rewrap(&manager, key, &Client::new(EC).in_host()).await;
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    let deadline = soon();
    while manager.health().await != Health::Ready {
        assert!(!deadline.has_passed(), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for key in &keys {
        serves(&manager, key).await;
    }
}

/// A login that somebody ends takes the private session objects along. Requests may meet an outage
/// then, never a bad request, and are served again at once.
async fn survives_a_logout(rig: Rig) {
    let manager = rig.manager(PREFER);
    let keys = [
        rig.generate_as("resident", RSA),
        wrapped(&manager, "r", RSA).await,
        wrapped(&manager, "e", EC).await,
    ];
    for key in &keys {
        serves(&manager, key).await;
    }
    let logout = || rig.token().open_session().unwrap().logout().unwrap();
    logout();
    assert_eq!(store(&manager).inventory(soon()).await.unwrap().len(), 1);
    for _ in 0..2 {
        for key in &keys {
            serves_again(&manager, key).await;
        }
        logout();
    }
    for key in &keys {
        serves_again(&manager, key).await;
    }
    assert_eq!(manager.health().await, Health::Ready);
}

async fn serves_again(manager: &HsmManager, key: &KeyDetails) {
    let recipient = Client::new(EC).in_host();
    let deadline = soon();
    while let Err(error) = Sample::new(key).rewrap(manager, key, &recipient).await {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        assert!(!deadline.has_passed(), "it does not come back: {error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_logout_on_softhsm_is_survived() {
    survives_a_logout(Rig::new(SoftHsm::fresh())).await;
}

#[tokio::test]
async fn a_logout_on_kryoptic_is_survived() {
    survives_a_logout(Rig::new(Kryoptic::fresh())).await;
}

fn unknown(_: &KeyDetails, _: &Recipient) -> Option<Custody> {
    None
}

async fn conforms(rig: Rig, algorithm: Algorithm) {
    let manager = rig.manager(PREFER);
    let keys =
        vec![wrapped(&manager, "one", algorithm).await, wrapped(&manager, "two", algorithm).await];
    let absent = details("absent", algorithm, Client::new(algorithm).public());
    let derives = !algorithm.is_rsa();
    let manager: Arc<HsmManager> = Arc::new(manager);
    conformance::all(&Subject { manager, keys, absent, custody: unknown, derives }).await;
    assert_eq!(session_objects(&rig), 0);
}

macro_rules! conformance {
    ($($name:ident($fixture:ident, $algorithm:expr);)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                conforms(Rig::new($fixture::fresh()), $algorithm).await;
            }
        )*
    };
}

conformance! {
    wrapped_ec_keys_conform_on_softhsm(SoftHsm, EC);
    wrapped_ec_keys_conform_on_kryoptic(Kryoptic, EC);
}
