//! Keys: what is registered, found, listed and refused.

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_basic::wrap_private_key;
use kasbah_crypto::{Algorithm, PrivateKeyParts, envelope::RootKey};
use kasbah_proto::{
    common::{MetadataMutable, MetadataUpdateEnum},
    policy::{
        KasKey, KeyMode, PageRequest, PublicKeyCtx, Search,
        kasregistry::{
            CreateKeyRequest, GetKeyRequest, KasKeyIdentifier, KasKeysSort, ListKeysRequest,
            UpdateKeyRequest, get_key_request, kas_key_identifier::Identifier,
            list_keys_request::KasFilter,
        },
    },
};
use kasbah_registry::KeyState;
use tonic::{Code, Status};

use crate::harness::{
    KAS_URI, NOBODY, OTHER_ROOT, Plane, ROOT, Store, admin, id_of, local, on_both, private, public,
    public_only, refused, remote, request, status_of,
};

async fn create(plane: &Plane, message: CreateKeyRequest) -> Result<KasKey, Status> {
    let made = plane.kas().create_key(admin(message)).await?;
    Ok(made.into_inner().kas_key.unwrap())
}

async fn what_is_registered_comes_back(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, provider) = (plane.own_kas().await, plane.hsm("main").await);
    let message = CreateKeyRequest {
        legacy: true,
        metadata: Some(MetadataMutable { labels: [("a".into(), "b".into())].into() }),
        ..remote(&kas, "Key 1", &provider)
    };
    let made = create(&plane, message.clone()).await.unwrap();
    assert_eq!((&*made.kas_id, &*made.kas_uri), (&*kas, KAS_URI));
    let key = made.key.clone().unwrap();
    assert_eq!((&*key.key_id, key.key_algorithm, key.key_status), ("Key 1", 3, 1));
    assert_eq!(key.key_mode, KeyMode::Remote as i32);
    assert_eq!(key.public_key_ctx, message.public_key_ctx, "base64 of PEM, as sent");
    assert_eq!(key.private_key_ctx, Some(private("pkcs11:object=x", "")));
    assert!(key.legacy);
    let of = key.provider_config.unwrap();
    assert_eq!((&*of.name, &*of.manager, &*of.config_json), ("main", "opentdf.io/hsm", &b"{}"[..]));
    let identified = |identifier, kid: &str| {
        let key = KasKeyIdentifier { identifier: Some(identifier), kid: kid.into() };
        get_key_request::Identifier::Key(key)
    };
    let get = async |identifier| {
        let message = GetKeyRequest { identifier: Some(identifier) };
        let found = plane.kas().get_key(admin(message)).await?;
        Ok::<_, Status>(found.into_inner().kas_key.unwrap())
    };
    for identifier in [
        get_key_request::Identifier::Id(key.id.to_uppercase()),
        identified(Identifier::KasId(kas.clone()), "Key 1"),
        identified(Identifier::Name("MAIN".into()), "Key 1"),
        identified(Identifier::Uri(KAS_URI.into()), "Key 1"),
    ] {
        assert_eq!(get(identifier).await.unwrap(), made);
    }
    for unknown in [
        get_key_request::Identifier::Id(NOBODY.into()),
        identified(Identifier::KasId(kas.clone()), "key 1"),
        identified(Identifier::Name("other".into()), "Key 1"),
        identified(Identifier::Uri(format!("{KAS_URI}/")), "Key 1"),
    ] {
        let answer = refused(get(unknown).await);
        assert_eq!(answer, (Code::NotFound, "resource not found".into()));
    }
    let message = GetKeyRequest { identifier: Some(get_key_request::Identifier::Id(key.id)) };
    let read = plane.kas().get_key(request("reader", message)).await;
    assert_eq!(refused(read).0, Code::PermissionDenied, "wrapped keys are not for everybody");
}

async fn lengths_are_in_characters(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let kid = "\u{e4}".repeat(36);
    let made = create(&plane, local(&kas, &kid)).await.unwrap();
    assert_eq!(made.key.unwrap().key_id, kid);
}

