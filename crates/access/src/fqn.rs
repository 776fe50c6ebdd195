//! Fully qualified names of attributes and obligations.
//!
//! `https://<namespace>`, `https://<namespace>/<kind>/<name>` or
//! `https://<namespace>/<kind>/<name>/value/<value>`, where the kind is `attr` or `obl`. Case
//! means nothing. A namespace is a DNS name of two labels or more whose last has letters only;
//! names and values have 1 to 253 letters, digits, `-` and `_`, and begin and end with a letter or
//! a digit.

/// Whether `text` names an attribute value, `https://<namespace>/attr/<name>/value/<value>`.
pub fn is_attribute_value_fqn(text: &str) -> bool {
    split(text).is_some_and(
        |parts| matches!(parts.rest, Some(Rest { kind, value: Some(_), .. }) if is(kind, "attr")),
    )
}

/// Whether `text` may stand where an obligation is named: an obligation value, an obligation, or
/// the namespace alone.
pub fn is_obligation_fqn(text: &str) -> bool {
    split(text).is_some_and(|parts| parts.rest.is_none_or(|rest| is(rest.kind, "obl")))
}

/// The namespace of `https://<namespace>/<kind>/<name>`, which is what a definition is called.
pub(crate) fn namespace_of<'a>(definition: &'a str, kind: &str) -> Option<&'a str> {
    let parts = split(definition)?;
    let rest = parts.rest.filter(|rest| is(rest.kind, kind) && rest.value.is_none());
    rest.map(|_| parts.namespace)
}

/// Whether `text` is a name, a value or an action.
pub(crate) fn is_name(text: &str) -> bool {
    is_word(text, 253, b"-_")
}

/// Whether `text` is the name of a namespace.
pub(crate) fn is_namespace(text: &str) -> bool {
    let Some((labels, top)) = text.rsplit_once('.') else { return false };
    top.len() >= 2
        && top.bytes().all(|byte| byte.is_ascii_alphabetic())
        && labels.split('.').all(|label| is_word(label, 63, b"-"))
}

struct Parts<'a> {
    namespace: &'a str,
    rest: Option<Rest<'a>>,
}

struct Rest<'a> {
    kind: &'a str,
    value: Option<&'a str>,
}

fn split(text: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    let mut parts = rest.split('/');
    let namespace = parts.next().filter(|namespace| is_namespace(namespace))?;
    let rest = match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) => None,
        (Some(kind), Some(name), None, ..) if is_name(name) => Some(Rest { kind, value: None }),
        (Some(kind), Some(name), Some(word), Some(value), None)
            if is_name(name) && is(word, "value") && is_name(value) =>
        {
            Some(Rest { kind, value: Some(value) })
        }
        _ => return None,
    };
    is(scheme, "https").then_some(Parts { namespace, rest })
}

fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// Up to `longest` letters and digits; `inner` may appear anywhere but at the ends.
fn is_word(text: &str, longest: usize, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= longest
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || inner.contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_formed() {
        for fqn in [
            "https://ns.example",
            "HTTPS://a-b.NS.Example/OBL/d-r_m/Value/x",
            "https://ns.example/obl/drm",
        ] {
            assert!(is_obligation_fqn(fqn), "{fqn}");
        }
        for fqn in ["https://ns.example/attr/a/value/b", "HTTPS://NS.Example/ATTR/A_1/VALUE/B-2"] {
            assert!(is_attribute_value_fqn(fqn), "{fqn}");
            assert!(!is_obligation_fqn(fqn), "{fqn}");
        }
        let longest =
            format!("https://{}.example/attr/{}/value/b", "a".repeat(63), "n".repeat(253));
        assert!(is_attribute_value_fqn(&longest));
        assert_eq!(namespace_of("https://ns.example/attr/a", "attr"), Some("ns.example"));
        assert_eq!(namespace_of("https://ns.example/obl/a", "attr"), None);
        assert_eq!(namespace_of("https://ns.example/attr/a/value/b", "attr"), None);
        assert_eq!(namespace_of("https://ns.example", "attr"), None);
    }

    #[test]
    fn what_is_not() {
        let rest = ["attr", "obl"].map(|kind| {
            [
                format!("http://ns.example/{kind}/a/value/b"),
                format!("ns.example/{kind}/a/value/b"),
                format!("https://ns/{kind}/a/value/b"),
                format!("https://ns.e/{kind}/a/value/b"),
                format!("https://ns.ex4mple/{kind}/a/value/b"),
                format!("https://-ns.example/{kind}/a/value/b"),
                format!("https://ns-.example/{kind}/a/value/b"),
                format!("https://ns..example/{kind}/a/value/b"),
                format!("https://ns.example:8080/{kind}/a/value/b"),
                format!("https://user@ns.example/{kind}/a/value/b"),
                format!("https://ns.example/{kind}"),
                format!("https://ns.example/{kind}/"),
                format!("https://ns.example/{kind}/_a/value/b"),
                format!("https://ns.example/{kind}/a/value"),
                format!("https://ns.example/{kind}/a/value/"),
                format!("https://ns.example/{kind}/a/value/b/"),
                format!("https://ns.example/{kind}/a/value/b/c"),
                format!("https://ns.example/{kind}/a/val/b"),
                format!("https://ns.example/{kind}/a/value/b%20"),
                format!("https://ns.example/{kind}/a/value/é"),
                format!("https://ns.example/{kind}/a/value/b "),
                format!(" https://ns.example/{kind}/a/value/b"),
                format!("https://ns.example/{kind}/a/value/b?x"),
                format!("https://{}.example/{kind}/a/value/b", "a".repeat(64)),
                format!("https://ns.example/{kind}/{}/value/b", "a".repeat(254)),
            ]
        });
        for fqn in
            rest.iter().flatten().map(String::as_str).chain(["", "https://", "https://ns.example/"])
        {
            assert!(!is_obligation_fqn(fqn), "{fqn}");
            assert!(!is_attribute_value_fqn(fqn), "{fqn}");
        }
        assert!(!is_attribute_value_fqn("https://ns.example"));
        assert!(!is_attribute_value_fqn("https://ns.example/attr/a"));
        assert!(!is_attribute_value_fqn("https://ns.example/obl/a/value/b"));
    }
}
