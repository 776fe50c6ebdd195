//! TDFs written by a released OpenTDF SDK, and what is in them.
#![expect(clippy::expect_used, reason = "the data is part of the repository")]

use serde_json::{Map, Value};

/// Kid of the KAS key that wrapped the golden TDFs.
pub const KID: &str = "golden-r1";

/// That key, PKCS#8 PEM.
pub const PRIVATE_KEY: &str = include_str!("../data/golden-r1.pem");

/// One golden TDF.
#[derive(Debug)]
pub struct Golden {
    /// File name.
    pub name: &'static str,
    /// The file.
    pub tdf: &'static [u8],
    /// Its key access object, as on the wire.
    pub kao: Value,
    /// Its policy, base64 text.
    pub policy: String,
    /// Its data key.
    pub dek: Vec<u8>,
    /// SHA-256 of its payload, hex.
    pub plain_sha256: String,
    /// Length of its payload.
    pub plain_len: u64,
}

/// All golden TDFs.
///
/// # Panics
/// When the data of the repository is damaged.
pub fn all() -> [Golden; 2] {
    let expected: Map<String, Value> =
        serde_json::from_str(include_str!("../data/golden-tdf/expected.json")).expect("JSON");
    let files: [(&str, &[u8]); 2] = [
        (
            "small-java-4.3.0-e0f8caf.tdf",
            include_bytes!("../data/golden-tdf/small-java-4.3.0-e0f8caf.tdf"),
        ),
        (
            "with-json-object-assertions-java.tdf",
            include_bytes!("../data/golden-tdf/with-json-object-assertions-java.tdf"),
        ),
    ];
    files.map(|(name, tdf)| {
        let entry = &expected[name];
        let text = |key: &str| entry[key].as_str().expect("text").to_owned();
        Golden {
            name,
            tdf,
            kao: entry["kao"].clone(),
            policy: text("policy"),
            dek: hex::decode(text("dek")).expect("hex"),
            plain_sha256: text("plain_sha256"),
            plain_len: entry["plain_len"].as_u64().expect("a number"),
        }
    })
}