async fn names_are_taken_once(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, other) = (plane.own_kas().await, plane.new_kas("https://other", "other").await);
    create(&plane, local(&kas, "k1")).await.unwrap();
    let taken = (Code::AlreadyExists, "resource unique field violation".to_owned());
    assert_eq!(refused(create(&plane, local(&kas, "k1")).await), taken);
    create(&plane, local(&kas, "K1")).await.unwrap();
    create(&plane, public_only(&other, "k1")).await.unwrap();
    let legacy = |kas: &str, kid| CreateKeyRequest { legacy: true, ..local(kas, kid) };
    create(&plane, legacy(&kas, "l1")).await.unwrap();
    assert_eq!(refused(create(&plane, legacy(&kas, "l2")).await), taken, "one legacy key per KAS");
    create(&plane, legacy(&other, "l1")).await.unwrap();
}

async fn what_it_refers_to_must_be_there(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let nowhere = (Code::InvalidArgument, "resource relation invalid".to_owned());
    assert_eq!(refused(create(&plane, local(NOBODY, "k1")).await), nowhere);
    assert_eq!(refused(create(&plane, remote(&kas, "k1", NOBODY)).await), nowhere);
    assert_eq!(refused(create(&plane, public_only(NOBODY, "k1")).await), nowhere);
    assert_eq!(plane.registry.keys_of(KAS_URI).await.unwrap(), []);
}

async fn key_material_that_cannot_be_is_refused(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, provider) = (plane.own_kas().await, plane.hsm("main").await);
    let good = local(&kas, "k");
    let b64 = |text: &str| BASE64_STANDARD.encode(text);
    let pem = |pem: String| CreateKeyRequest {
        public_key_ctx: Some(PublicKeyCtx { pem }),
        ..good.clone()
    };
    let wrapped = |wrapped: &str| CreateKeyRequest {
        private_key_ctx: Some(private("root", wrapped)),
        ..good.clone()
    };
    let other = PrivateKeyParts::generate(Algorithm::Ec(kasbah_crypto::Curve::P256)).unwrap();
    let clear = other.to_pem().unwrap();
    let root = |hex| RootKey::from_hex(hex).unwrap();
    let foreign = wrap_private_key(&root(OTHER_ROOT), &clear).unwrap();
    let swapped = wrap_private_key(&root(ROOT), &clear).unwrap();
    let does_not_open = "private_key_ctx.wrapped_key does not open to the private key";
    for (what, message, text) in [
        ("no base64", pem("no base64!".into()), "expected base64 encoded value"),
        ("no padding", pem("QQ".into()), "expected base64 encoded value"),
        ("PEM itself", pem(other.public_key().to_pem()), "expected base64 encoded value"),
        ("no PEM", pem(b64("hello")), "public_key_ctx.pem is not a usable public key"),
        ("private", pem(b64(&clear)), "public_key_ctx.pem contains a private key"),
        (
            "other algorithm",
            CreateKeyRequest { key_algorithm: 1, ..good.clone() },
            "public_key_ctx.pem is not a key of ALGORITHM_RSA_2048",
        ),
        (
            "no KEM key",
            CreateKeyRequest { key_algorithm: 20, ..good.clone() },
            "public_key_ctx.pem is not a key of ALGORITHM_MLKEM_768",
        ),
        ("wrapped no base64", wrapped("?"), "expected base64 encoded value"),
        ("clear PEM", wrapped(&b64(&clear)), "unencrypted private key not allowed"),
        (
            "clear, for a provider",
            CreateKeyRequest {
                key_mode: KeyMode::ProviderRootKey as i32,
                provider_config_id: provider,
                ..wrapped(&b64(&clear))
            },
            "unencrypted private key not allowed",
        ),
        ("too short", wrapped("AAAA"), does_not_open),
        ("another root key", wrapped(&foreign), does_not_open),
        ("another key", wrapped(&swapped), does_not_open),
    ] {
        let (code, found) = refused(create(&plane, message).await);
        assert_eq!(code, Code::InvalidArgument, "{what}: {found}");
        assert!(found.starts_with(text), "{what}: {found}");
    }
    assert_eq!(plane.registry.keys_of(KAS_URI).await.unwrap(), [], "nothing half-written");
    let lines = CreateKeyRequest {
        public_key_ctx: good.public_key_ctx.clone().map(|context| {
            let (head, tail) = context.pem.split_at(40);
            PublicKeyCtx { pem: format!("{head}\r\n{tail}") }
        }),
        ..good.clone()
    };
    create(&plane, lines).await.unwrap();
    let by_alias = CreateKeyRequest {
        key_id: "k2".into(),
        public_key_ctx: Some(public(&other.public_key())),
        private_key_ctx: Some(private("other", &foreign)),
        ..good
    };
    create(&plane, by_alias).await.unwrap();
}

