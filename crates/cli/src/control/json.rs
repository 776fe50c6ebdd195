//! Answers as programs read them: the JSON mapping of protobuf.
//!
//! Names in lowerCamelCase, enums by name, bytes in base64, 64-bit numbers as text, times as in
//! RFC 3339; what has its default value is left out.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_proto::{
    common::Metadata,
    kasbah::admin::v1::{Custody, Finding, KeyState, ProviderHealth, finding::Kind},
    policy::{
        Algorithm, AsymmetricKey, KasKey, KasPublicKey, KasPublicKeyAlgEnum, KeyAccessServer,
        KeyMode, KeyProviderConfig, KeyStatus, PrivateKeyCtx, PublicKey, PublicKeyCtx,
        SimpleKasKey, SimpleKasPublicKey, SourceType,
        kasregistry::{ChangeMappings, KeyMapping, MappedPolicyObject, RotatedResources},
        public_key,
    },
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

/// A message that has a JSON form.
pub(crate) trait Json {
    /// The JSON form.
    fn json(&self) -> Value;
}

/// A JSON object that leaves out defaults.
#[derive(Default)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    pub(crate) fn message(self, name: &str, message: Option<&impl Json>) -> Self {
        self.set(name, message.map(Json::json))
    }

    pub(crate) fn list(self, name: &str, items: &[impl Json]) -> Self {
        let list = (!items.is_empty()).then(|| items.iter().map(Json::json).collect());
        self.set(name, list)
    }

    pub(crate) fn texts(self, name: &str, texts: &[String]) -> Self {
        self.set(name, (!texts.is_empty()).then(|| json!(texts)))
    }

    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        self.set(name, (!text.is_empty()).then(|| json!(text)))
    }

    fn flag(self, name: &str, flag: bool) -> Self {
        self.set(name, flag.then_some(Value::Bool(true)))
    }

    fn count(self, name: &str, count: u64) -> Self {
        self.set(name, (count != 0).then(|| json!(count.to_string())))
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.text(name, &STANDARD.encode(bytes))
    }

    fn time(self, name: &str, time: Option<&Timestamp>) -> Self {
        self.set(name, time.map(|time| json!(time.to_string())))
    }

    /// A number of the future stays a number.
    fn word<E: TryFrom<i32>>(self, name: &str, number: i32, word: fn(&E) -> &'static str) -> Self {
        let word = E::try_from(number).map_or_else(|_| json!(number), |value| json!(word(&value)));
        self.set(name, (number != 0).then_some(word))
    }

    fn map(self, name: &str, map: &HashMap<String, String>) -> Self {
        let sorted: BTreeMap<_, _> = map.iter().collect();
        self.set(name, (!sorted.is_empty()).then(|| json!(sorted)))
    }

    fn set(mut self, name: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.into(), value);
        }
        self
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

impl Json for Metadata {
    fn json(&self) -> Value {
        Object::default()
            .time("createdAt", self.created_at.as_ref())
            .time("updatedAt", self.updated_at.as_ref())
            .map("labels", &self.labels)
            .into()
    }
}

impl Json for KeyAccessServer {
    #[expect(deprecated, reason = "what a server still keeps is shown")]
    fn json(&self) -> Value {
        Object::default()
            .text("id", &self.id)
            .text("uri", &self.uri)
            .message("publicKey", self.public_key.as_ref())
            .word("sourceType", self.source_type, SourceType::as_str_name)
            .list("kasKeys", &self.kas_keys)
            .text("name", &self.name)
            .message("metadata", self.metadata.as_ref())
            .into()
    }
}

impl Json for PublicKey {
    fn json(&self) -> Value {
        match &self.public_key {
            None => Object::default().into(),
            Some(public_key::PublicKey::Remote(uri)) => json!({ "remote": uri }),
            Some(public_key::PublicKey::Cached(set)) => {
                json!({ "cached": Value::from(Object::default().list("keys", &set.keys)) })
            }
        }
    }
}

impl Json for KasPublicKey {
    fn json(&self) -> Value {
        Object::default()
            .text("pem", &self.pem)
            .text("kid", &self.kid)
            .word("alg", self.alg, KasPublicKeyAlgEnum::as_str_name)
            .into()
    }
}

