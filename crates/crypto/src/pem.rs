use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

/// Longest text that is searched for a PEM block; an RSA-8192 private key takes 6.4 kB.
const MAX_LEN: usize = 16 * 1024;

/// The first PEM block of a text.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    /// `None` when the body is not base64.
    pub(crate) der: Option<Zeroizing<Vec<u8>>>,
}

/// Finds the first PEM block. Laxer than RFC 7468 where real clients are: any line length, any
/// line end, text around the block.
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
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let der = BASE64_STANDARD.decode(packed.as_slice()).ok().map(Zeroizing::new);
    Some(Block { label, der })
}
