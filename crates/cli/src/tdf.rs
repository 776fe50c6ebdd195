//! TDF files: a ZIP archive of a manifest and an encrypted payload.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_trust::Dek;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;
use zip::ZipArchive;

const MANIFEST: &str = "0.manifest.json";
const PAYLOAD: &str = "0.payload";
/// Manifests are kilobytes; assertions can make them larger.
const MAX_MANIFEST_LEN: u64 = 16 << 20;
/// SDKs write segments of 2 MiB, 4 MiB at most.
const MAX_SEGMENT_LEN: u64 = 64 << 20;
const TAG_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// A TDF whose manifest was read.
pub(crate) struct Tdf {
    archive: ZipArchive<File>,
    /// Key access objects as they are.
    pub(crate) objects: Vec<Value>,
    /// base64 text.
    pub(crate) policy: String,
    integrity: Integrity,
}

/// What a payload decrypted to.
pub(crate) struct Plaintext {
    pub(crate) sha256: [u8; 32],
    pub(crate) length: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    encryption_information: EncryptionInformation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EncryptionInformation {
    policy: String,
    key_access: Vec<Value>,
    integrity_information: Integrity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Integrity {
    root_signature: RootSignature,
    segment_hash_alg: String,
    encrypted_segment_size_default: u64,
    segments: Vec<Segment>,
}

#[derive(Deserialize)]
struct RootSignature {
    alg: String,
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    hash: String,
    encrypted_segment_size: Option<u64>,
}

impl Tdf {
    /// Reads the manifest.
    pub(crate) fn read(file: File) -> Result<Self> {
        let mut archive = ZipArchive::new(file)?;
        let mut text = String::new();
        let manifest = archive.by_name(MANIFEST).context(MANIFEST)?;
        manifest.take(MAX_MANIFEST_LEN).read_to_string(&mut text).context(MANIFEST)?;
        let Manifest { encryption_information: information } =
            serde_json::from_str(&text).context(MANIFEST)?;
        ensure!(!information.key_access.is_empty(), "{MANIFEST} has no key access object");
        Ok(Self {
            archive,
            objects: information.key_access,
            policy: information.policy,
            integrity: information.integrity_information,
        })
    }

    /// The kids of the key access objects.
    pub(crate) fn kids(&self) -> Vec<String> {
        self.objects.iter().map(|object| text(object, "kid").to_owned()).collect()
    }

    /// Decrypts the payload with the data keys of the objects, in their order, and checks its
    /// integrity: each segment's tag and hash, and the signature over all of them.
    pub(crate) fn decrypt(&mut self, deks: &[Dek], out: Option<&Path>) -> Result<Plaintext> {
        let key = join_shares(&self.objects, deks)?;
        self.integrity.check_signature(&key)?;
        let mut out: Box<dyn Write> = match out {
            None => Box::new(io::sink()),
            Some(file) => {
                let name = file.display();
                Box::new(File::create(file).with_context(|| format!("cannot write {name}"))?)
            }
        };
        let mut payload = self.archive.by_name(PAYLOAD).context(PAYLOAD)?;
        let mut digest = Sha256::new();
        let mut length = 0;
        for (index, segment) in self.integrity.segments.iter().enumerate() {
            let plaintext = self
                .integrity
                .open(segment, &key, &mut payload)
                .with_context(|| format!("segment {index}"))?;
            digest.update(&*plaintext);
            length += plaintext.len() as u64;
            out.write_all(&plaintext)?;
        }
        ensure!(payload.read(&mut [0])? == 0, "there is more than the manifest tells of");
        out.flush()?;
        Ok(Plaintext { sha256: digest.finalize().into(), length })
    }
}

impl Integrity {
    fn check_signature(&self, key: &[u8; KEY_LEN]) -> Result<()> {
        ensure!(self.root_signature.alg == "HS256", "unknown kind of root signature");
        let mut hashes = Vec::new();
        for segment in &self.segments {
            hashes.extend(STANDARD.decode(&segment.hash).context("the hash of a segment")?);
        }
        let found = STANDARD.decode(&self.root_signature.sig).context("the root signature")?;
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &hashes);
        ensure!(is_hash(&found, expected.as_ref()), "the root signature is wrong");
        Ok(())
    }

    fn open(
        &self,
        segment: &Segment,
        key: &[u8; KEY_LEN],
        payload: &mut impl Read,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let len = segment.encrypted_segment_size.unwrap_or(self.encrypted_segment_size_default);
        ensure!(len <= MAX_SEGMENT_LEN, "it is longer than {MAX_SEGMENT_LEN} bytes");
        let len = usize::try_from(len)?;
        ensure!(len >= NONCE_LEN + TAG_LEN, "it is too short");
        let mut nonce = [0; NONCE_LEN];
        payload.read_exact(&mut nonce)?;
        let mut body = Zeroizing::new(vec![0; len - NONCE_LEN]);
        payload.read_exact(&mut body)?;
        let hash = STANDARD.decode(&segment.hash)?;
        ensure!(is_hash(&hash, &self.hash(key, nonce, &body)?), "its hash is wrong");
        let cipher = UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plaintext_len = cipher
            .and_then(|cipher| Ok(cipher.open_in_place(nonce, Aad::empty(), &mut body)?.len()))
            .map_err(|_| anyhow!("it does not open with the data key"))?;
        body.truncate(plaintext_len);
        Ok(body)
    }

    fn hash(&self, key: &[u8; KEY_LEN], nonce: [u8; NONCE_LEN], body: &[u8]) -> Result<Vec<u8>> {
        match self.segment_hash_alg.as_str() {
            "GMAC" => Ok(body[body.len() - TAG_LEN..].to_vec()),
            "HS256" => {
                let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
                context.update(&nonce);
                context.update(body);
                Ok(context.sign().as_ref().to_vec())
            }
            _ => bail!("unknown kind of hash"),
        }
    }
}

/// Hashes are stored as they are or, before schema 4.3.0, as hexadecimal text.
fn is_hash(found: &[u8], expected: &[u8]) -> bool {
    found == expected || found == hex::encode(expected).as_bytes()
}

/// The key of the payload: one share for each split, any object of which has it, combined by XOR.
fn join_shares(objects: &[Value], deks: &[Dek]) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    let shares: BTreeMap<_, _> =
        objects.iter().map(|object| text(object, "sid")).zip(deks).collect();
    let mut key = Zeroizing::new([0; KEY_LEN]);
    for share in shares.values() {
        let share = share.expose_secret();
        ensure!(share.len() == KEY_LEN, "a data key has {} bytes, not {KEY_LEN}", share.len());
        key.iter_mut().zip(share).for_each(|(byte, share)| *byte ^= share);
    }
    Ok(key)
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
