//! The check of a proof of possession, with remembering it, beside the bare verification of its
//! signature by aws-lc-rs, which is what it should spend its time on.
//!
//! `cargo bench -p kasbah-auth --bench dpop`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
        VerificationAlgorithm,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use kasbah_auth::{
    Confirmation, DpopSettings, MemoryReplay, Presented, Proofs, Scheme, VerifiedToken,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NOW: u64 = 1_800_000_000;
const PATH: &str = "/kas.AccessService/Rewrap";

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A client and its access token, of the length that tokens have.
struct Client {
    alg: &'static str,
    jwk: Value,
    sign: Sign,
    public: ParsedPublicKey,
    token: String,
    proofs_made: AtomicU64,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Client {
    fn new(alg: &'static str, jwk: Value, sign: Sign, public: ParsedPublicKey) -> Self {
        Self { alg, jwk, sign, public, token: "t".repeat(1200), proofs_made: AtomicU64::new(0) }
    }

    fn es256() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = key.public_key().as_ref().to_vec();
        let (x, y) = public[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y) });
        let sign = move |message: &[u8]| {
            key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
        };
        Self::new("ES256", jwk, Box::new(sign), parsed(&ECDSA_P256_SHA256_FIXED, &public))
    }

    fn rs256() -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = key.public_key();
        let n = base64(public.modulus().big_endian_without_leading_zero());
        let e = base64(public.exponent().big_endian_without_leading_zero());
        let jwk = json!({ "kty": "RSA", "n": n, "e": e });
        let parsed = parsed(&RSA_PKCS1_2048_8192_SHA256, public.as_ref());
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Self::new("RS256", jwk, Box::new(sign), parsed)
    }

    /// What is signed in a new proof, and the signature.
    fn proof(&self) -> (String, Vec<u8>) {
        let header = json!({ "typ": "dpop+jwt", "alg": self.alg, "jwk": self.jwk });
        let claims = json!({
            "jti": format!("{:032}", self.proofs_made.fetch_add(1, Ordering::Relaxed)),
            "htm": "POST",
            "htu": format!("https://kas.example{PATH}"),
            "iat": NOW,
            "ath": base64(Sha256::digest(&self.token)),
        });
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = (self.sign)(signed.as_bytes());
        (signed, signature)
    }

    fn verified(&self) -> VerifiedToken {
        let jwk: Jwk = serde_json::from_value(self.jwk.clone()).unwrap();
        let jkt = Some(jwk.thumbprint(ThumbprintHash::SHA256).unwrap());
        VerifiedToken {
            issuer: "https://idp.example".to_owned(),
            subject: "somebody".to_owned(),
            claims: Arc::default(),
            confirmation: Some(Confirmation { jkt, certificate: None }),
            expires: NOW + 300,
            text: Arc::new(self.token.clone().into()),
            fingerprint: Sha256::digest(&self.token).into(),
        }
    }
}

fn parsed(algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> ParsedPublicKey {
    ParsedPublicKey::new(algorithm, public).unwrap()
}

/// With room for however many proofs criterion has checked.
fn proofs() -> Proofs {
    let settings =
        DpopSettings { origins: vec!["https://kas.example".to_owned()], ..DpopSettings::default() };
    let replay = MemoryReplay::new(usize::MAX, usize::MAX).with_clock(Arc::new(|| NOW));
    Proofs::new(settings, Arc::new(replay)).unwrap().with_clock(Arc::new(|| NOW))
}

fn check(proofs: &Proofs, proof: &str, client: &Client, token: &VerifiedToken) {
    let presented = Presented {
        scheme: Scheme::Dpop,
        proofs: &[proof],
        method: "POST",
        path: PATH,
        access_token: &client.token,
        certificate: None,
    };
    black_box(proofs.check(presented, token).now_or_never().unwrap().unwrap());
}

fn benchmark(criterion: &mut Criterion) {
    for client in [Client::es256(), Client::rs256()] {
        let mut group = criterion.benchmark_group(client.alg);
        let (signed, signature) = client.proof();
        group.bench_function("signature", |bencher| {
            bencher.iter(|| {
                client.public.verify_sig(black_box(signed.as_bytes()), &signature).unwrap();
            });
        });
        let (proofs, token) = (proofs(), client.verified());
        group.bench_function("proof", |bencher| {
            let proof = || {
                let (signed, signature) = client.proof();
                format!("{signed}.{}", base64(signature))
            };
            let check = |proof: String| check(&proofs, &proof, &client, &token);
            bencher.iter_batched(proof, check, BatchSize::SmallInput);
        });
        group.finish();
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
