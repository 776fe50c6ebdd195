//! Many things at once, and things that never end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kasbah_kas::{AuditOutcome, Limits};
use tonic::Code;

use crate::{
    harness::*,
    scripted::{Record, scripted, scripted_key},
};

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_get_their_own_answers() {
    let keys = [key("r1", RSA), key("e1", P256)];
    let server = Server::start(keys.to_vec()).await;
    let requests = (0..60).map(|index| {
        let (server, key) = (&server, &keys[index % 2]);
        async move {
            let session = Session::new(P256);
            let dek = dek();
            let kao = kao("k", key, &dek, OPEN_POLICY);
            let request = body(&session.public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
            let response = server.rewrap(&request).await.unwrap();
            let wrapped = outcomes(&response).remove(0).unwrap();
            let opened = session.open(wrapped, &response.session_public_key);
            assert_eq!(opened, dek.expose_secret());
        }
    });
    join_all(requests).await;
    assert_eq!(server.audit.take().len(), 60);
}

#[tokio::test]
async fn key_access_objects_run_together_up_to_the_limit() {
    let key = scripted_key("slow", RSA, "hsm");
    let record: Arc<Record> = Arc::default();
    let limits = Limits { concurrent_kaos: 4, ..Limits::default() };
    let configure = scripted(&record);
    let server = Server::with(vec![key.clone()], |builder| configure(builder).limits(limits)).await;
    let kaos: Vec<_> =
        (0..12).map(|index| kao(&index.to_string(), &key, &dek(), OPEN_POLICY)).collect();
    let kaos: Vec<_> = kaos.iter().collect();
    let request = body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &kaos)]);
    assert!(outcomes(&server.rewrap(&request).await.unwrap()).iter().all(Result::is_ok));
    assert_eq!(record.most_running.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_manager_that_does_not_answer_is_unavailable_at_the_deadline() {
    let keys = [scripted_key("stuck", RSA, "hsm"), scripted_key("fine", RSA, "hsm")];
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let configure = scripted(&Arc::default());
    let server = Server::with(keys.to_vec(), |builder| configure(builder).limits(limits)).await;
    let kaos = keys.each_ref().map(|key| kao(key.kid.as_str(), key, &dek(), OPEN_POLICY));
    let request =
        body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &[&kaos[0], &kaos[1]])]);
    let started = Instant::now();
    let outcomes = outcomes(&server.rewrap(&request).await.unwrap());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(outcomes[0], Err(fault("Unavailable", "key manager unavailable")));
    assert_eq!(outcomes[1], Ok(b"fine".to_vec()));
}

#[tokio::test]
async fn a_shorter_timeout_of_the_client_counts() {
    let key = scripted_key("stuck", RSA, "hsm");
    let server = Server::with(vec![key.clone()], scripted(&Arc::default())).await;
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let mut request = request(&srt(&body));
    request.set_timeout(Duration::from_millis(200));
    let started = Instant::now();
    let response = server.send(request).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    // Whose clock is first decides who says it.
    match response {
        Ok(response) => {
            assert_eq!(outcomes(&response), [Err(fault("Unavailable", "key manager unavailable"))]);
        }
        Err(status) => {
            assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_an_event() {
    let key = scripted_key("stuck", RSA, "hsm");
    let server = Server::with(vec![key.clone()], scripted(&Arc::default())).await;
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(P256).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let waited = tokio::time::timeout(Duration::from_millis(300), server.rewrap(&body)).await;
    waited.unwrap_err();
    for _ in 0..100 {
        if let [event] = server.audit.take().as_slice() {
            assert_eq!(event.outcome, AuditOutcome::Cancelled);
            assert_eq!(event.to_json()["audit"]["action"]["result"], "cancel");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no event was recorded");
}

#[tokio::test]
async fn requests_beyond_the_limit_are_turned_away() {
    let keys = [scripted_key("stuck", RSA, "hsm"), scripted_key("fine", RSA, "hsm")];
    let limits = Limits {
        concurrent_requests: 2,
        request_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let configure = scripted(&Arc::default());
    let server = Server::with(keys.to_vec(), |builder| configure(builder).limits(limits)).await;
    let client = Session::new(P256).public_key();
    let ask = |index: usize| {
        let kao = kao("k", &keys[index], &dek(), OPEN_POLICY);
        body(&client, &[entry("p", OPEN_POLICY, &[&kao])])
    };
    let stuck = ask(0);
    let results = join_all((0..6).map(|_| server.rewrap(&stuck))).await;
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 4);
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "request error\nrpc error: code = ResourceExhausted desc = resource exhausted: too \
             many requests under way, try again later"
        );
    }
    assert!(server.rewrap(&ask(1)).await.is_ok(), "places are free again");
}
