//! The `htu` claim of proofs of possession, compared as RFC 9449, section 4.3 has it: normalised
//! by RFC 3986, section 6.2, without query and fragment.

use iri_string::{
    format::ToDedicatedString,
    types::{UriStr, UriString},
};

/// Stands for the origin where only a path is compared.
const SOME_ORIGIN: &str = "http://localhost";

/// The origins under which clients know this server, `scheme://host` or `scheme://host:port` each,
/// normalised.
#[derive(Debug)]
pub(crate) struct Origins(Vec<String>);

/// Why a text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// No URI at all, or without `//`.
    #[error("it is not of the form scheme://host or scheme://host:port")]
    Form,
    /// Neither `http` nor `https`.
    #[error("its scheme is neither http nor https")]
    Scheme,
    /// A user name before the host.
    #[error("it has a user name")]
    Userinfo,
    /// A path, a query or a fragment.
    #[error("it has a path, a query or a fragment")]
    Path,
}

impl Origins {
    /// Reads `texts`.
    ///
    /// # Errors
    /// With the first that is no origin, as its place from 1.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, (usize, OriginError)> {
        let numbered = (1..).zip(texts);
        let origins = numbered.map(|(number, text)| origin(text).map_err(|error| (number, error)));
        origins.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `htu` names `path`, as requested, at one of the origins; or, if `path_only`, is a
    /// path that does.
    pub(crate) fn accept(&self, htu: &str, path: &str, path_only: bool) -> bool {
        let Some(wanted) = path_of(path) else { return false };
        if htu.starts_with('/') {
            return path_only && !htu.starts_with("//") && path_of(htu) == Some(wanted);
        }
        Target::parse(htu).is_ok_and(|found| found.path == wanted && self.0.contains(&found.origin))
    }
}

fn origin(text: &str) -> Result<String, OriginError> {
    let target = Target::parse(text)?;
    let uri = UriStr::new(text).map_err(|_| OriginError::Form)?;
    if !matches!(uri.path_str(), "" | "/") || text.contains(['?', '#']) {
        return Err(OriginError::Path);
    }
    Ok(target.origin)
}

/// The normalised path of an absolute one.
fn path_of(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    Target::parse(&format!("{SOME_ORIGIN}{path}")).ok().map(|target| target.path)
}

/// What counts in a URI, normalised.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    origin: String,
    path: String,
}

