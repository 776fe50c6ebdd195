//! Which custody is reached, claimed and refused, by module, policy, key and recipient.

use cryptoki::{
    mechanism::{Mechanism, MechanismType},
    object::Attribute,
};
use kasbah_crypto::{Dek, PublicKey};
use kasbah_pkcs11::{provision, token};
use kasbah_testkit::tokens::{Kryoptic, OpenCryptoki, SoftHsm, TestToken};
use kasbah_trust::{
    Algorithm, Boundary, Curve, Custody, CustodyLevel, Error, KeyDetails, KeyManager,
};

use crate::harness::{Client, PREFER, REQUIRE, Rig, Sample, TRANSIENT, details, soon};

const RSA: Algorithm = Algorithm::Rsa2048;
const EC: Algorithm = Algorithm::Ec(Curve::P256);

/// Custody of a software token.
const fn custody(level: CustodyLevel, enforced_by_key: bool) -> Custody {
    Custody { level, enforced_by_key, boundary: Boundary::SameProcess }
}

const ENFORCED: Custody = custody(CustodyLevel::Sealed, true);
const BY_USE: Custody = custody(CustodyLevel::Sealed, false);
const EXPOSED: Custody = custody(CustodyLevel::Transient, false);

/// Where the session key of an EC response is.
#[derive(Clone, Copy)]
enum Opened {
    Here,
    OnHost,
}

/// What a row of the table expects: custody, or part of the refusal.
type Expected = Result<Custody, &'static str>;

const NO_EC: Expected = Err("the token cannot do HKDF and AES-GCM");
const ON_HOST: Expected = Err("session key of this response is not in the token");

async fn check(fixture: TestToken, more: &str, rows: &[(Algorithm, Algorithm, Opened, Expected)]) {
    let rig = Rig::new(fixture);
    let keys = [RSA, EC].map(|algorithm| rig.generate(algorithm));
    let manager = rig.manager(more);
    for (number, (kas, client, opened, expected)) in rows.iter().enumerate() {
        let key = keys.iter().find(|key| key.algorithm == *kas).unwrap();
        let client = Client::new(*client);
        let recipient = match opened {
            Opened::Here => client.opened_by(&manager).await,
            Opened::OnHost => client.in_host(),
        };
        let sample = Sample::new(key);
        let outcome = sample.rewrap(&manager, key, &recipient).await;
        match (outcome, expected) {
            (Ok(answer), Ok(expected)) => {
                assert_eq!(answer.custody, *expected, "row {number}");
                let opened = client.opens(&recipient, &answer);
                assert!(opened.expose_secret() == sample.dek.expose_secret(), "row {number}");
            }
            (Err(Error::NotPermitted(text)), Err(expected)) => {
                assert!(text.starts_with("sealed custody required, but "), "row {number}: {text}");
                assert!(text.contains(expected), "row {number}: {text}");
            }
            (outcome, expected) => panic!("row {number}: {outcome:?}, expected {expected:?}"),
        }
    }
    manager.close().await;
}

use Opened::{Here, OnHost};

#[tokio::test]
async fn softhsm_prefer_sealed() {
    let rows = [
        (RSA, RSA, Here, Ok(ENFORCED)),
        (RSA, EC, Here, Ok(EXPOSED)),
        (RSA, EC, OnHost, Ok(EXPOSED)),
        (EC, RSA, Here, Ok(EXPOSED)),
        (EC, EC, Here, Ok(EXPOSED)),
    ];
    check(SoftHsm::fresh(), PREFER, &rows).await;
}

#[tokio::test]
async fn softhsm_require_sealed() {
    let rows = [
        (RSA, RSA, Here, Ok(ENFORCED)),
        (RSA, EC, Here, ON_HOST),
        (RSA, EC, OnHost, ON_HOST),
        (EC, RSA, Here, NO_EC),
        (EC, EC, OnHost, NO_EC),
    ];
    check(SoftHsm::fresh(), REQUIRE, &rows).await;
}