async fn a_list_is_filtered_sorted_and_paged(store: Store) {
    let plane = Plane::start(store).await;
    let (kas, other) = (plane.own_kas().await, plane.new_kas("https://other", "Other").await);
    let provider = plane.hsm("main").await;
    create(&plane, local(&kas, "a1")).await.unwrap();
    create(&plane, CreateKeyRequest { legacy: true, ..remote(&kas, "B_2", &provider) })
        .await
        .unwrap();
    create(&plane, public_only(&other, "c3")).await.unwrap();
    let rsa = PrivateKeyParts::generate(Algorithm::Rsa2048).unwrap();
    let rsa = CreateKeyRequest {
        key_algorithm: 1,
        public_key_ctx: Some(public(&rsa.public_key())),
        ..public_only(&other, "d4")
    };
    create(&plane, rsa).await.unwrap();
    let list = async |message: ListKeysRequest| {
        let listed = plane.kas().list_keys(admin(message)).await?.into_inner();
        let kids: Vec<_> =
            listed.kas_keys.iter().map(|key| key.key.as_ref().unwrap().key_id.clone()).collect();
        Ok::<_, Status>((kids.join(" "), listed.pagination.unwrap(), listed.kas_keys))
    };
    let all = ListKeysRequest::default();
    let sorted = |field, direction| ListKeysRequest {
        sort: vec![KasKeysSort { field, direction }],
        ..all.clone()
    };
    let kas_filter = |filter| ListKeysRequest { kas_filter: Some(filter), ..all.clone() };
    let search =
        |term: &str| ListKeysRequest { search: Some(Search { term: term.into() }), ..all.clone() };
    for (what, message, kids) in [
        ("newest first", all.clone(), "d4 c3 B_2 a1"),
        ("by kid", sorted(1, 1), "B_2 a1 c3 d4"),
        ("by creation", sorted(2, 1), "a1 B_2 c3 d4"),
        ("descending unless said", sorted(1, 0), "d4 c3 a1 B_2"),
        ("of a KAS", kas_filter(KasFilter::KasId(kas.to_uppercase())), "B_2 a1"),
        ("by its name", kas_filter(KasFilter::KasName("oTHER".into())), "d4 c3"),
        ("by its URI", kas_filter(KasFilter::KasUri(KAS_URI.into())), "B_2 a1"),
        ("algorithm", ListKeysRequest { key_algorithm: 1, ..all.clone() }, "d4"),
        ("legacy", ListKeysRequest { legacy: Some(true), ..all.clone() }, "B_2"),
        ("others", ListKeysRequest { legacy: Some(false), ..all.clone() }, "d4 c3 a1"),
        ("search", search("b_"), "B_2"),
        ("search is no pattern", search("%"), ""),
    ] {
        let found = list(message).await.unwrap();
        assert_eq!(found.0, kids, "{what}");
    }
    let keys = list(all.clone()).await.unwrap().2;
    // By word: ACTIVE, COMPROMISED, DISABLED, ROTATED; and by the last change.
    let c3 = id_of(&keys[1]);
    plane.registry.set_key_state(&c3, KeyState::Disabled).await.unwrap();
    assert!(list(sorted(4, 2)).await.unwrap().0.starts_with("c3 "));
    assert!(list(sorted(4, 1)).await.unwrap().0.ends_with(" c3"));
    assert!(list(sorted(3, 2)).await.unwrap().0.starts_with("c3 "));
    let provider = keys[2].key.as_ref().unwrap().provider_config.as_ref().unwrap();
    assert_eq!(provider.manager, "opentdf.io/hsm", "or it would be routed to the default");
    let page = |limit, offset| ListKeysRequest {
        pagination: Some(PageRequest { limit, offset }),
        ..all.clone()
    };
    let (kids, second, _) = list(page(3, 3)).await.unwrap();
    assert_eq!((&*kids, second.current_offset, second.next_offset, second.total), ("a1", 3, 0, 4));
    let first = list(page(3, 0)).await.unwrap().1;
    assert_eq!(first.next_offset, 3);
    for filter in [
        KasFilter::KasId(NOBODY.into()),
        KasFilter::KasName("nobody".into()),
        KasFilter::KasUri("https://nobody".into()),
    ] {
        let answer = refused(list(kas_filter(filter)).await);
        assert_eq!(answer, (Code::NotFound, "resource not found".into()));
    }
}