impl Target {
    fn parse(text: &str) -> Result<Self, OriginError> {
        let uri = UriStr::new(text).map_err(|_| OriginError::Form)?.normalize();
        uri.ensure_rfc3986_normalizable().map_err(|_| OriginError::Form)?;
        let uri: UriString = uri.to_dedicated_string();
        let default_port = match uri.scheme_str() {
            "http" => "80",
            "https" => "443",
            _ => return Err(OriginError::Scheme),
        };
        let authority = uri.authority_components().ok_or(OriginError::Form)?;
        if authority.userinfo().is_some() {
            return Err(OriginError::Userinfo);
        }
        if authority.host().is_empty() {
            return Err(OriginError::Form);
        }
        let mut origin = format!("{}://{}", uri.scheme_str(), authority.host());
        if let Some(port) = authority.port().filter(|port| *port != default_port) {
            origin.push(':');
            origin.push_str(port);
        }
        let path = if uri.path_str().is_empty() { "/" } else { uri.path_str() };
        Ok(Self { origin, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> Option<String> {
        Target::parse(text).ok().map(|target| target.origin + target.path.as_str())
    }

    #[test]
    fn equal_uris_become_the_same() {
        for (text, expected) in [
            ("https://kas.example", "https://kas.example/"),
            ("HTTPS://KAS.Example/A", "https://kas.example/A"),
            ("https://kas.example:443/a", "https://kas.example/a"),
            ("https://kas.example:/a", "https://kas.example/a"),
            ("http://kas.example:80/a", "http://kas.example/a"),
            ("http://kas.example:443/a", "http://kas.example:443/a"),
            ("https://kas.example:0443/a", "https://kas.example:0443/a"),
            ("https://k%41s.example/a", "https://kas.example/a"),
            ("https://[2001:DB8::A]:8443/a", "https://[2001:db8::a]:8443/a"),
            ("https://kas.example/%61%2f%7e?q=1#f", "https://kas.example/a%2F~"),
            ("https://kas.example/%2561", "https://kas.example/%2561"),
            ("https://kas.example/x/../a/./b", "https://kas.example/a/b"),
            ("https://kas.example/x/%2e%2E/a/%2e/b", "https://kas.example/a/b"),
            ("https://kas.example/../../a", "https://kas.example/a"),
            ("https://kas.example/a/..", "https://kas.example/"),
            ("https://kas.example//a", "https://kas.example//a"),
            ("https://kas.example/..//a", "https://kas.example//a"),
            ("https://kas.example?q", "https://kas.example/"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_uri_of_a_server_is_refused() {
        for (text, expected) in [
            ("", OriginError::Form),
            ("kas.example", OriginError::Form),
            ("//kas.example/a", OriginError::Form),
            ("https:/a", OriginError::Form),
            ("https:///a", OriginError::Form),
            ("https://:443/a", OriginError::Form),
            (r"https:\\kas.example\a", OriginError::Form),
            (r"https://kas.example\a", OriginError::Form),
            ("https://käs.example/a", OriginError::Form),
            ("https://kas.example/ä", OriginError::Form),
            ("https://kas.example/%zz", OriginError::Form),
            ("https://kas.example/a b", OriginError::Form),
            ("https://kas.example/a\n", OriginError::Form),
            (" https://kas.example/a", OriginError::Form),
            ("https://kas.example:44x/a", OriginError::Form),
            ("ftp://kas.example/a", OriginError::Scheme),
            ("https://me@kas.example/a", OriginError::Userinfo),
            ("https://@kas.example/a", OriginError::Userinfo),
            ("https://kas.example:443@other.example/a", OriginError::Userinfo),
        ] {
            assert_eq!(Target::parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn origins_are_origins() {
        for (text, expected) in [
            ("https://KAS.example:443", Ok("https://kas.example")),
            ("https://kas.example/", Ok("https://kas.example")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("https://kas.example/kas", Err(OriginError::Path)),
            ("https://kas.example/.", Err(OriginError::Path)),
            ("https://kas.example?", Err(OriginError::Path)),
            ("https://kas.example#", Err(OriginError::Path)),
            ("https://me@kas.example", Err(OriginError::Userinfo)),
            ("kas.example", Err(OriginError::Form)),
            ("kas.example:8080", Err(OriginError::Scheme)),
            ("ws://kas.example", Err(OriginError::Scheme)),
        ] {
            assert_eq!(origin(text), expected.map(str::to_owned), "{text}");
        }
    }

    fn uris() -> impl Strategy<Value = String> {
        "(?i:https?)://[a-zA-Z%0-9.\\[\\]:@-]{1,12}(:[0-9]{0,5})?\
         (/|[a-zA-Z.~]|\\.\\.|%[0-9a-fA-F]{2}){0,12}(\\?[a-z/]{0,4})?(#[a-z/]{0,4})?"
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in uris()) {
            if let Some(once) = normal(&text) {
                prop_assert_eq!(normal(&once), Some(once.clone()), "{}", text);
            }
        }

        #[test]
        fn no_text_panics(htu in any::<String>(), path in any::<String>(), path_only: bool) {
            let origins = Origins(vec!["https://kas.example".to_owned()]);
            origins.accept(&htu, &path, path_only);
            origins.accept(&format!("https://kas.example/{htu}"), &format!("/{path}"), path_only);
            let _ = origin(&htu);
        }

        #[test]
        fn what_is_accepted_is_at_an_origin(uri in uris(), path in "/[a-z./%25]{0,8}") {
            let origins = Origins(vec!["https://kas.example".to_owned()]);
            if origins.accept(&uri, &path, true) {
                prop_assert!(normal(&uri).is_some_and(|uri| uri.starts_with("https://kas.example/")));
            }
        }
    }
}
