//! The header `x-rewrap-additional-context`: which obligations the client can fulfil.

use kasbah_access::is_obligation_fqn;
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
    let sound = listed.iter().all(|fqn| is_obligation_fqn(fqn));
    sound.then_some(listed).ok_or(Fault::INVALID_CONTEXT)
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
