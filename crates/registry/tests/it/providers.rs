//! Provider configurations.

use kasbah_proto::{
    common::{MetadataMutable, MetadataUpdateEnum},
    policy::{
        KeyProviderConfig, PageRequest,
        keymanagement::{
            DeleteProviderConfigRequest, GetProviderConfigRequest, ListProviderConfigsRequest,
            UpdateProviderConfigRequest,
            get_provider_config_request::{Identifier, NameManager},
        },
    },
};
use tonic::{Code, Status};

use crate::harness::{HSM, NOBODY, Plane, Store, admin, on_both, provider, refused, request};

fn labels(pairs: &[(&str, &str)]) -> MetadataMutable {
    let labels = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    MetadataMutable { labels }
}

async fn get(plane: &Plane, identifier: Identifier) -> Result<KeyProviderConfig, Status> {
    let message = GetProviderConfigRequest { identifier: Some(identifier), ..Default::default() };
    let found = plane.providers().get_provider_config(admin(message)).await?;
    Ok(found.into_inner().provider_config.unwrap())
}

fn pair(name: &str, manager: &str) -> Identifier {
    Identifier::NameManager(NameManager { name: name.into(), manager: manager.into() })
}

async fn what_is_kept_comes_back(store: Store) {
    let plane = Plane::start(store).await;
    let json = " {\"b\" : 1,\n\"a\":\"\u{e9}\", \"a\":2}\n";
    let mut message = provider("MÄIN", "Example.com/X", json);
    message.metadata = Some(labels(&[("team", "kas")]));
    let made = plane.providers().create_provider_config(admin(message)).await.unwrap();
    let made = made.into_inner().provider_config.unwrap();
    assert_eq!((&*made.name, &*made.manager), ("mäin", "Example.com/X"));
    assert_eq!(made.config_json, json.as_bytes(), "byte for byte");
    let metadata = made.metadata.clone().unwrap();
    assert_eq!(metadata.labels["team"], "kas");
    assert!(metadata.created_at.is_some() && metadata.created_at == metadata.updated_at);
    for identifier in [
        Identifier::Id(made.id.clone()),
        Identifier::Id(made.id.to_uppercase()),
        pair("Mäin", "Example.com/X"),
    ] {
        assert_eq!(get(&plane, identifier).await.unwrap(), made);
    }
    let deprecated = refused(get(&plane, Identifier::Name("mäin".into())).await);
    assert_eq!(deprecated, (Code::InvalidArgument, "identifier is deprecated".into()));
    for unknown in [Identifier::Id(NOBODY.into()), pair("mäin", "example.com/x"), pair("x", "y")] {
        let answer = refused(get(&plane, unknown).await);
        assert_eq!(answer, (Code::NotFound, "resource not found".into()));
    }
}

async fn name_and_manager_are_unique_together(store: Store) {
    let plane = Plane::start(store).await;
    let create = async |name, manager| {
        plane.providers().create_provider_config(admin(provider(name, manager, "{}"))).await
    };
    create("a", "m1").await.unwrap();
    create("a", "m2").await.unwrap();
    create("a", "M1").await.unwrap();
    let taken = (Code::AlreadyExists, "resource unique field violation".to_owned());
    assert_eq!(refused(create("a", "m1").await), taken);
    assert_eq!(refused(create("A", "m2").await), taken);
    let b = create("b", "m1").await.unwrap().into_inner().provider_config.unwrap();
    let rename = UpdateProviderConfigRequest { id: b.id, name: "A".into(), ..Default::default() };
    assert_eq!(refused(plane.providers().update_provider_config(admin(rename)).await), taken);
}

async fn settings_must_be_json(store: Store) {
    let plane = Plane::start(store).await;
    let create = async |json: &[u8]| {
        let message = kasbah_proto::policy::keymanagement::CreateProviderConfigRequest {
            config_json: json.to_vec(),
            ..provider("a", "m", "{}")
        };
        plane.providers().create_provider_config(admin(message)).await
    };
    for (json, expected) in [
        (&b"{\"a\":"[..], "config_json is not valid JSON: EOF"),
        (b"{} x", "config_json is not valid JSON: trailing characters"),
        (b"{\"a\":1,}", "config_json is not valid JSON: key must be"),
        (b"\xff\xfe", "config_json is not UTF-8"),
        (b"{\"a\":\"\\u0000\"}", "config_json contains \\u0000"),
        (b"{\"a\":\"forbidden\"}", "config_json: forbidden"),
    ] {
        let (code, text) = refused(create(json).await);
        assert_eq!(code, Code::InvalidArgument, "{text}");
        assert!(text.starts_with(expected), "{text}");
    }
    assert_eq!(plane.registry.all_providers().await.unwrap(), []);
    create(b"[]").await.unwrap();
}

