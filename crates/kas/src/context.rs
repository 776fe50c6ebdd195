//! The header `x-rewrap-additional-context`: which obligations the client can fulfil.

use serde::Deserialize;

use crate::{body::Message, edge::Fault, encoding};

/// Name of the header.
pub(crate) const HEADER: &str = "x-rewrap-additional-context";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    obligations: Option<Obligations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Obligations {
    #[serde(rename = "fulfillableFQNs")]
    fulfillable_fqns: Option<Vec<Option<String>>>,
}

/// The obligations that the header says the client can fulfil, trimmed: base64 of JSON in which
/// every one is a well-formed FQN.
pub(crate) fn fulfillable(header: Option<&str>) -> Result<Vec<String>, Fault> {
    let Some(header) = header.filter(|header| !header.is_empty()) else { return Ok(Vec::new()) };
    let json = encoding::standard(header).ok_or(Fault::INVALID_CONTEXT)?;
    let context: Message<Context> =
        serde_json::from_slice(&json).map_err(|_| Fault::INVALID_CONTEXT)?;
    let context = context.0;
    let listed = context.obligations.and_then(|obligations| obligations.fulfillable_fqns);
    let listed = listed.into_iter().flatten().flatten().map(|fqn| fqn.trim().to_owned());
    let listed: Vec<_> = listed.filter(|fqn| !fqn.is_empty()).collect();
    let sound = listed.iter().all(|fqn| is_obligation(&fqn.to_lowercase()));
    sound.then_some(listed).ok_or(Fault::INVALID_CONTEXT)
}

/// `https://<namespace>`, and after it `/obl/<name>`, and after that `/value/<value>`.
fn is_obligation(fqn: &str) -> bool {
    let Some(rest) = fqn.strip_prefix("https://") else { return false };
    let parts: Vec<_> = rest.split('/').collect();
    match parts.as_slice() {
        [namespace] => is_namespace(namespace),
        [namespace, "obl", name] => is_namespace(namespace) && is_name(name),
        [namespace, "obl", name, "value", value] => {
            is_namespace(namespace) && is_name(name) && is_name(value)
        }
        _ => false,
    }
}

fn is_namespace(text: &str) -> bool {
    let Some((labels, top)) = text.rsplit_once('.') else { return false };
    top.len() >= 2
        && top.bytes().all(|byte| byte.is_ascii_alphabetic())
        && labels.split('.').all(|label| is_word(label, 63, b"-"))
}

fn is_name(text: &str) -> bool {
    is_word(text, 253, b"-_")
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
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    fn encoded(json: &str) -> String {
        STANDARD.encode(json)
    }

    fn with(fqn: &str) -> String {
        encoded(&serde_json::json!({"obligations": {"fulfillableFQNs": [fqn]}}).to_string())
    }

    #[test]
    fn absence_and_null_are_fine() {
        assert_eq!(fulfillable(None), Ok(Vec::new()));
        for json in ["{}", r#"{"obligations":null}"#, r#"{"obligations":{"fulfillableFQNs":null}}"#]
        {
            assert_eq!(fulfillable(Some(&encoded(json))), Ok(Vec::new()), "{json}");
        }
        assert_eq!(fulfillable(Some("")), Ok(Vec::new()));
    }

    #[test]
    fn well_formed_obligations_pass() {
        for fqn in [
            "https://ns.example",
            "https://ns.example/obl/drm",
            "https://ns.example/obl/drm/value/watermark",
            "  HTTPS://NS.Example/obl/d-r_m/value/x  ",
            "",
        ] {
            let kept = Some(fqn.trim().to_owned()).filter(|fqn| !fqn.is_empty());
            let kept: Vec<_> = kept.into_iter().collect();
            assert_eq!(fulfillable(Some(&with(fqn))), Ok(kept), "{fqn}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long_label = format!("https://{}.example", "a".repeat(64));
        let long_name = format!("https://ns.example/obl/{}", "a".repeat(254));
        for fqn in [
            "http://ns.example",
            "ns.example/obl/drm",
            "https://example",
            "https://ns.e",
            "https://ns.ex4mple",
            "https://-ns.example",
            "https://ns..example",
            "https://ns.example/",
            "https://ns.example/attr/drm",
            "https://ns.example/obl",
            "https://ns.example/obl/",
            "https://ns.example/obl/_drm",
            "https://ns.example/obl/drm/value",
            "https://ns.example/obl/drm/value/",
            "https://ns.example/obl/drm/value/x/y",
            "https://ns.example:8080/obl/drm",
            &long_label,
            &long_name,
        ] {
            assert_eq!(fulfillable(Some(&with(fqn))), Err(Fault::INVALID_CONTEXT), "{fqn}");
        }
    }

    #[test]
    fn undecodable_headers_are_refused() {
        for header in ["{}", "!", "e30", &encoded("[1"), &encoded("{} {}"), &encoded("\"text\"")] {
            assert_eq!(fulfillable(Some(header)), Err(Fault::INVALID_CONTEXT), "{header}");
        }
    }
}
