//! Every rule for requests: which ids a broken one breaks. Rules come before the database, so one
//! database does.

use kasbah_proto::{
    common::MetadataMutable,
    kasbah::admin::v1::GenerateKeyRequest,
    policy::{
        PrivateKeyCtx, PublicKeyCtx, Search,
        kasregistry::{
            CreateKeyAccessServerRequest, CreateKeyRequest, DeleteKeyAccessServerRequest,
            GetKeyAccessServerRequest, GetKeyRequest, KasKeyIdentifier, KasKeysSort,
            KeyAccessServersSort, ListKeyAccessServerGrantsRequest, ListKeyAccessServersRequest,
            ListKeyMappingsRequest, ListKeysRequest, RotateKeyRequest, SetBaseKeyRequest,
            UpdateKeyAccessServerRequest, UpdateKeyRequest,
            get_key_access_server_request::Identifier as KasIdentifier,
            get_key_request,
            kas_key_identifier::Identifier,
            list_key_mappings_request,
            list_keys_request::KasFilter,
            rotate_key_request::{ActiveKey, NewKey},
            set_base_key_request,
        },
        keymanagement::{
            CreateProviderConfigRequest, DeleteProviderConfigRequest, GetProviderConfigRequest,
            UpdateProviderConfigRequest,
            get_provider_config_request::{Identifier as ProviderIdentifier, NameManager},
        },
        r#unsafe::{UnsafeDeleteKasKeyRequest, UnsafeUpdateKeyRequest},
    },
};
use tonic::Status;

use crate::harness::{NOBODY, Plane, Store, admin, broken, local, provider};

/// What was broken, in what, and the ids that should have been told.
struct Cases(Vec<String>);

impl Cases {
    fn check<T>(&mut self, what: &str, answer: Result<T, Status>, ids: &[&str]) {
        match answer {
            Ok(_) => self.0.push(format!("{what}: accepted, expected {ids:?}")),
            Err(status) if !status.message().starts_with("validation error:") => {
                self.0.push(format!("{what}: {status:?}, expected {ids:?}"));
            }
            Err(status) => {
                let found = broken(&status);
                if found != ids {
                    self.0.push(format!("{what}: {found:?}, expected {ids:?}"));
                }
            }
        }
    }
}

impl Drop for Cases {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn labels(pairs: usize, length: usize) -> MetadataMutable {
    let labels = (0..pairs).map(|number| (number.to_string(), text(length))).collect();
    MetadataMutable { labels }
}

#[tokio::test]
async fn provider_configurations() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let good = provider("a", "m", "{}");
    for (what, message, ids) in [
        ("nothing", CreateProviderConfigRequest::default(), &["required"; 3][..]),
        (
            "no name",
            CreateProviderConfigRequest { name: String::new(), ..good.clone() },
            &["required"],
        ),
        (
            "no settings",
            CreateProviderConfigRequest { config_json: Vec::new(), ..good.clone() },
            &["required"],
        ),
        (
            "no manager",
            CreateProviderConfigRequest { manager: String::new(), ..good.clone() },
            &["required"],
        ),
        ("long name", provider(&text(256), "m", "{}"), &["string.max_len"]),
        ("long manager", provider("a", &text(256), "{}"), &["string.max_len"]),
        ("NUL", provider("a\0b", "m", "{}"), &["string.printable"]),
        ("NUL in manager", provider("a", "m\0", "{}"), &["string.printable"]),
        ("long settings", provider("a", "m", &text(65537)), &["bytes.max_len"]),
        (
            "many labels",
            CreateProviderConfigRequest { metadata: Some(labels(65, 1)), ..good.clone() },
            &["map.max_pairs"],
        ),
        (
            "long label",
            CreateProviderConfigRequest { metadata: Some(labels(1, 1025)), ..good.clone() },
            &["string.max_len"],
        ),
    ] {
        cases.check(what, plane.providers().create_provider_config(admin(message)).await, ids);
    }
    let pair = |name: &str, manager: &str| {
        Some(ProviderIdentifier::NameManager(NameManager {
            name: name.into(),
            manager: manager.into(),
        }))
    };
    for (what, identifier, ids) in [
        ("none", None, &["required"][..]),
        ("empty id", Some(ProviderIdentifier::Id(String::new())), &["string.uuid_empty"]),
        ("no UUID", Some(ProviderIdentifier::Id("x".into())), &["string.uuid"]),
        ("empty name", Some(ProviderIdentifier::Name(String::new())), &["string.min_len"]),
        ("no manager", pair("a", ""), &["string.min_len"]),
        ("empty pair", pair("", ""), &["string.min_len", "string.min_len"]),
    ] {
        let message = GetProviderConfigRequest { identifier, ..Default::default() };
        cases.check(what, plane.providers().get_provider_config(admin(message)).await, ids);
    }
    for (what, id, ids) in
        [("empty", "", &["string.uuid_empty"][..]), ("no UUID", "no-uuid", &["string.uuid"])]
    {
        let message = UpdateProviderConfigRequest { id: id.into(), ..Default::default() };
        cases.check(what, plane.providers().update_provider_config(admin(message)).await, ids);
        let message = DeleteProviderConfigRequest { id: id.into() };
        cases.check(what, plane.providers().delete_provider_config(admin(message)).await, ids);
    }
    let long = UpdateProviderConfigRequest {
        id: NOBODY.into(),
        name: text(256),
        manager: text(256),
        config_json: vec![b'x'; 65537],
        ..Default::default()
    };
    let ids = ["string.max_len", "string.max_len", "bytes.max_len"];
    cases.check("long", plane.providers().update_provider_config(admin(long)).await, &ids);
}

