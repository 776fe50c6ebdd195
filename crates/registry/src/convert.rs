//! Between records and messages.
#![expect(deprecated, reason = "old clients read these fields")]

use base64::{Engine, prelude::BASE64_STANDARD};
use kasbah_proto::{
    common,
    policy::{
        AsymmetricKey, KasKey, KeyAccessServer, KeyProviderConfig, PrivateKeyCtx, PublicKeyCtx,
        SimpleKasKey, SimpleKasPublicKey,
        kasregistry::{
            ChangeMappings, KasKeyIdentifier, KeyMapping, MappedPolicyObject, RotatedResources,
            kas_key_identifier,
        },
    },
};
use kasbah_trust::{
    Algorithm, Curve, KeyDetails, KeyMode, KeyStatus, PrivateKeyRef, ProviderConfig, PublicKey,
};
use prost::Message;
use prost_types::Timestamp;

use crate::{
    Kas, KasName, Key, KeyName, LabelChange, Labels, Mapping, PolicyObject, Provider, Rotation,
    actor::Sight,
    error::{Error, Result},
};

/// The time of a record.
pub(crate) fn timestamp(micros: i64) -> Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default();
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

fn metadata(labels: &Labels, created_at: i64, updated_at: i64) -> common::Metadata {
    common::Metadata {
        created_at: Some(timestamp(created_at)),
        updated_at: Some(timestamp(updated_at)),
        labels: labels.clone().into_iter().collect(),
    }
}

/// Labels of a request.
pub(crate) fn labels(metadata: Option<common::MetadataMutable>) -> Labels {
    metadata.map(|metadata| metadata.labels.into_iter().collect()).unwrap_or_default()
}

/// What a request says of labels.
///
/// # Errors
/// When it gives labels but not what to do with them.
pub(crate) fn label_change(
    metadata: Option<common::MetadataMutable>,
    behavior: i32,
) -> Result<LabelChange> {
    let Some(metadata) = metadata else { return Ok(LabelChange::Keep) };
    let labels = metadata.labels.into_iter().collect();
    match common::MetadataUpdateEnum::try_from(behavior) {
        Ok(common::MetadataUpdateEnum::Extend) => Ok(LabelChange::Extend(labels)),
        Ok(common::MetadataUpdateEnum::Replace) => Ok(LabelChange::Replace(labels)),
        _ => Err(Error::invalid(
            "metadata_update_behavior must be METADATA_UPDATE_ENUM_EXTEND or \
             METADATA_UPDATE_ENUM_REPLACE when metadata is given",
        )),
    }
}

pub(crate) fn kas_message(kas: Kas, keys: Vec<SimpleKasKey>) -> KeyAccessServer {
    KeyAccessServer {
        metadata: Some(metadata(&kas.labels, kas.created_at, kas.updated_at)),
        id: kas.id,
        uri: kas.uri,
        // Ours: it was a message when it was stored.
        public_key: Some(Message::decode(&*kas.public_key).unwrap_or_default()),
        source_type: kas.source_type,
        kas_keys: keys,
        name: kas.name.unwrap_or_default(),
    }
}

pub(crate) fn provider_message(provider: Provider, sight: Sight) -> KeyProviderConfig {
    KeyProviderConfig {
        metadata: Some(metadata(&provider.labels, provider.created_at, provider.updated_at)),
        id: provider.id,
        name: provider.name,
        config_json: sight.of(provider.config_json),
        manager: provider.manager,
    }
}

pub(crate) fn key_message(key: Key, sight: Sight) -> KasKey {
    KasKey {
        kas_id: key.kas_id,
        kas_uri: key.kas_uri,
        key: Some(AsymmetricKey {
            metadata: Some(metadata(&key.labels, key.created_at, key.updated_at)),
            id: key.id,
            key_id: key.kid,
            key_algorithm: key.algorithm,
            key_status: key.status,
            key_mode: key.mode,
            public_key_ctx: Some(PublicKeyCtx { pem: BASE64_STANDARD.encode(key.public_pem) }),
            private_key_ctx: key.private_key.map(|private| PrivateKeyCtx {
                key_id: private.key_id,
                wrapped_key: sight.of(private.wrapped_key.unwrap_or_default()),
            }),
            provider_config: key.provider.map(|provider| provider_message(provider, sight)),
            legacy: key.legacy,
        }),
    }
}

