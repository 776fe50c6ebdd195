//! What becomes of keys: rotation, the base key, mappings, unsafe changes, states, uses.

use kasbah_proto::{
    kasbah::admin::v1::{
        ListKeyStatesRequest, ReconcileRequest, SetKeyStateRequest, WrapKeysAgainRequest,
        set_key_state_request::Target,
    },
    policy::{
        KasKey, KeyMode, KeyStatus, PageRequest, SimpleKasKey,
        kasregistry::{
            GetBaseKeyRequest, GetKeyAccessServerRequest, ListKeyMappingsRequest, RotateKeyRequest,
            RotateKeyResponse, SetBaseKeyRequest, SetBaseKeyResponse,
            get_key_access_server_request::Identifier,
            list_key_mappings_request,
            rotate_key_request::{ActiveKey, NewKey},
            set_base_key_request,
        },
        r#unsafe::{UnsafeDeleteKasKeyRequest, UnsafeUpdateKeyRequest},
    },
    wellknownconfiguration::GetWellKnownConfigurationRequest,
};
use kasbah_registry::{Error, Intent, KeyName, ObjectKind, PolicyObject, PrivateKey, Uses};
use prost_types::{Struct, value::Kind};
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    device::{DEVICE, HELD},
    harness::{
        KAS_URI, NOBODY, Plane, Store, admin, id_of, local, on_both, over, provider, public_only,
        refused, remote, request, status_of,
    },
};

fn new_key(of: kasbah_proto::policy::kasregistry::CreateKeyRequest) -> NewKey {
    NewKey {
        key_id: of.key_id,
        algorithm: of.key_algorithm,
        key_mode: of.key_mode,
        public_key_ctx: of.public_key_ctx,
        private_key_ctx: of.private_key_ctx,
        provider_config_id: of.provider_config_id,
        metadata: None,
    }
}

async fn rotate(plane: &Plane, old: &str, new: NewKey) -> Result<RotateKeyResponse, Status> {
    let message =
        RotateKeyRequest { active_key: Some(ActiveKey::Id(old.into())), new_key: Some(new) };
    Ok(plane.kas().rotate_key(admin(message)).await?.into_inner())
}

async fn set_base(plane: &Plane, id: &str) -> Result<SetBaseKeyResponse, Status> {
    let active_key = Some(set_base_key_request::ActiveKey::Id(id.into()));
    let set = plane.kas().set_base_key(admin(SetBaseKeyRequest { active_key })).await?;
    Ok(set.into_inner())
}

async fn base(plane: &Plane) -> Option<String> {
    let got = plane.kas().get_base_key(request("reader", GetBaseKeyRequest {})).await.unwrap();
    got.into_inner().base_key.map(kid_of)
}

fn kid_of(key: SimpleKasKey) -> String {
    key.public_key.unwrap().kid
}

async fn delete(plane: &Plane, key: &KasKey) -> Result<(), Status> {
    let message = UnsafeDeleteKasKeyRequest {
        id: id_of(key),
        kid: key.key.as_ref().unwrap().key_id.clone(),
        kas_uri: key.kas_uri.clone(),
    };
    plane.unsafe_keys().unsafe_delete_kas_key(admin(message)).await.map(drop)
}

