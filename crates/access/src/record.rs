use std::borrow::Cow;

use serde_json::{Map, Value};

/// One account of an entity: a set of claims in which a mapping must hold by itself.
#[derive(Debug, Clone)]
pub struct Record<'a>(Vec<(&'a str, Cow<'a, Value>)>);

impl<'a> Record<'a> {
    /// All of `claims`, as they are.
    pub fn new(claims: &'a Map<String, Value>) -> Self {
        Self(claims.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value))).collect())
    }

    /// The claims of an access token as OpenTDF's claims mode presents them: without `exp`, `iat`
    /// and `nbf`; `aud` always as an array; `aud`, `sub`, `iss` and `jti` only when not empty.
    ///
    /// `None` where one of those has a type that RFC 7519 does not give it.
    pub fn of_token(claims: &'a Map<String, Value>) -> Option<Self> {
        let mut record = Vec::with_capacity(claims.len());
        for (name, value) in claims {
            let value = match (name.as_str(), value) {
                ("exp" | "iat" | "nbf", _) | ("sub" | "iss" | "jti" | "aud", Value::Null) => {
                    continue;
                }
                ("sub" | "iss" | "jti", Value::String(text)) if text.is_empty() => continue,
                ("aud", Value::Array(all)) if all.is_empty() => continue,
                ("aud", Value::String(text)) if text.is_empty() => continue,
                ("aud", Value::String(_)) => Cow::Owned(Value::Array(vec![value.clone()])),
                ("aud", Value::Array(all)) if all.iter().all(Value::is_string) => {
                    Cow::Borrowed(value)
                }
                ("sub" | "iss" | "jti", Value::String(_)) => Cow::Borrowed(value),
                ("sub" | "iss" | "jti" | "aud", _) => return None,
                _ => Cow::Borrowed(value),
            };
            record.push((name.as_str(), value));
        }
        Some(Self(record))
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value.as_ref()))
    }
}

/// Someone or something that takes part in a request.
#[derive(Debug, Clone)]
pub struct Entity<'a> {
    /// In what part.
    pub category: Category,
    /// What is known about it. What any of them entitles to, the entity is entitled to; with
    /// none, it is entitled to nothing.
    pub records: Vec<Record<'a>>,
}

/// The part in which an entity takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// It wants the data, and must be entitled on its own.
    Subject,
    /// It surrounds the request, and decides nothing.
    Environment,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn presented(claims: &Value) -> Option<Value> {
        let claims = claims.as_object().unwrap();
        let record = Record::of_token(claims)?;
        Some(record.claims().map(|(name, value)| (name.to_owned(), value.clone())).collect())
    }

    #[test]
    fn a_token_is_presented_as_claims_mode_does() {
        let claims = json!({
            "iss": "https://idp.test", "sub": "u1", "jti": "", "aud": "kas", "exp": 1, "iat": 2,
            "nbf": 3, "azp": "app1", "scope": "a b", "nested": {"exp": 4}, "nothing": null,
        });
        let seen = json!({
            "iss": "https://idp.test", "sub": "u1", "aud": ["kas"], "azp": "app1", "scope": "a b",
            "nested": {"exp": 4}, "nothing": null,
        });
        assert_eq!(presented(&claims), Some(seen));
        assert_eq!(presented(&json!({"aud": ["a", "b"]})), Some(json!({"aud": ["a", "b"]})));
        for empty in [json!([]), json!(""), json!(null)] {
            assert_eq!(presented(&json!({"aud": empty, "sub": null})), Some(json!({})));
        }
    }

    #[test]
    fn a_registered_claim_of_another_type_presents_nothing() {
        for claims in [
            json!({"sub": 1}),
            json!({"iss": []}),
            json!({"jti": {}}),
            json!({"aud": [1]}),
            json!({"aud": 1}),
        ] {
            assert_eq!(presented(&claims), None, "{claims}");
        }
    }
}
