//! Protobuf JSON (the `ProtoJSON` format of protobuf.dev), by descriptors.

use std::{collections::HashSet, fmt};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

/// Reads a JSON object as a message. Unknown members are ignored; one that is there twice, be it
/// under the two names of a field, or anything behind the object, is an error.
///
/// # Errors
/// Where it is wrong, without a word of what was sent.
pub(crate) fn read(json: &[u8], message: MessageDescriptor) -> Result<Bytes, String> {
    let name = message.full_name().to_owned();
    let wrong = |error: serde_json::Error| explain(&name, &error);
    let mut once = serde_json::Deserializer::from_slice(json);
    let unique = Unique { message: Some(message.clone()), is_map: false };
    unique.deserialize(&mut once).and_then(|()| once.end()).map_err(wrong)?;
    let mut text = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let read = DynamicMessage::deserialize_with_options(message, &mut text, &options);
    read.map(|message| message.encode_to_vec().into()).map_err(wrong)
}

/// Writes a message as JSON; with `whole`, also members that have their default.
///
/// # Errors
/// When `bytes` is no such message, which is a defect of the service.
pub(crate) fn write(
    bytes: Bytes,
    message: MessageDescriptor,
    whole: bool,
) -> Result<Bytes, String> {
    let message = DynamicMessage::decode(message, bytes).map_err(|error| error.to_string())?;
    let mut json = Vec::new();
    let options = SerializeOptions::new().skip_default_fields(!whole);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| error.to_string())?;
    Ok(json.into())
}

fn explain(message: &str, error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Eof => "ends too early",
        Category::Syntax => "is no JSON",
        Category::Data | Category::Io => "does not fit",
    };
    let (line, column) = (error.line(), error.column());
    format!("the body {what} at line {line}, column {column}; expected {message} as JSON")
}

/// A value in which no object has a member twice. A field has two names, `keyId` and `key_id`, and
/// counts as one member under both: who looks at a request on its way may go by the other one.
#[derive(Clone)]
struct Unique {
    /// What it is, or its values are; `None` if names are only names.
    message: Option<MessageDescriptor>,
    /// Whether it is a map, whose names are keys.
    is_map: bool,
}

impl Unique {
    /// The value of a field.
    fn of(field: &FieldDescriptor) -> Self {
        let Kind::Message(message) = field.kind() else { return Self::anything() };
        if !field.is_map() {
            return Self { message: with_fields(message), is_map: false };
        }
        let message = match message.map_entry_value_field().kind() {
            Kind::Message(message) => with_fields(message),
            _ => None,
        };
        Self { message, is_map: true }
    }

    fn anything() -> Self {
        Self { message: None, is_map: false }
    }

    fn field(&self, name: &str) -> Option<FieldDescriptor> {
        let message = self.message.as_ref().filter(|_| !self.is_map)?;
        message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
    }

    /// The value of a member.
    fn below(&self, field: Option<&FieldDescriptor>) -> Self {
        match field {
            Some(field) => Self::of(field),
            None if self.is_map => Self { message: self.message.clone(), is_map: false },
            None => Self::anything(),
        }
    }
}

/// A message whose JSON has its fields as members; those of `google.protobuf` have a JSON of their
/// own.
fn with_fields(message: MessageDescriptor) -> Option<MessageDescriptor> {
    (message.package_name() != "google.protobuf").then_some(message)
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut members = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let field = self.field(&name);
            let member = field.as_ref().map_or(name, |field| field.name().to_owned());
            if !members.insert(member) {
                return Err(serde::de::Error::custom("a member is there twice"));
            }
            map.next_value_seed(self.below(field.as_ref()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn is_read(message: &str, json: &str) -> bool {
        let pool = DescriptorPool::decode(kasbah_proto::DESCRIPTORS).unwrap();
        let read = read(json.as_bytes(), pool.get_message_by_name(message).unwrap());
        let twice = read.as_ref().is_err_and(|error| error.contains("does not fit"));
        assert!(read.is_ok() || twice, "{read:?}");
        read.is_ok()
    }

    #[test]
    fn a_member_is_there_once() {
        const REWRAP: &str = "kas.RewrapRequest";
        assert!(is_read(REWRAP, r#"{"signedRequestToken":"a","other":{"a":[1,null],"b":2}}"#));
        assert!(is_read(REWRAP, r#"{"signed_request_token":"a"}"#));
        for twice in [
            r#"{"signedRequestToken":"a","signedRequestToken":"a"}"#,
            r#"{"signedRequestToken":"a","signed_request_token":"b"}"#,
            r#"{"signed_request_token":null,"signedRequestToken":"b"}"#,
            r#"{"signedRequestToken":"a","signedRequest\u0054oken":"b"}"#,
            r#"{"other":[{"a":1,"a":1}]}"#,
        ] {
            assert!(!is_read(REWRAP, twice), "{twice}");
        }
    }

    #[test]
    fn names_count_where_they_are_fields() {
        const CREATE: &str = "policy.kasregistry.CreateKeyRequest";
        let nested = |members: &str| format!(r#"{{"publicKeyCtx":{{{members}}}}}"#);
        assert!(is_read(CREATE, &nested(r#""pem":"a""#)));
        assert!(!is_read(CREATE, r#"{"privateKeyCtx":{"keyId":"a","key_id":"b"}}"#));
        // Keys of a map are no fields.
        let labels = |members: &str| format!(r#"{{"metadata":{{"labels":{{{members}}}}}}}"#);
        assert!(is_read(CREATE, &labels(r#""keyId":"a","key_id":"b""#)));
        assert!(!is_read(CREATE, &labels(r#""keyId":"a","keyId":"b""#)));
    }
}