async fn a_rotation_moves_everything(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let old = plane.local_key(&kas, "old").await;
    let old_id = id_of(&old);
    set_base(&plane, &old_id).await.unwrap();
    let object = |id: &str| PolicyObject { id: id.into(), fqn: format!("https://x/{id}") };
    for (kind, id) in
        [(ObjectKind::Namespace, "n"), (ObjectKind::Definition, "d"), (ObjectKind::Value, "v")]
    {
        let key = KeyName::Id(old_id.clone());
        plane.registry.map_key(kind, &object(id), &key).await.unwrap();
    }
    let rotated = rotate(&plane, &old_id, new_key(local(&kas, "new"))).await.unwrap();
    let new = rotated.kas_key.unwrap();
    assert_eq!(status_of(&new), KeyStatus::Active as i32);
    let resources = rotated.rotated_resources.unwrap();
    assert_eq!(status_of(&resources.rotated_out_key.unwrap()), KeyStatus::Rotated as i32);
    for (moved, id) in [
        (&resources.namespace_mappings, "n"),
        (&resources.attribute_definition_mappings, "d"),
        (&resources.attribute_value_mappings, "v"),
    ] {
        let [only] = &moved[..] else { panic!("{moved:?}") };
        assert_eq!((&*only.id, &*only.fqn), (id, &*format!("https://x/{id}")));
    }
    assert_eq!(base(&plane).await, Some("new".into()));
    let mapped = plane.kas().list_key_mappings(admin(ListKeyMappingsRequest::default())).await;
    let mapped = mapped.unwrap().into_inner();
    let [only] = &mapped.key_mappings[..] else { panic!("{mapped:?}") };
    assert_eq!((&*only.kid, &*only.kas_uri, only.value_mappings.len()), ("new", KAS_URI, 1));
    assert_eq!(mapped.pagination.unwrap().total, 1);
    for (id, count) in [(old_id.clone(), 0), (id_of(&new), 1), (NOBODY.to_owned(), 0)] {
        let identifier = Some(list_key_mappings_request::Identifier::Id(id));
        let message = ListKeyMappingsRequest { identifier, pagination: None };
        let listed = plane.kas().list_key_mappings(admin(message)).await.unwrap().into_inner();
        assert_eq!(listed.key_mappings.len(), count);
    }
    let (code, text) = refused(rotate(&plane, &old_id, new_key(local(&kas, "third"))).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(text, "only an active key can be rotated; key old is KEY_STATUS_ROTATED");
    let key = KeyName::Id(old_id.clone());
    plane.registry.map_key(ObjectKind::Value, &object("w"), &key).await.unwrap_err();
    delete(&plane, &old).await.unwrap();

    let again = KeyName::Id(id_of(&new));
    let twice = plane.registry.map_key(ObjectKind::Value, &object("v"), &again).await;
    assert!(matches!(twice, Err(Error::Exists)), "{twice:?}");
    let other = plane.local_key(&kas, "other").await;
    set_base(&plane, &id_of(&other)).await.unwrap();
    delete(&plane, &new).await.unwrap();
    let left = plane.kas().list_key_mappings(admin(ListKeyMappingsRequest::default())).await;
    assert_eq!(left.unwrap().into_inner().key_mappings, [], "a key takes its mappings along");
}

async fn a_rotation_that_cannot_be_changes_nothing(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let old = plane.local_key(&kas, "old").await;
    plane.local_key(&kas, "taken").await;
    set_base(&plane, &id_of(&old)).await.unwrap();
    let before = plane.registry.keys_of(KAS_URI).await.unwrap();
    let taken = refused(rotate(&plane, &id_of(&old), new_key(local(&kas, "taken"))).await);
    assert_eq!(taken, (Code::AlreadyExists, "resource unique field violation".into()));
    let public = refused(rotate(&plane, &id_of(&old), new_key(public_only(&kas, "pub"))).await);
    let text = "cannot set key of mode KEY_MODE_PUBLIC_KEY_ONLY as default key";
    assert_eq!(public, (Code::FailedPrecondition, text.into()));
    let nowhere = refused(rotate(&plane, &id_of(&old), new_key(remote(&kas, "r", NOBODY))).await);
    assert_eq!(nowhere, (Code::InvalidArgument, "resource relation invalid".into()));
    let unknown = refused(rotate(&plane, NOBODY, new_key(local(&kas, "x"))).await);
    assert_eq!(unknown, (Code::NotFound, "resource not found".into()));
    assert_eq!(plane.registry.keys_of(KAS_URI).await.unwrap(), before);
}

async fn two_rotations_at_once_have_one_winner(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let old = id_of(&plane.local_key(&kas, "old").await);
    let rotations = (0..6).map(|number| {
        let new_key = Some(new_key(local(&kas, &format!("n{number}"))));
        let message = RotateKeyRequest { active_key: Some(ActiveKey::Id(old.clone())), new_key };
        let mut client = plane.kas();
        tokio::spawn(async move { client.rotate_key(admin(message)).await })
    });
    let mut won = 0;
    for rotation in rotations.collect::<Vec<_>>() {
        match rotation.await.unwrap() {
            Ok(_) => won += 1,
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
        }
    }
    assert_eq!((won, plane.registry.keys_of(KAS_URI).await.unwrap().len()), (1, 2));
}

async fn the_legacy_flag_stays_with_the_old_key(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let message =
        kasbah_proto::policy::kasregistry::CreateKeyRequest { legacy: true, ..local(&kas, "l") };
    let made = plane.kas().create_key(admin(message)).await.unwrap().into_inner();
    let rotated = rotate(&plane, &id_of(&made.kas_key.unwrap()), new_key(local(&kas, "n"))).await;
    let rotated = rotated.unwrap();
    assert!(!rotated.kas_key.unwrap().key.unwrap().legacy);
    assert!(rotated.rotated_resources.unwrap().rotated_out_key.unwrap().key.unwrap().legacy);
}

async fn a_key_that_takes_over_is_never_legacy(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, provider) = (plane.own_kas().await, plane.hsm("main").await);
    let old = plane.local_key(&kas, "old").await;
    let made = remote(&kas, "new", &provider);
    let intent = Intent {
        id: "5e8f0d3a-0000-4000-8000-000000000001".into(),
        kas_id: kas,
        kid: "new".into(),
        algorithm: 3,
        mode: 3,
        provider_id: provider,
        legacy: true,
        labels: kasbah_registry::Labels::default(),
        rotates: Some(id_of(&old)),
        created_at: 0,
    };
    let intent = plane.registry.begin_key(intent).await.unwrap();
    let new = kasbah_registry::NewKey {
        kid: "new".into(),
        algorithm: 3,
        mode: 3,
        public_pem: made.public_key_ctx.unwrap().pem,
        legacy: true,
        ..Default::default()
    };
    let key = plane.registry.finish_key(&intent, &new).await.unwrap();
    assert!(!key.legacy);
    assert_eq!(status_of(&plane.key(&id_of(&old)).await.unwrap()), KeyStatus::Rotated as i32);
    let again = plane.registry.finish_key(&intent, &new).await;
    assert!(matches!(again, Err(Error::NotFound)), "the intent is struck out: {again:?}");
}