async fn only_labels_change(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let key = plane.local_key(&kas, "k1").await;
    let update = async |id: &str, label: &str, behavior: MetadataUpdateEnum| {
        let labels = [(label.to_owned(), "x".to_owned())].into();
        let message = UpdateKeyRequest {
            id: id.into(),
            metadata: Some(MetadataMutable { labels }),
            metadata_update_behavior: behavior as i32,
        };
        let updated = plane.kas().update_key(admin(message)).await?;
        let key = updated.into_inner().kas_key.unwrap().key.unwrap();
        Ok::<_, Status>(key.metadata.unwrap().labels.len())
    };
    let id = id_of(&key);
    assert_eq!(update(&id, "a", MetadataUpdateEnum::Extend).await.unwrap(), 1);
    assert_eq!(update(&id, "b", MetadataUpdateEnum::Extend).await.unwrap(), 2);
    assert_eq!(update(&id, "c", MetadataUpdateEnum::Replace).await.unwrap(), 1);
    let answer = refused(update(NOBODY, "c", MetadataUpdateEnum::Replace).await);
    assert_eq!(answer, (Code::NotFound, "resource not found".into()));
    let now = plane.key(&id).await.unwrap();
    assert_eq!(status_of(&now), 1);
    assert_eq!(now.key.unwrap().public_key_ctx, key.key.unwrap().public_key_ctx);
}

async fn labels_of_two_at_once_are_both_kept(store: Store) {
    let plane = Plane::start(store).await;
    let kas = plane.own_kas().await;
    let id = id_of(&plane.local_key(&kas, "k1").await);
    let updates = (0..16).map(|number| {
        let labels = [(format!("l{number}"), "x".to_owned())].into();
        let message = UpdateKeyRequest {
            id: id.clone(),
            metadata: Some(MetadataMutable { labels }),
            metadata_update_behavior: MetadataUpdateEnum::Extend as i32,
        };
        let mut client = plane.kas();
        tokio::spawn(async move { client.update_key(admin(message)).await })
    });
    for update in updates.collect::<Vec<_>>() {
        update.await.unwrap().unwrap();
    }
    let labels = plane.key(&id).await.unwrap().key.unwrap().metadata.unwrap().labels;
    assert_eq!(labels.len(), 16);
}

on_both!(
    lengths_are_in_characters,
    what_is_registered_comes_back,
    names_are_taken_once,
    what_it_refers_to_must_be_there,
    key_material_that_cannot_be_is_refused,
    a_list_is_filtered_sorted_and_paged,
    only_labels_change,
    labels_of_two_at_once_are_both_kept,
);