#[tokio::test]
async fn softhsm_transient() {
    let rows = [
        (RSA, RSA, Here, Ok(EXPOSED)),
        (RSA, EC, Here, Ok(EXPOSED)),
        (EC, RSA, Here, Ok(EXPOSED)),
        (EC, EC, OnHost, Ok(EXPOSED)),
    ];
    check(SoftHsm::fresh(), TRANSIENT, &rows).await;
}

#[tokio::test]
async fn kryoptic_prefer_sealed() {
    let rows = [
        (RSA, RSA, Here, Ok(ENFORCED)),
        (RSA, EC, Here, Ok(ENFORCED)),
        (RSA, EC, OnHost, Ok(EXPOSED)),
        (EC, RSA, Here, Ok(BY_USE)),
        (EC, EC, Here, Ok(BY_USE)),
        (EC, EC, OnHost, Ok(EXPOSED)),
    ];
    check(Kryoptic::fresh(), PREFER, &rows).await;
}

#[tokio::test]
async fn kryoptic_require_sealed() {
    let rows = [
        (RSA, RSA, Here, Ok(ENFORCED)),
        (RSA, EC, Here, Ok(ENFORCED)),
        (RSA, EC, OnHost, ON_HOST),
        (EC, RSA, Here, Ok(BY_USE)),
        (EC, EC, Here, Ok(BY_USE)),
        (EC, EC, OnHost, ON_HOST),
    ];
    check(Kryoptic::fresh(), REQUIRE, &rows).await;
}

#[tokio::test]
async fn kryoptic_transient() {
    let rows =
        [(RSA, RSA, Here, Ok(EXPOSED)), (RSA, EC, Here, Ok(EXPOSED)), (EC, EC, Here, Ok(EXPOSED))];
    check(Kryoptic::fresh(), TRANSIENT, &rows).await;
}

/// An RSA key made with these private attributes beside sensitive and unextractable.
fn loose_key(rig: &Rig, slot: Option<u64>, kid: &str, more: &[Attribute]) -> KeyDetails {
    let token = rig.token_in(slot);
    let session = token.open_rw_session().unwrap();
    let named = [
        Attribute::Token(true),
        Attribute::Label(kid.into()),
        Attribute::Id(kid.as_bytes().into()),
    ];
    let mut public = named.to_vec();
    public.push(Attribute::ModulusBits(2048.into()));
    public.push(Attribute::PublicExponent(vec![1, 0, 1]));
    public.push(Attribute::Wrap(true));
    let mut private = named.to_vec();
    private.push(Attribute::Private(true));
    private.push(Attribute::Sensitive(true));
    private.push(Attribute::Extractable(false));
    private.extend_from_slice(more);
    let (_, private) =
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
    let public = token::public_key(&session, private).unwrap().unwrap();
    details(kid, RSA, public)
}

/// The hardened template without `UNWRAP_TEMPLATE` and without the line named.
fn almost_hardened(without: &str) -> Vec<Attribute> {
    [
        ("UNWRAP", Attribute::Unwrap(true)),
        ("DECRYPT", Attribute::Decrypt(false)),
        ("SIGN", Attribute::Sign(false)),
        ("SIGN_RECOVER", Attribute::SignRecover(false)),
        ("DERIVE", Attribute::Derive(false)),
        ("COPYABLE", Attribute::Copyable(false)),
        ("ALLOWED", Attribute::AllowedMechanisms(vec![MechanismType::RSA_PKCS_OAEP])),
        ("MODIFIABLE", Attribute::Modifiable(false)),
    ]
    .into_iter()
    .filter(|(name, _)| *name != without)
    .map(|(_, line)| line)
    .collect()
}

