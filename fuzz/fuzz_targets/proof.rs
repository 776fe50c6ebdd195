//! A proof of possession, signed or not, with claims of any kind.
#![no_main]

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
};

use kasbah_auth::{
    Confirmation, DpopSettings, MemoryReplay, Presented, Proofs, Scheme, VerifiedToken,
};

static PROOFS: LazyLock<Proofs> = LazyLock::new(|| {
    let origins = vec!["https://kas.example".to_owned()];
    let settings = DpopSettings { origins, ..DpopSettings::default() };
    Proofs::new(settings, Arc::new(MemoryReplay::new(1000, 1000))).unwrap()
});

static TOKEN: LazyLock<VerifiedToken> = LazyLock::new(|| VerifiedToken {
    issuer: String::new(),
    subject: String::new(),
    claims: Arc::default(),
    confirmation: Some(Confirmation { jkt: Some("j".repeat(43)), certificate: None }),
    expires: u64::MAX,
    text: Arc::new(String::new().into()),
    fingerprint: [0; 32],
});

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (proof, path) = input;
    let presented = Presented {
        scheme: Scheme::Dpop,
        proofs: &[proof],
        method: "POST",
        path,
        access_token: "token",
        certificate: None,
    };
    let check = pin!(PROOFS.check(presented, &TOKEN));
    match check.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(proven) => assert!(proven.is_err(), "nobody has a key of that thumbprint"),
        Poll::Pending => panic!("nothing in there waits"),
    }
});
