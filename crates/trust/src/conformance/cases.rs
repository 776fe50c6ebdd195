use std::{fmt, sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::{FutureExt, future};
use kasbah_crypto::{Algorithm, Curve, Dek, PolicyBinding, PublicKey, WrappedDek, binding};

use super::{
    Subject,
    clients::{Clients, Oaep, agree, encrypt, wrap_bytes},
};
use crate::{
    Deadline, Error, Health, KeyDetails, KeyManager, KeyMode, Recipient, Result, RewrapRequest,
    RewrappedKey,
};

/// Base64 text of a policy.
const POLICY: &str = "eyJ1dWlkIjoiNjJjNzZjNjgtZDczZC00NjI4LThjY2MtNGMxZTE4MTE4YzIyIn0=";

/// What one key access object brings.
struct Sample {
    dek: Dek,
    wrapped: WrappedDek,
    policy: String,
    binding: PolicyBinding,
}

impl Sample {
    fn new(key: &KeyDetails) -> Self {
        Self::with(key, 32, POLICY)
    }

    fn with(key: &KeyDetails, length: usize, policy: &str) -> Self {
        let random = Dek::generate().expect("randomness");
        let dek = Dek::from_slice(&random.expose_secret()[..length]).expect("a data key");
        let wrapped = key.public_key.wrap(&dek).expect("wrapping");
        let binding = PolicyBinding::from(*binding::compute(&dek, policy));
        Self { dek, wrapped, policy: policy.to_owned(), binding }
    }

    fn request<'a>(&'a self, key: &'a KeyDetails, recipient: &'a Recipient) -> RewrapRequest<'a> {
        RewrapRequest {
            key,
            wrapped: &self.wrapped,
            policy: &self.policy,
            binding: &self.binding,
            recipient,
            deadline: soon(),
        }
    }

    async fn rewrap(
        &self,
        manager: &dyn KeyManager,
        key: &KeyDetails,
        recipient: &Recipient,
    ) -> Result<RewrappedKey> {
        manager.rewrap(self.request(key, recipient)).await
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn in_host(algorithm: Algorithm) -> Recipient {
    Recipient::in_host(&Clients::shared().public_key(algorithm)).expect("a recipient")
}

/// A recipient that any manager can export to.
fn anybody() -> Recipient {
    in_host(Algorithm::Rsa2048)
}

async fn opened(subject: &Subject, algorithm: Algorithm) -> Recipient {
    let client = Clients::shared().public_key(algorithm);
    let recipient = subject.manager.open_recipient(&client, soon()).await;
    recipient.unwrap_or_else(|error| panic!("open_recipient {algorithm}: {error:?}"))
}

fn label(key: &KeyDetails) -> String {
    format!("key {} ({})", key.kid, key.algorithm)
}

fn expect_decrypt<T: fmt::Debug>(what: impl fmt::Display, outcome: &Result<T>) {
    assert!(matches!(outcome, Err(Error::Decrypt)), "{what}: expected Decrypt, got {outcome:?}");
}

/// The answer must carry the sample's data key for the client of `algorithm`.
fn expect_opens(
    what: impl fmt::Display,
    sample: &Sample,
    algorithm: Algorithm,
    recipient: &Recipient,
    outcome: Result<RewrappedKey>,
) -> RewrappedKey {
    let answer = outcome.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let dek = Clients::shared()
        .open(algorithm, recipient, &answer)
        .unwrap_or_else(|| panic!("{what}: the client cannot open the answer"));
    assert!(dek.expose_secret() == sample.dek.expose_secret(), "{what}: another data key");
    answer
}

/// After something went wrong, the manager must still serve.
async fn expect_usable(what: &str, subject: &Subject, key: &KeyDetails) {
    let (sample, recipient) = (Sample::new(key), anybody());
    let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
    let what = format!("{}: {what}: afterwards", label(key));
    expect_opens(what, &sample, Algorithm::Rsa2048, &recipient, outcome);
}

pub(super) async fn ready(subject: &Subject) {
    let health = subject.manager.health().await;
    assert_eq!(health, Health::Ready, "health of {}", subject.manager.name());
}

pub(super) async fn round_trips(subject: &Subject, key: &KeyDetails) {
    for client in Algorithm::ALL {
        for recipient in [in_host(client), opened(subject, client).await] {
            assert_eq!(recipient.client_key(), Clients::shared().public_key(client));
            assert_eq!(recipient.session_public_key().is_none(), client.is_rsa(), "{client}");
            for length in [16, 24, 32] {
                let what = format!("{} to {recipient:?} {client}, {length} bytes", label(key));
                let mut sample = Sample::with(key, length, POLICY);
                for hash in both_forms(&sample.binding) {
                    sample.binding = PolicyBinding::parse(&hash).expect("a binding");
                    let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
                    let answer = expect_opens(&what, &sample, client, &recipient, outcome);
                    let expected = (subject.custody)(key, &recipient);
                    let expected = expected.unwrap_or(answer.custody);
                    assert_eq!(answer.custody, expected, "{what}: custody");
                }
            }
        }
    }
}

/// The hash as base64 of the MAC, and of its hexadecimal digits.
fn both_forms(binding: &PolicyBinding) -> [String; 2] {
    let mac = binding.as_bytes();
    [BASE64_STANDARD.encode(mac), BASE64_STANDARD.encode(hex::encode(mac))]
}

pub(super) async fn policies(subject: &Subject, key: &KeyDetails) {
    let long = "QUJD".repeat(1 << 18);
    for policy in ["", "Zg==", "Zg==\r\n", "not base64 at all: \u{e9}", &long] {
        let (sample, recipient) = (Sample::with(key, 32, policy), anybody());
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        let what = format!("{}: policy of {} bytes", label(key), policy.len());
        expect_opens(&what, &sample, Algorithm::Rsa2048, &recipient, outcome);
    }
    for changed in ["", &POLICY[1..], &POLICY[..POLICY.len() - 1], &format!("{POLICY}\n"), &long] {
        let mut sample = Sample::new(key);
        changed.clone_into(&mut sample.policy);
        let outcome = sample.rewrap(&*subject.manager, key, &anybody()).await;
        let what = format!("{}: another policy of {} bytes", label(key), changed.len());
        expect_decrypt(what, &outcome);
    }
}

/// `decrypt`, `verify_binding` and `export` one by one. A manager may refuse: then as the contract
/// says, and it must not have implemented `rewrap` by it.
pub(super) async fn unwrapped(subject: &Subject, key: &KeyDetails) {
    let what = format!("{}: decrypt", label(key));
    let (sample, recipient) = (Sample::new(key), anybody());
    let protected = match subject.manager.decrypt(key, &sample.wrapped, soon()).await {
        Err(Error::Unsupported(_) | Error::NotPermitted(_)) => return,
        outcome => outcome.unwrap_or_else(|error| panic!("{what}: {error:?}")),
    };
    let verified = protected.verify_binding(&sample.policy, &sample.binding).await;
    let verified = verified.unwrap_or_else(|error| panic!("{what}: verify_binding: {error:?}"));
    let outcome = verified.export(&recipient).await;
    expect_opens(&what, &sample, Algorithm::Rsa2048, &recipient, outcome);

    let again = subject.manager.decrypt(key, &sample.wrapped, soon()).await;
    let again = again.unwrap_or_else(|error| panic!("{what} again: {error:?}"));
    let outcome = again.verify_binding("b3RoZXI=", &sample.binding).await;
    expect_decrypt(format!("{what}: verify_binding of another policy"), &outcome);
    let stranger = wrap_bytes(&Clients::strangers().public_key(key.algorithm), &[7; 32]);
    let outcome = subject.manager.decrypt(key, &stranger, soon()).await;
    expect_decrypt(format!("{what} of another's"), &outcome);
}

pub(super) async fn derived(subject: &Subject, key: &KeyDetails) {
    let what = format!("{}: derive", label(key));
    let manager = &*subject.manager;
    let (PublicKey::Ec(public), true) = (&key.public_key, subject.derives) else {
        let PublicKey::Ec(peer) = Clients::shared().public_key(Algorithm::Ec(Curve::P256)) else {
            panic!("an EC client has an EC key")
        };
        let outcome = manager.derive(key, &peer, soon()).await;
        assert!(matches!(outcome, Err(Error::Unsupported(_))), "{what}: {outcome:?}");
        return;
    };
    let (peer, secret) = agree(public);
    let dek = Dek::from_slice(&secret).expect("32 bytes");
    let binding = PolicyBinding::from(*binding::compute(&dek, POLICY));
    for (policy, fits) in [(POLICY, true), ("b3RoZXI=", false)] {
        let protected = manager.derive(key, &peer, soon()).await;
        let protected = protected.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        match protected.verify_binding(policy, &binding).await {
            Ok(_) => assert!(fits, "{what}: any binding fits"),
            outcome if !fits => expect_decrypt(&what, &outcome),
            Err(error) => panic!("{what}: not the key that the peer derives: {error:?}"),
        }
    }
    for curve in other_curves(public.curve()) {
        let PublicKey::Ec(peer) = Clients::shared().public_key(Algorithm::Ec(curve)) else {
            panic!("an EC client has an EC key")
        };
        let outcome = manager.derive(key, &peer, soon()).await;
        expect_decrypt(format!("{what} with a peer on {curve:?}"), &outcome);
    }
}

fn other_curves(curve: Curve) -> impl Iterator<Item = Curve> {
    [Curve::P256, Curve::P384, Curve::P521].into_iter().filter(move |other| *other != curve)
}

pub(super) async fn probed(subject: &Subject, key: &KeyDetails) {
    let what = format!("{}: probe", label(key));
    let mut mismatching = key.clone();
    mismatching.public_key = Clients::strangers().public_key(key.algorithm);
    for _ in 0..2 {
        let outcome = subject.manager.probe(key, soon()).await;
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
        let outcome = subject.manager.probe(&mismatching, soon()).await;
        assert!(outcome.is_err(), "{what} accepts a public key of somebody else");
    }
}

/// One bit flipped, in every byte of everything.
pub(super) async fn tampered(subject: &Subject, key: &KeyDetails) {
    let recipient = anybody();
    let mut sample = Sample::new(key);
    let length = body(&mut sample.wrapped).len();
    for position in 0..length {
        flip(body(&mut sample.wrapped), position);
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        expect_decrypt(format!("{}: byte {position} of the ciphertext", label(key)), &outcome);
        flip(body(&mut sample.wrapped), position);
    }
    let mac = *sample.binding.as_bytes();
    for position in 0..mac.len() {
        let mut changed = mac;
        flip(&mut changed, position);
        sample.binding = changed.into();
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        expect_decrypt(format!("{}: byte {position} of the binding", label(key)), &outcome);
    }
    sample.binding = mac.into();
    for position in 0..POLICY.len() {
        let mut changed = POLICY.as_bytes().to_vec();
        changed[position] ^= 1;
        sample.policy = String::from_utf8(changed).expect("ASCII stays ASCII");
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        expect_decrypt(format!("{}: byte {position} of the policy", label(key)), &outcome);
    }
    POLICY.clone_into(&mut sample.policy);
    let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
    let what = format!("{}: put together again", label(key));
    expect_opens(what, &sample, Algorithm::Rsa2048, &recipient, outcome);
}

fn body(wrapped: &mut WrappedDek) -> &mut Vec<u8> {
    match wrapped {
        WrappedDek::Ec { blob, .. } => blob,
        WrappedDek::Rsa(ciphertext) => ciphertext,
    }
}

fn flip(bytes: &mut [u8], position: usize) {
    bytes[position] ^= 1 << (position % 8);
}

/// Ciphertexts that are none, and sound ones of what is no data key.
pub(super) async fn malformed(subject: &Subject, key: &KeyDetails) {
    let recipient = anybody();
    let mut sample = Sample::new(key);
    for bytes in bodies(&key.public_key, body(&mut sample.wrapped)) {
        let what = format!("{}: {} bytes starting {:02x?}", label(key), bytes.len(), bytes.first());
        *body(&mut sample.wrapped) = bytes;
        expect_decrypt(what, &sample.rewrap(&*subject.manager, key, &recipient).await);
    }
    for length in [0, 1, 15, 17, 23, 25, 31, 33, 64] {
        sample.wrapped = wrap_bytes(&key.public_key, &vec![7; length]);
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        expect_decrypt(format!("{}: a data key of {length} bytes", label(key)), &outcome);
    }
    if key.algorithm.is_rsa() {
        let dek = Sample::new(key).dek;
        sample.wrapped =
            WrappedDek::Rsa(encrypt(&key.public_key, dek.expose_secret(), Oaep::Sha256));
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        expect_decrypt(format!("{}: OAEP with SHA-256", label(key)), &outcome);
    }
    expect_usable("malformed ciphertexts", subject, key).await;
}

fn bodies(key: &PublicKey, sound: &[u8]) -> Vec<Vec<u8>> {
    let length = sound.len();
    let longer = [sound, &[0]].concat();
    let mut bodies = vec![sound[..length - 1].to_vec(), longer];
    match key {
        PublicKey::Ec(_) => {
            bodies.extend((0..=28).map(|short| sound[..short].to_vec()));
            bodies.extend([vec![0; 28], vec![0; length]]);
        }
        PublicKey::Rsa(key) => {
            let mut one = vec![0; length];
            one[length - 1] = 1;
            let leading_zero = [&[0], sound].concat();
            bodies.extend([vec![], vec![1], vec![0; length], vec![0xff; length], one]);
            bodies.extend([leading_zero, key.modulus().to_vec(), vec![0xff; length * 2]]);
        }
    }
    bodies
}

/// What is wrapped for another kind of key.
pub(super) async fn wrong_form(subject: &Subject, key: &KeyDetails) {
    for algorithm in Algorithm::ALL.into_iter().filter(|other| *other != key.algorithm) {
        let mut sample = Sample::new(key);
        let other = Clients::strangers().public_key(algorithm);
        sample.wrapped = other.wrap(&sample.dek).expect("wrapping");
        let outcome = sample.rewrap(&*subject.manager, key, &anybody()).await;
        expect_decrypt(format!("{}: wrapped for {algorithm}", label(key)), &outcome);
    }
    if let PublicKey::Ec(public) = &key.public_key {
        for curve in other_curves(public.curve()) {
            let mut sample = Sample::new(key);
            let PublicKey::Ec(stray) = Clients::shared().public_key(Algorithm::Ec(curve)) else {
                panic!("an EC client has an EC key")
            };
            let WrappedDek::Ec { ephemeral, .. } = &mut sample.wrapped else {
                panic!("an EC key wraps the EC way")
            };
            *ephemeral = stray;
            let outcome = sample.rewrap(&*subject.manager, key, &anybody()).await;
            expect_decrypt(format!("{}: ephemeral key on {curve:?}", label(key)), &outcome);
        }
    }
    expect_usable("other forms", subject, key).await;
}

/// What is wrapped for a key of somebody else, or for another key of this manager.
pub(super) async fn wrong_key(subject: &Subject, key: &KeyDetails) {
    let siblings = subject.keys.iter().filter(|other| other.public_key != key.public_key);
    let others = siblings.map(|other| other.public_key.clone());
    for other in others.chain([Clients::strangers().public_key(key.algorithm)]) {
        let mut sample = Sample::new(key);
        sample.wrapped = other.wrap(&sample.dek).expect("wrapping");
        let outcome = sample.rewrap(&*subject.manager, key, &anybody()).await;
        expect_decrypt(format!("{}: wrapped for another key", label(key)), &outcome);
    }
}

/// Nobody but the recipient opens an answer, and the recipient opens it only with its session key.
pub(super) async fn wrong_recipient(subject: &Subject, key: &KeyDetails) {
    for client in Algorithm::ALL {
        let what = format!("{} to {client}", label(key));
        let (recipient, another) = (opened(subject, client).await, opened(subject, client).await);
        let sample = Sample::new(key);
        let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
        let answer = expect_opens(&what, &sample, client, &recipient, outcome);
        let stranger = Clients::strangers().open(client, &recipient, &answer);
        assert!(stranger.is_none(), "{what}: a stranger opens the answer");
        if !client.is_rsa() {
            assert_ne!(
                recipient.session_public_key(),
                another.session_public_key(),
                "{what}: session keys repeat"
            );
            let other_session = Clients::shared().open(client, &another, &answer);
            assert!(other_session.is_none(), "{what}: opens with any session key");
        }
    }
}

pub(super) async fn public_key_only(subject: &Subject, key: &KeyDetails) {
    let mut key = key.clone();
    key.mode = KeyMode::PublicKeyOnly;
    let outcome = Sample::new(&key).rewrap(&*subject.manager, &key, &anybody()).await;
    assert!(
        matches!(outcome, Err(Error::NotPermitted(_) | Error::NotFound(_))),
        "{} without private part: {outcome:?}",
        label(&key)
    );
}

pub(super) async fn late(subject: &Subject, key: &KeyDetails) {
    let what = format!("{}: deadline passed", label(key));
    let (sample, recipient) = (Sample::new(key), anybody());
    let past = Deadline::after(Duration::ZERO);
    let request = RewrapRequest { deadline: past, ..sample.request(key, &recipient) };
    let outcome = subject.manager.rewrap(request).await;
    expect_refused(&what, &outcome);
    expect_refused(&what, &subject.manager.decrypt(key, &sample.wrapped, past).await);
    expect_usable("deadline passed", subject, key).await;
}

/// An error that says nothing about the key.
fn expect_refused<T: fmt::Debug>(what: &str, outcome: &Result<T>) {
    assert!(outcome.is_err(), "{what}: {outcome:?}");
    assert!(!matches!(outcome, Err(Error::Decrypt | Error::NotFound(_))), "{what}: {outcome:?}");
}

pub(super) async fn cancelled(subject: &Subject, key: &KeyDetails) {
    let (sample, recipient) = (Sample::new(key), anybody());
    for _ in 0..20 {
        // Polled once and dropped, wherever that finds it.
        let _ = sample.rewrap(&*subject.manager, key, &recipient).now_or_never();
    }
    expect_usable("cancelled", subject, key).await;
}

/// One recipient serves all the keys of a response.
pub(super) async fn shared_recipient(subject: &Subject) {
    for client in Algorithm::ALL {
        let recipient = opened(subject, client).await;
        let mut answers = Vec::new();
        for key in subject.keys.iter().chain(&subject.keys) {
            let what = format!("{} to a shared {client}", label(key));
            let sample = Sample::new(key);
            let outcome = sample.rewrap(&*subject.manager, key, &recipient).await;
            let answer = expect_opens(&what, &sample, client, &recipient, outcome).wrapped;
            let nonce = answer[..12].to_vec();
            assert!(!answers.contains(&nonce), "{what}: answers start alike");
            answers.push(nonce);
        }
    }
}

pub(super) async fn absent(subject: &Subject) {
    let key = &subject.absent;
    let sample = Sample::new(key);
    let outcome = sample.rewrap(&*subject.manager, key, &anybody()).await;
    let what = format!("absent {}", label(key));
    assert!(
        matches!(&outcome, Err(Error::NotFound(kid)) if *kid == key.kid),
        "{what}: {outcome:?}"
    );
    let outcome = subject.manager.decrypt(key, &sample.wrapped, soon()).await;
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{what}: decrypt: {outcome:?}");
    let outcome = subject.manager.probe(key, soon()).await;
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{what}: probe: {outcome:?}");
}

/// Many at once, a quarter of them tampered with: nobody gets the outcome of another.
pub(super) async fn concurrent(subject: &Subject) {
    let tasks = (0..64).map(|number| {
        let manager = Arc::clone(&subject.manager);
        let key = subject.keys[number % subject.keys.len()].clone();
        let client = Algorithm::ALL[number % 3 * 2]; // RSA-2048, P-256, P-521
        tokio::spawn(async move {
            let what = format!("{}: rewrap {number} of 64 at once", label(&key));
            let mut sample = Sample::new(&key);
            let recipient = in_host(client);
            if number % 4 == 3 {
                let ciphertext = body(&mut sample.wrapped);
                let position = number % ciphertext.len();
                flip(ciphertext, position);
                expect_decrypt(what, &sample.rewrap(&*manager, &key, &recipient).await);
            } else {
                let outcome = sample.rewrap(&*manager, &key, &recipient).await;
                expect_opens(what, &sample, client, &recipient, outcome);
            }
        })
    });
    for outcome in future::join_all(tasks).await {
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

pub(super) async fn closed(subject: &Subject) {
    let manager = &*subject.manager;
    future::join(manager.close(), manager.close()).await;
    manager.close().await;
    assert_ne!(manager.health().await, Health::Ready, "ready after close");
    for key in &subject.keys {
        let sample = Sample::new(key);
        let what = format!("{}: after close", label(key));
        expect_unavailable(&what, &sample.rewrap(manager, key, &anybody()).await);
        expect_unavailable(&what, &manager.decrypt(key, &sample.wrapped, soon()).await);
        expect_unavailable(&what, &manager.probe(key, soon()).await);
    }
}

fn expect_unavailable<T: fmt::Debug>(what: &str, outcome: &Result<T>) {
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{what}: {outcome:?}");
}