/// What clients wrap with.
pub(crate) fn simple_key(key: Key) -> SimpleKasKey {
    SimpleKasKey {
        kas_uri: key.kas_uri,
        public_key: Some(SimpleKasPublicKey {
            algorithm: key.algorithm,
            kid: key.kid,
            pem: key.public_pem,
        }),
        kas_id: key.kas_id,
    }
}

pub(crate) fn rotated_resources(rotation: Rotation, sight: Sight) -> RotatedResources {
    let changes = |objects: Vec<PolicyObject>| {
        objects.into_iter().map(|o| ChangeMappings { id: o.id, fqn: o.fqn }).collect()
    };
    RotatedResources {
        rotated_out_key: Some(key_message(rotation.old, sight)),
        attribute_definition_mappings: changes(rotation.moved.definitions),
        attribute_value_mappings: changes(rotation.moved.values),
        namespace_mappings: changes(rotation.moved.namespaces),
    }
}

pub(crate) fn mapping_message(mapping: Mapping) -> KeyMapping {
    let objects = |objects: Vec<PolicyObject>| {
        objects.into_iter().map(|o| MappedPolicyObject { id: o.id, fqn: o.fqn }).collect()
    };
    KeyMapping {
        kid: mapping.kid,
        kas_uri: mapping.kas_uri,
        namespace_mappings: objects(mapping.objects.namespaces),
        attribute_mappings: objects(mapping.objects.definitions),
        value_mappings: objects(mapping.objects.values),
    }
}

/// `None` when nothing names the key access server.
pub(crate) fn key_name(identifier: KasKeyIdentifier) -> Option<KeyName> {
    let kas = match identifier.identifier? {
        kas_key_identifier::Identifier::KasId(id) => KasName::Id(id),
        kas_key_identifier::Identifier::Name(name) => KasName::Name(name),
        kas_key_identifier::Identifier::Uri(uri) => KasName::Uri(uri),
    };
    Some(KeyName::InKas(kas, identifier.kid))
}

/// The algorithm of this number, if this version can serve it.
pub(crate) fn algorithm(number: i32) -> Option<Algorithm> {
    match number {
        1 => Some(Algorithm::Rsa2048),
        2 => Some(Algorithm::Rsa4096),
        3 => Some(Algorithm::Ec(Curve::P256)),
        4 => Some(Algorithm::Ec(Curve::P384)),
        5 => Some(Algorithm::Ec(Curve::P521)),
        _ => None,
    }
}

/// What the data plane needs to know of a key; `None` for one it cannot serve.
///
/// # Errors
/// When the record makes no sense, which only a hand in the database brings about.
pub(crate) fn key_details(key: &Key) -> Result<Option<KeyDetails>> {
    let Some(algorithm) = algorithm(key.algorithm) else { return Ok(None) };
    let mode = match key.mode {
        1 => KeyMode::ConfigRootKey,
        2 => KeyMode::ProviderRootKey,
        3 => KeyMode::Remote,
        4 => KeyMode::PublicKeyOnly,
        _ => return Ok(None),
    };
    let status = match key.status {
        1 => KeyStatus::Active,
        2 => KeyStatus::Rotated,
        4 => KeyStatus::Compromised,
        _ => KeyStatus::Disabled,
    };
    let public_key = PublicKey::from_pem(&key.public_pem).map_err(|error| {
        Error::internal(format!("the public key of {} cannot be read: {error}", key.kid))
    })?;
    Ok(Some(KeyDetails {
        kas_uri: key.kas_uri.as_str().into(),
        kid: key.kid.as_str().into(),
        algorithm,
        mode,
        status,
        legacy: key.legacy,
        public_key,
        private_key: key.private_key.as_ref().map_or_else(PrivateKeyRef::default, |private| {
            PrivateKeyRef {
                key_id: Some(private.key_id.clone()),
                wrapped_key: private.wrapped_key.clone(),
            }
        }),
        provider: key.provider.as_ref().map(provider_config).transpose()?.map(Into::into),
    }))
}

/// What a manager is built from.
///
/// # Errors
/// When the settings are no text, which only a hand in the database brings about.
pub(crate) fn provider_config(provider: &Provider) -> Result<ProviderConfig> {
    Ok(ProviderConfig {
        name: provider.name.clone(),
        manager: provider.manager.clone(),
        config_json: String::from_utf8(provider.config_json.clone()).map_err(Error::internal)?,
        version: provider.version,
    })
}
