//! The suite itself: it passes a sound manager, and finds each flaw of others.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failing test")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use kasbah_crypto::PrivateKey;
use kasbah_trust::{
    Algorithm, Curve, Custody, CustodyLevel, Deadline, Dek, EcPublicKey, Error, Health, KeyDetails,
    KeyManager, KeyMode, KeyStatus, PrivateKeyRef, ProtectedKey, Result, RewrapRequest,
    RewrappedKey, SoftwareKey, WrappedDek,
    conformance::{self, Subject},
};

const P256: Algorithm = Algorithm::Ec(Curve::P256);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    AbsentIsDecrypt,
    BindingUnchecked,
    CustodyOverstated,
    DeadlineIgnored,
    DeadlineIsDecrypt,
    DeriveMissing,
    MixesUpRequests,
    OpenAfterClose,
    ProbeBelieves,
    ServesPublicKeyOnly,
    TamperIsOutage,
    TriesEveryKey,
}

/// A manager over software keys, by kid, with one flaw.
struct Flawed {
    flaw: Flaw,
    keys: Vec<(String, PrivateKey)>,
    closed: AtomicBool,
    last: Mutex<Option<Dek>>,
}

impl Flawed {
    fn find(&self, key: &KeyDetails, deadline: Deadline) -> Result<&PrivateKey> {
        if self.closed.load(Ordering::SeqCst) && self.flaw != Flaw::OpenAfterClose {
            return Err(Error::unavailable("closed"));
        }
        match self.flaw {
            Flaw::DeadlineIgnored => {}
            Flaw::DeadlineIsDecrypt if deadline.has_passed() => return Err(Error::Decrypt),
            _ if deadline.has_passed() => return Err(Error::unavailable("late")),
            _ => {}
        }
        if key.mode == KeyMode::PublicKeyOnly && self.flaw != Flaw::ServesPublicKeyOnly {
            return Err(Error::NotPermitted("no private part"));
        }
        let found = self.keys.iter().find(|(kid, _)| *kid == key.kid.as_str());
        found.map(|(_, key)| key).ok_or_else(|| match self.flaw {
            Flaw::AbsentIsDecrypt => Error::Decrypt,
            _ => Error::NotFound(key.kid.clone()),
        })
    }

    fn unwrap(&self, key: &PrivateKey, wrapped: &WrappedDek) -> Result<Dek> {
        let opened = key.unwrap_dek(wrapped);
        match self.flaw {
            Flaw::TamperIsOutage => opened.map_err(|_| Error::unavailable("token error")),
            Flaw::TriesEveryKey => opened
                .or_else(|error| {
                    let mut others = self.keys.iter().map(|(_, key)| key.unwrap_dek(wrapped));
                    others.find(Result::is_ok).unwrap_or(Err(error))
                })
                .map_err(Error::from),
            _ => Ok(opened?),
        }
    }

    /// Puts the key down where the next request may pick it up.
    async fn pass_around(&self, dek: Dek) -> Dek {
        *self.last.lock().unwrap() = Some(dek);
        loop {
            tokio::task::yield_now().await;
            if let Some(dek) = self.last.lock().unwrap().take() {
                return dek;
            }
            // Somebody else has ours; a stand-in keeps this from waiting for ever.
            *self.last.lock().unwrap() = Some(Dek::generate().unwrap());
        }
    }
}

