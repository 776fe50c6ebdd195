//! Who may call what, with the built-in role policy.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code::{self, InvalidArgument, Ok as Fine, PermissionDenied, Unauthenticated};

use crate::harness::{Plane, Store, call};

/// The files with the services of the control plane.
const FILES: [&str; 5] = [
    "kasbah/admin/v1/admin.proto",
    "policy/kasregistry/key_access_server_registry.proto",
    "policy/keymanagement/key_management.proto",
    "policy/unsafe/unsafe.proto",
    "wellknownconfiguration/wellknown_configuration.proto",
];
const DISCOVERY: &str = "wellknownconfiguration.WellKnownService/GetWellKnownConfiguration";

/// What an empty request is answered: to an administrator, a standard user, anybody with a good
/// token, and without one.
#[rustfmt::skip]
const ANSWERS: [(&str, &str, [Code; 4]); 30] = {
    const ADMIN: &str = "kasbah.admin.v1.AdminService";
    const KAS: &str = "policy.kasregistry.KeyAccessServerRegistryService";
    const PROVIDERS: &str = "policy.keymanagement.KeyManagementService";
    const UNSAFE: &str = "policy.unsafe.UnsafeService";
    const CHANGES: [Code; 4] = [InvalidArgument, PermissionDenied, PermissionDenied, Unauthenticated];
    const OVERSEES: [Code; 4] = [Fine, PermissionDenied, PermissionDenied, Unauthenticated];
    const LOOKS_UP: [Code; 4] = [InvalidArgument, InvalidArgument, PermissionDenied, Unauthenticated];
    const LISTS: [Code; 4] = [Fine, Fine, PermissionDenied, Unauthenticated];
    const LISTS_FOR_ALL: [Code; 4] = [Fine, Fine, Fine, Unauthenticated];
    const FINDS_FOR_ALL: [Code; 4] = [InvalidArgument, InvalidArgument, InvalidArgument, Unauthenticated];
    [
        (ADMIN, "GenerateKey", CHANGES),
        (ADMIN, "GetEntitlements", OVERSEES),
        (ADMIN, "ListKeyStates", OVERSEES),
        (ADMIN, "ListProviderHealth", OVERSEES),
        (ADMIN, "Reconcile", OVERSEES),
        (ADMIN, "SetEntitlements", CHANGES),
        (ADMIN, "SetKeyState", CHANGES),
        (ADMIN, "WrapKeysAgain", CHANGES),
        (KAS, "CreateKey", CHANGES),
        (KAS, "CreateKeyAccessServer", CHANGES),
        (KAS, "DeleteKeyAccessServer", CHANGES),
        (KAS, "GetBaseKey", LISTS_FOR_ALL),
        (KAS, "GetKey", LOOKS_UP),
        (KAS, "GetKeyAccessServer", FINDS_FOR_ALL),
        (KAS, "ListKeyAccessServerGrants", LISTS),
        (KAS, "ListKeyAccessServers", LISTS_FOR_ALL),
        (KAS, "ListKeyMappings", LISTS),
        (KAS, "ListKeys", LISTS),
        (KAS, "RotateKey", CHANGES),
        (KAS, "SetBaseKey", CHANGES),
        (KAS, "UpdateKey", CHANGES),
        (KAS, "UpdateKeyAccessServer", CHANGES),
        (PROVIDERS, "CreateProviderConfig", CHANGES),
        (PROVIDERS, "DeleteProviderConfig", CHANGES),
        (PROVIDERS, "GetProviderConfig", LOOKS_UP),
        (PROVIDERS, "ListProviderConfigs", LISTS),
        (PROVIDERS, "UpdateProviderConfig", CHANGES),
        (UNSAFE, "UnsafeDeleteKasKey", CHANGES),
        (UNSAFE, "UnsafeUpdateKey", CHANGES),
        ("wellknownconfiguration.WellKnownService", "GetWellKnownConfiguration", [Fine; 4]),
    ]
};

/// The services as they are declared.
fn declared() -> FileDescriptorSet {
    let root = format!("{}/../../proto", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let mut compiler = protox::Compiler::new([root]).unwrap();
    compiler.include_imports(true).open_files(FILES).unwrap();
    FileDescriptorSet::decode(&*compiler.encode_file_descriptor_set()).unwrap()
}

/// Every RPC of the control plane, with the type of its answer (`.package.Message`).
fn rpcs() -> BTreeMap<String, String> {
    let mut rpcs = BTreeMap::new();
    for file in declared().file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                rpcs.insert(name, method.output_type().to_owned());
            }
        }
    }
    rpcs
}

/// Every RPC whose answer has room for what not everybody may see.
pub(crate) fn rpcs_with_private_parts() -> BTreeSet<String> {
    let mut fields = BTreeMap::new();
    for file in declared().file {
        for message in &file.message_type {
            let types = message.field.iter().map(|field| field.type_name().to_owned());
            let name = format!(".{}.{}", file.package(), message.name());
            fields.insert(name, types.collect::<Vec<_>>());
        }
    }
    let private = [".policy.PrivateKeyCtx".to_owned(), ".policy.KeyProviderConfig".to_owned()];
    let mut having = BTreeSet::from(private);
    loop {
        let before = having.len();
        let more = fields.iter().filter(|(_, types)| types.iter().any(|t| having.contains(t)));
        let more: Vec<_> = more.map(|(name, _)| name.clone()).collect();
        having.extend(more);
        if having.len() == before {
            break;
        }
    }
    rpcs().into_iter().filter(|(_, answer)| having.contains(answer)).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn every_call_is_for_those_whom_it_is_for() {
    let plane = Plane::start(Store::sqlite()).await;
    let known: BTreeSet<_> =
        ANSWERS.iter().map(|(service, method, _)| format!("{service}/{method}")).collect();
    assert_eq!(known, rpcs().into_keys().collect(), "the table has every call, and no other");
    let subjects = [Some("admin"), Some("standard"), Some("other"), None];
    for (service, method, expected) in ANSWERS {
        let rpc = format!("{service}/{method}");
        for (subject, code) in subjects.iter().zip(expected) {
            let answer = call(plane.channel(), *subject, &rpc, Vec::new()).await;
            let found = answer.err().map_or(Fine, |status| status.code());
            assert_eq!(found, code, "{rpc} for {subject:?}");
        }
    }
}

#[tokio::test]
async fn without_a_gate_nobody_is_let_in() {
    let plane = Plane::start(Store::sqlite()).await;
    let channel = plane.ungated().await;
    for rpc in rpcs().into_keys() {
        let answer = call(channel.clone(), Some("admin"), &rpc, Vec::new()).await;
        if rpc == DISCOVERY {
            answer.unwrap();
            continue;
        }
        let status = answer.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Unauthenticated, "unauthenticated"),
            "{rpc}"
        );
    }
    assert_eq!(plane.audit.events(), [] as [serde_json::Value; 0]);
}