#[tokio::test]
async fn key_access_servers() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let create = |uri: &str, name: &str, source_type| CreateKeyAccessServerRequest {
        uri: uri.into(),
        name: name.into(),
        source_type,
        ..Default::default()
    };
    for (what, message, ids) in [
        ("no URI", create("", "", 0), &["uri_format"][..]),
        ("no scheme", create("kas.example.com", "", 0), &["uri_format"]),
        ("blank", create("https://a b", "", 0), &["uri_format"]),
        ("source type", create("https://a", "", 3), &["enum.defined_only"]),
        ("dash first", create("https://a", "-a", 0), &["kas_name_format"]),
        ("underscore last", create("https://a", "a_", 0), &["kas_name_format"]),
        ("dot", create("https://a", "a.b", 0), &["kas_name_format"]),
        ("umlaut", create("https://a", "ä", 0), &["kas_name_format"]),
        ("long", create("https://a", &text(254), 0), &["string.max_len"]),
        ("all", create("", "-", 9), &["uri_format", "enum.defined_only", "kas_name_format"]),
    ] {
        cases.check(what, plane.kas().create_key_access_server(admin(message)).await, ids);
    }
    let get = |id: &str, identifier| GetKeyAccessServerRequest { id: id.into(), identifier };
    for (what, message, ids) in [
        ("nothing", get("", None), &["required_fields"][..]),
        ("both", get(NOBODY, Some(KasIdentifier::Name("a".into()))), &["exclusive_fields"]),
        ("deprecated", get("x", None), &["string.uuid"]),
        ("id", get("", Some(KasIdentifier::KasId("x".into()))), &["string.uuid"]),
        ("empty id", get("", Some(KasIdentifier::KasId(String::new()))), &["string.uuid_empty"]),
        ("empty name", get("", Some(KasIdentifier::Name(String::new()))), &["string.min_len"]),
        (
            "empty URI",
            get("", Some(KasIdentifier::Uri(String::new()))),
            &["string.min_len", "string.uri_empty"],
        ),
        ("URI", get("", Some(KasIdentifier::Uri("x y".into()))), &["string.uri"]),
    ] {
        cases.check(what, plane.kas().get_key_access_server(admin(message)).await, ids);
    }
    let update = |id: &str, uri: &str, name: &str, source_type| UpdateKeyAccessServerRequest {
        id: id.into(),
        uri: uri.into(),
        name: name.into(),
        source_type,
        ..Default::default()
    };
    for (what, message, ids) in [
        ("no id", update("", "", "a", 0), &["string.uuid_empty"][..]),
        ("id", update("xx", "", "a", 0), &["string.uuid"]),
        ("URI", update(NOBODY, "x", "", 0), &["optional_uri_format"]),
        ("name", update(NOBODY, "", "_a", 0), &["kas_name_format"]),
        ("long", update(NOBODY, "", &text(254), 0), &["string.max_len"]),
        ("source type", update(NOBODY, "", "", 7), &["enum.defined_only"]),
    ] {
        cases.check(what, plane.kas().update_key_access_server(admin(message)).await, ids);
    }
    for (what, id, ids) in [("none", "", &["string.uuid_empty"][..]), ("id", "x", &["string.uuid"])]
    {
        let message = DeleteKeyAccessServerRequest { id: id.into() };
        cases.check(what, plane.kas().delete_key_access_server(admin(message)).await, ids);
    }
    let list = |fields: &[(i32, i32)], term: Option<&str>| ListKeyAccessServersRequest {
        sort: fields
            .iter()
            .map(|&(field, direction)| KeyAccessServersSort { field, direction })
            .collect(),
        search: term.map(|term| Search { term: term.into() }),
        pagination: None,
    };
    for (what, message, ids) in [
        ("two orders", list(&[(1, 1), (2, 1)], None), &["repeated.max_items"][..]),
        ("field", list(&[(5, 1)], None), &["enum.defined_only"]),
        ("direction", list(&[(1, 3)], None), &["enum.defined_only"]),
        ("empty term", list(&[], Some("")), &["string.min_len"]),
        ("long term", list(&[], Some(&text(254))), &["string.max_len"]),
    ] {
        cases.check(what, plane.kas().list_key_access_servers(admin(message)).await, ids);
    }
    let grants = |kas_id: &str, kas_uri: &str, kas_name: &str| ListKeyAccessServerGrantsRequest {
        kas_id: kas_id.into(),
        kas_uri: kas_uri.into(),
        kas_name: kas_name.into(),
        pagination: None,
    };
    for (what, message, ids) in [
        ("id", grants("x", "", ""), &["optional_uuid_format"][..]),
        ("around an id", grants(&format!("x{NOBODY}y"), "", ""), &["optional_uuid_format"]),
        ("URI", grants("", "x", ""), &["optional_uri_format"]),
        ("name", grants("", "", "-"), &["kas_name_format"]),
    ] {
        cases.check(what, plane.kas().list_key_access_server_grants(admin(message)).await, ids);
    }
}