async fn loose_keys_are_refused(fixture: TestToken) {
    let rig = Rig::new(fixture);
    let manager = rig.manager(REQUIRE);
    let client = Client::new(RSA).in_host();
    for (kid, without, expected) in [
        ("decrypts", "DECRYPT", "lacks CKA_DECRYPT=false"),
        ("modifiable", "MODIFIABLE", "lacks CKA_MODIFIABLE=false"),
        ("copyable", "COPYABLE", "lacks CKA_COPYABLE=false"),
        ("any-mechanism", "ALLOWED", "lacks CKA_ALLOWED_MECHANISMS={RSA_PKCS_OAEP}"),
        ("no-template", "", "lacks CKA_UNWRAP_TEMPLATE"),
    ] {
        let mut lines = almost_hardened(without);
        if without == "DECRYPT" {
            lines.push(Attribute::Decrypt(true));
        }
        let key = loose_key(&rig, None, kid, &lines);
        for outcome in [
            Sample::new(&key).rewrap(&manager, &key, &client).await.map(|answer| answer.custody),
            manager.probe(&key, soon()).await,
        ] {
            let Err(Error::NotPermitted(text)) = outcome else { panic!("{kid}: {outcome:?}") };
            assert!(text.contains(expected), "{kid}: {text}");
        }
    }
    manager.close().await;
    let manager = rig.manager(PREFER);
    let key = loose_key(&rig, None, "loose", &almost_hardened("MODIFIABLE"));
    let answer = Sample::new(&key).rewrap(&manager, &key, &client).await.unwrap();
    assert_eq!(answer.custody, BY_USE, "sealed by use, not by the key");
}

