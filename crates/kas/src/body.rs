//! The body of a rewrap, `UnsignedRewrapRequest` in protobuf-JSON.
//!
//! Members go by their JSON or their proto name, never both; null is unset; unknown members are
//! ignored and repeated ones refused; bytes are base64 in any of four dialects.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{Limits, edge::Fault, encoding};

/// Nesting that no client needs; unknown members count too.
const MAX_DEPTH: usize = 128;

/// What a client asks for, whichever version of the body it sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Body {
    /// PEM of the key to re-encrypt to.
    pub(crate) client_public_key: String,
    /// One entry for each policy.
    pub(crate) entries: Vec<Entry>,
    /// Whether it is a version 1 body: one policy with one key access object.
    pub(crate) is_v1: bool,
}

/// A policy and the data keys under it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) policy: Option<WithPolicy>,
    pub(crate) kaos: Vec<WithKao>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WithPolicy {
    pub(crate) id: String,
    /// base64 of the policy JSON.
    pub(crate) body: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WithKao {
    pub(crate) id: String,
    pub(crate) kao: Option<Kao>,
}

/// A key access object, as far as this server looks at it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kao {
    pub(crate) key_type: String,
    pub(crate) url: String,
    pub(crate) kid: String,
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) ephemeral_public_key: String,
    pub(crate) binding: Option<Binding>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) algorithm: String,
    pub(crate) hash: String,
}

impl Body {
    /// Reads a body and holds it to the limits; ids must tell the answers apart.
    pub(crate) fn parse(json: &str, limits: &Limits) -> Result<Self, Fault> {
        if is_too_deep(json) {
            return Err(Fault::INVALID_REQUEST_BODY);
        }
        let raw: Message<RawBody> =
            serde_json::from_str(json).map_err(|_| Fault::INVALID_REQUEST_BODY)?;
        let body = Self::try_from(raw.0)?;
        body.check_counts(limits)?;
        body.check_ids()?;
        Ok(body)
    }

    fn check_counts(&self, limits: &Limits) -> Result<(), Fault> {
        if self.entries.len() > limits.policies {
            return Err(Fault::TOO_MANY_POLICIES);
        }
        if self.entries.iter().map(|entry| entry.kaos.len()).sum::<usize>() > limits.kaos {
            return Err(Fault::TOO_MANY_KAOS);
        }
        Ok(())
    }

    fn check_ids(&self) -> Result<(), Fault> {
        // An entry without a policy id has nothing to be mistaken for: it fails as a whole.
        let ids = self.entries.iter().filter_map(|entry| entry.policy.as_ref());
        if has_duplicates(ids.map(|policy| policy.id.as_str()).filter(|id| !id.is_empty())) {
            return Err(Fault::DUPLICATE_POLICY_ID);
        }
        if self.entries.iter().any(|entry| has_duplicates(entry.kaos.iter().map(|kao| &*kao.id))) {
            return Err(Fault::DUPLICATE_KAO_ID);
        }
        Ok(())
    }
}

fn has_duplicates<'a>(mut ids: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    ids.any(|id| !seen.insert(id))
}

/// Whether brackets nest too deeply. Members that are skipped are skipped without recursion, so
/// this protects no stack; it keeps what is accepted simple to reason about.
fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    json.bytes().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

impl TryFrom<RawBody> for Body {
    type Error = Fault;

    fn try_from(raw: RawBody) -> Result<Self, Fault> {
        let client_public_key = raw.client_public_key.unwrap_or_default();
        let entries = raw.requests.unwrap_or_default();
        if !entries.is_empty() {
            let entries = entries.into_iter().map(|entry| entry.0.into()).collect();
            return Ok(Self { client_public_key, entries, is_v1: false });
        }
        let kao = raw.key_access.ok_or(Fault::INVALID_REQUEST_BODY)?;
        let entry = Entry {
            policy: Some(WithPolicy {
                id: "policy-1".into(),
                body: raw.policy.unwrap_or_default(),
            }),
            kaos: vec![WithKao { id: "kao-0".into(), kao: Some(kao.0.into_v1()) }],
        };
        Ok(Self { client_public_key, entries: vec![entry], is_v1: true })
    }
}

