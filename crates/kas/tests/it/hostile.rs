//! What somebody sends who wants in: one property of a good request is changed at a time, all that
//! can be signed is signed again, and the whole server is asked.
//!
//! Each is refused for its own reason, which the log has and the client has not; the log has nothing
//! of what was sent; and the good request is let in before, between and after.

mod access_token;
mod issuer;
mod keys;
mod log;
mod proof;
mod rig;
mod scheme;
mod sent;
mod signed_request;
mod strict;
mod table;

use std::{collections::BTreeSet, panic::AssertUnwindSafe};

use futures_util::{FutureExt, future::join_all};
use kasbah_auth::DpopSettings;
use serde_json::json;
use tonic::Code;

use self::{
    keys::{Keys, encode},
    log::Log,
    rig::{CANARY, Rig},
    table::{Case, REPLAY, check},
};

#[tokio::test]
async fn every_bad_token_and_proof_is_refused_for_its_own_reason() {
    let (log, _guard) = Log::start();
    let keys = Keys::generate();
    let rig = Rig::new(&keys, &log, DpopSettings::default()).await;
    let strict = strict::rig(&keys, &log).await;
    let cases =
        [access_token::cases(&keys), scheme::cases(), proof::cases(), signed_request::cases(&keys)];
    let usual: Vec<Case> = cases.into_iter().flatten().collect();
    let narrow = strict::cases();
    let names: BTreeSet<_> = usual.iter().chain(&narrow).map(|case| &case.name).collect();
    assert_eq!(names.len(), usual.len() + narrow.len(), "two cases have one name");
    assert!(names.len() >= 150, "{}", names.len());
    for (rig, cases) in [(&rig, usual), (&strict, narrow)] {
        let mut before = table::good(rig, "before").await;
        let mut failed = Vec::new();
        for case in cases {
            let checked = AssertUnwindSafe(check(rig, &case, &mut before)).catch_unwind().await;
            if checked.is_err() {
                failed.push(case.name);
                rig.server.audit.take();
                rig.log.take();
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

/// What is wrong with none of these: were they refused, the table would say less than it seems to.
#[tokio::test]
async fn what_does_not_count_is_let_in() {
    let (log, _guard) = Log::start();
    let keys = Keys::generate();
    let rig = Rig::new(&keys, &log, DpopSettings::default()).await;
    for (name, change) in table::harmless() {
        let mut sent = rig.request();
        change(&mut sent);
        let wire = sent.seal();
        let answer = rig.send(&wire).await.unwrap();
        let log = rig.logged(&wire, name);
        assert!(answer.is_good(), "{name}: {answer:?}\n{log}");
    }
}

#[tokio::test]
async fn of_one_proof_sent_many_times_at_once_one_is_let_in() {
    let (log, _guard) = Log::start();
    let rig = Rig::new(&Keys::generate(), &log, DpopSettings::default()).await;
    let wire = rig.request().seal();
    let answers = join_all((0..8).map(|_| rig.send(&wire))).await;
    let good = answers.into_iter().filter(|answer| answer.as_ref().unwrap().is_good()).count();
    assert_eq!(good, 1);
    let log = rig.logged(&wire, "at once");
    assert_eq!(log.matches(&format!("reason={REPLAY} ")).count(), 7, "{log}");
}

/// Of two `authorization` headers the first counts, for all that is read of them.
#[tokio::test]
async fn two_authorization_headers_are_one_too_many() {
    let (log, _guard) = Log::start();
    let keys = Keys::generate();
    let rig = Rig::new(&keys, &log, DpopSettings::default()).await;
    let mut sent = rig.request();
    sent.token.claims["azp"] = json!("the first");
    sent.schemes(|token| vec![format!("DPoP {token}"), format!("Bearer {CANARY}")]);
    let wire = sent.seal();
    let answer = rig.send(&wire).await.unwrap();
    assert_eq!((answer.code, answer.message.as_str()), (Code::Unauthenticated, "unauthenticated"));
    assert!(rig.logged(&wire, "two").contains("there are several authorization headers"));
}

/// Longer than all headers may be together: the transport's business, which logs none of it either.
#[tokio::test]
async fn headers_without_end_do_not_reach_the_gate() {
    let (log, _guard) = Log::start();
    let rig = Rig::new(&Keys::generate(), &log, DpopSettings::default()).await;
    for bytes in [80 << 10, 1 << 20] {
        for header in ["authorization", "dpop"] {
            let mut wire = rig.request().seal();
            let text = encode(CANARY).repeat(bytes / 23);
            wire.headers = vec![(header, format!("DPoP {text}").into_bytes())];
            let answer = rig.send(&wire).await;
            assert!(!answer.as_ref().is_ok_and(|answer| answer.code == Code::Ok), "{answer:?}");
            let log = rig.logged(&wire, header);
            assert!(!log.contains("a call was refused"), "{log}");
            let wire = rig.request().seal();
            assert!(rig.send(&wire).await.unwrap().is_good(), "the server does not recover");
        }
    }
}