async fn the_base_key_is_one_that_is_proven(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, other) = (plane.own_kas().await, plane.new_kas("https://other", "").await);
    let provider = plane.hsm("main").await;
    assert_eq!(base(&plane).await, None);
    let first = plane.local_key(&kas, "first").await;
    let second = plane.local_key(&kas, "second").await;
    let set = set_base(&plane, &id_of(&first)).await.unwrap();
    assert_eq!((kid_of(set.new_base_key.unwrap()), set.previous_base_key), ("first".into(), None));
    let set = set_base(&plane, &id_of(&second)).await.unwrap();
    assert_eq!(kid_of(set.previous_base_key.unwrap()), "first");

    let public = plane.kas().create_key(admin(public_only(&kas, "pub"))).await.unwrap();
    let public = id_of(&public.into_inner().kas_key.unwrap());
    let unreachable = id_of(&plane.remote_key(&kas, "remote", &provider).await);
    let foreign = id_of(&plane.local_key(&other, "foreign").await);
    rotate(&plane, &id_of(&first), new_key(local(&kas, "third"))).await.unwrap();
    for (id, text) in [
        (&*public, "cannot set key of mode KEY_MODE_PUBLIC_KEY_ONLY as default key"),
        (&id_of(&first), "cannot set key of status KEY_STATUS_ROTATED as default key"),
        (&unreachable, "the private key of remote is not proven on this node"),
        (&foreign, "key foreign belongs to https://other; only a node that serves it"),
    ] {
        let (code, found) = refused(set_base(&plane, id).await);
        assert_eq!(code, Code::FailedPrecondition, "{found}");
        assert!(found.starts_with(text), "{found}");
    }
    assert_eq!(refused(set_base(&plane, NOBODY).await).0, Code::NotFound);
    assert_eq!(base(&plane).await, Some("second".into()));
    let answer = refused(delete(&plane, &second).await);
    assert_eq!(answer, (Code::InvalidArgument, "resource relation invalid".into()));
}

