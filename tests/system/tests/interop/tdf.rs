//! TDFs as files.

use std::{
    fs,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// The manifest of a TDF.
pub(crate) fn manifest(tdf: &Path) -> Value {
    let (name, bytes) = entries(tdf).swap_remove(0);
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The one key access object of a TDF.
pub(crate) fn access(tdf: &Path) -> Value {
    let access = &manifest(tdf)["encryptionInformation"]["keyAccess"];
    assert_eq!(access.as_array().unwrap().len(), 1, "{access}");
    access[0].clone()
}

/// The policy of a TDF, as its text.
pub(crate) fn policy(tdf: &Path) -> Value {
    manifest(tdf)["encryptionInformation"]["policy"].clone()
}

/// A copy whose key access object, policy and so on are changed.
pub(crate) fn changed(tdf: &Path, change: impl Fn(&mut Value)) -> PathBuf {
    let mut manifest = manifest(tdf);
    change(&mut manifest["encryptionInformation"]);
    let copy = tdf.with_extension("changed.tdf");
    let mut archive = ZipWriter::new(fs::File::create(&copy).unwrap());
    let mut entries = entries(tdf);
    entries[0].1 = manifest.to_string().into_bytes();
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    // The payload first, as in the original.
    for (name, bytes) in entries.into_iter().rev() {
        archive.start_file(name, stored).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap();
    copy
}

/// Changes one digit of a policy binding, in either of its forms.
pub(crate) fn break_binding(access: &mut Value) {
    let binding = &mut access["policyBinding"];
    let hash = if binding.is_string() { binding } else { &mut binding["hash"] };
    let mut bytes = BASE64_STANDARD.decode(hash.as_str().unwrap()).unwrap();
    bytes[0] = if bytes[0] == b'0' { b'1' } else { b'0' };
    *hash = json!(BASE64_STANDARD.encode(bytes));
}

/// Name and content of the manifest, then of the payload.
fn entries(tdf: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(tdf).unwrap();
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut entries: Vec<_> = (0..archive.len())
        .map(|index| {
            let mut entry = archive.by_index(index).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.name().unwrap().into_owned(), content)
        })
        .collect();
    entries.sort_by_key(|(name, _)| !name.ends_with("manifest.json"));
    assert_eq!(entries.len(), 2, "{}", tdf.display());
    entries
}
