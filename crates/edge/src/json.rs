//! Protobuf JSON (the `ProtoJSON` format of protobuf.dev), by descriptors.

use std::{collections::HashSet, fmt};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

/// Reads a JSON object as a message. Unknown members are ignored; one that is there twice, or
/// anything behind the object, is an error.
///
/// # Errors
/// Where it is wrong, without a word of what was sent.
pub(crate) fn read(json: &[u8], message: MessageDescriptor) -> Result<Bytes, String> {
    let name = message.full_name().to_owned();
    let wrong = |error: serde_json::Error| explain(&name, &error);
    let mut once = serde_json::Deserializer::from_slice(json);
    Unique.deserialize(&mut once).and_then(|()| once.end()).map_err(wrong)?;
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

/// Any value in which no object has a member twice.
#[derive(Clone, Copy)]
struct Unique;

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
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name) {
                return Err(serde::de::Error::custom("a member is there twice"));
            }
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}