async fn discovery_tells_the_base_key(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let discover = async || {
        // No token: it is for everybody.
        let mut client = plane.well_known();
        let got = client.get_well_known_configuration(GetWellKnownConfigurationRequest {}).await;
        got.unwrap().into_inner().configuration.unwrap()
    };
    let document = discover().await;
    assert_eq!(object(&document, "base_key").fields.len(), 0);
    let manager = object(object(&document, "key_managers"), "manager_0");
    assert_eq!(text(manager, "name"), "opentdf.io/basic");
    assert_eq!(text(manager, "description"), "Key manager: opentdf.io/basic");
    let key = plane.local_key(&kas, "k1").await;
    set_base(&plane, &id_of(&key)).await.unwrap();
    let document = discover().await;
    let base = object(&document, "base_key");
    assert_eq!((text(base, "kas_uri"), text(base, "kas_id")), (KAS_URI, &*kas));
    let public = object(base, "public_key");
    assert_eq!((text(public, "algorithm"), text(public, "kid")), ("ec:secp256r1", "k1"));
    assert!(text(public, "pem").starts_with("-----BEGIN PUBLIC KEY-----"));
    set_state(&plane, &id_of(&key), Target::Compromised).await.unwrap();
    assert_eq!(object(&discover().await, "base_key").fields.len(), 0);

    let second = plane.local_key(&kas, "k2").await;
    set_base(&plane, &id_of(&second)).await.unwrap();
    rotate(&plane, &id_of(&second), new_key(local(&kas, "k3"))).await.unwrap();
    let document = discover().await;
    let public = object(object(&document, "base_key"), "public_key");
    assert_eq!(text(public, "kid"), "k3");

    // None would make clients take another key.
    plane.registry.database().close().await;
    let mut client = plane.well_known();
    let got = client.get_well_known_configuration(GetWellKnownConfigurationRequest {}).await;
    assert_eq!(got.unwrap_err().code(), Code::Unavailable);
}

fn object<'a>(of: &'a Struct, name: &str) -> &'a Struct {
    match of.fields[name].kind.as_ref().unwrap() {
        Kind::StructValue(found) => found,
        other => panic!("{name}: {other:?}"),
    }
}

fn text<'a>(of: &'a Struct, name: &str) -> &'a str {
    match of.fields[name].kind.as_ref().unwrap() {
        Kind::StringValue(found) => found,
        other => panic!("{name}: {other:?}"),
    }
}

async fn a_swapped_public_key_is_not_told(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let key = plane.local_key(&kas, "k1").await;
    set_base(&plane, &id_of(&key)).await.unwrap();
    assert_eq!(base(&plane).await, Some("k1".into()));
    // By somebody who may write the database, not by a call.
    let thief = public_only(&kas, "x").public_key_ctx.unwrap().pem;
    let thief = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, thief).unwrap();
    let thief = String::from_utf8(thief).unwrap();
    let swap = format!("UPDATE kas_key SET public_pem = '{thief}' WHERE kid = 'k1'");
    plane.meddle(swap).await;
    assert_eq!(base(&plane).await, None, "a client would wrap for the thief");
    let states = plane.admin().list_key_states(admin(ListKeyStatesRequest::default())).await;
    let states = states.unwrap().into_inner().keys;
    assert_ne!(states[0].state, "ready");
    plane.local_key(&kas, "k2").await;
    let identifier = Some(Identifier::Uri(KAS_URI.to_owned()));
    let message = GetKeyAccessServerRequest { identifier, ..Default::default() };
    let shown = plane.kas().get_key_access_server(request("reader", message)).await.unwrap();
    let shown = shown.into_inner().key_access_server.unwrap().kas_keys;
    assert_eq!(shown.into_iter().map(kid_of).collect::<Vec<_>>(), ["k2"]);
}

