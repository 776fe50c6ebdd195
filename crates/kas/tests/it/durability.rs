//! A key leaves when its audit event is kept, and not before.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kasbah_audit::{NotKept, Receipt};
use kasbah_kas::{AuditEvent, AuditOutcome, AuditSink, Limits};
use tokio::{sync::oneshot, time::timeout};

use crate::harness::*;

type Pending = oneshot::Sender<Result<(), NotKept>>;

/// Keeps nothing until it is told to; to inject faults.
#[derive(Debug, Default)]
struct Held(Mutex<Vec<(AuditEvent, Pending)>>);

impl AuditSink for Held {
    fn record(&self, event: &AuditEvent) -> Receipt {
        let (answer, receipt) = oneshot::channel();
        self.0.lock().unwrap().push((event.clone(), answer));
        Receipt::pending(receipt)
    }
}

impl Held {
    async fn next(&self) -> (AuditEvent, Pending) {
        loop {
            if let Some(first) = self.0.lock().unwrap().pop() {
                return first;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn serve(limits: Limits) -> (Server, Arc<Held>, serde_json::Value) {
    let held = Arc::new(Held::default());
    let sink: Arc<dyn AuditSink> = held.clone();
    let key = key("r1", RSA);
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let sent = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let server = Server::with(vec![key], |builder| builder.audit(sink).limits(limits)).await;
    (server, held, sent)
}

#[tokio::test]
async fn the_answer_waits_for_the_log() {
    let (server, held, sent) = serve(Limits::default()).await;
    let mut asking = Box::pin(server.rewrap(&sent));
    let early = timeout(Duration::from_millis(300), &mut asking).await;
    assert!(early.is_err(), "{early:?}");
    let (event, pending) = held.next().await;
    assert_eq!(event.outcome, AuditOutcome::Success);
    pending.send(Ok(())).unwrap();
    assert!(outcomes(&asking.await.unwrap())[0].is_ok());
}

#[tokio::test]
async fn what_is_not_kept_is_not_released() {
    for (answer, text) in [
        (Some(NotKept::Full), fault("ResourceExhausted", "audit log busy")),
        (Some(NotKept::Failed), fault("Unavailable", "audit log unavailable")),
        // Whoever should say so has gone.
        (None, fault("Unavailable", "audit log unavailable")),
    ] {
        let (server, held, sent) = serve(Limits::default()).await;
        let (response, ()) = tokio::join!(server.rewrap(&sent), async {
            let (_, pending) = held.next().await;
            if let Some(answer) = answer {
                pending.send(Err(answer)).unwrap();
            }
        });
        assert_eq!(outcomes(&response.unwrap()), [Err(text)]);
    }
}

#[tokio::test]
async fn a_log_that_never_answers_holds_nobody_past_the_deadline() {
    let limits = Limits { request_timeout: Duration::from_secs(1), ..Limits::default() };
    let (server, held, sent) = serve(limits).await;
    let response = server.rewrap(&sent).await.unwrap();
    assert_eq!(outcomes(&response), [Err(fault("Unavailable", "audit log unavailable"))]);
    drop(held);
}
