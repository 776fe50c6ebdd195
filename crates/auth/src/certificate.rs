//! Tokens that are bound to a client certificate (RFC 8705, section 3).

use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::Refusal;

const MISSING: &str = "the token is bound to a client certificate and the connection has none";
const OTHER: &str = "the token is bound to another client certificate";

/// Whether `certificate`, in DER, is the one whose `x5t#S256` is `thumbprint`.
///
/// # Errors
/// When it is not, or there is none.
pub(crate) fn check(thumbprint: &str, certificate: Option<&[u8]>) -> Result<(), Refusal> {
    let certificate = certificate.ok_or_else(|| Refusal::token(MISSING))?;
    let found = URL_SAFE_NO_PAD.encode(Sha256::digest(certificate));
    constant_time::verify_slices_are_equal(found.as_bytes(), thumbprint.as_bytes())
        .map_err(|_| Refusal::token(OTHER))
}
