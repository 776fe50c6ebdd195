//! The key index over a registry.

use std::time::Duration;

use kasbah_proto::kasbah::admin::v1::{SetKeyStateRequest, set_key_state_request::Target};
use kasbah_trust::{Deadline, Error, KeyFilter, KeyIndex, KeyMode, KeyStatus};

use crate::harness::{Plane, Store, admin, id_of, on_both};

async fn keys_are_found_as_they_are_registered(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, other) = (plane.own_kas().await, plane.new_kas("https://other", "").await);
    let provider = plane.hsm("main").await;
    let soon = Deadline::after(Duration::from_secs(10));
    let find = async |kid: &str| plane.index.find_by_id(&kid.into(), soon).await;
    assert!(matches!(find("k1").await, Err(Error::NotFound(_))));
    let id = id_of(&plane.local_key(&kas, "k1").await);
    plane.local_key(&other, "foreign").await;
    plane.remote_key(&kas, "k2", &provider).await;
    plane.index.changed(plane.registry.database().revision().await.unwrap());
    let found = find("k1").await.unwrap();
    assert_eq!((found.mode, found.status), (KeyMode::ConfigRootKey, KeyStatus::Active));
    assert_eq!(found.private_key.key_id.as_deref(), Some("root"));
    let remote = find("k2").await.unwrap();
    let config = remote.provider.as_ref().unwrap();
    assert_eq!(
        (&*config.name, &*config.manager, &*config.config_json),
        ("main", "opentdf.io/hsm", "{}")
    );
    assert!(config.version > 0);
    assert!(matches!(find("foreign").await, Err(Error::NotFound(_))), "another KAS's");
    let all = plane.index.list(KeyFilter::default(), soon).await.unwrap();
    let kids: Vec<_> = all.iter().map(|key| key.kid.as_str()).collect();
    assert_eq!(kids, ["k2", "k1"], "newest first");

    let mut changes = plane.registry.database().changes();
    changes.mark_unchanged();
    let disable = SetKeyStateRequest { id, target: Target::Disabled as i32 };
    plane.admin().set_key_state(admin(disable)).await.unwrap();
    assert!(changes.has_changed().unwrap(), "or this node would wait for the next poll");
    let revision = *changes.borrow();
    assert_eq!(revision, plane.registry.database().revision().await.unwrap());
    plane.index.changed(revision);
    assert_eq!(find("k1").await.unwrap().status, KeyStatus::Disabled);
}

on_both!(keys_are_found_as_they_are_registered);
