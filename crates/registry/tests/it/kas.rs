//! Key access servers.

use kasbah_proto::{
    common::{MetadataMutable, MetadataUpdateEnum},
    policy::{
        KeyAccessServer, PageRequest, PublicKey, Search, SourceType,
        kasregistry::{
            CreateKeyAccessServerRequest, DeleteKeyAccessServerRequest, GetKeyAccessServerRequest,
            KeyAccessServersSort, ListKeyAccessServerGrantsRequest, ListKeyAccessServersRequest,
            UpdateKeyAccessServerRequest, get_key_access_server_request::Identifier,
        },
    },
};
use tonic::{Code, Status};

use crate::harness::{KAS_URI, NOBODY, Plane, Store, admin, on_both, refused, request};

async fn get(plane: &Plane, identifier: Identifier) -> Result<KeyAccessServer, Status> {
    let message = GetKeyAccessServerRequest { identifier: Some(identifier), ..Default::default() };
    let found = plane.kas().get_key_access_server(request("reader", message)).await?;
    Ok(found.into_inner().key_access_server.unwrap())
}

async fn it_is_found_by_each_of_its_names(store: Store) {
    let plane = Plane::start(store).await;
    let message = CreateKeyAccessServerRequest {
        uri: "https://Kas.example.com/Path".into(),
        name: "Kas_1-A".into(),
        source_type: SourceType::Internal as i32,
        metadata: Some(MetadataMutable { labels: [("a".into(), "b".into())].into() }),
        ..Default::default()
    };
    let made = plane.kas().create_key_access_server(admin(message)).await.unwrap();
    let made = made.into_inner().key_access_server.unwrap();
    assert_eq!((&*made.uri, &*made.name), ("https://Kas.example.com/Path", "kas_1-a"));
    let metadata = made.metadata.unwrap();
    assert_eq!((metadata.labels.len(), metadata.created_at), (1, None), "as upstream answers");
    assert_eq!(made.public_key, None);
    plane.local_key(&made.id, "k1").await;
    for identifier in [
        Identifier::KasId(made.id.clone()),
        Identifier::KasId(made.id.to_uppercase()),
        Identifier::Name("KAS_1-a".into()),
        Identifier::Uri(made.uri.clone()),
    ] {
        let found = get(&plane, identifier).await.unwrap();
        assert_eq!(found.id, made.id);
        assert_eq!(found.source_type, SourceType::Internal as i32);
        assert!(found.metadata.unwrap().created_at.is_some());
        assert_eq!(found.public_key, Some(PublicKey::default()));
        let [key] = &found.kas_keys[..] else { panic!("{:?}", found.kas_keys) };
        let public = key.public_key.as_ref().unwrap();
        assert!(public.pem.starts_with("-----BEGIN PUBLIC KEY-----"), "plain PEM");
        assert_eq!((&*public.kid, &*key.kas_uri), ("k1", &*made.uri));
    }
    let deprecated = GetKeyAccessServerRequest { id: made.id, identifier: None };
    plane.kas().get_key_access_server(admin(deprecated)).await.unwrap();
    for unknown in [
        Identifier::KasId(NOBODY.into()),
        Identifier::Name("x".into()),
        Identifier::Uri("https://kas.example.com/Path".into()),
    ] {
        let answer = refused(get(&plane, unknown).await);
        assert_eq!(answer, (Code::NotFound, "resource not found".into()));
    }
}

async fn uri_and_name_are_unique(store: Store) {
    let plane = Plane::start(store).await;
    let create = async |uri: &str, name: &str| {
        let message = CreateKeyAccessServerRequest {
            uri: uri.into(),
            name: name.into(),
            ..Default::default()
        };
        plane.kas().create_key_access_server(admin(message)).await
    };
    create("https://a", "a").await.unwrap();
    create("https://b", "").await.unwrap();
    create("https://c", "").await.unwrap();
    create("https://a/", "d").await.unwrap();
    let taken = (Code::AlreadyExists, "resource unique field violation".to_owned());
    assert_eq!(refused(create("https://a", "e").await), taken);
    assert_eq!(refused(create("https://e", "A").await), taken);
    let denied = CreateKeyAccessServerRequest { uri: "https://x".into(), ..Default::default() };
    let denied = plane.kas().create_key_access_server(request("reader", denied)).await;
    assert_eq!(refused(denied), (Code::PermissionDenied, "permission denied".into()));
}

