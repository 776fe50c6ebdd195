//! What key managers may answer, and what clients see of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kasbah_kas::{AuditOutcome, KasBuilder, Limits};
use kasbah_trust::{
    Algorithm, Custody, Deadline, EcPublicKey, Error, Health, KeyDetails, KeyManager,
    KeyManagerFactory, ProtectedKey, ProviderConfig, Result, RewrapRequest, RewrappedKey,
    WrappedDek,
};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::harness::{
    BAD_REQUEST, OPEN_POLICY, RSA, Server, Session, body, dek, entry, fault, invalid, kao, key,
    outcomes,
};

const MANAGER: &str = "example.com/faults";

/// Injects the fault that the kid names; a double because no real manager fails on demand.
#[derive(Debug)]
struct Faults {
    at_once: Barrier,
    running: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl KeyManager for Faults {
    fn name(&self) -> &'static str {
        MANAGER
    }

    async fn decrypt(
        &self,
        _: &KeyDetails,
        _: &WrappedDek,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::Unsupported("only rewrap"))
    }

    async fn derive(
        &self,
        _: &KeyDetails,
        _: &EcPublicKey,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        Err(Error::Unsupported("only rewrap"))
    }

    async fn rewrap(&self, request: RewrapRequest<'_>) -> Result<RewrappedKey> {
        match request.key.kid.as_str() {
            "busy" => Err(Error::Busy),
            "decrypt" => Err(Error::Decrypt),
            "gone" => Err(Error::NotFound(request.key.kid.clone())),
            "hang" => std::future::pending().await,
            "internal" => Err(Error::internal("a secret detail")),
            "not-permitted" => Err(Error::NotPermitted("sealed custody required, but it is not")),
            "panic" => panic!("on purpose"),
            "unavailable" => Err(Error::unavailable("a secret detail")),
            "unsupported" => Err(Error::Unsupported("not this")),
            "together" => {
                // Gets past only when as many are under way as the barrier counts.
                self.at_once.wait().await;
                let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(running, Ordering::SeqCst);
                Ok(RewrappedKey { wrapped: vec![1], custody: Custody::SOFTWARE })
            }
            _ => Ok(RewrappedKey { wrapped: vec![1], custody: Custody::SOFTWARE }),
        }
    }

    async fn health(&self) -> Health {
        Health::Ready
    }

    async fn close(&self) {}
}

#[derive(Debug)]
struct FaultsFactory(Arc<Faults>);

#[async_trait]
impl KeyManagerFactory for FaultsFactory {
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        match config.name.as_str() {
            "broken" => Err(Error::unavailable("no such token")),
            _ => Ok(self.0.clone()),
        }
    }
}

fn provided(key: KeyDetails, manager: &str, name: &str) -> KeyDetails {
    let provider = ProviderConfig {
        name: name.into(),
        manager: manager.into(),
        config_json: "{}".into(),
        version: 1,
    };
    KeyDetails { provider: Some(Arc::new(provider)), ..key }
}

fn faulty(kid: &str) -> KeyDetails {
    provided(key(kid, RSA), MANAGER, "faults")
}

async fn server(keys: Vec<KeyDetails>) -> Server {
    server_with(keys, |builder| builder).await
}

async fn server_with(
    keys: Vec<KeyDetails>,
    configure: impl FnOnce(KasBuilder) -> KasBuilder,
) -> Server {
    let faults = Faults {
        at_once: Barrier::new(4),
        running: AtomicUsize::default(),
        most: AtomicUsize::default(),
    };
    let factory = Arc::new(FaultsFactory(Arc::new(faults)));
    Server::with(keys, |builder| configure(builder.key_manager(MANAGER, &Algorithm::ALL, factory)))
        .await
}