async fn unsafe_changes_keep_the_rules_of_modes(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let (one, two) = (plane.hsm("one").await, plane.hsm("two").await);
    let local_key = id_of(&plane.local_key(&kas, "local").await);
    let remote_key = id_of(&plane.remote_key(&kas, "remote", &one).await);
    let public = plane.kas().create_key(admin(public_only(&kas, "pub"))).await.unwrap();
    let public = id_of(&public.into_inner().kas_key.unwrap());
    let update = async |id: &str, mode: KeyMode, provider: &str| {
        let message = UnsafeUpdateKeyRequest {
            id: id.into(),
            target_key_mode: mode as i32,
            provider_config_id: provider.into(),
        };
        let updated = plane.unsafe_keys().unsafe_update_key(admin(message)).await?;
        Ok::<_, Status>(updated.into_inner().key.unwrap().key.unwrap())
    };
    let missing = "provider_config_id does not reference an existing provider config";
    for (id, mode, provider, code, text) in [
        (
            &local_key,
            KeyMode::Remote,
            &*one,
            Code::InvalidArgument,
            "existing key mode cannot be updated",
        ),
        (
            &public,
            KeyMode::Unspecified,
            &*one,
            Code::InvalidArgument,
            "existing key mode cannot receive provider_config_id update with unspecified key mode",
        ),
        (
            &remote_key,
            KeyMode::Unspecified,
            "",
            Code::InvalidArgument,
            "provider_config_id is required for requested key mode",
        ),
        (
            &public,
            KeyMode::Remote,
            "",
            Code::InvalidArgument,
            "provider_config_id is required for requested key mode",
        ),
        (
            &remote_key,
            KeyMode::PublicKeyOnly,
            &*two,
            Code::InvalidArgument,
            "provider_config_id must be empty for requested key mode",
        ),
        (&remote_key, KeyMode::Remote, NOBODY, Code::NotFound, missing),
        (&NOBODY.to_owned(), KeyMode::Remote, &*one, Code::NotFound, "resource not found"),
    ] {
        assert_eq!(refused(update(id, mode, provider).await), (code, text.to_owned()));
    }
    let swapped = update(&remote_key.to_uppercase(), KeyMode::Unspecified, &two).await.unwrap();
    assert_eq!(swapped.provider_config.unwrap().name, "two");
    let stripped = update(&remote_key, KeyMode::PublicKeyOnly, "").await.unwrap();
    assert_eq!(stripped.key_mode, KeyMode::PublicKeyOnly as i32);
    assert_eq!((stripped.provider_config, stripped.private_key_ctx), (None, None));
    let back = update(&public, KeyMode::Remote, &one).await.unwrap();
    assert_eq!(back.key_mode, KeyMode::Remote as i32);
}

async fn a_key_is_deleted_by_all_its_names(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let key = plane.local_key(&kas, "k1").await;
    let delete = async |id: &str, kid: &str, uri: &str| {
        let message =
            UnsafeDeleteKasKeyRequest { id: id.into(), kid: kid.into(), kas_uri: uri.into() };
        let deleted = plane.unsafe_keys().unsafe_delete_kas_key(admin(message)).await?;
        Ok::<_, Status>(deleted.into_inner().key.unwrap())
    };
    let id = id_of(&key);
    let wrong = |text: &str| (Code::InvalidArgument, text.to_owned());
    assert_eq!(refused(delete(&id, "k2", KAS_URI).await), wrong("key id mismatch"));
    assert_eq!(refused(delete(&id, "k1", "https://x").await), wrong("kas uri mismatch"));
    assert_eq!(refused(delete(NOBODY, "k1", KAS_URI).await).0, Code::NotFound);
    let deleted = delete(&id.to_uppercase(), "k1", KAS_URI).await.unwrap();
    assert_eq!((id_of(&deleted), &*deleted.kas_uri), (id.clone(), KAS_URI));
    assert_eq!(refused(plane.key(&id).await).0, Code::NotFound);
}

