//! Ten thousand rewraps leave nothing behind that the bare module does not.

use std::{fs, sync::atomic::Ordering};

use futures_util::future::join_all;
use kasbah_crypto::PublicKey;
use kasbah_pkcs11::{bench, uri::KeyUri};
use kasbah_testkit::tokens::{Kryoptic, SoftHsm, TestToken};
use kasbah_trust::{Algorithm, KeyManager};

use crate::{
    harness::{Client, REQUIRE, Rig, Sample},
    load::session_objects,
};

const ROUNDS: usize = 10_000;
const ALLOWED: usize = 1 << 20;

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn leaves_nothing(fixture: TestToken) {
    let rig = Rig::new(fixture);
    let key = rig.generate(Algorithm::Rsa2048);
    let client = Client::new(Algorithm::Rsa2048);
    let PublicKey::Rsa(public) = client.public() else { panic!("an RSA client") };
    let manager = rig.manager(REQUIRE);
    let (recipient, sample) = (client.in_host(), Sample::new(&key));
    let (token, uri) = (rig.token(), KeyUri::for_label(key.kid.as_str()));

    let by_module = async |rounds| {
        let before = resident();
        bench::raw(&token, &uri, &public, 2, rounds).unwrap();
        resident().saturating_sub(before)
    };
    let by_manager = async |rounds| {
        let before = resident();
        for _ in 0..rounds / 20 {
            for answer in join_all((0..20).map(|_| sample.rewrap(&manager, &key, &recipient))).await
            {
                answer.unwrap();
            }
        }
        resident().saturating_sub(before)
    };
    // Until caches and arenas have their size.
    by_module(1000).await;
    by_manager(1000).await;
    let module = by_module(ROUNDS).await;
    let manager_growth = by_manager(ROUNDS).await;
    println!("growth: module {module} B, manager {manager_growth} B");
    assert!(
        manager_growth <= module + ALLOWED,
        "the manager grew by {manager_growth} bytes, the module alone by {module}"
    );
    assert_eq!(session_objects(&rig), 0);
    assert_eq!(manager.stats().live_objects.load(Ordering::Relaxed), 0);
    manager.close().await;
}

#[tokio::test]
async fn ten_thousand_rewraps_leave_nothing_on_softhsm() {
    leaves_nothing(SoftHsm::fresh()).await;
}

#[tokio::test]
async fn ten_thousand_rewraps_leave_nothing_on_kryoptic() {
    leaves_nothing(Kryoptic::fresh()).await;
}
