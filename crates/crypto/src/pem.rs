//! PEM in constant time, as it carries private keys too.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

/// Longest text that is searched for a PEM block; an RSA-8192 private key takes 6.4 kB.
const MAX_LEN: usize = 16 * 1024;
/// RFC 7468, section 2.
const LINE_LEN: usize = 64;

/// The first PEM block of a text.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    pub(crate) der: Zeroizing<Vec<u8>>,
}

/// Finds the first PEM block. Laxer than RFC 7468 where real clients are: any line length, any
/// line end, text around the block. No headers: RFC 1421 has them for what is encrypted.
pub(crate) fn first_block(text: &str) -> Option<Block<'_>> {
    if text.len() > MAX_LEN {
        return None;
    }
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, rest) = rest.split_once("-----END ")?;
    if !rest.strip_prefix(label)?.starts_with("-----") {
        return None;
    }
    let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
    base64.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; base64.len() / 4 * 3]);
    let len = Base64::decode(base64.as_slice(), &mut der).ok()?.len();
    der.truncate(len);
    Some(Block { label, der })
}

/// Writes a PEM block, LF line ends.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(Base64::encode_string(der));
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    // The exact length, so that the text never moves and leaves a copy behind.
    let lines = base64.len().div_ceil(LINE_LEN) + 2;
    let len = begin.len() + base64.len() + end.len() + lines;
    let mut pem = Zeroizing::new(String::with_capacity(len));
    let mut line = |text: &str| {
        pem.push_str(text);
        pem.push('\n');
    };
    line(&begin);
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(LINE_LEN.min(rest.len()));
        line(head);
        rest = tail;
    }
    line(&end);
    pem
}

#[cfg(test)]
mod tests {
    use super::{MAX_LEN, encode, first_block};

    fn der(text: &str) -> Option<Vec<u8>> {
        first_block(text).map(|block| block.der.to_vec())
    }

    #[test]
    fn reads_what_real_clients_write() {
        let long = format!("-----BEGIN X-----\n{}\n-----END X-----\n", "QUJD".repeat(19));
        for (name, text, expected) in [
            ("LF", "-----BEGIN X-----\nQUJD\n-----END X-----\n", "ABC".into()),
            ("CRLF", "-----BEGIN X-----\r\nQU\r\nJD\r\n-----END X-----\r\n", "ABC".into()),
            ("no final line end", "-----BEGIN X-----\nQUJD\n-----END X-----", "ABC".into()),
            ("one line", "-----BEGIN X-----QUJD-----END X-----", "ABC".into()),
            ("lines of 76", long.as_str(), "ABC".repeat(19)),
            ("indented", "  -----BEGIN X-----\n  QUJD\n  -----END X-----", "ABC".into()),
            ("text around it", "hi\n-----BEGIN X-----\nQUJD\n-----END X-----\nbye", "ABC".into()),
            (
                "first of two",
                "-----BEGIN X-----\nQUJD\n-----END X-----\n-----BEGIN Y-----\nREVG\n-----END Y-----",
                "ABC".into(),
            ),
            ("empty", "-----BEGIN X-----\n-----END X-----", String::new()),
        ] {
            assert_eq!(der(text), Some(expected.into_bytes()), "{name}");
        }
    }

    #[test]
    fn refuses_what_is_no_block() {
        let long = format!("{}-----BEGIN X-----\nQUJD\n-----END X-----", " ".repeat(MAX_LEN));
        for (name, text) in [
            ("empty", ""),
            ("no block", "QUJD"),
            ("no end", "-----BEGIN X-----\nQUJD\n"),
            ("no begin", "QUJD\n-----END X-----\n"),
            ("another label at the end", "-----BEGIN X-----\nQUJD\n-----END Y-----\n"),
            ("longer label at the end", "-----BEGIN X-----\nQUJD\n-----END XY-----\n"),
            ("cut end", "-----BEGIN X-----\nQUJD\n-----END X---"),
            ("cut begin", "-----BEGIN X"),
            ("no padding", "-----BEGIN X-----\nQUI\n-----END X-----\n"),
            ("stray bits in the last digit", "-----BEGIN X-----\nQUJ=\n-----END X-----\n"),
            ("padding inside", "-----BEGIN X-----\nQUI=QUJD\n-----END X-----\n"),
            ("not base64", "-----BEGIN X-----\nQU*D\n-----END X-----\n"),
            ("URL-safe base64", "-----BEGIN X-----\n-_-_\n-----END X-----\n"),
            ("headers", "-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nQUJD\n-----END X-----\n"),
            ("beyond ASCII", "-----BEGIN X-----\nQUJDé\n-----END X-----\n"),
            ("too long", long.as_str()),
        ] {
            assert_eq!(der(text), None, "{name}");
        }
    }

    #[test]
    fn writes_rfc_7468_without_moving() {
        for len in [1, 47, 48, 49, 96, 97, 1000] {
            let bytes = vec![0xa5; len];
            let text = encode("X", &bytes);
            assert_eq!(text.capacity(), text.len(), "{len} bytes");
            let strict = der::pem::encode_string("X", der::pem::LineEnding::LF, &bytes).unwrap();
            assert_eq!(*text, strict, "{len} bytes");
            assert_eq!(der(&text), Some(bytes));
        }
    }
}