const WRAPPED: &str = "private_key_ctx_optionally_required";
const PROVIDER: &str = "provider_config_id_optionally_required";
const PUBLIC_ONLY: &str = "private_key_ctx_for_public_key_only";

/// What goes with each mode: mode, wrapped key, provider, whether there is a private context.
const MODES: [(i32, Option<&str>, &str, &[&str]); 16] = [
    (1, Some("AAAA"), NOBODY, &[PROVIDER]),
    (1, Some(""), "", &[WRAPPED]),
    (1, None, "", &[WRAPPED]),
    (1, Some(""), NOBODY, &[WRAPPED, PROVIDER]),
    (2, Some("AAAA"), "", &[PROVIDER]),
    (2, Some(""), NOBODY, &[WRAPPED]),
    (2, None, NOBODY, &[WRAPPED]),
    (2, None, "", &[WRAPPED, PROVIDER]),
    (3, Some("AAAA"), NOBODY, &[WRAPPED]),
    (3, Some(""), "", &[PROVIDER]),
    (3, None, "", &[PROVIDER]),
    (3, Some("AAAA"), "", &[WRAPPED, PROVIDER]),
    (4, Some(""), "", &[PUBLIC_ONLY]),
    (4, Some("AAAA"), "", &[WRAPPED, PUBLIC_ONLY]),
    (4, None, NOBODY, &[PROVIDER]),
    (4, Some("AAAA"), NOBODY, &[WRAPPED, PROVIDER, PUBLIC_ONLY]),
];

fn context(wrapped: Option<&str>) -> Option<PrivateKeyCtx> {
    wrapped.map(|wrapped| PrivateKeyCtx { key_id: "x".into(), wrapped_key: wrapped.into() })
}