async fn set_state(plane: &Plane, id: &str, target: Target) -> Result<i32, Status> {
    let message = SetKeyStateRequest { id: id.into(), target: target as i32 };
    let set = plane.admin().set_key_state(admin(message)).await?;
    Ok(status_of(&set.into_inner().kas_key.unwrap()))
}

async fn keys_are_taken_out_of_use_and_back(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let active = id_of(&plane.local_key(&kas, "active").await);
    let rotated = id_of(&plane.local_key(&kas, "rotated").await);
    rotate(&plane, &rotated, new_key(local(&kas, "next"))).await.unwrap();
    for (id, target, status) in [
        (&active, Target::Enabled, KeyStatus::Active),
        (&active, Target::Disabled, KeyStatus::Disabled),
        (&active, Target::Disabled, KeyStatus::Disabled),
        (&active, Target::Enabled, KeyStatus::Active),
        (&rotated, Target::Disabled, KeyStatus::Disabled),
        (&rotated, Target::Enabled, KeyStatus::Rotated),
        (&rotated, Target::Compromised, KeyStatus::Compromised),
        (&rotated, Target::Compromised, KeyStatus::Compromised),
    ] {
        assert_eq!(set_state(&plane, id, target).await.unwrap(), status as i32, "{target:?}");
    }
    let (code, text) = refused(set_state(&plane, &rotated, Target::Enabled).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(text, "key rotated is marked as compromised, for good");
    assert_eq!(refused(set_state(&plane, NOBODY, Target::Disabled).await).0, Code::NotFound);
    assert_eq!(
        refused(set_state(&plane, &active, Target::Unspecified).await).0,
        Code::InvalidArgument
    );
    set_state(&plane, &active, Target::Disabled).await.unwrap();
    let (code, _) = refused(rotate(&plane, &active, new_key(local(&kas, "never"))).await);
    assert_eq!(code, Code::FailedPrecondition, "a disabled key is not active");
}

async fn uses_are_added_up(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let id = id_of(&plane.local_key(&kas, "k1").await);
    plane.local_key(&kas, "k2").await;
    let before = plane.registry.database().revision().await.unwrap();
    let (here, there) = (Uses::default(), Uses::default());
    for _ in 0..3 {
        here.count("k1");
    }
    there.count("k1");
    there.count("gone");
    plane.registry.write_uses(KAS_URI, &here).await.unwrap();
    plane.registry.write_uses(KAS_URI, &there).await.unwrap();
    plane.registry.write_uses(KAS_URI, &here).await.unwrap();
    let uses = plane.registry.uses().await.unwrap();
    assert_eq!((uses.len(), uses[&id].count), (1, 4));
    let after = plane.registry.database().revision().await.unwrap();
    assert_eq!(before, after, "no node has to read anything again");
    let states = plane.admin().list_key_states(admin(ListKeyStatesRequest::default())).await;
    let states = states.unwrap().into_inner().keys;
    let used: Vec<_> = states.iter().map(|s| (s.uses, s.last_used.is_some(), &*s.state)).collect();
    assert_eq!(used, [(0, false, "ready"), (4, true, "ready")]);
    assert_eq!(states[0].custody.as_ref().unwrap().level, "transient");
    let pagination = Some(PageRequest { limit: 1, offset: 1 });
    let message = ListKeyStatesRequest { pagination, ..Default::default() };
    let page = plane.admin().list_key_states(admin(message)).await.unwrap().into_inner();
    assert_eq!(page.keys, states[1..], "a page of them");
    assert_eq!(page.pagination.unwrap().total, 2);
}

async fn root_keys_are_rotated(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let one = id_of(&plane.local_key(&kas, "one").await);
    plane.local_key(&kas, "two").await;
    let again = async |from: &str, to: &str| {
        let message = WrapKeysAgainRequest { from: from.into(), to: to.into() };
        let done = plane.admin().wrap_keys_again(admin(message)).await?;
        Ok::<_, Status>(done.into_inner().key_ids)
    };
    let (code, _) = refused(again("root", "unknown").await);
    assert_eq!(code, Code::FailedPrecondition, "this node lacks the new root key");
    assert_eq!(again("root", "other").await.unwrap(), ["two", "one"]);
    assert_eq!(again("root", "other").await.unwrap(), [] as [&str; 0]);
    let now = plane.key(&one).await.unwrap().key.unwrap().private_key_ctx.unwrap();
    assert_eq!(now.key_id, "other");
    let states = plane.admin().list_key_states(admin(ListKeyStatesRequest::default())).await;
    assert!(states.unwrap().into_inner().keys.iter().all(|state| state.state == "ready"));
}

/// Of the token `admin`.
const SHA256_OF_ADMIN: &str = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918";

async fn changes_are_audited_without_secrets(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, provider) = (plane.own_kas().await, plane.hsm("main").await);
    let key = plane.local_key(&kas, "k1").await;
    let taken = plane.kas().create_key(admin(local(&kas, "k1"))).await;
    assert_eq!(refused(taken).0, Code::AlreadyExists);
    set_base(&plane, &id_of(&key)).await.unwrap();
    rotate(&plane, &id_of(&key), new_key(local(&kas, "k2"))).await.unwrap();
    delete(&plane, &key).await.unwrap();
    let events = plane.audit.events();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let at = |path: &str| event.pointer(path).unwrap().as_str().unwrap();
            assert_eq!((at("/level"), at("/msg")), ("AUDIT", "policy crud"));
            assert_eq!(at("/audit/actor/id"), "admin");
            assert_eq!(at("/audit/clientInfo/requestIP"), "127.0.0.1");
            assert!(at("/audit/clientInfo/userAgent").starts_with("tonic/"));
            let kasbah = "/audit/eventMetaData/kasbah";
            assert_eq!(at(&format!("{kasbah}/client")), "a-client");
            assert_eq!(at(&format!("{kasbah}/proof")), "bearer");
            assert_eq!(at(&format!("{kasbah}/token_sha256")), SHA256_OF_ADMIN);
            let outcome = event.pointer(&format!("{kasbah}/outcome"));
            let failed = at("/audit/action/result") == "error";
            assert_eq!(outcome.and_then(|word| word.as_str()), failed.then_some("exists"));
            (
                at("/audit/action/type"),
                at("/audit/object/type"),
                at("/audit/object/id"),
                at("/audit/action/result"),
            )
        })
        .collect();
    let keys = "kas_registry_keys";
    let id = id_of(&key);
    assert_eq!(
        told,
        [
            ("create", "kas_registry", &*kas, "success"),
            ("create", "key_management_provider_config", &provider, "success"),
            ("create", keys, &id, "success"),
            ("create", keys, "", "error"),
            ("update", keys, &id, "success"),
            ("rotate", keys, &id, "success"),
            ("delete", keys, &id, "success"),
        ]
    );
    let all = serde_json::Value::Array(events).to_string();
    for secret in ["wrapped_key", "config_json", "private_key"] {
        assert!(!all.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_key_that_a_repair_registers_is_audited() {
    let plane = Plane::start(Store::sqlite()).await;
    let kas_id = plane.own_kas().await;
    let holding = provider("main", DEVICE, "{\"is\":\"holding\"}");
    let made = plane.providers().create_provider_config(admin(holding)).await.unwrap();
    let intent = Intent {
        id: "5e8f0d3a-0000-4000-8000-000000000001".into(),
        kas_id,
        kid: HELD.into(),
        algorithm: 3,
        mode: 3,
        provider_id: made.into_inner().provider_config.unwrap().id,
        legacy: false,
        labels: kasbah_registry::Labels::default(),
        rotates: None,
        created_at: 0,
    };
    plane.registry.begin_key(intent).await.unwrap();
    let before = plane.audit.events().len();
    let reconcile = async |repair| {
        let findings = plane.admin().reconcile(admin(ReconcileRequest { repair })).await;
        findings.unwrap().into_inner().findings.remove(0)
    };
    assert!(!reconcile(false).await.repaired);
    assert_eq!(plane.audit.events().len(), before);
    assert!(reconcile(true).await.repaired);
    let key = plane.registry.keys_of(KAS_URI).await.unwrap().remove(0);
    let events = plane.audit.events().split_off(before);
    let [event] = &events[..] else { panic!("{events:?}") };
    let audit = &event["audit"];
    assert_eq!(
        (&audit["action"]["type"], &audit["actor"]["id"]),
        (&json!("create"), &json!("admin"))
    );
    assert_eq!((&audit["object"]["id"], &audit["original"]["kid"]), (&json!(key.id), &json!(HELD)));
}

async fn uses_that_cannot_be_written_are_kept(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let id = id_of(&plane.local_key(&kas, "k1").await);
    let uses = Uses::default();
    uses.count("k1");
    plane.registry.database().close().await;
    plane.registry.write_uses(KAS_URI, &uses).await.unwrap_err();
    uses.count("k1");
    let again = over(plane.store.open().await);
    again.write_uses(KAS_URI, &uses).await.unwrap();
    assert_eq!(again.uses().await.unwrap()[&id].count, 2);
}

async fn a_key_that_changed_meanwhile_is_not_overwritten(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    plane.local_key(&kas, "k1").await;
    let stale = plane.registry.keys_of(KAS_URI).await.unwrap().remove(0);
    let new = |key_id: &str| PrivateKey { key_id: key_id.into(), wrapped_key: Some("AAAA".into()) };
    plane.registry.replace_private_key(&stale, &new("one")).await.unwrap();
    let late = plane.registry.replace_private_key(&stale, &new("two")).await;
    assert!(matches!(late, Err(Error::Precondition(_))), "{late:?}");
    let now = plane.registry.keys_of(KAS_URI).await.unwrap().remove(0);
    assert_eq!(now.private_key, Some(new("one")));
}

/// A creation that nobody here works on may be another node's, where there are other nodes.
async fn what_another_node_may_be_making_is_left_alone(store: Store) {
    let is_shared = matches!(&store, Store::Postgres(_));
    let plane = Plane::start(store).await;
    let (kas_id, provider_id) = (plane.own_kas().await, plane.hsm("main").await);
    let intent = Intent {
        id: "5e8f0d3a-0000-4000-8000-000000000001".into(),
        kas_id,
        kid: "k1".into(),
        algorithm: 1,
        mode: 3,
        provider_id,
        legacy: false,
        labels: kasbah_registry::Labels::default(),
        rotates: None,
        created_at: 0,
    };
    let begun = plane.registry.begin_key(intent.clone()).await.unwrap();
    plane.local_key(&intent.kas_id, "k2").await;
    for kid in ["k1", "k2"] {
        let taken = Intent { id: NOBODY.into(), kid: kid.into(), ..intent.clone() };
        let taken = plane.registry.begin_key(taken).await;
        assert!(matches!(taken, Err(Error::Exists)), "{kid}: {taken:?}");
    }
    let found = async |ours: bool| plane.registry.interrupted_keys(|_| ours).await.unwrap().len();
    assert_eq!(found(true).await, 0);
    assert_eq!(found(false).await, usize::from(!is_shared));
    plane.meddle("UPDATE key_intent SET created_at = created_at - 120000001".into()).await;
    assert_eq!(plane.registry.interrupted_keys(|_| false).await.unwrap()[0].id, begun.id);
}

on_both!(
    a_key_that_takes_over_is_never_legacy,
    uses_that_cannot_be_written_are_kept,
    a_key_that_changed_meanwhile_is_not_overwritten,
    what_another_node_may_be_making_is_left_alone,
    changes_are_audited_without_secrets,
    a_rotation_moves_everything,
    a_rotation_that_cannot_be_changes_nothing,
    two_rotations_at_once_have_one_winner,
    the_legacy_flag_stays_with_the_old_key,
    the_base_key_is_one_that_is_proven,
    discovery_tells_the_base_key,
    a_swapped_public_key_is_not_told,
    unsafe_changes_keep_the_rules_of_modes,
    a_key_is_deleted_by_all_its_names,
    keys_are_taken_out_of_use_and_back,
    uses_are_added_up,
    root_keys_are_rotated,
);