async fn an_update_changes_what_it_names(store: Store) {
    let plane = Plane::start(store).await;
    let mut message = provider("a", "m", "{\"x\":1}");
    message.metadata = Some(labels(&[("one", "1"), ("two", "2")]));
    let made = plane.providers().create_provider_config(admin(message)).await.unwrap();
    let id = made.into_inner().provider_config.unwrap().id;
    let update = async |change: UpdateProviderConfigRequest| {
        let change = UpdateProviderConfigRequest { id: id.clone(), ..change };
        let changed = plane.providers().update_provider_config(admin(change)).await?;
        Ok::<_, Status>(changed.into_inner().provider_config.unwrap())
    };
    let nothing = UpdateProviderConfigRequest::default();
    let same = update(nothing.clone()).await.unwrap();
    assert_eq!((&*same.name, &*same.manager, &*same.config_json), ("a", "m", &b"{\"x\":1}"[..]));
    assert_eq!(same.metadata.unwrap().labels.len(), 2);

    let extend = UpdateProviderConfigRequest {
        name: "B".into(),
        metadata: Some(labels(&[("two", "zwei"), ("three", "3")])),
        metadata_update_behavior: MetadataUpdateEnum::Extend as i32,
        ..nothing.clone()
    };
    let extended = update(extend).await.unwrap();
    assert_eq!(extended.name, "b");
    let labels_now = extended.metadata.unwrap().labels;
    assert_eq!((labels_now.len(), &*labels_now["two"], &*labels_now["one"]), (3, "zwei", "1"));

    let replace = UpdateProviderConfigRequest {
        manager: "n".into(),
        config_json: b"{\"y\":2}".to_vec(),
        metadata: Some(labels(&[("four", "4")])),
        metadata_update_behavior: MetadataUpdateEnum::Replace as i32,
        ..nothing.clone()
    };
    let replaced = update(replace).await.unwrap();
    assert_eq!((&*replaced.manager, &*replaced.config_json), ("n", &b"{\"y\":2}"[..]));
    assert_eq!(replaced.metadata.unwrap().labels.len(), 1);

    let unsaid =
        UpdateProviderConfigRequest { metadata: Some(labels(&[("x", "y")])), ..nothing.clone() };
    let (code, text) = refused(update(unsaid).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("metadata_update_behavior must be"), "{text}");
    let bad = UpdateProviderConfigRequest { config_json: b"{".to_vec(), ..nothing };
    assert_eq!(refused(update(bad).await).0, Code::InvalidArgument);
    let unknown = UpdateProviderConfigRequest { id: NOBODY.into(), ..Default::default() };
    let answer = refused(plane.providers().update_provider_config(admin(unknown)).await);
    assert_eq!(answer, (Code::NotFound, "resource not found".into()));
}

async fn a_new_version_for_each_change(store: Store) {
    let plane = Plane::start(store).await;
    let id = plane.hsm("a").await;
    let version = async || plane.registry.all_providers().await.unwrap()[0].version;
    let first = version().await;
    let change = UpdateProviderConfigRequest {
        id: id.clone(),
        config_json: b"{\"z\":0}".to_vec(),
        ..Default::default()
    };
    plane.providers().update_provider_config(admin(change)).await.unwrap();
    let second = version().await;
    assert!(second > first);
    let delete = DeleteProviderConfigRequest { id };
    plane.providers().delete_provider_config(admin(delete)).await.unwrap();
    plane.hsm("a").await;
    assert!(version().await > second, "or a live manager would go on with the old settings");
}

async fn one_that_keys_refer_to_stays(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, id) = (plane.own_kas().await, plane.hsm("a").await);
    let key = plane.remote_key(&kas, "r1", &id).await;
    let delete = async || {
        let message = DeleteProviderConfigRequest { id: id.clone() };
        plane.providers().delete_provider_config(admin(message)).await
    };
    let in_use = (Code::InvalidArgument, "resource relation invalid".to_owned());
    assert_eq!(refused(delete().await), in_use);
    let message = kasbah_proto::policy::r#unsafe::UnsafeDeleteKasKeyRequest {
        id: crate::harness::id_of(&key),
        kid: "r1".into(),
        kas_uri: crate::harness::KAS_URI.into(),
    };
    plane.unsafe_keys().unsafe_delete_kas_key(admin(message)).await.unwrap();
    let deleted = delete().await.unwrap().into_inner().provider_config.unwrap();
    assert_eq!(deleted, KeyProviderConfig { id: id.clone(), ..Default::default() });
    assert_eq!(refused(delete().await), (Code::NotFound, "resource not found".into()));
}