#[tokio::test]
async fn new_keys() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let good = local(NOBODY, "k");
    let with = |change: &dyn Fn(&mut CreateKeyRequest)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    for (what, message, ids) in [
        ("no KAS", with(&|m| m.kas_id.clear()), &["string.uuid_empty"][..]),
        ("KAS", with(&|m| m.kas_id = "x".into()), &["string.uuid"]),
        ("no kid", with(&|m| m.key_id.clear()), &["string.min_len"]),
        ("long kid", with(&|m| m.key_id = text(37)), &["string.max_len"]),
        ("NUL in kid", with(&|m| m.key_id = "a\0".into()), &["string.printable"]),
        ("no algorithm", with(&|m| m.key_algorithm = 0), &["key_algorithm_defined"]),
        ("algorithm", with(&|m| m.key_algorithm = 9), &["key_algorithm_defined"]),
        ("algorithm", with(&|m| m.key_algorithm = 22), &["key_algorithm_defined"]),
        ("no mode", with(&|m| m.key_mode = 0), &["key_mode_defined", WRAPPED, PROVIDER]),
        ("mode", with(&|m| m.key_mode = 5), &["key_mode_defined", WRAPPED, PROVIDER]),
        ("no public key", with(&|m| m.public_key_ctx = None), &["required"]),
        (
            "empty public key",
            with(&|m| m.public_key_ctx = Some(PublicKeyCtx::default())),
            &["string.min_len"],
        ),
        (
            "no wrapping key",
            with(&|m| m.private_key_ctx.as_mut().into_iter().for_each(|c| c.key_id.clear())),
            &["string.min_len"],
        ),
        (
            "provider",
            with(&|m| {
                m.key_mode = 2;
                m.provider_config_id = "x".into();
            }),
            &["string.uuid"],
        ),
        ("labels", with(&|m| m.metadata = Some(labels(65, 1))), &["map.max_pairs"]),
    ] {
        cases.check(what, plane.kas().create_key(admin(message)).await, ids);
    }
    for (mode, wrapped, provider, ids) in MODES {
        let message = CreateKeyRequest {
            key_mode: mode,
            private_key_ctx: context(wrapped),
            provider_config_id: provider.into(),
            ..good.clone()
        };
        let what = format!("mode {mode}, {wrapped:?}, {provider}");
        cases.check(&what, plane.kas().create_key(admin(message)).await, ids);
    }
}

#[tokio::test]
async fn rotations() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let good = local(NOBODY, "k");
    let good = NewKey {
        key_id: good.key_id,
        algorithm: good.key_algorithm,
        key_mode: good.key_mode,
        public_key_ctx: good.public_key_ctx,
        private_key_ctx: good.private_key_ctx,
        provider_config_id: String::new(),
        metadata: None,
    };
    let rotate = |active_key, new_key| RotateKeyRequest { active_key, new_key };
    let active = || Some(ActiveKey::Id(NOBODY.into()));
    let with = |change: &dyn Fn(&mut NewKey)| {
        let mut new = good.clone();
        change(&mut new);
        rotate(active(), Some(new))
    };
    let mode = |mode| {
        with(&move |new| {
            new.key_mode = mode;
        })
    };
    for (what, message, ids) in [
        ("no active key", rotate(None, Some(good.clone())), &["required"][..]),
        (
            "active key",
            rotate(Some(ActiveKey::Id("x".into())), Some(good.clone())),
            &["string.uuid"],
        ),
        ("no kid", with(&|new| new.key_id.clear()), &["string.min_len"]),
        ("long kid", with(&|new| new.key_id = text(37)), &["string.max_len"]),
        ("algorithm", with(&|new| new.algorithm = 10), &["key_algorithm_defined"]),
        ("no mode", mode(0), &["new_key_mode_defined", WRAPPED, PROVIDER]),
        ("mode", mode(9), &["enum.defined_only", "new_key_mode_defined", WRAPPED, PROVIDER]),
        ("no public key", with(&|new| new.public_key_ctx = None), &["required"]),
        (
            "no new key",
            rotate(active(), None),
            &[
                "string.min_len",
                "key_algorithm_defined",
                "new_key_mode_defined",
                "required",
                WRAPPED,
                PROVIDER,
            ],
        ),
    ] {
        cases.check(what, plane.kas().rotate_key(admin(message)).await, ids);
    }
    for (mode, wrapped, provider, ids) in MODES {
        let message = with(&|new| {
            new.key_mode = mode;
            new.private_key_ctx = context(wrapped);
            new.provider_config_id = provider.into();
        });
        let what = format!("mode {mode}, {wrapped:?}, {provider}");
        let answer = plane.kas().rotate_key(admin(message)).await;
        if let (Err(status), [WRAPPED, ..]) = (&answer, ids) {
            let start = "\n - For the new key, the wrapped_key is required";
            assert!(status.message().contains(start), "{status:?}");
        }
        cases.check(&what, answer, ids);
    }
}

