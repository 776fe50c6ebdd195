use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

// OpenTDF's clients and servers do not look at the unused bits of the last character.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const PADDED: GeneralPurposeConfig =
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical);

/// Decodes standard padded base64; CR and LF are skipped.
pub(crate) fn standard(text: &str) -> Option<Vec<u8>> {
    GeneralPurpose::new(&STANDARD, PADDED).decode(without_line_ends(text)).ok()
}

/// Decodes base64 as protobuf-JSON reads `bytes`: standard or URL-safe, padded or not.
pub(crate) fn protobuf(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(without_line_ends(text)).ok()
}

fn without_line_ends(text: &str) -> String {
    text.replace(['\r', '\n'], "")
}
