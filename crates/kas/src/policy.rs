use std::{collections::HashMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{edge::Fault, encoding};

/// A policy, and the exact text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// base64 text exactly as sent; what policy bindings are computed over.
    pub(crate) text: Arc<str>,
    /// Nil when the policy has none.
    pub(crate) uuid: Uuid,
    /// FQNs of the data attributes, in order.
    pub(crate) attributes: Vec<String>,
}

impl Policy {
    /// Decodes a policy: base64 of one JSON object.
    ///
    /// Member names are matched without regard to case and the last of a name counts, as the
    /// clients that write policies expect; members with other names are ignored.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let (uuid, attributes) = decode(text).ok_or(Fault::BAD_REQUEST)?;
        Ok(Self { text: text.into(), uuid, attributes })
    }
}

fn decode(text: &str) -> Option<(Uuid, Vec<String>)> {
    let json = encoding::standard(text)?;
    let policy: Members<'_> = serde_json::from_slice(&json).ok()?;
    let uuid = match policy.read::<String>("uuid")? {
        Some(text) => text.parse().ok()?,
        None => Uuid::nil(),
    };
    let attributes = match policy.read::<Members<'_>>("body")? {
        Some(body) => attributes(&body)?,
        None => Vec::new(),
    };
    Some((uuid, attributes))
}

fn attributes(body: &Members<'_>) -> Option<Vec<String>> {
    body.read::<Vec<Option<String>>>("dissem")?;
    let list = body.read::<Vec<Members<'_>>>("dataAttributes")?;
    list.unwrap_or_default().iter().map(attribute).collect()
}

fn attribute(entry: &Members<'_>) -> Option<String> {
    for tolerated in ["displayName", "kasUrl", "tdf_spec_version"] {
        entry.read::<String>(tolerated)?;
    }
    Some(entry.read::<String>("attribute")?.unwrap_or_default())
}

/// The members of a JSON object by lower-case name; of one name, the last.
struct Members<'a>(HashMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    /// `Some(None)` when the member is absent or null, `None` when it is of another type.
    #[expect(clippy::option_option, reason = "absent and malformed are different outcomes")]
    fn read<T: Deserialize<'a>>(&self, name: &str) -> Option<Option<T>> {
        match self.0.get(&name.to_lowercase()) {
            Some(value) => serde_json::from_str(value.get()).ok(),
            None => Some(None),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = HashMap<String, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            members.insert(name.to_lowercase(), map.next_value()?);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    fn parse(json: &str) -> Result<Policy, Fault> {
        Policy::parse(&STANDARD.encode(json))
    }

    #[test]
    fn a_full_policy_is_read() {
        let policy = parse(&format!(
            r#"{{"uuid":"{UUID}","body":{{"dataAttributes":[{{"attribute":"https://a.b/attr/c/value/d",
            "displayName":"d","pubKey":[1],"kasUrl":"","tdf_spec_version":"x"}},{{}}],"dissem":["e"]}}}}"#
        ))
        .unwrap();
        assert_eq!(policy.uuid.to_string(), UUID);
        assert_eq!(policy.attributes, ["https://a.b/attr/c/value/d", ""]);
    }

    #[test]
    fn everything_may_be_absent_or_null() {
        for json in ["{}", r#"{"uuid":null,"body":null}"#, r#"{"body":{"dataAttributes":null}}"#] {
            let policy = parse(json).unwrap();
            assert_eq!((policy.uuid, policy.attributes), (Uuid::nil(), vec![]), "{json}");
        }
    }

    #[test]
    fn every_textual_form_of_a_uuid_is_read() {
        let simple = UUID.replace('-', "");
        for text in [UUID, &simple, &format!("urn:uuid:{UUID}"), &format!("{{{UUID}}}")] {
            let policy = parse(&serde_json::json!({ "uuid": text }).to_string()).unwrap();
            assert_eq!(policy.uuid.to_string(), UUID, "{text}");
        }
    }

    #[test]
    fn names_ignore_case_and_the_last_counts() {
        let policy = parse(
            r#"{"UUID":"junk","Body":{"DATAATTRIBUTES":[{"Attribute":"a","attribute":"b"}]},
            "uuid":"11111111-2222-3333-4444-555555555555"}"#,
        )
        .unwrap();
        assert_eq!(policy.uuid.to_string(), UUID);
        assert_eq!(policy.attributes, ["b"]);
    }

    #[test]
    fn the_text_is_kept_exactly() {
        let text = "e30=\r\n";
        assert_eq!(&*Policy::parse(text).unwrap().text, text);
    }

    #[test]
    fn anything_malformed_is_a_bad_request() {
        let deep = "[".repeat(1 << 20);
        for json in [
            "",
            "null",
            "[]",
            "{} {}",
            r#"{"uuid":""}"#,
            r#"{"uuid":"junk"}"#,
            r#"{"uuid":7}"#,
            r#"{"body":[]}"#,
            r#"{"body":{"dataAttributes":{}}}"#,
            r#"{"body":{"dataAttributes":["a"]}}"#,
            r#"{"body":{"dataAttributes":[{"attribute":1}]}}"#,
            r#"{"body":{"dataAttributes":[{"displayName":1}]}}"#,
            r#"{"body":{"dissem":"a"}}"#,
            r#"{"body":{"dissem":[1]}}"#,
            &deep,
        ] {
            assert_eq!(parse(json), Err(Fault::BAD_REQUEST), "{}", &json[..json.len().min(60)]);
        }
        for text in ["{}", "e30", "e30=e30=", "e3-="] {
            assert_eq!(Policy::parse(text), Err(Fault::BAD_REQUEST), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Policy::parse(&STANDARD.encode(&bytes));
            let _ = Policy::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