#[tokio::test]
async fn names_of_keys() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let named = |identifier, kid: &str| KasKeyIdentifier { identifier, kid: kid.into() };
    let names = [
        ("nothing", named(None, ""), &["required", "string.min_len"][..]),
        ("no KAS", named(None, "k"), &["required"]),
        ("no kid", named(Some(Identifier::Name("a".into())), ""), &["string.min_len"]),
        ("id", named(Some(Identifier::KasId("x".into())), "k"), &["string.uuid"]),
        ("empty name", named(Some(Identifier::Name(String::new())), "k"), &["string.min_len"]),
        (
            "empty URI",
            named(Some(Identifier::Uri(String::new())), "k"),
            &["string.min_len", "string.uri_empty"],
        ),
        ("URI", named(Some(Identifier::Uri("x".into())), "k"), &["string.uri"]),
    ];
    for (what, key, ids) in names {
        let identifier = Some(get_key_request::Identifier::Key(key.clone()));
        let answer = plane.kas().get_key(admin(GetKeyRequest { identifier })).await;
        cases.check(&format!("get: {what}"), answer, ids);
        let active_key = Some(set_base_key_request::ActiveKey::Key(key.clone()));
        let answer = plane.kas().set_base_key(admin(SetBaseKeyRequest { active_key })).await;
        cases.check(&format!("base: {what}"), answer, ids);
        let identifier = Some(list_key_mappings_request::Identifier::Key(key));
        let message = ListKeyMappingsRequest { identifier, pagination: None };
        let answer = plane.kas().list_key_mappings(admin(message)).await;
        cases.check(&format!("mappings: {what}"), answer, ids);
    }
    for (what, id, ids) in
        [("empty", "", &["string.uuid_empty"][..]), ("id", "x", &["string.uuid"])]
    {
        let identifier = Some(get_key_request::Identifier::Id(id.into()));
        cases.check(what, plane.kas().get_key(admin(GetKeyRequest { identifier })).await, ids);
        let active_key = Some(set_base_key_request::ActiveKey::Id(id.into()));
        let message = SetBaseKeyRequest { active_key };
        cases.check(what, plane.kas().set_base_key(admin(message)).await, ids);
        let identifier = Some(list_key_mappings_request::Identifier::Id(id.into()));
        let message = ListKeyMappingsRequest { identifier, pagination: None };
        cases.check(what, plane.kas().list_key_mappings(admin(message)).await, ids);
        let message = UpdateKeyRequest { id: id.into(), ..Default::default() };
        cases.check(what, plane.kas().update_key(admin(message)).await, ids);
        let message = UnsafeUpdateKeyRequest { id: id.into(), ..Default::default() };
        cases.check(what, plane.unsafe_keys().unsafe_update_key(admin(message)).await, ids);
        let message = UnsafeDeleteKasKeyRequest {
            id: id.into(),
            kid: "k".into(),
            kas_uri: "https://x".into(),
        };
        cases.check(what, plane.unsafe_keys().unsafe_delete_kas_key(admin(message)).await, ids);
    }
    let none = GetKeyRequest { identifier: None };
    cases.check("none", plane.kas().get_key(admin(none)).await, &["required"]);
    let none = SetBaseKeyRequest { active_key: None };
    cases.check("none", plane.kas().set_base_key(admin(none)).await, &["required"]);
}

