#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_proto::policy::{
    PrivateKeyCtx, PublicKeyCtx,
    kasregistry::{
        CreateKeyRequest, ListKeysRequest, RotateKeyRequest,
        rotate_key_request::{ActiveKey, NewKey as NewKeyMessage},
    },
    keymanagement::CreateProviderConfigRequest,
};
use kasbah_registry::{KasName, KeyName, Labels, NewKey, NewProvider, fuzzing};
use prost::Message;

const ID: &str = "3c7b5e7e-6f0c-4a51-9d6a-1f0a54c2c0de";

libfuzzer_sys::fuzz_target!(
    init: {
        assert!(create_key(sound_create()) && rotate_key(sound_rotate()), "what is sound passes");
        assert!(create_provider(sound_provider()) && list_keys(ListKeysRequest::default()));
    },
    |bytes: &[u8]| {
        let Some((call, bytes)) = bytes.split_first() else { return };
        // Fuzzed bytes change a sound request field by field.
        match call % 4 {
            0 => _ = merged(sound_create(), bytes).map(create_key),
            1 => _ = merged(sound_rotate(), bytes).map(rotate_key),
            2 => _ = merged(sound_provider(), bytes).map(create_provider),
            _ => _ = merged(ListKeysRequest::default(), bytes).map(list_keys),
        }
    }
);

fn merged<M: Message>(mut message: M, bytes: &[u8]) -> Option<M> {
    message.merge(bytes).ok().map(|()| message)
}

fn create_key(request: CreateKeyRequest) -> bool {
    fuzzing::create_key(request).inspect(check_key).is_some()
}

fn rotate_key(request: RotateKeyRequest) -> bool {
    let Some((old, new)) = fuzzing::rotate_key(request) else { return false };
    check_key(&new);
    match &old {
        KeyName::Id(id) => assert_eq!(id.len(), 36),
        KeyName::InKas(kas, kid) => {
            check_kas(kas);
            check_text(kid, usize::MAX);
        }
    }
    true
}

fn create_provider(request: CreateProviderConfigRequest) -> bool {
    fuzzing::create_provider_config(request).inspect(check_provider).is_some()
}

fn list_keys(request: ListKeysRequest) -> bool {
    let Some(query) = fuzzing::list_keys(request) else { return false };
    query.kas.iter().for_each(check_kas);
    assert!(query.search.chars().count() <= 253 && !query.search.contains('\0'));
    true
}

fn check_key(key: &NewKey) {
    check_text(&key.kid, 36);
    assert!(key.algorithm != 0 && (1..=4).contains(&key.mode));
    assert!(key.public_pem.len() <= 16 * 1024 && key.public_pem.contains("-----BEGIN "));
    assert!(!key.public_pem.contains('\0'), "a database keeps no NUL");
    assert!(!key.public_pem.contains("BEGIN PRIVATE KEY"), "clients are given this text");
    assert_eq!(key.provider_id.is_some(), matches!(key.mode, 2 | 3));
    let wrapped = key.private_key.as_ref().and_then(|private| private.wrapped_key.as_ref());
    assert_eq!(wrapped.is_some(), matches!(key.mode, 1 | 2));
    assert!(wrapped.is_none_or(|wrapped| wrapped.len() <= 64 * 1024));
    if let Some(private) = &key.private_key {
        check_text(&private.key_id, 2048);
    }
    check_labels(&key.labels);
}

fn check_provider(provider: &NewProvider) {
    check_text(&provider.name, 255);
    check_text(&provider.manager, 255);
    assert!((1..=64 * 1024).contains(&provider.config_json.len()));
    check_labels(&provider.labels);
}

fn check_kas(kas: &KasName) {
    let (KasName::Id(text) | KasName::Name(text) | KasName::Uri(text)) = kas;
    check_text(text, usize::MAX);
}

fn check_labels(labels: &Labels) {
    assert!(labels.len() <= 64);
    let is_kept = |text: &String| text.chars().count() <= 1024 && !text.contains('\0');
    assert!(labels.iter().all(|(name, value)| is_kept(name) && is_kept(value)));
}

/// Neither empty nor longer than `most` characters, and a database can keep it.
fn check_text(text: &str, most: usize) {
    assert!(!text.is_empty() && text.chars().count() <= most, "{text:?}");
    assert!(!text.contains('\0'), "{text:?}");
}

fn sound_create() -> CreateKeyRequest {
    let NewKeyMessage { key_id, public_key_ctx, private_key_ctx, .. } = sound_key();
    CreateKeyRequest {
        kas_id: ID.to_owned(),
        key_id,
        key_algorithm: 3,
        key_mode: 2,
        public_key_ctx,
        private_key_ctx,
        provider_config_id: ID.to_owned(),
        ..CreateKeyRequest::default()
    }
}

fn sound_rotate() -> RotateKeyRequest {
    let active_key = Some(ActiveKey::Id(ID.to_owned()));
    RotateKeyRequest { active_key, new_key: Some(sound_key()) }
}

fn sound_key() -> NewKeyMessage {
    let pem = include_str!("../../crates/crypto/tests/crypto/data/p256.pem");
    NewKeyMessage {
        key_id: "e1".to_owned(),
        algorithm: 3,
        key_mode: 2,
        public_key_ctx: Some(PublicKeyCtx { pem: STANDARD.encode(pem) }),
        private_key_ctx: Some(PrivateKeyCtx {
            key_id: "kek".to_owned(),
            wrapped_key: STANDARD.encode([7; 64]),
        }),
        provider_config_id: ID.to_owned(),
        ..NewKeyMessage::default()
    }
}

fn sound_provider() -> CreateProviderConfigRequest {
    CreateProviderConfigRequest {
        name: "main".to_owned(),
        manager: "opentdf.io/hsm".to_owned(),
        config_json: b"{}".to_vec(),
        ..CreateProviderConfigRequest::default()
    }
}