impl Json for SimpleKasKey {
    fn json(&self) -> Value {
        Object::default()
            .text("kasUri", &self.kas_uri)
            .message("publicKey", self.public_key.as_ref())
            .text("kasId", &self.kas_id)
            .into()
    }
}

impl Json for SimpleKasPublicKey {
    fn json(&self) -> Value {
        Object::default()
            .word("algorithm", self.algorithm, Algorithm::as_str_name)
            .text("kid", &self.kid)
            .text("pem", &self.pem)
            .into()
    }
}

impl Json for KeyProviderConfig {
    fn json(&self) -> Value {
        Object::default()
            .text("id", &self.id)
            .text("name", &self.name)
            .bytes("configJson", &self.config_json)
            .text("manager", &self.manager)
            .message("metadata", self.metadata.as_ref())
            .into()
    }
}

impl Json for KasKey {
    fn json(&self) -> Value {
        Object::default()
            .text("kasId", &self.kas_id)
            .message("key", self.key.as_ref())
            .text("kasUri", &self.kas_uri)
            .into()
    }
}

impl Json for AsymmetricKey {
    fn json(&self) -> Value {
        Object::default()
            .text("id", &self.id)
            .text("keyId", &self.key_id)
            .word("keyAlgorithm", self.key_algorithm, Algorithm::as_str_name)
            .word("keyStatus", self.key_status, KeyStatus::as_str_name)
            .word("keyMode", self.key_mode, KeyMode::as_str_name)
            .message("publicKeyCtx", self.public_key_ctx.as_ref())
            .message("privateKeyCtx", self.private_key_ctx.as_ref())
            .message("providerConfig", self.provider_config.as_ref())
            .flag("legacy", self.legacy)
            .message("metadata", self.metadata.as_ref())
            .into()
    }
}

impl Json for PublicKeyCtx {
    fn json(&self) -> Value {
        Object::default().text("pem", &self.pem).into()
    }
}

impl Json for PrivateKeyCtx {
    fn json(&self) -> Value {
        Object::default().text("keyId", &self.key_id).text("wrappedKey", &self.wrapped_key).into()
    }
}

impl Json for RotatedResources {
    fn json(&self) -> Value {
        Object::default()
            .message("rotatedOutKey", self.rotated_out_key.as_ref())
            .list("attributeDefinitionMappings", &self.attribute_definition_mappings)
            .list("attributeValueMappings", &self.attribute_value_mappings)
            .list("namespaceMappings", &self.namespace_mappings)
            .into()
    }
}

impl Json for ChangeMappings {
    fn json(&self) -> Value {
        Object::default().text("id", &self.id).text("fqn", &self.fqn).into()
    }
}

impl Json for KeyMapping {
    fn json(&self) -> Value {
        Object::default()
            .text("kid", &self.kid)
            .text("kasUri", &self.kas_uri)
            .list("namespaceMappings", &self.namespace_mappings)
            .list("attributeMappings", &self.attribute_mappings)
            .list("valueMappings", &self.value_mappings)
            .into()
    }
}

impl Json for MappedPolicyObject {
    fn json(&self) -> Value {
        Object::default().text("id", &self.id).text("fqn", &self.fqn).into()
    }
}

impl Json for Custody {
    fn json(&self) -> Value {
        Object::default()
            .text("level", &self.level)
            .flag("enforcedByKey", self.enforced_by_key)
            .text("boundary", &self.boundary)
            .into()
    }
}

impl Json for KeyState {
    fn json(&self) -> Value {
        Object::default()
            .message("kasKey", self.kas_key.as_ref())
            .text("state", &self.state)
            .message("custody", self.custody.as_ref())
            .count("uses", self.uses)
            .time("lastUsed", self.last_used.as_ref())
            .flag("isBaseKey", self.is_base_key)
            .into()
    }
}

impl Json for Finding {
    fn json(&self) -> Value {
        Object::default()
            .word("kind", self.kind, Kind::as_str_name)
            .text("kid", &self.kid)
            .text("provider", &self.provider)
            .text("detail", &self.detail)
            .flag("repaired", self.repaired)
            .into()
    }
}

