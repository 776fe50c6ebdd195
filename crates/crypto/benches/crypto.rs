//! Each operation beside the call of the library that it cannot do without, in one run.
//!
//! `cargo bench -p kasbah-crypto`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::hint::black_box;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, UnparsedPublicKey},
    encoding::{AsDer, Pkcs8V1Der},
    hmac,
    rsa::{
        KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        PrivateDecryptingKey,
    },
};
use criterion::{Criterion, criterion_group, criterion_main};
use der::pem::{LineEnding, encode_string};
use kasbah_crypto::{
    Algorithm, Curve, Dek, PrivateKey, PublicKey, WrappedDek, binding, envelope::RootKey,
};

fn dek() -> Dek {
    Dek::from_slice(&[7; 32]).expect("32 bytes")
}

fn rsa(c: &mut Criterion) {
    for (bits, size) in [(2048, KeySize::Rsa2048), (4096, KeySize::Rsa4096)] {
        let raw = PrivateDecryptingKey::generate(size).expect("a key");
        let der: Pkcs8V1Der<'_> = raw.as_der().expect("DER");
        let pem = encode_string("PRIVATE KEY", LineEnding::LF, der.as_ref()).expect("PEM");
        let ours = PrivateKey::from_pem(&pem).expect("a key");
        let public = ours.public_key();
        let wrapped = public.wrap(&dek()).expect("a ciphertext");
        let WrappedDek::Rsa(ciphertext) = &wrapped else { panic!("not RSA") };
        let raw_public = OaepPublicEncryptingKey::new(raw.public_key()).expect("a key");
        let raw = OaepPrivateDecryptingKey::new(raw).expect("a key");
        let mut out = vec![0; bits / 8];

        let mut group = c.benchmark_group(format!("rsa-{bits}"));
        group
            .bench_function("decrypt", |b| b.iter(|| ours.unwrap_dek(black_box(&wrapped)).is_ok()));
        group.bench_function("decrypt, library", |b| {
            b.iter(|| {
                raw.decrypt(&OAEP_SHA1_MGF1SHA1, black_box(ciphertext), &mut out, None).is_ok()
            });
        });
        group.bench_function("encrypt", |b| b.iter(|| public.wrap(black_box(&dek()))));
        group.bench_function("encrypt, library", |b| {
            b.iter(|| {
                raw_public.encrypt(&OAEP_SHA1_MGF1SHA1, black_box(&[7; 32]), &mut out, None).is_ok()
            });
        });
        let spki = public.to_spki_der();
        group.bench_function("read public key", |b| {
            b.iter(|| PublicKey::from_spki_der(black_box(&spki)));
        });
        group.finish();
    }
}

fn ec(c: &mut Criterion) {
    for (curve, library) in
        [(Curve::P256, &ECDH_P256), (Curve::P384, &ECDH_P384), (Curve::P521, &ECDH_P521)]
    {
        let ours = PrivateKey::generate(Algorithm::Ec(curve)).expect("a key");
        let public = ours.public_key();
        let wrapped = public.wrap(&dek()).expect("a blob");
        let raw = agreement::PrivateKey::generate(library).expect("a key");
        let peer = raw.compute_public_key().expect("a point");
        let agree = |key: &agreement::PrivateKey| {
            let peer = UnparsedPublicKey::new(library, black_box(peer.as_ref()));
            agreement::agree(key, peer, (), |secret| Ok(secret[0]))
        };

        let mut group = c.benchmark_group(format!("{curve:?}"));
        group.bench_function("open", |b| b.iter(|| ours.unwrap_dek(black_box(&wrapped)).is_ok()));
        group.bench_function("open, library", |b| b.iter(|| agree(&raw)));
        group.bench_function("seal", |b| b.iter(|| public.wrap(black_box(&dek()))));
        group.bench_function("seal, library", |b| {
            b.iter(|| agree(&agreement::PrivateKey::generate(library).expect("a key")));
        });
        let spki = public.to_spki_der();
        group.bench_function("read public key", |b| {
            b.iter(|| PublicKey::from_spki_der(black_box(&spki)));
        });
        group.finish();
    }
}

fn symmetric(c: &mut Criterion) {
    let policy = "A".repeat(1024);
    let mut group = c.benchmark_group("symmetric");
    group.bench_function("binding", |b| b.iter(|| binding::compute(&dek(), black_box(&policy))));
    group.bench_function("binding, library", |b| {
        b.iter(|| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
            hmac::sign(&key, black_box(policy.as_bytes()))
        });
    });

    let plaintext = [7; 1700]; // about the PEM of an RSA-2048 key
    let root = RootKey::from_hex(&"07".repeat(32)).expect("a key");
    let sealed = root.seal(&plaintext).expect("sealed");
    let raw = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key"));
    let mut out = plaintext;
    group.bench_function("envelope", |b| b.iter(|| root.open(black_box(&sealed))));
    group.bench_function("envelope, library", |b| {
        b.iter(|| {
            let nonce = Nonce::try_assume_unique_for_key(&sealed[..12]).expect("12 bytes");
            let (body, tag) = sealed[12..].split_at(plaintext.len());
            raw.open_separate_gather(nonce, Aad::empty(), black_box(body), tag, &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, rsa, ec, symmetric);
criterion_main!(benches);
