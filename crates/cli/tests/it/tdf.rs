//! `kasbah smoke --tdf` on TDFs made here.

use std::{fs, io::Write, path::PathBuf};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_crypto::binding;
use kasbah_testkit::golden;
use kasbah_trust::{Dek, PublicKey, WrappedDek};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::common::{Ended, Kasbah, Scratch, Server};

const POLICY: &str = "eyJ1dWlkIjoiMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1IiwiYm9keSI6eyJkYXRhQXR0cmlidXRlcyI6W10sImRpc3NlbSI6W119fQ==";
const PLAINTEXT: [&[u8]; 3] = [b"first segment", b"", b"the last one"];

/// A TDF that is still in parts.
struct Parts {
    manifest: Value,
    payload: Vec<u8>,
}

/// Encrypts [`PLAINTEXT`] under the XOR of two shares, one for each key.
fn encrypt(keys: [(&str, &PublicKey); 2], hash_alg: &str) -> Parts {
    let shares = [Dek::generate().unwrap(), Dek::generate().unwrap()];
    let (a, b) = (shares[0].expose_secret(), shares[1].expose_secret());
    let key: Vec<_> = a.iter().zip(b).map(|(a, b)| a ^ b).collect();
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let (mut payload, mut segments, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, plaintext) in PLAINTEXT.iter().enumerate() {
        let nonce = [u8::try_from(number).unwrap(); 12];
        let mut sealed = plaintext.to_vec();
        let aad = Aad::empty();
        cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .unwrap();
        let segment = [&nonce[..], &sealed].concat();
        let hash = match hash_alg {
            "GMAC" => segment[segment.len() - 16..].to_vec(),
            _ => hmac::sign(&mac, &segment).as_ref().to_vec(),
        };
        segments.push(json!({
            "hash": STANDARD.encode(&hash),
            "segmentSize": plaintext.len(),
            "encryptedSegmentSize": segment.len(),
        }));
        hashes.extend(hash);
        payload.extend(segment);
    }
    let objects: Vec<_> =
        keys.iter().zip(&shares).map(|(key, share)| object(*key, share)).collect();
    let manifest = json!({ "encryptionInformation": {
        "type": "split",
        "policy": POLICY,
        "keyAccess": objects,
        "integrityInformation": {
            "rootSignature": { "alg": "HS256", "sig": STANDARD.encode(hmac::sign(&mac, &hashes)) },
            "segmentHashAlg": hash_alg,
            "segmentSizeDefault": 1024,
            "encryptedSegmentSizeDefault": 1052,
            "segments": segments,
        },
    }});
    Parts { manifest, payload }
}

fn object((kid, key): (&str, &PublicKey), share: &Dek) -> Value {
    let hash = STANDARD.encode(hex::encode(*binding::compute(share, POLICY)));
    let mut object = json!({
        "type": "wrapped", "url": "http://localhost:8080/kas", "protocol": "kas", "kid": kid, "sid": kid,
        "policyBinding": { "alg": "HS256", "hash": hash },
    });
    match key.wrap(share).unwrap() {
        WrappedDek::Rsa(wrapped) => object["wrappedKey"] = STANDARD.encode(wrapped).into(),
        WrappedDek::Ec { blob, ephemeral } => {
            object["type"] = "ec-wrapped".into();
            object["wrappedKey"] = STANDARD.encode(blob).into();
            object["ephemeralPublicKey"] = PublicKey::Ec(ephemeral).to_pem().into();
        }
    }
    object
}