#[tokio::test]
async fn each_answer_of_a_manager_has_its_text_and_its_audit_outcome() {
    let unavailable = fault("Unavailable", "key manager unavailable");
    let cases = [
        ("busy", fault("ResourceExhausted", "key manager busy"), AuditOutcome::Busy),
        ("decrypt", BAD_REQUEST.to_owned(), AuditOutcome::Tampered),
        ("gone", unavailable.clone(), AuditOutcome::Unavailable),
        ("internal", fault("Internal", "internal error"), AuditOutcome::Internal),
        (
            "not-permitted",
            fault("FailedPrecondition", "sealed custody required, but it is not"),
            AuditOutcome::NotPermitted,
        ),
        ("panic", fault("Internal", "internal error"), AuditOutcome::Internal),
        ("unavailable", unavailable.clone(), AuditOutcome::Unavailable),
        ("unsupported", fault("Unimplemented", "not this"), AuditOutcome::Unsupported),
    ];
    let sound = key("sound", RSA);
    let mut keys: Vec<_> = cases.iter().map(|(kid, ..)| faulty(kid)).collect();
    keys.push(sound.clone());
    let server = server(keys.clone()).await;
    let kaos: Vec<_> =
        keys.iter().map(|key| kao(key.kid.as_str(), key, &dek(), OPEN_POLICY)).collect();
    let refs: Vec<&Value> = kaos.iter().collect();
    let client = Session::new(RSA).public_key();
    // All in one request: none may spoil another.
    let response = server.rewrap(&body(&client, &[entry("p", OPEN_POLICY, &refs)])).await.unwrap();
    let outcomes = outcomes(&response);
    assert!(outcomes[cases.len()].is_ok(), "a sound sibling: {:?}", outcomes[cases.len()]);
    let events = server.audit.take();
    for ((kid, text, outcome), answer) in cases.iter().zip(&outcomes) {
        let error = answer.as_ref().unwrap_err();
        assert_eq!(error, text, "{kid}");
        assert!(!error.contains("secret"), "{kid}: {error}");
        assert_eq!(error.contains("bad request"), *kid == "decrypt", "{kid}");
        let event = events.iter().find(|event| event.kid == *kid).unwrap();
        assert_eq!(event.outcome, *outcome, "{kid}");
    }
}

#[tokio::test]
async fn a_manager_that_hangs_is_given_up_at_the_deadline() {
    let (hanging, sound) = (faulty("hang"), faulty("sound"));
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let keys = vec![hanging.clone(), sound.clone()];
    let server = server_with(keys, |builder| builder.limits(limits)).await;
    let kaos = [&hanging, &sound].map(|key| kao(key.kid.as_str(), key, &dek(), OPEN_POLICY));
    let client = Session::new(RSA).public_key();
    let body = body(&client, &[entry("p", OPEN_POLICY, &[&kaos[0], &kaos[1]])]);
    let start = Instant::now();
    let outcomes = outcomes(&server.rewrap(&body).await.unwrap());
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(outcomes[0], Err(fault("Unavailable", "key manager unavailable")));
    assert!(outcomes[1].is_ok(), "its sibling was done in time");
}

#[tokio::test]
async fn kaos_of_one_request_run_at_the_same_time() {
    let key = faulty("together");
    let server = server(vec![key.clone()]).await;
    let kaos: Vec<_> = (0..8).map(|n| kao(&format!("k{n}"), &key, &dek(), OPEN_POLICY)).collect();
    let refs: Vec<&Value> = kaos.iter().collect();
    let client = Session::new(RSA).public_key();
    let response = server.rewrap(&body(&client, &[entry("p", OPEN_POLICY, &refs)])).await.unwrap();
    assert!(outcomes(&response).iter().all(Result::is_ok), "one by one they would hang");
}

#[tokio::test]
async fn managers_that_cannot_be_had_are_outages() {
    let broken = provided(key("broken", RSA), MANAGER, "broken");
    let mut remote = provided(key("remote", RSA), "example.com/nobody", "x");
    remote.mode = kasbah_trust::KeyMode::Remote;
    let fallback = provided(key("fallback", RSA), "example.com/nobody", "y");
    let server = server(vec![broken.clone(), remote.clone(), fallback.clone()]).await;
    let client = Session::new(RSA);
    for (key, good) in [(&broken, false), (&remote, false), (&fallback, true)] {
        let outcome =
            server.rewrap_one(&client.public_key(), &kao("k", key, &dek(), OPEN_POLICY)).await;
        if good {
            assert!(outcome.is_ok(), "an unknown manager's basic key is tried: {outcome:?}");
        } else {
            assert_eq!(outcome, Err(fault("Unavailable", "key manager unavailable")));
        }
    }
    let unknown = kao("k", &key("nobody", RSA), &dek(), OPEN_POLICY);
    assert_eq!(
        server.rewrap_one(&client.public_key(), &unknown).await,
        Err(invalid("bad request")),
        "an unknown kid"
    );
}
