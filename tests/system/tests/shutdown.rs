//! SIGTERM: nothing new, what is under way finishes, the sessions close.

use std::{net::TcpStream, time::Duration};

use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_system_tests::{
    client::{POLICY, SessionKey, body, kao, random_dek, results},
    server::Setup,
    token,
};
use kasbah_testkit::tokens::SoftHsm;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_finish() {
    let fixture = SoftHsm::fresh();
    let token = token::open(&fixture);
    let entry = provision::generate(&token, "r1", Algorithm::Rsa4096).unwrap();
    let pem = entry.public_key.unwrap().to_pem();
    let mut setup = Setup::new();
    setup.hsm("softhsm", &fixture, "require-sealed");
    setup.key(json!({
        "kid": "r1", "algorithm": "rsa:4096", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    let mut server = setup.serve();
    let connection = server.connect("alice").await;

    // At several milliseconds each, this takes about a second of the token's time.
    let (deks, kaos): (Vec<_>, Vec<_>) = (0..200)
        .map(|_| {
            let dek = random_dek();
            let kao = kao("r1", &pem, &dek, POLICY);
            (dek, kao)
        })
        .unzip();
    let client = SessionKey::rsa();
    let request = body(&client, POLICY, &kaos);
    let under_way = tokio::spawn({
        let kas = connection.clone();
        async move { kas.rewrap(&request).await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!under_way.is_finished(), "the request was over before the signal");
    server.terminate();
    while TcpStream::connect(&server.address).is_ok() {
        assert!(!under_way.is_finished(), "it took new connections until the end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let response = under_way.await.unwrap().unwrap();
    for (answer, dek) in results(&client, &response).iter().zip(&deks) {
        assert_eq!(&answer.as_ref().unwrap().dek, dek);
    }
    let code = tokio::task::spawn_blocking(move || (server.wait(), server.log())).await.unwrap();
    assert_eq!(code.0, 0, "{}", code.1);
    assert!(!code.1.contains("did not close in time"), "{}", code.1);
}