fn write(scratch: &Scratch, parts: &Parts) -> PathBuf {
    let file = scratch.path().join("a.tdf");
    let mut archive = ZipWriter::new(fs::File::create(&file).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("0.payload", stored).unwrap();
    archive.write_all(&parts.payload).unwrap();
    archive.start_file("0.manifest.json", SimpleFileOptions::default()).unwrap();
    archive.write_all(parts.manifest.to_string().as_bytes()).unwrap();
    archive.finish().unwrap();
    file
}

/// A server, and TDFs for two of its keys.
struct Fixture {
    scratch: Scratch,
    server: Server,
}

impl Fixture {
    fn new() -> Self {
        let scratch = Scratch::new();
        let server = Server::dev(&scratch);
        Self { scratch, server }
    }

    fn encrypt(&self, hash_alg: &str) -> Parts {
        let ready = self.server.ready();
        let key = |index: usize| {
            PublicKey::from_pem(ready["keys"][index]["public_key"].as_str().unwrap()).unwrap()
        };
        encrypt([("r1", &key(0)), ("e1", &key(1))], hash_alg)
    }

    fn open(&self, parts: &Parts) -> Ended {
        let out = self.scratch.path().join("out");
        Kasbah::new(["smoke", self.server.ready()["url"].as_str().unwrap(), "--output", "json"])
            .arg("--token-file")
            .arg(self.scratch.path().join("dev/access-token"))
            .arg("--tdf")
            .arg(write(&self.scratch, parts))
            .arg("--out")
            .arg(out)
            .run()
    }
}

#[test]
fn a_tdf_with_two_splits_opens() {
    let fixture = Fixture::new();
    for hash_alg in ["GMAC", "HS256"] {
        let ended = fixture.open(&fixture.encrypt(hash_alg));
        assert_eq!(ended.code, 0, "{hash_alg}: {}", ended.stderr);
        let (report, plaintext) = (ended.json(), PLAINTEXT.concat());
        assert_eq!(report["sha256"], hex::encode(Sha256::digest(&plaintext)));
        assert_eq!(report["length"], plaintext.len());
        assert_eq!(report["kids"], json!(["r1", "e1"]));
        assert_eq!(fs::read(fixture.scratch.path().join("out")).unwrap(), plaintext);
    }
}

#[test]
fn tdfs_of_a_released_sdk_open() {
    let scratch = Scratch::new();
    let key = scratch.write("golden.pem", golden::PRIVATE_KEY);
    let import = format!("{}={}", golden::KID, key.display());
    let server = Server::dev_with(&scratch, &["--import", &import]);
    for golden in golden::all() {
        let file = scratch.path().join(golden.name);
        fs::write(&file, golden.tdf).unwrap();
        let ended = Kasbah::new(["smoke", server.ready()["url"].as_str().unwrap(), "--token-file"])
            .arg(scratch.path().join("dev/access-token"))
            .args(&["--output", "json", "--tdf"])
            .arg(file)
            .run();
        assert_eq!(ended.code, 0, "{}: {}", golden.name, ended.stderr);
        let report = ended.json();
        assert_eq!(report["kids"], json!([golden::KID]));
        assert_eq!(
            (&report["custody"], &report["length"]),
            (&"sealed".into(), &golden.plain_len.into())
        );
        assert_eq!(report["sha256"], *golden.plain_sha256);
    }
}

#[test]
fn a_damaged_tdf_does_not_open() {
    type Damage = fn(&mut Parts);
    let fixture = Fixture::new();
    let damages: [(&str, Damage, i32, &str); 11] = [
        ("payload", |parts| parts.payload[14] ^= 1, 1, "segment 0: it does not open"),
        ("tag", |parts| *parts.payload.last_mut().unwrap() ^= 1, 1, "segment 2: its hash is wrong"),
        ("cut", |parts| parts.payload.truncate(80), 1, "segment 2: "),
        ("longer", |parts| parts.payload.push(0), 1, "there is more than the manifest tells of"),
        (
            "a segment less",
            |parts| {
                let segments = integrity(parts)["segments"].as_array_mut().unwrap();
                segments.pop();
            },
            1,
            "the root signature is wrong",
        ),
        (
            "segments swapped",
            |parts| integrity(parts)["segments"].as_array_mut().unwrap().swap(0, 2),
            1,
            "the root signature is wrong",
        ),
        (
            "signature",
            |parts| integrity(parts)["rootSignature"]["sig"] = STANDARD.encode([0; 32]).into(),
            1,
            "the root signature is wrong",
        ),
        (
            "a split less",
            |parts| {
                let objects = &mut parts.manifest["encryptionInformation"]["keyAccess"];
                objects.as_array_mut().unwrap().pop();
            },
            1,
            "the root signature is wrong",
        ),
        (
            "policy",
            |parts| parts.manifest["encryptionInformation"]["policy"] = "e30=".into(),
            1,
            "the server failed the rewrap",
        ),
        (
            "huge segment",
            |parts| integrity(parts)["segments"][0]["encryptedSegmentSize"] = (1_u64 << 40).into(),
            1,
            "it is longer than",
        ),
        ("manifest", |parts| parts.manifest = json!({}), 2, "is no TDF that can be opened here"),
    ];
    for (name, damage, code, expected) in damages {
        let mut parts = fixture.encrypt("GMAC");
        damage(&mut parts);
        let ended = fixture.open(&parts);
        assert_eq!(ended.code, code, "{name}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(expected), "{name}: {}", ended.stderr);
    }
}

fn integrity(parts: &mut Parts) -> &mut Value {
    &mut parts.manifest["encryptionInformation"]["integrityInformation"]
}