async fn an_update_changes_what_it_names(store: Store) {
    let plane = Plane::start(store).await;
    let id = plane.new_kas("https://a", "a").await;
    let update = async |change: UpdateKeyAccessServerRequest| {
        let change = UpdateKeyAccessServerRequest { id: id.clone(), ..change };
        let changed = plane.kas().update_key_access_server(admin(change)).await?;
        Ok::<_, Status>(changed.into_inner().key_access_server.unwrap())
    };
    let nothing = UpdateKeyAccessServerRequest::default();
    let unspecified = "cannot update to unspecified value";
    assert_eq!(refused(update(nothing.clone()).await), (Code::InvalidArgument, unspecified.into()));
    let renamed = UpdateKeyAccessServerRequest {
        uri: "https://b".into(),
        name: "B".into(),
        source_type: SourceType::External as i32,
        ..nothing.clone()
    };
    let answer = update(renamed).await.unwrap();
    assert_eq!(answer, KeyAccessServer { id: id.clone(), ..Default::default() }, "only the id");
    let now = get(&plane, Identifier::KasId(id.clone())).await.unwrap();
    assert_eq!((&*now.uri, &*now.name, now.source_type), ("https://b", "b", 2));
    for counts in [
        UpdateKeyAccessServerRequest {
            metadata_update_behavior: MetadataUpdateEnum::Extend as i32,
            ..nothing.clone()
        },
        UpdateKeyAccessServerRequest { public_key: Some(PublicKey::default()), ..nothing.clone() },
    ] {
        update(counts).await.unwrap();
    }
    let same = get(&plane, Identifier::KasId(id.clone())).await.unwrap();
    assert_eq!((&*same.uri, &*same.name, same.source_type), ("https://b", "b", 2));
    let unknown = UpdateKeyAccessServerRequest { id: NOBODY.into(), name: "x".into(), ..nothing };
    let answer = refused(plane.kas().update_key_access_server(admin(unknown)).await);
    assert_eq!(answer, (Code::NotFound, "resource not found".into()));
}

async fn one_with_keys_stays(store: Store) {
    let plane = Plane::start(store).await;
    let id = plane.own_kas().await;
    let key = plane.local_key(&id, "k1").await;
    let delete = async |id: &str| {
        let message = DeleteKeyAccessServerRequest { id: id.into() };
        plane.kas().delete_key_access_server(admin(message)).await
    };
    let in_use = (Code::InvalidArgument, "resource relation invalid".to_owned());
    assert_eq!(refused(delete(&id).await), in_use);
    plane.registry.delete_key(&crate::harness::id_of(&key), "k1", KAS_URI).await.unwrap();
    let sent = id.to_uppercase();
    let answer = delete(&sent).await.unwrap().into_inner().key_access_server.unwrap();
    assert_eq!(answer.id, sent, "as sent");
    assert_eq!(refused(delete(&id).await), (Code::NotFound, "resource not found".into()));
}

async fn a_list_is_searched_sorted_and_paged(store: Store) {
    let plane = Plane::start(store).await;
    for (uri, name) in [("https://x/1", "beta"), ("https://y/50%25", "Alpha"), ("https://z_3", "")]
    {
        plane.new_kas(uri, name).await;
    }
    let list = async |term: &str, field, direction, limit, offset| {
        let message = ListKeyAccessServersRequest {
            pagination: Some(PageRequest { limit, offset }),
            sort: vec![KeyAccessServersSort { field, direction }],
            search: (!term.is_empty()).then(|| Search { term: term.into() }),
        };
        let listed = plane.kas().list_key_access_servers(request("reader", message)).await;
        let listed = listed.unwrap().into_inner();
        let uris: Vec<_> = listed.key_access_servers.into_iter().map(|kas| kas.uri).collect();
        (uris.join(" "), listed.pagination.unwrap().total)
    };
    let (x, y, z) = ("https://x/1", "https://y/50%25", "https://z_3");
    let all = |uris: [&str; 3]| (uris.join(" "), 3);
    assert_eq!(list("", 0, 0, 0, 0).await, all([z, y, x]), "newest first");
    assert_eq!(list("", 3, 1, 0, 0).await, all([x, y, z]));
    assert_eq!(list("", 1, 1, 0, 0).await, all([z, y, x]), "by name");
    assert_eq!(list("", 2, 2, 0, 0).await, all([z, y, x]), "by URI");
    assert_eq!(list("", 2, 1, 1, 1).await, (y.into(), 3));
    for (term, found) in
        [("ALPH", y), ("Y/5", y), ("%", y), ("_", z), ("  beta ", x), ("nothing", ""), ("\\", "")]
    {
        assert_eq!(list(term, 0, 0, 0, 0).await.0, found, "{term}");
    }
    assert_eq!(list("   ", 0, 0, 0, 0).await.1, 3, "blank is no filter");
    let grants = ListKeyAccessServerGrantsRequest::default();
    let grants = plane.kas().list_key_access_server_grants(admin(grants)).await.unwrap();
    assert_eq!(grants.into_inner().grants, []);
}

on_both!(
    it_is_found_by_each_of_its_names,
    uri_and_name_are_unique,
    an_update_changes_what_it_names,
    one_with_keys_stays,
    a_list_is_searched_sorted_and_paged,
);
