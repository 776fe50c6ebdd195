//! A server that wants a proof of everybody, with a nonce, and knows no leniency.

use std::sync::Arc;

use aws_lc_rs::hmac;
use kasbah_auth::DpopSettings;
use secrecy::SecretBox;
use serde_json::json;

use super::{
    keys::{Keys, encode},
    log::Log,
    rig::{CANARY, PATH, Rig},
    sent::decode,
    table::{Case, Refused, case, proof},
};
use crate::harness::now;

const SECRET: u8 = 7;
const PERIOD: u64 = 300;
const NO_NONCE: Refused = Refused::Nonce("the proof has no nonce");
const STALE: Refused = Refused::Nonce("the proof's nonce is not one of ours, or was");
const NONCE: &str = "the proof's nonce is no text";
const UNBOUND: &str = "the token is bound to no key, so no proof can be one for it";
const BY_BEARER: &str = "the token is bound to a key and came under the scheme Bearer";

pub(super) async fn rig(keys: &Arc<Keys>, log: &Log) -> Rig {
    let dpop = DpopSettings {
        enforce: true,
        require_nonce: true,
        nonce_secret: Some(SecretBox::new(Box::new([SECRET; 32]))),
        path_only_htu: false,
        bound_by_bearer: false,
        ..DpopSettings::default()
    };
    let mut rig = Rig::new(keys, log, dpop).await;
    let wire = rig.request().seal();
    let answer = rig.send(&wire).await.unwrap();
    rig.logged(&wire, "the first request");
    rig.nonce = answer.header("dpop-nonce").map(str::to_owned);
    assert_eq!(rig.nonce.as_deref(), Some(nonce(SECRET, now()).as_str()));
    rig
}

/// The nonce of a server with `secret` at `now`, as it is documented.
fn nonce(secret: u8, now: u64) -> String {
    let number = (now / PERIOD).to_be_bytes();
    let message = [number.as_slice(), b"kasbah DPoP nonce"].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[secret; 32]), &message);
    encode([number.as_slice(), &tag.as_ref()[..16]].concat())
}

pub(super) fn cases() -> Vec<Case> {
    let stale = |name: &str, value: fn() -> String| {
        case(format!("nonce: {name}"), STALE, move |s| s.proof.claims["nonce"] = json!(value()))
    };
    let mut cases = vec![
        case("nonce: none", NO_NONCE, |s| s.proof.without("nonce")),
        case("nonce: in the header", NO_NONCE, |s| {
            s.proof.header["nonce"] = s.proof.claims["nonce"].clone();
            s.proof.without("nonce");
        }),
        stale("empty", String::new),
        stale("anything", || CANARY.to_owned()),
        stale("of another server", || nonce(SECRET + 1, now())),
        stale("of ten minutes ago", || nonce(SECRET, now() - 2 * PERIOD)),
        stale("of ten minutes to come", || nonce(SECRET, now() + 2 * PERIOD)),
        stale("cut off", || nonce(SECRET, now())[..31].to_owned()),
        stale("padded", || format!("{}=", nonce(SECRET, now()))),
        stale("with a space", || format!("{} ", nonce(SECRET, now()))),
        stale("longer", || encode([decode(&nonce(SECRET, now())), vec![0]].concat())),
        stale("a bit flipped", || {
            let mut bytes = decode(&nonce(SECRET, now()));
            bytes[23] ^= 1;
            encode(bytes)
        }),
        stale("an old number with a good tag", || {
            let old = ((now() / PERIOD) - 1).to_be_bytes();
            encode([old.as_slice(), &decode(&nonce(SECRET, now()))[8..]].concat())
        }),
        stale("all zeros", || encode([0; 24])),
        proof("strict: bound to nothing", UNBOUND, |s| s.token.without("cnf")),
        proof("strict: bound to nothing, no proof", UNBOUND, |s| {
            s.token.without("cnf");
            s.scheme(|token| format!("Bearer {token}"));
            s.proofs = Box::new(|_| Vec::new());
        }),
        proof("strict: under Bearer, with its proof", BY_BEARER, |s| {
            s.scheme(|token| format!("Bearer {token}"));
        }),
        proof("strict: htu as a path", "the proof is for another URI", |s| {
            s.proof.claims["htu"] = json!(PATH);
        }),
    ];
    for value in [json!(null), json!(7), json!([CANARY]), json!({ "nonce": CANARY })] {
        let name = format!("nonce: {value}");
        cases.push(proof(name, NONCE, move |s| s.proof.claims["nonce"] = value.clone()));
    }
    cases
}
