//! Names of keys: RFC 7512 `pkcs11:` URIs relative to a provider's token.

use std::{fmt, str::FromStr};

/// Longest URI that is looked at, in bytes, as it is given and as it is printed. Labels and ids are short; a longer text is a mistake.
pub const MAX_LEN: usize = 1024;

/// Which key of a token: by `object` (`CKA_LABEL`), by `id` (`CKA_ID`), or by both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyUri {
    token: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
}

/// Why a key reference was refused. Says nothing of the values in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// A percent sign without two hexadecimal digits, or a character that must be encoded.
    #[error("key reference: attribute {0} is not percent-encoded as RFC 7512 demands")]
    Encoding(&'static str),
    /// Twice the same attribute.
    #[error("key reference: attribute {0} is given twice")]
    Duplicate(&'static str),
    /// An attribute without a value.
    #[error("key reference: attribute {0} is empty")]
    Empty(&'static str),
    /// An attribute that a key reference may not have: whoever may name a key must not thereby
    /// choose libraries, slots or PINs.
    #[error(
        "key reference: only the attributes object, id, type and token are allowed, and no query; \
         the module and the PIN belong to the provider's configuration"
    )]
    Forbidden,
    /// No `pkcs11:` in front.
    #[error("key reference: must begin with pkcs11:, for example pkcs11:object=r1")]
    Scheme,
    /// Longer than [`MAX_LEN`].
    #[error("key reference: longer than {MAX_LEN} bytes")]
    TooLong,
    /// Another token than the provider's.
    #[error("key reference: names another token than its provider; drop `token` from it")]
    Token,
    /// A type other than `private`.
    #[error("key reference: type must be private")]
    Type,
    /// Neither `object` nor `id`.
    #[error("key reference: needs object or id, for example pkcs11:object=r1")]
    Unnamed,
}

impl KeyUri {
    /// The key with this `CKA_LABEL`.
    pub fn for_label(label: impl Into<String>) -> Self {
        Self { token: None, object: Some(label.into()), id: None }
    }

    /// The key with this `CKA_LABEL` and `CKA_ID`, of which an empty one is left out; `None` when
    /// both are empty.
    pub fn for_key(label: &str, id: &[u8]) -> Option<Self> {
        let object = (!label.is_empty()).then(|| label.to_owned());
        let id = (!id.is_empty()).then(|| id.to_vec());
        (object.is_some() || id.is_some()).then_some(Self { token: None, object, id })
    }

    /// The `CKA_LABEL` asked for.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The `CKA_ID` asked for.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// Checks that the URI does not name another token than the one it is used with.
    ///
    /// # Errors
    /// [`UriError::Token`] when it does.
    pub fn check_token(&self, label: &str) -> Result<(), UriError> {
        match &self.token {
            Some(token) if token != label => Err(UriError::Token),
            _ => Ok(()),
        }
    }
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_LEN {
            return Err(UriError::TooLong);
        }
        let (scheme, path) = text.split_once(':').ok_or(UriError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("pkcs11") {
            return Err(UriError::Scheme);
        }
        if path.is_empty() {
            return Err(UriError::Unnamed);
        }
        let (mut token, mut object, mut id, mut class) = (None, None, None, None);
        for attribute in path.split(';') {
            let (name, value) = attribute.split_once('=').ok_or(UriError::Forbidden)?;
            let (name, target) = match name {
                "id" => ("id", &mut id),
                "object" => ("object", &mut object),
                "token" => ("token", &mut token),
                "type" => ("type", &mut class),
                _ => return Err(UriError::Forbidden),
            };
            if target.replace(decode(name, value)?).is_some() {
                return Err(UriError::Duplicate(name));
            }
        }
        if class.is_some_and(|class| class != b"private") {
            return Err(UriError::Type);
        }
        if object.is_none() && id.is_none() {
            return Err(UriError::Unnamed);
        }
        let text = |name, bytes: Option<Vec<u8>>| {
            bytes.map(String::from_utf8).transpose().map_err(|_| UriError::Encoding(name))
        };
        let uri = Self { token: text("token", token)?, object: text("object", object)?, id };
        // Printed, it may be three times as long, and it must be possible to read that again.
        if uri.to_string().len() > MAX_LEN { Err(UriError::TooLong) } else { Ok(uri) }
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = [
            ("token", self.token.as_deref().map(str::as_bytes)),
            ("object", self.object.as_deref().map(str::as_bytes)),
            ("id", self.id.as_deref()),
        ];
        let mut separator = "pkcs11:";
        for (name, value) in attributes {
            let Some(value) = value else { continue };
            write!(f, "{separator}{name}=")?;
            for &byte in value {
                // RFC 7512 recommends encoding the whole id; labels stay readable.
                if name != "id" && is_unreserved(byte) {
                    write!(f, "{}", char::from(byte))?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
            separator = ";";
        }
        Ok(())
    }
}

fn decode(name: &'static str, value: &str) -> Result<Vec<u8>, UriError> {
    if value.is_empty() {
        return Err(UriError::Empty(name));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(UriError::Encoding(name));
                };
                u8::try_from(high << 4 | low).map_err(|_| UriError::Encoding(name))?
            }
            b'?' => return Err(UriError::Forbidden),
            byte if is_unreserved(byte) || b":[]@!$'()*+,=&".contains(&byte) => byte,
            _ => return Err(UriError::Encoding(name)),
        });
    }
    Ok(decoded)
}

