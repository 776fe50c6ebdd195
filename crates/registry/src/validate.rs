//! Rules for requests, with the ids and texts that clients match on.
//!
//! Upstream declares them in its `.proto` files for buf's protovalidate; `key-management` tests
//! hold every one of them.

use iri_string::types::UriStr;
use kasbah_proto::{
    buf::validate::{FieldPath, FieldPathElement, Violation, Violations},
    google::rpc::Status as RpcStatus,
    policy::Search,
};
use prost::Message;
use tonic::{Code, Status};

/// Longest kid, in characters.
const MAX_KID: usize = 36;
/// Longest name of a key access server.
const MAX_KAS_NAME: usize = 253;
/// Longest name of a provider configuration or manager.
const MAX_NAME: usize = 255;
/// Longest settings of a provider configuration, in bytes.
const MAX_CONFIG: usize = 64 * 1024;
/// Most labels, and the longest of their names and values.
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 1024;

const URI_TEXT: &str = "must be a valid URL (e.g., 'https://demo.com/') followed by additional \
     segments. Each segment must start and end with an alphanumeric character, can contain \
     hyphens, alphanumeric characters, and slashes.";
const KAS_NAME_TEXT: &str = "Registered KAS name must be an alphanumeric string, allowing \
     hyphens, and underscores but not as the first or last character. The stored KAS name will be \
     normalized to lower case.";

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct Check {
    found: Vec<Violation>,
}

impl Check {
    /// Nothing may be wrong.
    ///
    /// # Errors
    /// `invalid_argument` with everything that is, as text and as `buf.validate.Violations`.
    pub(crate) fn done(self) -> Result<(), Status> {
        if self.found.is_empty() {
            return Ok(());
        }
        let lines: String = self.found.iter().map(line).collect();
        let text = format!("validation error:{lines}");
        let detail = prost_types::Any {
            type_url: "type.googleapis.com/buf.validate.Violations".to_owned(),
            value: Violations { violations: self.found }.encode_to_vec(),
        };
        let code = Code::InvalidArgument;
        let status = RpcStatus { code: code as i32, message: text.clone(), details: vec![detail] };
        Err(Status::with_details(code, text, status.encode_to_vec().into()))
    }

    /// Nothing may be wrong, of what came in no request.
    ///
    /// # Errors
    /// The first thing that is.
    pub(crate) fn done_or_first(self) -> Result<(), String> {
        let Some(first) = self.found.first() else { return Ok(()) };
        let path = first.field.as_ref().map(dotted).unwrap_or_default();
        Err(format!("{path}{}", first.message))
    }

    /// A rule of a whole message, or one in CEL.
    pub(crate) fn rule(&mut self, path: &str, id: &str, holds: bool, message: &str) {
        if !holds {
            self.add(path, id, message);
        }
    }

    fn add(&mut self, path: &str, id: &str, message: impl Into<String>) {
        let element = |name: &str| FieldPathElement { field_name: name.into(), field_number: 0 };
        let field = (!path.is_empty())
            .then(|| FieldPath { elements: path.split('.').map(element).collect() });
        self.found.push(Violation { field, rule_id: id.to_owned(), message: message.into() });
    }

    pub(crate) fn uuid(&mut self, path: &str, value: &str) {
        if value.is_empty() {
            self.add(path, "string.uuid_empty", "value is empty, which is not a valid UUID");
        } else if !is_uuid(value) {
            self.add(path, "string.uuid", "value must be a valid UUID");
        }
    }

    pub(crate) fn uuid_if_set(&mut self, path: &str, value: &str) {
        if !value.is_empty() {
            self.uuid(path, value);
        }
    }

    pub(crate) fn at_least_one(&mut self, path: &str, value: &str) {
        if value.is_empty() {
            self.add(path, "string.min_len", "value length must be at least 1 characters");
        }
    }

    pub(crate) fn at_most(&mut self, path: &str, value: &str, most: usize) {
        if value.chars().count() > most {
            self.add(
                path,
                "string.max_len",
                format!("value length must be at most {most} characters"),
            );
        }
    }

    /// Text that is not empty, and that both databases can keep.
    pub(crate) fn text(&mut self, path: &str, value: &str) {
        self.at_least_one(path, value);
        self.printable(path, value);
    }

