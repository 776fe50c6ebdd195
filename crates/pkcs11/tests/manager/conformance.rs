//! The suite every key manager must pass. One key algorithm at a time: each damaged RSA ciphertext
//! waits for a canary.

use std::sync::Arc;

use kasbah_pkcs11::HsmManager;
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use kasbah_trust::{
    Algorithm, Boundary, Curve, Custody, CustodyLevel, KeyDetails, Recipient,
    conformance::{self, Subject},
};

use crate::harness::{PREFER, Rig, TRANSIENT, details};

const SEALED: CustodyLevel = CustodyLevel::Sealed;

fn softhsm(key: &KeyDetails, recipient: &Recipient) -> Option<Custody> {
    // Of RSA keys and RSA clients only data keys of 32 bytes stay sealed here: SoftHSM makes no
    // HMAC with less.
    let open = key.algorithm.is_rsa() && recipient.rsa().is_some();
    (!open).then_some(Custody::SOFTWARE)
}

/// Device recipients and RSA clients are sealed, session keys on the host cannot be.
#[expect(clippy::unnecessary_wraps, reason = "the suite allows for what is not known")]
fn kryoptic(key: &KeyDetails, recipient: &Recipient) -> Option<Custody> {
    let on_host = recipient.rsa().is_none() && format!("{recipient:?}").contains("host");
    Some(if on_host {
        Custody::SOFTWARE
    } else {
        Custody {
            level: SEALED,
            enforced_by_key: key.algorithm.is_rsa(),
            boundary: Boundary::SameProcess,
        }
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the suite allows for what is not known")]
fn transient(_: &KeyDetails, _: &Recipient) -> Option<Custody> {
    Some(Custody::SOFTWARE)
}

type Expected = fn(&KeyDetails, &Recipient) -> Option<Custody>;

async fn conforms(fixture: TestToken, more: &str, algorithm: Algorithm, custody: Expected) {
    let rig = Rig::new(fixture);
    let keys = vec![rig.generate_as("one", algorithm), rig.generate_as("two", algorithm)];
    let stranger = kasbah_crypto::PrivateKey::generate(algorithm).unwrap().public_key();
    let absent = details("absent", algorithm, stranger);
    let manager: Arc<HsmManager> = Arc::new(rig.manager(more));
    let stats = Arc::clone(&manager);
    let derives = !algorithm.is_rsa();
    conformance::all(&Subject { manager, keys, absent, custody, derives }).await;
    let stats = stats.stats();
    assert_eq!(stats.live_objects.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(stats.live_recipients.load(std::sync::atomic::Ordering::Relaxed), 0);
}

macro_rules! conformance {
    ($($module:ident $fixture:ident { $($name:ident($more:expr, $algorithm:expr, $custody:expr);)* })*) => {
        $(mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    conforms($fixture::fresh(), $more, $algorithm, $custody).await;
                }
            )*
        })*
    };
}

conformance! {
    on_softhsm SoftHsm {
        rsa_2048(PREFER, Algorithm::Rsa2048, softhsm);
        rsa_4096(PREFER, Algorithm::Rsa4096, softhsm);
        p256(PREFER, Algorithm::Ec(Curve::P256), softhsm);
        p384(PREFER, Algorithm::Ec(Curve::P384), softhsm);
        p521(PREFER, Algorithm::Ec(Curve::P521), softhsm);
        transient_rsa_2048(TRANSIENT, Algorithm::Rsa2048, transient);
    }
    on_kryoptic Kryoptic {
        rsa_2048(PREFER, Algorithm::Rsa2048, kryoptic);
        rsa_4096(PREFER, Algorithm::Rsa4096, kryoptic);
        p256(PREFER, Algorithm::Ec(Curve::P256), kryoptic);
        p384(PREFER, Algorithm::Ec(Curve::P384), kryoptic);
        p521(PREFER, Algorithm::Ec(Curve::P521), kryoptic);
        transient_p256(TRANSIENT, Algorithm::Ec(Curve::P256), transient);
    }
}