#[tokio::test]
async fn loose_keys_are_refused_on_softhsm() {
    loose_keys_are_refused(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn loose_keys_are_refused_on_kryoptic() {
    loose_keys_are_refused(Kryoptic::fresh()).await;
}

/// Its unwrapped data keys are born readable: the unwrap succeeds, reading back refuses it.
#[tokio::test]
async fn opencryptoki_is_refused_where_sealed_is_required() {
    let rig = Rig::new(OpenCryptoki::fresh());
    let slot = Some(OpenCryptoki::SLOT);
    let lines = [Attribute::Unwrap(true), Attribute::Decrypt(true)];
    let key = loose_key(&rig, slot, "ock", &lines);
    let client = Client::new(RSA);
    let manager = rig.manager(&format!(r#"{REQUIRE},"slot":{}"#, OpenCryptoki::SLOT));
    let outcome = Sample::new(&key).rewrap(&manager, &key, &client.in_host()).await;
    let Err(Error::NotPermitted(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("readable (CKA_SENSITIVE reads false)"), "{text}");
    manager.close().await;

    let manager = rig.manager(&format!(r#"{PREFER},"slot":{}"#, OpenCryptoki::SLOT));
    let (sample, recipient) = (Sample::new(&key), client.in_host());
    let answer = sample.rewrap(&manager, &key, &recipient).await.unwrap();
    assert_eq!(answer.custody, EXPOSED);
    let opened = client.opens(&recipient, &answer);
    assert!(opened.expose_secret() == sample.dek.expose_secret());
}

/// An old key, good for decryption only, in a token whose session keys stay inside.
#[tokio::test]
async fn an_exposed_data_key_goes_back_into_the_token_of_the_session_key() {
    let rig = Rig::new(Kryoptic::fresh());
    let lines = [Attribute::Unwrap(false), Attribute::Decrypt(true)];
    let key = loose_key(&rig, None, "old", &lines);
    let client = Client::new(EC);
    let manager = rig.manager(PREFER);
    let recipient = client.opened_by(&manager).await;
    let sample = Sample::new(&key);
    let answer = sample.rewrap(&manager, &key, &recipient).await.unwrap();
    assert_eq!(answer.custody, EXPOSED);
    let opened = client.opens(&recipient, &answer);
    assert!(opened.expose_secret() == sample.dek.expose_secret());

    let manager = rig.manager(REQUIRE);
    let outcome = sample.rewrap(&manager, &key, &Client::new(RSA).in_host()).await;
    assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_key_good_for_nothing_says_so() {
    let rig = Rig::new(SoftHsm::fresh());
    let lines = [Attribute::Unwrap(false), Attribute::Decrypt(false), Attribute::Sign(true)];
    let key = loose_key(&rig, None, "signs", &lines);
    let manager = rig.manager(PREFER);
    let outcome = Sample::new(&key).rewrap(&manager, &key, &Client::new(RSA).in_host()).await;
    let Err(Error::NotPermitted(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("neither unwrapping nor decrypting"), "{text}");
}

/// SoftHSM makes no HMAC with less than 32 bytes.
#[tokio::test]
async fn short_data_keys_stay_sealed_or_are_refused() {
    let rig = Rig::new(SoftHsm::fresh());
    let key = rig.generate(RSA);
    let client = Client::new(RSA);
    let sample = Sample::of(&key, Dek::from_slice(&[7; 16]).unwrap());
    let outcome = sample.rewrap(&rig.manager(REQUIRE), &key, &client.in_host()).await;
    let Err(Error::NotPermitted(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("shorter than 32 bytes"), "{text}");
    let answer = sample.rewrap(&rig.manager(PREFER), &key, &client.in_host()).await.unwrap();
    assert_eq!(answer.custody, EXPOSED);
}

#[tokio::test]
async fn nothing_leaves_in_clear_where_sealed_is_required() {
    let rig = Rig::new(Kryoptic::fresh());
    let manager = rig.manager(REQUIRE);
    for algorithm in [RSA, EC] {
        let key = rig.generate(algorithm);
        let sample = Sample::new(&key);
        let outcome = manager.decrypt(&key, &sample.wrapped, soon()).await;
        assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
        if let PublicKey::Ec(peer) = Client::new(EC).public() {
            let outcome = manager.derive(&key, &peer, soon()).await;
            assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn probes_tell_what_rewraps_reach() {
    let rig = Rig::new(SoftHsm::fresh());
    let (rsa, ec) = (rig.generate(RSA), rig.generate(EC));
    let manager = rig.manager(PREFER);
    assert_eq!(manager.probe(&rsa, soon()).await.unwrap(), ENFORCED);
    assert_eq!(manager.probe(&ec, soon()).await.unwrap(), EXPOSED);
    let manager = rig.manager(REQUIRE);
    assert_eq!(manager.probe(&rsa, soon()).await.unwrap(), ENFORCED);
    let outcome = manager.probe(&ec, soon()).await;
    assert!(matches!(outcome, Err(Error::NotPermitted(_))), "{outcome:?}");
    // The public key on record is what clients wrap for.
    let mut other = rsa.clone();
    other.public_key = Client::new(RSA).public();
    let outcome = manager.probe(&other, soon()).await;
    assert!(matches!(outcome, Err(Error::Decrypt)), "{outcome:?}");
}

/// A session key in one token is of no use to another manager, even of the same token.
#[tokio::test]
async fn session_keys_are_not_shared_between_managers() {
    let rig = Rig::new(Kryoptic::fresh());
    let key = rig.generate(RSA);
    let (one, two) = (rig.manager(PREFER), rig.manager(PREFER));
    let recipient = Client::new(EC).opened_by(&one).await;
    let outcome = Sample::new(&key).rewrap(&two, &key, &recipient).await;
    assert!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
}

#[tokio::test]
async fn keys_are_found_by_id_and_imported_keys_serve() {
    let rig = Rig::new(SoftHsm::fresh());
    let pem = include_str!("../../../testkit/data/golden-r1.pem");
    let entry = provision::import(&rig.token(), "imported", pem).unwrap();
    let mut key = details("imported", RSA, entry.public_key.unwrap());
    let id: Vec<_> = entry.id.iter().map(|byte| format!("%{byte:02x}")).collect();
    key.private_key.key_id = Some(format!("pkcs11:id={}", id.concat()));
    let manager = rig.manager(REQUIRE);
    let answer = Sample::new(&key).rewrap(&manager, &key, &Client::new(RSA).in_host()).await;
    assert_eq!(answer.unwrap().custody, ENFORCED);
}