#[tokio::test]
async fn lists_and_changes_of_keys() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let all = ListKeysRequest::default();
    let of = |filter| ListKeysRequest { kas_filter: Some(filter), ..all.clone() };
    let sort = |fields: &[(i32, i32)]| ListKeysRequest {
        sort: fields.iter().map(|&(field, direction)| KasKeysSort { field, direction }).collect(),
        ..all.clone()
    };
    let search =
        |term: &str| ListKeysRequest { search: Some(Search { term: term.into() }), ..all.clone() };
    for (what, message, ids) in [
        (
            "algorithm",
            ListKeysRequest { key_algorithm: 9, ..all.clone() },
            &["key_algorithm_defined"][..],
        ),
        ("id", of(KasFilter::KasId("x".into())), &["string.uuid"]),
        ("empty id", of(KasFilter::KasId(String::new())), &["string.uuid_empty"]),
        ("name", of(KasFilter::KasName(String::new())), &["string.min_len"]),
        ("URI", of(KasFilter::KasUri("x".into())), &["string.uri"]),
        (
            "empty URI",
            of(KasFilter::KasUri(String::new())),
            &["string.min_len", "string.uri_empty"],
        ),
        ("two orders", sort(&[(1, 1), (2, 1)]), &["repeated.max_items"]),
        ("field", sort(&[(5, 1)]), &["enum.defined_only"]),
        ("direction", sort(&[(1, -1)]), &["enum.defined_only"]),
        ("empty term", search(""), &["string.min_len"]),
        ("long term", search(&text(254)), &["string.max_len"]),
    ] {
        cases.check(what, plane.kas().list_keys(admin(message)).await, ids);
    }
    let unsaid =
        UpdateKeyRequest { id: NOBODY.into(), metadata: Some(labels(1, 1)), ..Default::default() };
    let ids = ["metadata_update_behavior"];
    cases.check("behaviour", plane.kas().update_key(admin(unsaid)).await, &ids);
    let unsafe_update = |mode, provider: &str| UnsafeUpdateKeyRequest {
        id: NOBODY.into(),
        target_key_mode: mode,
        provider_config_id: provider.into(),
    };
    for (what, message, ids) in [
        ("mode 1", unsafe_update(1, ""), &["enum.in"][..]),
        ("mode 2", unsafe_update(2, ""), &["enum.in"]),
        ("mode 5", unsafe_update(5, ""), &["enum.in"]),
        ("provider", unsafe_update(3, "x"), &["string.uuid"]),
    ] {
        cases.check(what, plane.unsafe_keys().unsafe_update_key(admin(message)).await, ids);
    }
    let nameless = UnsafeDeleteKasKeyRequest { id: NOBODY.into(), ..Default::default() };
    let answer = plane.unsafe_keys().unsafe_delete_kas_key(admin(nameless)).await;
    cases.check("nameless", answer, &["required", "required"]);
}

#[tokio::test]
async fn keys_to_be_made() {
    let plane = Plane::start(Store::sqlite()).await;
    let mut cases = Cases(Vec::new());
    let good = GenerateKeyRequest {
        key_id: "k".into(),
        key_algorithm: 1,
        key_mode: 3,
        provider_config_id: NOBODY.into(),
        ..Default::default()
    };
    let with = |change: &dyn Fn(&mut GenerateKeyRequest)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    for (what, message, ids) in [
        ("no kid", with(&|m| m.key_id.clear()), &["string.min_len"][..]),
        ("long kid", with(&|m| m.key_id = text(37)), &["string.max_len"]),
        ("KEM", with(&|m| m.key_algorithm = 20), &["key_algorithm_defined"]),
        ("mode 1", with(&|m| m.key_mode = 1), &["key_mode_defined"]),
        ("mode 4", with(&|m| m.key_mode = 4), &["key_mode_defined"]),
        ("no provider", with(&|m| m.provider_config_id.clear()), &["string.uuid_empty"]),
        ("KAS", with(&|m| m.kas_id = "x".into()), &["string.uuid"]),
        ("rotates", with(&|m| m.rotates = "x".into()), &["string.uuid"]),
    ] {
        cases.check(what, plane.admin().generate_key(admin(message)).await, ids);
    }
}