#[derive(Deserialize)]
struct RawBody {
    #[serde(rename = "clientPublicKey", alias = "client_public_key")]
    client_public_key: Option<String>,
    requests: Option<Vec<Message<RawEntry>>>,
    #[serde(rename = "keyAccess", alias = "key_access")]
    key_access: Option<Message<RawKao<LooseBinding>>>,
    policy: Option<String>,
    #[serde(rename = "algorithm")]
    _algorithm: Option<String>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(rename = "keyAccessObjects", alias = "key_access_objects")]
    kaos: Option<Vec<Message<RawWithKao>>>,
    policy: Option<Message<RawPolicy>>,
    #[serde(rename = "algorithm")]
    _algorithm: Option<String>,
}

#[derive(Deserialize)]
struct RawPolicy {
    id: Option<String>,
    body: Option<String>,
}

#[derive(Deserialize)]
struct RawWithKao {
    #[serde(rename = "keyAccessObjectId", alias = "key_access_object_id")]
    id: Option<String>,
    #[serde(rename = "keyAccessObject", alias = "key_access_object")]
    kao: Option<Message<RawKao<Message<RawBinding>>>>,
}

// Fields with an underscore are read only so that a value of another type is refused.
#[derive(Deserialize)]
struct RawKao<B> {
    #[serde(rename = "encryptedMetadata", alias = "encrypted_metadata")]
    _encrypted_metadata: Option<String>,
    #[serde(rename = "policyBinding", alias = "policy_binding", default = "Option::default")]
    binding: Option<B>,
    #[serde(rename = "protocol")]
    _protocol: Option<String>,
    #[serde(rename = "type", alias = "key_type")]
    key_type: Option<String>,
    #[serde(alias = "kas_url")]
    url: Option<String>,
    kid: Option<String>,
    #[serde(rename = "sid", alias = "split_id")]
    _split_id: Option<String>,
    #[serde(rename = "wrappedKey", alias = "wrapped_key")]
    wrapped_key: Option<Bytes>,
    #[serde(rename = "header")]
    _header: Option<Bytes>,
    #[serde(rename = "ephemeralPublicKey", alias = "ephemeral_public_key")]
    ephemeral_public_key: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawBinding {
    #[serde(rename = "alg", alias = "algorithm")]
    algorithm: Option<String>,
    hash: Option<String>,
}

impl From<RawEntry> for Entry {
    fn from(raw: RawEntry) -> Self {
        let policy = raw.policy.map(|policy| WithPolicy {
            id: policy.0.id.unwrap_or_default(),
            body: policy.0.body.unwrap_or_default(),
        });
        let kaos = raw.kaos.unwrap_or_default().into_iter().map(|kao| WithKao {
            id: kao.0.id.unwrap_or_default(),
            kao: kao.0.kao.map(|kao| kao.0.into_kao(|binding| binding.0.into())),
        });
        Self { policy, kaos: kaos.collect() }
    }
}

impl<B> RawKao<B> {
    fn into_kao(self, binding: impl FnOnce(B) -> Binding) -> Kao {
        Kao {
            key_type: self.key_type.unwrap_or_default(),
            url: self.url.unwrap_or_default(),
            kid: self.kid.unwrap_or_default(),
            wrapped_key: self.wrapped_key.map(|bytes| bytes.0).unwrap_or_default(),
            ephemeral_public_key: self.ephemeral_public_key.unwrap_or_default(),
            binding: self.binding.map(binding),
        }
    }
}

impl RawKao<LooseBinding> {
    /// Version 1 knows no missing binding: it is an empty one, which never fits.
    fn into_v1(self) -> Kao {
        let kao = self.into_kao(|binding| binding.0);
        Kao { binding: Some(kao.binding.unwrap_or_default()), ..kao }
    }
}

impl From<RawBinding> for Binding {
    fn from(raw: RawBinding) -> Self {
        Self { algorithm: raw.algorithm.unwrap_or_default(), hash: raw.hash.unwrap_or_default() }
    }
}

/// A message is a JSON object; derived code alone would take a list of its fields as well.
pub(crate) struct Message<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Message<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor(PhantomData))
    }
}

struct MessageVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MessageVisitor<T> {
    type Value = Message<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Message)
    }
}

/// The binding of a version 1 body: a message, or just its hash.
struct LooseBinding(Binding);

impl<'de> Deserialize<'de> for LooseBinding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseBindingVisitor)
    }
}

struct LooseBindingVisitor;

