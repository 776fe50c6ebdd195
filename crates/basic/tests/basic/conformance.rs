use std::sync::Arc;

use kasbah_basic::{ALGORITHMS, BasicFactory, MANAGER, RootKeys};
use kasbah_trust::{
    Algorithm, Curve, Custody, KeyManagerFactory, KeyManagers, ProviderConfig,
    conformance::{self, Subject},
};

use crate::fixture::{ROOT, manager, private_pem, probe, root, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let twins = [Algorithm::Rsa2048, Algorithm::Ec(Curve::P256)];
    let keys = ALGORITHMS.into_iter().chain(twins).enumerate();
    let keys = keys.map(|(number, algorithm)| {
        let pem = private_pem(algorithm);
        stored(&format!("k{number}"), &pem)
    });
    let mut absent = stored("absent", &private_pem(Algorithm::Rsa2048));
    absent.private_key.wrapped_key = None;
    conformance::all(&Subject {
        manager: Arc::new(manager(&[("a", ROOT)])),
        keys: keys.collect(),
        absent,
        custody: |_, _| Some(Custody::SOFTWARE),
        derives: true,
    })
    .await;
}

#[tokio::test]
async fn its_factory_ignores_settings_and_shares_root_keys() {
    let root_keys = RootKeys::new("a".into(), [("a".into(), root(ROOT))].into()).unwrap();
    let mut managers = KeyManagers::default();
    managers.register(MANAGER, &ALGORITHMS, Arc::new(BasicFactory::new(root_keys))).unwrap();
    let config = ProviderConfig {
        name: "any".into(),
        manager: MANAGER.into(),
        config_json: "not even JSON".into(),
        version: 7,
    };
    let factory: &Arc<dyn KeyManagerFactory> = managers.factory(MANAGER).unwrap();
    let one = factory.create(&config).await.unwrap();
    let other = factory.create(&config).await.unwrap();
    one.close().await;
    let key = stored("k", &private_pem(Algorithm::Ec(Curve::P256)));
    other.probe(&key, crate::fixture::soon()).await.unwrap();
    assert!(one.probe(&key, crate::fixture::soon()).await.is_err());
}

#[tokio::test]
async fn close_forgets_the_keys() {
    let manager = manager(&[("a", ROOT)]);
    for kid in ["k1", "k2"] {
        probe(&manager, &stored(kid, &private_pem(Algorithm::Ec(Curve::P256)))).await.unwrap();
    }
    assert_eq!(manager.loaded_keys(), 2);
    kasbah_trust::KeyManager::close(&manager).await;
    assert_eq!(manager.loaded_keys(), 0);
}