    /// Text that both databases can keep.
    fn printable(&mut self, path: &str, value: &str) {
        let is_fine = !value.chars().any(char::is_control);
        self.rule(path, "string.printable", is_fine, "value must not have control characters");
    }

    pub(crate) fn uri(&mut self, path: &str, value: &str) {
        if value.is_empty() {
            self.add(path, "string.uri_empty", "value is empty, which is not a valid URI");
        } else if !is_uri(value) {
            self.add(path, "string.uri", "value must be a valid URI");
        }
    }

    pub(crate) fn required(&mut self, path: &str, is_set: bool) {
        self.rule(path, "required", is_set, "value is required");
    }

    pub(crate) fn one_of(&mut self, path: &str, is_set: bool) {
        self.rule(path, "required", is_set, "exactly one field is required in oneof");
    }

    pub(crate) fn defined(&mut self, path: &str, is_defined: bool) {
        self.rule(
            path,
            "enum.defined_only",
            is_defined,
            "value must be one of the defined enum values",
        );
    }

    pub(crate) fn at_most_one_item(&mut self, path: &str, length: usize) {
        self.rule(
            path,
            "repeated.max_items",
            length <= 1,
            "value must contain no more than 1 item(s)",
        );
    }

    pub(crate) fn search(&mut self, search: Option<&Search>) {
        if let Some(search) = search {
            self.text("search.term", &search.term);
            self.at_most("search.term", &search.term, 253);
        }
    }

    pub(crate) fn kas_uri(&mut self, path: &str, value: &str) {
        self.rule(path, "uri_format", is_uri(value), &format!("URI {URI_TEXT}"));
    }

    pub(crate) fn optional_kas_uri(&mut self, path: &str, value: &str) {
        let holds = value.is_empty() || is_uri(value);
        self.rule(path, "optional_uri_format", holds, &format!("Optional URI {URI_TEXT}"));
    }

    pub(crate) fn optional_uuid(&mut self, path: &str, value: &str) {
        let holds = value.is_empty() || is_uuid(value);
        self.rule(path, "optional_uuid_format", holds, "Optional field must be a valid UUID");
    }

    pub(crate) fn kas_name(&mut self, path: &str, value: &str) {
        self.at_most(path, value, MAX_KAS_NAME);
        self.kas_name_format(path, value);
    }

    pub(crate) fn kas_name_format(&mut self, path: &str, value: &str) {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        let holds = value.chars().all(inside)
            && ends(value.chars().next())
            && ends(value.chars().next_back());
        self.rule(path, "kas_name_format", holds, KAS_NAME_TEXT);
    }

    pub(crate) fn kid(&mut self, path: &str, value: &str) {
        self.text(path, value);
        self.at_most(path, value, MAX_KID);
    }

    /// Of a provider configuration or its manager; empty where that means to keep it.
    pub(crate) fn provider_name(&mut self, path: &str, value: &str) {
        self.at_most(path, value, MAX_NAME);
        self.printable(path, value);
    }

    pub(crate) fn config_json(&mut self, value: &[u8]) {
        self.rule(
            "config_json",
            "bytes.max_len",
            value.len() <= MAX_CONFIG,
            "value length must be at most 65536 bytes",
        );
    }

    pub(crate) fn labels<'a, L>(&mut self, labels: L)
    where
        L: IntoIterator<Item = (&'a String, &'a String), IntoIter: ExactSizeIterator>,
    {
        let (path, labels) = ("metadata.labels", labels.into_iter());
        self.rule(
            path,
            "map.max_pairs",
            labels.len() <= MAX_LABELS,
            "map must be at most 64 entries",
        );
        for text in labels.flat_map(|(name, value)| [name, value]) {
            self.at_most(path, text, MAX_LABEL);
            let is_fine = !text.contains('\0');
            self.rule(path, "string.printable", is_fine, "value must not have control characters");
        }
    }
}

fn line(violation: &Violation) -> String {
    let path = violation.field.as_ref().map(dotted).unwrap_or_default();
    format!("\n - {path}{} [{}]", violation.message, violation.rule_id)
}

fn dotted(path: &FieldPath) -> String {
    let names: Vec<_> = path.elements.iter().map(|e| e.field_name.as_str()).collect();
    format!("{}: ", names.join("."))
}

/// 8-4-4-4-12 hexadecimal digits, in any case.
pub(crate) fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// RFC 3986, with a scheme.
fn is_uri(text: &str) -> bool {
    UriStr::new(text).is_ok()
}
