use serde_json::{Map, Value};

/// Members that are one text.
const TEXTS: [&str; 4] =
    ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"];
/// Members that are lists of texts.
const LISTS: [&str; 3] = [
    "response_types_supported",
    "subject_types_supported",
    "id_token_signing_alg_values_supported",
];
/// The member that is true or false.
const SWITCH: &str = "require_request_uri_registration";
/// Longest text, in bytes.
const MAX_TEXT: usize = 2048;
/// Most texts of a list.
const MAX_LIST: usize = 64;

/// What an issuer says of itself: the part of its discovery document (`OpenID` Connect Discovery 1.0,
/// section 3) that `OpenTDF`'s clients are passed.
///
/// Nothing in it is checked but its form and length: a member that has another form, or is longer, is
/// left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// An issuer of which nothing is known but its name.
    pub(crate) fn of_name(issuer: &str) -> Self {
        Self(Map::from_iter([("issuer".to_owned(), issuer.into())]))
    }

    /// What `document`, which is the one of `issuer`, has of all this.
    pub(crate) fn of_discovery(issuer: &str, mut document: Map<String, Value>) -> Self {
        let Self(mut members) = Self::of_name(issuer);
        let texts = TEXTS.map(|name| (name, is_text as fn(&Value) -> bool));
        let lists = LISTS.map(|name| (name, is_list as fn(&Value) -> bool));
        let switch = [(SWITCH, Value::is_boolean as fn(&Value) -> bool)];
        for (name, fits) in texts.into_iter().chain(lists).chain(switch) {
            if let Some(value) = document.remove(name).filter(fits) {
                members.insert(name.to_owned(), value);
            }
        }
        Self(members)
    }

    /// The members by name: texts, lists of texts, and `require_request_uri_registration`, which is
    /// true or false. `issuer` is always there.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty() && text.len() <= MAX_TEXT)
}

fn is_list(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.len() <= MAX_LIST && list.iter().all(is_text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn passed(document: &Value) -> Value {
        let document = document.as_object().cloned().unwrap_or_default();
        Metadata::of_discovery("https://a.example", document).members().clone().into()
    }

    #[test]
    fn what_clients_need_is_passed_and_nothing_else() {
        let known = json!({
            "issuer": "https://a.example",
            "authorization_endpoint": "https://a.example/auth",
            "token_endpoint": "https://a.example/token",
            "userinfo_endpoint": "https://a.example/user",
            "jwks_uri": "https://a.example/jwks",
            "response_types_supported": ["code", "id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "require_request_uri_registration": false,
        });
        let mut document = known.clone();
        document["registration_endpoint"] = json!("https://a.example/register");
        document["scopes_supported"] = json!(["openid"]);
        assert_eq!(passed(&document), known);
    }

    #[test]
    fn a_member_of_another_form_is_left_out() {
        let name = json!({ "issuer": "https://a.example" });
        for document in [
            json!({ "issuer": "https://b.example" }),
            json!({ "token_endpoint": 7 }),
            json!({ "token_endpoint": "" }),
            json!({ "token_endpoint": ["https://a.example/token"] }),
            json!({ "token_endpoint": "x".repeat(MAX_TEXT + 1) }),
            json!({ "response_types_supported": "code" }),
            json!({ "response_types_supported": ["code", { "code": [] }] }),
            json!({ "response_types_supported": ["x".repeat(MAX_TEXT + 1)] }),
            json!({ "response_types_supported": vec!["code"; MAX_LIST + 1] }),
            json!({ "require_request_uri_registration": "false" }),
        ] {
            assert_eq!(passed(&document), name);
        }
        let longest = json!({ "token_endpoint": "x".repeat(MAX_TEXT), "response_types_supported": vec!["code"; MAX_LIST] });
        assert_eq!(passed(&longest).as_object().map(Map::len), Some(3));
    }
}