#[async_trait]
impl KeyManager for Flawed {
    fn name(&self) -> &'static str {
        "flawed"
    }

    async fn decrypt(
        &self,
        key: &KeyDetails,
        wrapped: &WrappedDek,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let mut dek = self.unwrap(self.find(key, deadline)?, wrapped)?;
        let mut custody = Custody::SOFTWARE;
        match self.flaw {
            Flaw::MixesUpRequests => dek = self.pass_around(dek).await,
            Flaw::CustodyOverstated => custody.level = CustodyLevel::Sealed,
            _ => {}
        }
        Ok(Box::new(SoftwareKey::new(dek, custody)))
    }

    async fn derive(
        &self,
        key: &KeyDetails,
        peer: &EcPublicKey,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        match self.find(key, deadline)? {
            PrivateKey::Ec(private) if self.flaw != Flaw::DeriveMissing => {
                let dek = private.agree(peer)?.to_dek()?;
                Ok(Box::new(SoftwareKey::new(dek, Custody::SOFTWARE)))
            }
            _ => Err(Error::Unsupported("no agreement")),
        }
    }

    async fn rewrap(&self, request: RewrapRequest<'_>) -> Result<RewrappedKey> {
        if self.flaw == Flaw::BindingUnchecked {
            let key = self.find(request.key, request.deadline)?;
            let wrapped = request.recipient.encrypt(&self.unwrap(key, request.wrapped)?)?;
            return Ok(RewrappedKey { wrapped, custody: Custody::SOFTWARE });
        }
        let protected = self.decrypt(request.key, request.wrapped, request.deadline).await?;
        let verified = protected.verify_binding(request.policy, request.binding).await?;
        verified.export(request.recipient).await
    }

    async fn probe(&self, key: &KeyDetails, deadline: Deadline) -> Result<Custody> {
        let private = self.find(key, deadline)?;
        let fits = self.flaw == Flaw::ProbeBelieves || private.public_key() == key.public_key;
        if fits { Ok(Custody::SOFTWARE) } else { Err(Error::Decrypt) }
    }

    async fn health(&self) -> Health {
        if self.closed.load(Ordering::SeqCst) {
            return Health::NotReady("closed".to_owned());
        }
        Health::Ready
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Flawed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.flaw)
    }
}

fn details(kid: &str, private: &PrivateKey) -> KeyDetails {
    KeyDetails {
        kas_uri: "https://kas.example.com".into(),
        kid: kid.into(),
        algorithm: private.public_key().algorithm().unwrap(),
        mode: KeyMode::Remote,
        status: KeyStatus::Active,
        legacy: false,
        public_key: private.public_key(),
        private_key: PrivateKeyRef::default(),
        provider: None,
    }
}

fn subject(flaw: Flaw) -> Subject {
    let algorithms = [Algorithm::Rsa2048, P256, P256];
    let keys: Vec<_> = algorithms
        .into_iter()
        .enumerate()
        .map(|(number, algorithm)| (format!("k{number}"), PrivateKey::generate(algorithm).unwrap()))
        .collect();
    Subject {
        keys: keys.iter().map(|(kid, private)| details(kid, private)).collect(),
        absent: details("absent", &PrivateKey::generate(P256).unwrap()),
        manager: Arc::new(Flawed { flaw, keys, closed: false.into(), last: Mutex::default() }),
        custody: |_, _| Some(Custody::SOFTWARE),
        derives: true,
    }
}

/// What the suite says of a manager with this flaw.
async fn verdict(flaw: Flaw) -> String {
    let subject = subject(flaw);
    let outcome = tokio::spawn(async move { conformance::all(&subject).await }).await;
    let panic = outcome.expect_err("the flaw was not found").into_panic();
    panic.downcast_ref::<String>().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_manager_passes() {
    conformance::all(&subject(Flaw::None)).await;
}

#[tokio::test]
async fn a_subject_without_keys_does_not_pass() {
    let mut subject = subject(Flaw::None);
    subject.keys.clear();
    let outcome = tokio::spawn(async move { conformance::all(&subject).await }).await;
    assert!(outcome.unwrap_err().is_panic());
}

macro_rules! finds {
    ($($name:ident: $flaw:ident => $text:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let verdict = verdict(Flaw::$flaw).await;
            assert!(verdict.contains($text), "{verdict}");
        }
    )*};
}

finds! {
    it_finds_an_absent_key_reported_as_tampering: AbsentIsDecrypt => "absent key absent";
    it_finds_an_unchecked_binding: BindingUnchecked => "another policy";
    it_finds_an_overstated_custody: CustodyOverstated => "custody";
    it_finds_an_ignored_deadline: DeadlineIgnored => "deadline passed";
    it_finds_a_deadline_reported_as_tampering: DeadlineIsDecrypt => "deadline passed";
    it_finds_a_missing_derivation: DeriveMissing => "derive";
    it_finds_requests_mixed_up: MixesUpRequests => "of 64 at once";
    it_finds_work_after_close: OpenAfterClose => "after close";
    it_finds_a_probe_that_does_not_look: ProbeBelieves => "accepts a public key of somebody else";
    it_finds_service_without_private_part: ServesPublicKeyOnly => "without private part";
    it_finds_tampering_reported_as_outage: TamperIsOutage => "expected Decrypt";
    it_finds_other_keys_tried: TriesEveryKey => "wrapped for another key";
}
