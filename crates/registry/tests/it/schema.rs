//! The schema, and databases that are not as they should be.

use std::os::unix::fs::PermissionsExt;

use kasbah_registry::{Database, Error};

use crate::harness::{Plane, Store, admin, on_both, provider};

async fn an_empty_database_says_what_it_lacks(store: Store) {
    let database = store.open().await;
    let status = database.migration_status().await.unwrap();
    assert!(!status.is_empty() && status.iter().all(|known| !known.applied), "{status:?}");
    database.migrate().await.unwrap();
    database.migrate().await.unwrap();
    assert!(database.migration_status().await.unwrap().iter().all(|known| known.applied));
}

on_both!(an_empty_database_says_what_it_lacks);

#[tokio::test]
async fn a_file_is_copied_while_it_is_in_use() {
    let plane = Plane::start(Store::sqlite()).await;
    plane.hsm("before").await;
    let dir = tempfile::TempDir::new().unwrap();
    let copy = dir.path().join("copy.db");
    let (mut client, database) = (plane.providers(), plane.registry.database().clone());
    let writes = tokio::spawn(async move {
        for number in 0..50 {
            let message = provider(&format!("w{number}"), "m", "{}");
            client.create_provider_config(admin(message)).await.unwrap();
        }
    });
    database.copy_to(&copy).await.unwrap();
    writes.await.unwrap();
    let copied = Database::open(&format!("sqlite:{}", copy.display())).await.unwrap();
    assert!(copied.migration_status().await.unwrap().iter().all(|known| known.applied));
    database.copy_to(&copy).await.unwrap_err();
    let Store::Sqlite(dir) = &plane.store else { unreachable!() };
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is its owner's only", file.path());
    }
}

#[tokio::test]
async fn a_password_is_not_printed() {
    let postgres = kasbah_testkit::postgres::Postgres::start();
    let url = postgres.url().replace("kasbah@", "kasbah:hunter2@");
    let store = Database::open(&url).await.unwrap();
    store.migrate().await.unwrap();
    let printed = format!("{store:?} {:?}", crate::harness::over(store.clone()));
    assert!(!printed.contains("hunter2"), "{printed}");
    let nobody = Database::open("postgres://kasbah:hunter2@127.0.0.1:1/kasbah").await;
    let error = nobody.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn urls_that_cannot_be_are_refused() {
    for url in ["", "sqlite:", "mysql://x", "kasbah.db", "postgres"] {
        let error = Database::open(url).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{url}: {error}");
    }
    let nobody = Database::open("postgres://kasbah@127.0.0.1:1/kasbah").await.unwrap_err();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody}");
}