impl<'de> Visitor<'de> for LooseBindingVisitor {
    type Value = LooseBinding;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or text")
    }

    fn visit_str<E>(self, hash: &str) -> Result<Self::Value, E> {
        Ok(LooseBinding(Binding { algorithm: String::new(), hash: hash.into() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let binding = RawBinding::deserialize(MapAccessDeserializer::new(map))?;
        Ok(LooseBinding(binding.into()))
    }
}

struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        encoding::protobuf(&text).map(Self).ok_or_else(|| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse(json: &str) -> Result<Body, Fault> {
        Body::parse(json, &Limits::default())
    }

    fn v2(kao: &Value) -> String {
        json!({"clientPublicKey": "pem", "requests": [{
            "policy": {"id": "p", "body": "b"},
            "keyAccessObjects": [{"keyAccessObjectId": "k", "keyAccessObject": kao}],
        }]})
        .to_string()
    }

    fn v2_kao(kao: &Value) -> Kao {
        let mut body = parse(&v2(kao)).unwrap();
        body.entries.remove(0).kaos.remove(0).kao.unwrap()
    }

    #[test]
    fn json_names_and_proto_names_mean_the_same() {
        let json_names = json!({
            "type": "wrapped", "url": "u", "kid": "r1", "sid": "s", "protocol": "kas",
            "wrappedKey": "AAE=", "policyBinding": {"alg": "HS256", "hash": "h"},
            "ephemeralPublicKey": "e", "encryptedMetadata": "m", "header": "AA==",
        });
        let proto_names = json!({
            "key_type": "wrapped", "kas_url": "u", "kid": "r1", "split_id": "s", "protocol": "kas",
            "wrapped_key": "AAE=", "policy_binding": {"algorithm": "HS256", "hash": "h"},
            "ephemeral_public_key": "e", "encrypted_metadata": "m", "header": "AA==",
        });
        let expected = Kao {
            key_type: "wrapped".into(),
            url: "u".into(),
            kid: "r1".into(),
            wrapped_key: vec![0, 1],
            ephemeral_public_key: "e".into(),
            binding: Some(Binding { algorithm: "HS256".into(), hash: "h".into() }),
        };
        assert_eq!(v2_kao(&json_names), expected);
        assert_eq!(v2_kao(&proto_names), expected);
        let outer = r#"{"client_public_key":"pem","requests":[{"key_access_objects":
            [{"key_access_object_id":"k","key_access_object":null}]}]}"#;
        let body = parse(outer).unwrap();
        assert_eq!(body.client_public_key, "pem");
        assert_eq!(body.entries[0].policy, None);
        assert_eq!(body.entries[0].kaos, [WithKao { id: "k".into(), kao: None }]);
    }

    #[test]
    fn bytes_come_in_four_dialects() {
        for text in ["-_8=", "-_8", "+/8=", "+/8"] {
            assert_eq!(v2_kao(&json!({"wrappedKey": text})).wrapped_key, [0xfb, 0xff], "{text}");
        }
        for text in ["-/8=", "+/8==", "+", "?"] {
            let body = parse(&v2(&json!({"wrappedKey": text})));
            assert_eq!(body, Err(Fault::INVALID_REQUEST_BODY), "{text}");
        }
    }

    #[test]
    fn null_is_unset_and_unknown_members_are_ignored() {
        let kao = json!({"type": null, "wrappedKey": null, "policyBinding": null, "new": {"x": 1}});
        assert_eq!(v2_kao(&kao), Kao::default());
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for json in [
            "",
            "null",
            "[]",
            "{",
            "{} {}",
            "{}",
            r#"{"requests":{}}"#,
            r#"{"requests":[null]}"#,
            r#"{"requests":[["p"]]}"#,
            r#"{"requests":[{"policy":["i","b"]}]}"#,
            r#"{"requests":[{"policy":"text"}]}"#,
            r#"{"requests":[{"keyAccessObjects":[null]}]}"#,
            r#"{"requests":[{"algorithm":1}]}"#,
            r#"{"requests":[{}],"clientPublicKey":7}"#,
            r#"{"requests":[{}],"clientPublicKey":"a","clientPublicKey":"b"}"#,
            r#"{"requests":[{}],"clientPublicKey":"a","client_public_key":"b"}"#,
            r#"{"requests":[{}],"clientPublicKey":"\ud800"}"#,
            r#"{"keyAccess":"text"}"#,
            r#"{"keyAccess":{"policyBinding":7}}"#,
        ] {
            assert_eq!(parse(json), Err(Fault::INVALID_REQUEST_BODY), "{json}");
        }
        for kao in [
            json!("text"),
            json!(["m"]),
            json!({"type": "a", "key_type": "b"}),
            json!({"policyBinding": "hash"}),
            json!({"policyBinding": ["HS256", "hash"]}),
            json!({"kid": 1}),
            json!({"sid": {}}),
            json!({"wrappedKey": [1, 2]}),
        ] {
            assert_eq!(parse(&v2(&kao)), Err(Fault::INVALID_REQUEST_BODY), "{kao}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_wherever_it_is() {
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let unknown = |depth| format!(r#"{{"requests":[{{}}],"x":{}}}"#, nest(depth));
        assert!(parse(&unknown(127)).is_ok());
        assert_eq!(parse(&unknown(128)), Err(Fault::INVALID_REQUEST_BODY));
        assert_eq!(parse(&unknown(1 << 20)), Err(Fault::INVALID_REQUEST_BODY));
        let text = format!(r#"{{"requests":[{{}}],"x":"\"{}"}}"#, nest(500));
        assert!(parse(&text).is_ok(), "brackets in text do not nest");
    }

    #[test]
    fn version_1_becomes_one_policy_with_one_key() {
        let json = r#"{"clientPublicKey":"pem","policy":"b","algorithm":"rsa:2048","authToken":"x",
            "keyAccess":{"type":"wrapped","wrappedKey":"AAE=","policyBinding":"hash"}}"#;
        let body = parse(json).unwrap();
        assert!(body.is_v1);
        assert_eq!(
            body.entries[0].policy,
            Some(WithPolicy { id: "policy-1".into(), body: "b".into() })
        );
        assert_eq!(body.entries[0].kaos[0].id, "kao-0");
        let binding = body.entries[0].kaos[0].kao.as_ref().unwrap().binding.as_ref();
        assert_eq!(binding.unwrap().hash, "hash");
    }

    #[test]
    fn a_version_1_binding_is_text_or_an_object_or_empty() {
        for (binding, hash) in [
            (r#""policyBinding":{"hash":"h"}"#, "h"),
            (r#""policyBinding":{}"#, ""),
            (r#""policyBinding":null"#, ""),
            (r#""kid":"r1""#, ""),
        ] {
            let body = parse(&format!(r#"{{"keyAccess":{{{binding}}}}}"#)).unwrap();
            let kao = body.entries[0].kaos[0].kao.as_ref().unwrap();
            assert_eq!(kao.binding.as_ref().unwrap().hash, hash, "{binding}");
        }
    }

    #[test]
    fn requests_make_it_version_2_whatever_else_is_there() {
        let body = parse(r#"{"requests":[{}],"keyAccess":{},"policy":"x"}"#).unwrap();
        assert!(!body.is_v1);
    }

    #[test]
    fn ids_must_tell_answers_apart() {
        let entry = |policy: &str, kaos: &[&str]| {
            let kaos: Vec<_> = kaos.iter().map(|id| json!({"keyAccessObjectId": id})).collect();
            json!({"policy": {"id": policy}, "keyAccessObjects": kaos})
        };
        let parse = |entries: &[Value]| parse(&json!({"requests": entries}).to_string());
        assert!(parse(&[entry("a", &["k", "l"]), entry("b", &["k"])]).is_ok());
        assert!(parse(&[entry("", &["k"]), entry("", &["k"]), json!({}), json!({})]).is_ok());
        let policies = parse(&[entry("a", &[]), entry("a", &[])]);
        assert_eq!(policies, Err(Fault::DUPLICATE_POLICY_ID));
        assert_eq!(parse(&[entry("a", &["k", "k"])]), Err(Fault::DUPLICATE_KAO_ID));
        assert_eq!(parse(&[entry("a", &["", ""])]), Err(Fault::DUPLICATE_KAO_ID));
    }

    #[test]
    fn counts_are_limited() {
        let limits = Limits { policies: 2, kaos: 3, ..Limits::default() };
        let body = |policies: usize, kaos: usize| {
            let kaos: Vec<_> =
                (0..kaos).map(|n| json!({"keyAccessObjectId": n.to_string()})).collect();
            json!({"requests": vec![json!({"keyAccessObjects": kaos}); policies]}).to_string()
        };
        assert!(Body::parse(&body(1, 3), &limits).is_ok());
        assert_eq!(Body::parse(&body(3, 0), &limits), Err(Fault::TOO_MANY_POLICIES));
        assert_eq!(Body::parse(&body(2, 2), &limits), Err(Fault::TOO_MANY_KAOS));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(json in ".*", kao in "[\\[\\]{}\":,a-z0-9\\\\ ]*") {
            let _ = parse(&json);
            let _ = parse(&format!(r#"{{"requests":[{kao}],"keyAccess":{kao}}}"#));
        }
    }
}