async fn a_list_is_paged(store: Store) {
    let plane = Plane::start(store).await;
    for number in 0..5 {
        plane.hsm(&format!("p{number}")).await;
    }
    let list = async |limit, offset| {
        let pagination = Some(PageRequest { limit, offset });
        let message = ListProviderConfigsRequest { pagination };
        let listed = plane.providers().list_provider_configs(admin(message)).await?.into_inner();
        let names: Vec<_> = listed.provider_configs.into_iter().map(|p| p.name).collect();
        let page = listed.pagination.unwrap();
        Ok::<_, Status>((names.join(" "), page.current_offset, page.next_offset, page.total))
    };
    assert_eq!(list(0, 0).await.unwrap(), ("p4 p3 p2 p1 p0".into(), 0, 0, 5));
    assert_eq!(list(2, 0).await.unwrap(), ("p4 p3".into(), 0, 2, 5));
    assert_eq!(list(2, 4).await.unwrap(), ("p0".into(), 4, 0, 5));
    assert_eq!(list(2, 9).await.unwrap(), (String::new(), 9, 0, 5), "the total is told anyway");
    list(2500, 0).await.unwrap();
    let too_many = "requested pagination limit must be less than or equal to configured limit";
    assert_eq!(refused(list(2501, 0).await), (Code::InvalidArgument, too_many.into()));
    assert_eq!(refused(list(1, -1).await).0, Code::InvalidArgument);
}

async fn only_an_administrator_comes_in(store: Store) {
    let plane = Plane::start(store).await;
    let create = async |request| plane.providers().create_provider_config(request).await;
    let denied = (Code::PermissionDenied, "permission denied".to_owned());
    assert_eq!(refused(create(request("reader", provider("a", "m", "{}"))).await), denied);
    // Before the request is looked at.
    assert_eq!(refused(create(request("reader", provider("", "", ""))).await), denied);
    let anonymous = tonic::Request::new(provider("a", "m", "{}"));
    assert_eq!(refused(create(anonymous).await).0, Code::Unauthenticated);
    let list = ListProviderConfigsRequest::default();
    let listed = plane.providers().list_provider_configs(request("reader", list)).await;
    assert_eq!(refused(listed), denied, "settings are not for everybody");
    assert_eq!(plane.registry.all_providers().await.unwrap(), []);
}

async fn files_declare_what_calls_may_not_change(store: Store) {
    use kasbah_registry::NewProvider;
    let plane = Plane::start(store).await;
    let declared = |name: &str, json: &str| NewProvider {
        name: name.into(),
        manager: HSM.into(),
        config_json: json.as_bytes().to_vec(),
        labels: kasbah_registry::Labels::default(),
    };
    let by_call = plane.hsm("b").await;
    let all = [
        (declared("A", "{}"), "a.cfg".to_owned()),
        (declared("b", "{\"x\":1}"), "b.cfg".to_owned()),
    ];
    let sources = ["a.cfg".to_owned(), "b.cfg".to_owned(), "c.cfg".to_owned()];
    plane.registry.declare_providers(&all, &sources).await.unwrap();
    let before = plane.registry.database().revision().await.unwrap();
    plane.registry.declare_providers(&all, &sources).await.unwrap();
    let after = plane.registry.database().revision().await.unwrap();
    assert_eq!(before, after, "nothing new is no change");
    let b = get(&plane, pair("b", HSM)).await.unwrap();
    assert_eq!((&b.id, &*b.config_json), (&by_call, &b"{\"x\":1}"[..]));

    let delete = DeleteProviderConfigRequest { id: by_call.clone() };
    let (code, text) = refused(plane.providers().delete_provider_config(admin(delete)).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(text, "provider configuration b is declared in b.cfg; change it there and reload");
    let update = UpdateProviderConfigRequest { id: by_call.clone(), ..Default::default() };
    let updated = plane.providers().update_provider_config(admin(update.clone())).await;
    assert_eq!(refused(updated).0, Code::FailedPrecondition);

    let wrong = [(declared("c", "{"), "c.cfg".to_owned())];
    plane.registry.declare_providers(&wrong, &sources).await.unwrap_err();
    let files = plane.registry.all_providers().await.unwrap();
    let files: Vec<_> = files.iter().map(|p| p.file.as_deref()).collect();
    assert_eq!(files, [Some("a.cfg"), Some("b.cfg")], "all or nothing");
    plane.registry.declare_providers(&[], &["elsewhere".to_owned()]).await.unwrap();
    let files = plane.registry.all_providers().await.unwrap();
    assert!(files.iter().all(|p| p.file.is_some()), "a node with other files changes nothing");

    plane.registry.declare_providers(&all[..1], &sources).await.unwrap();
    plane.providers().update_provider_config(admin(update)).await.unwrap();
}

on_both!(
    what_is_kept_comes_back,
    name_and_manager_are_unique_together,
    settings_must_be_json,
    an_update_changes_what_it_names,
    a_new_version_for_each_change,
    one_that_keys_refer_to_stays,
    a_list_is_paged,
    only_an_administrator_comes_in,
    files_declare_what_calls_may_not_change,
);