/// `unreserved` of RFC 3986.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepted() {
        for (text, object, id) in [
            ("pkcs11:object=r1", Some("r1"), None),
            ("PKCS11:object=r1", Some("r1"), None),
            ("pkcs11:id=%01%fF", None, Some(&[1, 0xff][..])),
            ("pkcs11:id=ab", None, Some(b"ab".as_slice())),
            ("pkcs11:type=private;id=%00;object=a%20b", Some("a b"), Some(&[0][..])),
            ("pkcs11:token=kas;object=%C3%A9", Some("é"), None),
            ("pkcs11:object=a:[]@!$'()*+,=&b", Some("a:[]@!$'()*+,=&b"), None),
            ("pkcs11:object=%3B%3F%25", Some(";?%"), None),
        ] {
            let uri: KeyUri = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((uri.object(), uri.id()), (object, id), "{text}");
        }
    }

    #[test]
    fn refused() {
        use UriError as E;
        let long = format!("pkcs11:object={}", "a".repeat(MAX_LEN));
        let grows = format!("pkcs11:id={}", "a".repeat(MAX_LEN / 2));
        for (text, reason) in [
            ("", E::Scheme),
            ("r1", E::Scheme),
            ("object=r1", E::Scheme),
            ("pkcs12:object=r1", E::Scheme),
            (" pkcs11:object=r1", E::Scheme),
            ("pkcs11:", E::Unnamed),
            ("pkcs11:token=kas", E::Unnamed),
            ("pkcs11:type=private", E::Unnamed),
            ("pkcs11:object=", E::Empty("object")),
            ("pkcs11:object=r1;id=", E::Empty("id")),
            ("pkcs11:object=r1;object=r2", E::Duplicate("object")),
            ("pkcs11:object=r1;object=r1", E::Duplicate("object")),
            ("pkcs11:id=%01;id=%01", E::Duplicate("id")),
            ("pkcs11:object=r1;type=private;type=private", E::Duplicate("type")),
            ("pkcs11:object=r1;type=public", E::Type),
            ("pkcs11:object=r1;type=secret-key", E::Type),
            ("pkcs11:object=r1;", E::Forbidden),
            ("pkcs11:;object=r1", E::Forbidden),
            ("pkcs11:object", E::Forbidden),
            ("pkcs11:Object=r1", E::Forbidden),
            ("pkcs11:object=r1;slot-id=1", E::Forbidden),
            ("pkcs11:object=r1;slot-description=a", E::Forbidden),
            ("pkcs11:object=r1;slot-manufacturer=a", E::Forbidden),
            ("pkcs11:object=r1;serial=1", E::Forbidden),
            ("pkcs11:object=r1;manufacturer=a", E::Forbidden),
            ("pkcs11:object=r1;library-version=2", E::Forbidden),
            ("pkcs11:object=r1;module-path=/lib/x.so", E::Forbidden),
            ("pkcs11:object=r1;pin-value=1234", E::Forbidden),
            ("pkcs11:object=r1;x-vendor=1", E::Forbidden),
            ("pkcs11:object=r1?pin-value=1234", E::Forbidden),
            ("pkcs11:object=r1?pin-source=file:/pin", E::Forbidden),
            ("pkcs11:object=r1?module-path=/lib/x.so", E::Forbidden),
            ("pkcs11:object=r1?", E::Forbidden),
            ("pkcs11:object=%", E::Encoding("object")),
            ("pkcs11:object=%4", E::Encoding("object")),
            ("pkcs11:object=%zz", E::Encoding("object")),
            ("pkcs11:object=%+1", E::Encoding("object")),
            ("pkcs11:object=%ff", E::Encoding("object")),
            ("pkcs11:object=a b", E::Encoding("object")),
            ("pkcs11:object=é", E::Encoding("object")),
            ("pkcs11:object=a/b", E::Encoding("object")),
            ("pkcs11:object=a#b", E::Encoding("object")),
            ("pkcs11:object=a\0", E::Encoding("object")),
            (long.as_str(), E::TooLong),
            (grows.as_str(), E::TooLong),
        ] {
            assert_eq!(text.parse::<KeyUri>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn the_token_must_be_the_providers() {
        let uri: KeyUri = "pkcs11:token=kas;object=r1".parse().unwrap();
        assert_eq!(uri.check_token("kas"), Ok(()));
        assert_eq!(uri.check_token("KAS"), Err(UriError::Token));
        assert_eq!(KeyUri::for_label("r1").check_token("any"), Ok(()));
    }

    proptest! {
        #[test]
        fn display_round_trips(
            token in proptest::option::of("\\PC{1,20}"),
            object in "\\PC{1,40}",
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40)),
        ) {
            let uri = KeyUri { token, object: Some(object), id };
            prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        }

        #[test]
        fn never_panics(text in "(pkcs11:)?[a-z%=;?0-9\\PC]{0,60}") {
            let _ = text.parse::<KeyUri>();
        }
    }
}