impl Json for ProviderHealth {
    fn json(&self) -> Value {
        Object::default()
            .message("providerConfig", self.provider_config.as_ref())
            .flag("managerRegistered", self.manager_registered)
            .flag("ready", self.ready)
            .text("detail", &self.detail)
            .text("file", &self.file)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KasKey {
        let provider_config = KeyProviderConfig {
            id: "p".into(),
            name: "main".into(),
            config_json: b"{}".to_vec(),
            manager: "opentdf.io/hsm".into(),
            metadata: None,
        };
        let labels = [("b", "2"), ("a", "1")].map(|(key, value)| (key.into(), value.into()));
        KasKey {
            kas_id: "k".into(),
            kas_uri: "http://kas".into(),
            key: Some(AsymmetricKey {
                id: "i".into(),
                key_id: "r1".into(),
                key_algorithm: Algorithm::Rsa2048.into(),
                key_status: KeyStatus::Disabled.into(),
                key_mode: KeyMode::Remote.into(),
                public_key_ctx: Some(PublicKeyCtx { pem: "UEVN".into() }),
                private_key_ctx: Some(PrivateKeyCtx {
                    key_id: "pkcs11:object=r1".into(),
                    wrapped_key: String::new(),
                }),
                provider_config: Some(provider_config),
                legacy: true,
                metadata: Some(Metadata {
                    created_at: Some(Timestamp { seconds: 0, nanos: 0 }),
                    updated_at: None,
                    labels: labels.into(),
                }),
            }),
        }
    }

    #[test]
    fn a_key_is_as_protobuf_has_it() {
        assert_eq!(
            key().json(),
            json!({
                "kasId": "k",
                "kasUri": "http://kas",
                "key": {
                    "id": "i",
                    "keyId": "r1",
                    "keyAlgorithm": "ALGORITHM_RSA_2048",
                    "keyStatus": "KEY_STATUS_DISABLED",
                    "keyMode": "KEY_MODE_REMOTE",
                    "publicKeyCtx": { "pem": "UEVN" },
                    "privateKeyCtx": { "keyId": "pkcs11:object=r1" },
                    "providerConfig": {
                        "id": "p",
                        "name": "main",
                        "configJson": "e30=",
                        "manager": "opentdf.io/hsm",
                    },
                    "legacy": true,
                    "metadata": {
                        "createdAt": "1970-01-01T00:00:00Z",
                        "labels": { "a": "1", "b": "2" },
                    },
                },
            })
        );
    }

    #[test]
    fn the_text_is_the_same_every_time() {
        let text = key().json().to_string();
        assert!(text.contains(r#"{"a":"1","b":"2"}"#), "{text}");
        for _ in 0..8 {
            assert_eq!(key().json().to_string(), text);
        }
    }

    #[test]
    fn defaults_are_left_out() {
        for empty in [
            KasKey::default().json(),
            KeyAccessServer::default().json(),
            KeyState::default().json(),
            ProviderHealth::default().json(),
            RotatedResources::default().json(),
            Metadata::default().json(),
            PublicKey::default().json(),
        ] {
            assert_eq!(empty, json!({}));
        }
    }

    #[test]
    fn a_state_has_its_numbers_as_text() {
        let state = KeyState {
            kas_key: None,
            state: "ready".into(),
            custody: Some(Custody {
                level: "sealed".into(),
                enforced_by_key: true,
                boundary: "hardware".into(),
            }),
            uses: 1 << 60,
            last_used: Some(Timestamp { seconds: 1, nanos: 500_000_000 }),
            is_base_key: true,
        };
        assert_eq!(
            state.json(),
            json!({
                "state": "ready",
                "custody": { "level": "sealed", "enforcedByKey": true, "boundary": "hardware" },
                "uses": "1152921504606846976",
                "lastUsed": "1970-01-01T00:00:01.500Z",
                "isBaseKey": true,
            })
        );
    }

    #[test]
    fn an_enum_of_the_future_stays_a_number() {
        let finding = Finding { kind: 99, repaired: true, ..Default::default() };
        assert_eq!(finding.json(), json!({ "kind": 99, "repaired": true }));
        let finding = Finding { kind: Kind::HalfKey.into(), ..Default::default() };
        assert_eq!(finding.json(), json!({ "kind": "KIND_HALF_KEY" }));
    }
}
