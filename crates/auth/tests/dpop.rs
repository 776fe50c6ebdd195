//! Proofs of possession: good ones, and what each single change to one leads to.
//!
//! Every proof is signed anew after it was changed, so what refuses it is the check for that
//! change, not the signature.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use kasbah_auth::{
    Clock, Confirmation, DpopSettings, DpopSettingsError, Jws, MemoryReplay, OriginError,
    Presented, Proof, Proofs, Proven, Refusal, RefusalKind, ReplayError, ReplayStore, Scheme, Seen,
    VerifiedToken,
};
use proptest::prelude::*;
use secrecy::SecretBox;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NOW: u64 = 1_800_000_000;
const PATH: &str = "/kas.AccessService/Rewrap";
const HTU: &str = "https://kas.example/kas.AccessService/Rewrap";
const TOKEN: &str = "access.token.text";
const CERTIFICATE: &[u8] = b"DER of a certificate";

// Keys.

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A key pair with one algorithm.
struct Signer {
    alg: &'static str,
    jwk: Value,
    sign: Sign,
}

static OURS: LazyLock<Signer> = LazyLock::new(|| ec("ES256"));
static OTHER: LazyLock<Signer> = LazyLock::new(|| ec("ES256"));

fn ec(alg: &'static str) -> Signer {
    let (algorithm, crv) = match alg {
        "ES256" => (&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        "ES384" => (&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        _ => (&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
    };
    ec_with(alg, crv, algorithm)
}

fn ec_with(
    alg: &'static str,
    crv: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
) -> Signer {
    let key = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({ "kty": "EC", "crv": crv, "x": base64(x), "y": base64(y) });
    let sign = move |message: &[u8]| key.sign(&SystemRandom::new(), message).unwrap();
    Signer { alg, jwk, sign: Box::new(move |message| sign(message).as_ref().to_vec()) }
}

fn rsa(alg: &'static str) -> Signer {
    let padding: &'static dyn RsaEncoding = match alg {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        _ => &RSA_PSS_SHA512,
    };
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
    let encode = |bytes: &[u8]| base64(bytes);
    let jwk = json!({
        "kty": "RSA",
        "n": encode(n.big_endian_without_leading_zero()),
        "e": encode(e.big_endian_without_leading_zero()),
    });
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    Signer { alg, jwk, sign: Box::new(sign) }
}

fn ed25519() -> Signer {
    let key = Ed25519KeyPair::generate().unwrap();
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(key.public_key().as_ref()) });
    Signer { alg: "EdDSA", jwk, sign: Box::new(move |message| key.sign(message).as_ref().to_vec()) }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hash(bytes: impl AsRef<[u8]>) -> String {
    base64(Sha256::digest(bytes))
}

/// By the library, so that ours is not checked against itself.
fn thumbprint(jwk: &Value) -> String {
    let jwk: Jwk = serde_json::from_value(jwk.clone()).unwrap();
    jwk.thumbprint(ThumbprintHash::SHA256).unwrap()
}

// Proofs.

/// A request with a proof, good until it is changed.
struct Case {
    settings: DpopSettings,
    replay: Arc<dyn ReplayStore>,
    now: u64,
    signer: &'static Signer,
    header: Value,
    claims: Value,
    /// What becomes of the signed proof.
    send: fn(String) -> Vec<String>,
    scheme: Scheme,
    method: &'static str,
    path: &'static str,
    token: &'static str,
    jkt: Option<String>,
    x5t: Option<String>,
    certificate: Option<&'static [u8]>,
}

impl Case {
    fn good() -> Self {
        Self::signed_by(&OURS)
    }

    fn signed_by(signer: &'static Signer) -> Self {
        Self {
            settings: settings(),
            replay: Arc::new(MemoryReplay::default().with_clock(fixed(NOW))),
            now: NOW,
            signer,
            header: json!({ "typ": "dpop+jwt", "alg": signer.alg, "jwk": signer.jwk }),
            claims: json!({
                "jti": "jti-1", "htm": "POST", "htu": HTU, "iat": NOW, "ath": hash(TOKEN),
            }),
            send: |proof| vec![proof],
            scheme: Scheme::Dpop,
            method: "POST",
            path: PATH,
            token: TOKEN,
            jkt: Some(thumbprint(&signer.jwk)),
            x5t: None,
            certificate: None,
        }
    }

    fn changed(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::good();
        change(&mut case);
        case
    }

    fn header(&mut self, name: &str, value: Value) {
        self.header[name] = value;
    }

    fn jwk(&mut self, name: &str, value: Value) {
        self.header["jwk"][name] = value;
    }

    /// Changes the key, and binds the token to what comes out.
    fn bound_jwk(&mut self, jwk: Value) {
        self.jkt = Some(thumbprint(&jwk));
        self.header["jwk"] = jwk;
    }

    fn claim(&mut self, name: &str, value: Value) {
        self.claims[name] = value;
    }

    fn without(part: &mut Value, name: &str) {
        part.as_object_mut().unwrap().remove(name).unwrap();
    }

    fn signed(&self) -> String {
        let signed =
            format!("{}.{}", base64(self.header.to_string()), base64(self.claims.to_string()));
        let signature = base64((self.signer.sign)(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn proofs(&mut self) -> Proofs {
        let settings = std::mem::take(&mut self.settings);
        Proofs::new(settings, Arc::clone(&self.replay)).unwrap().with_clock(fixed(self.now))
    }

    fn check(mut self) -> Result<Proven, Refusal> {
        let proofs = self.proofs();
        self.check_by(&proofs)
    }

    fn check_by(&self, proofs: &Proofs) -> Result<Proven, Refusal> {
        let sent = (self.send)(self.signed());
        let presented = Presented {
            scheme: self.scheme,
            proofs: &sent.iter().map(String::as_str).collect::<Vec<_>>(),
            method: self.method,
            path: self.path,
            access_token: self.token,
            certificate: self.certificate,
        };
        let token = self.verified();
        let check = proofs.check(presented, &token);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(check)
    }

    fn verified(&self) -> VerifiedToken {
        let is_bound = self.jkt.is_some() || self.x5t.is_some();
        VerifiedToken {
            issuer: "https://idp.example".to_owned(),
            subject: "somebody".to_owned(),
            claims: Arc::default(),
            confirmation: is_bound
                .then(|| Confirmation { jkt: self.jkt.clone(), certificate: self.x5t.clone() }),
            expires: NOW + 300,
            text: Arc::new(self.token.to_owned().into()),
            fingerprint: Sha256::digest(self.token).into(),
        }
    }
}

fn settings() -> DpopSettings {
    DpopSettings {
        origins: vec!["https://KAS.example:443".to_owned(), "http://localhost:8080".to_owned()],
        ..DpopSettings::default()
    }
}

fn with_nonces(secret: u8) -> DpopSettings {
    let nonce_secret = Some(SecretBox::new(Box::new([secret; 32])));
    DpopSettings { require_nonce: true, nonce_secret, ..settings() }
}

fn fixed(now: u64) -> Clock {
    Arc::new(move || now)
}

fn refused(kind: RefusalKind, reason: &'static str) -> Refusal {
    Refusal { kind, reason: reason.into() }
}

type Change = fn(&mut Case);
type Refused<'a> = (&'a str, &'static str, Change);

/// Every change in `cases` is refused as a proof, for its own reason.
fn assert_refused(cases: &[Refused<'_>]) {
    for (name, reason, change) in cases {
        let found = Case::changed(change).check().map(|proven| proven.proof);
        assert_eq!(found, Err(refused(RefusalKind::Proof, reason)), "{name}");
    }
}

/// Every change in `cases` leaves the proof good.
fn assert_good(cases: &[(&str, Change)]) {
    for (name, change) in cases {
        let found = Case::changed(change).check().map(|proven| proven.proof);
        assert_eq!(found, Ok(Proof::Dpop), "{name}");
    }
}

// What is good.

#[test]
fn a_good_proof_of_every_algorithm_is_good() {
    for alg in ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let signer = if alg.starts_with("ES") { ec(alg) } else { rsa(alg) };
        let case = Case::signed_by(Box::leak(Box::new(signer)));
        let jkt = case.jkt.clone().unwrap();
        let request = case.signed();
        let proven = case.check().unwrap_or_else(|refusal| panic!("{alg}: {refusal}"));
        assert_eq!((proven.proof, proven.nonce), (Proof::Dpop, None));
        let key = proven.key.unwrap();
        assert_eq!(key.thumbprint(), jkt);
        key.verify(&Jws::parse(&request).unwrap()).unwrap();
    }
}

#[test]
fn eddsa_is_good_where_it_is_allowed() {
    let signer: &'static Signer = Box::leak(Box::new(ed25519()));
    let refusal = Case::signed_by(signer).check().unwrap_err();
    assert_eq!(refusal, refused(RefusalKind::Proof, "the proof's alg is not allowed"));
    let mut case = Case::signed_by(signer);
    case.settings.algorithms = vec!["EdDSA".to_owned()];
    assert_eq!(case.check().unwrap().proof, Proof::Dpop);
}

#[test]
fn what_may_be_different_is_good() {
    assert_good(&[
        ("nothing", |_| ()),
        ("more in the header", |c| c.header("kid", json!("a"))),
        ("more claims", |c| c.claim("foo", json!({ "bar": [1] }))),
        ("alg in the jwk", |c| c.jwk("alg", json!("ES256"))),
        ("kid in the jwk", |c| c.jwk("kid", json!("a"))),
        ("an unneeded nonce", |c| c.claim("nonce", json!("a"))),
        ("an unneeded nonce of another type", |c| c.claim("nonce", json!(1))),
        ("exp to come", |c| c.claim("exp", json!(NOW + 1))),
        ("exp within the skew", |c| c.claim("exp", json!(NOW - 29))),
        ("nbf past", |c| c.claim("nbf", json!(NOW - 1))),
        ("nbf within the skew", |c| c.claim("nbf", json!(NOW + 30))),
        ("iat at the end of its window", |c| c.claim("iat", json!(NOW - 300))),
        ("iat within the skew", |c| c.claim("iat", json!(NOW + 30))),
        ("iat with a fraction", |c| c.claim("iat", json!(1_799_999_999.5))),
        ("iat in exponent form", |c| c.claim("iat", json!(1.8e9))),
        ("a long jti", |c| c.claim("jti", json!("a".repeat(256)))),
        ("a jti of one byte", |c| c.claim("jti", json!("a"))),
        ("another method", |c| {
            c.method = "GET";
            c.claim("htm", json!("GET"));
        }),
        ("another origin", |c| {
            c.claim("htu", json!(format!("http://localhost:8080{PATH}")));
        }),
        ("scheme Bearer", |c| c.scheme = Scheme::Bearer),
        ("enforced", |c| c.settings.enforce = true),
        ("a certificate that nobody asks for", |c| c.certificate = Some(CERTIFICATE)),
    ]);
}

// What is not.

#[test]
fn header_and_form() {
    const FORM: &str = "the proof is no compact JWS with JSON objects in it";
    const TYP: &str = "the proof's typ is not dpop+jwt";
    assert_refused(&[
        ("none", COUNT, |c| c.send = |_| vec![]),
        ("two", COUNT, |c| c.send = |proof| vec![proof.clone(), proof]),
        ("one and an empty one", COUNT, |c| c.send = |proof| vec![proof, String::new()]),
        ("too long", "the proof is too long", |c| {
            c.claim("foo", json!("a".repeat(8 * 1024)));
        }),
        ("empty", FORM, |c| c.send = |_| vec![String::new()]),
        ("two in one header", FORM, |c| c.send = |proof| vec![format!("{proof}, {proof}")]),
        ("a space before", FORM, |c| c.send = |proof| vec![format!(" {proof}")]),
        ("two parts", FORM, |c| {
            c.send = |proof| vec![proof.rsplit_once('.').unwrap().0.to_owned()];
        }),
        ("four parts", FORM, |c| c.send = |proof| vec![format!("a.{proof}")]),
        ("header no object", FORM, |c| c.header = json!([1])),
        ("claims no object", FORM, |c| c.claims = json!("claims")),
        ("critical extensions", FORM, |c| c.header("crit", json!(["b64"]))),
        ("a claim twice", FORM, |c| {
            c.send = |proof| {
                let (header, rest) = proof.split_once('.').unwrap();
                let claims = rest.split_once('.').unwrap().0;
                let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
                let claims =
                    String::from_utf8(claims).unwrap().replacen('{', r#"{"htm":"GET","#, 1);
                let signed = format!("{header}.{}", base64(claims));
                let signature = base64((OURS.sign)(signed.as_bytes()));
                vec![format!("{signed}.{signature}")]
            };
        }),
        ("no typ", TYP, |c| Case::without(&mut c.header, "typ")),
        ("typ of a number", TYP, |c| c.header("typ", json!(1))),
        ("typ JWT", TYP, |c| c.header("typ", json!("JWT"))),
        ("typ in upper case", TYP, |c| c.header("typ", json!("DPOP+JWT"))),
        ("typ with application/", TYP, |c| c.header("typ", json!("application/dpop+jwt"))),
    ]);
}

#[test]
fn algorithm() {
    const ALG: &str = "the proof's alg is not allowed";
    const FIT: &str = "the proof's alg does not fit its jwk";
    const SIGNATURE: &str = "the proof's signature is wrong";
    assert_refused(&[
        ("no alg", ALG, |c| Case::without(&mut c.header, "alg")),
        ("alg of a number", ALG, |c| c.header("alg", json!(256))),
        ("alg in lower case", ALG, |c| c.header("alg", json!("es256"))),
        ("alg empty", ALG, |c| c.header("alg", json!(""))),
        ("none", ALG, |c| c.header("alg", json!("none"))),
        ("none, unsigned", ALG, |c| {
            c.header("alg", json!("none"));
            c.send = |proof| vec![proof.rsplit_once('.').unwrap().0.to_owned() + "."];
        }),
        ("HS256 with the public key", ALG, |c| {
            c.header("alg", json!("HS256"));
            c.send = |proof| {
                let secret = OURS.jwk.to_string();
                let signed = proof.rsplit_once('.').unwrap().0;
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                let tag = base64(hmac::sign(&key, signed.as_bytes()));
                vec![format!("{signed}.{tag}")]
            };
        }),
        ("not on the list", ALG, |c| c.settings.algorithms = vec!["RS256".to_owned()]),
        ("of another curve", FIT, |c| c.header("alg", json!("ES384"))),
        ("of another type", FIT, |c| c.header("alg", json!("RS256"))),
        ("unsigned", SIGNATURE, |c| {
            c.send = |proof| vec![proof.rsplit_once('.').unwrap().0.to_owned() + "."];
        }),
        ("signed by another", SIGNATURE, |c| c.signer = &OTHER),
        ("signed, then changed", SIGNATURE, |c| {
            c.send = |proof| {
                let (header, rest) = proof.split_once('.').unwrap();
                let signature = rest.split_once('.').unwrap().1;
                let mut claims = Case::good().claims;
                claims["jti"] = json!("another");
                vec![format!("{header}.{}.{signature}", base64(claims.to_string()))]
            };
        }),
        ("another encoding of a signature", SIGNATURE, |c| {
            static DER: LazyLock<Signer> =
                LazyLock::new(|| ec_with("ES256", "P-256", &ECDSA_P256_SHA256_ASN1_SIGNING));
            let jwk = DER.jwk.clone();
            c.bound_jwk(jwk);
            c.signer = &DER;
        }),
        ("padded", SIGNATURE, |c| c.send = |proof| vec![proof + "=="]),
    ]);
}

#[test]
fn key() {
    const JWK: &str = "the proof's jwk is missing or no object";
    const PRIVATE: &str = "the proof's jwk is no public key";
    const JWK_ALG: &str = "the proof's jwk is for another alg";
    const KEY: &str = "the proof's jwk is no key of a supported type";
    const JKT: &str = "the proof's jwk is not the one that the token is bound to";
    assert_refused(&[
        ("no jwk", JWK, |c| Case::without(&mut c.header, "jwk")),
        ("jwk null", JWK, |c| c.header("jwk", json!(null))),
        ("jwk in an array", JWK, |c| c.header("jwk", json!([OURS.jwk]))),
        ("jwk as text", JWK, |c| c.header("jwk", json!(OURS.jwk.to_string()))),
        ("d", PRIVATE, |c| c.jwk("d", json!("AQ"))),
        ("d null", PRIVATE, |c| c.jwk("d", json!(null))),
        ("p", PRIVATE, |c| c.jwk("p", json!("AQ"))),
        ("q", PRIVATE, |c| c.jwk("q", json!("AQ"))),
        ("dp", PRIVATE, |c| c.jwk("dp", json!("AQ"))),
        ("dq", PRIVATE, |c| c.jwk("dq", json!("AQ"))),
        ("qi", PRIVATE, |c| c.jwk("qi", json!("AQ"))),
        ("oth", PRIVATE, |c| c.jwk("oth", json!([]))),
        ("k", PRIVATE, |c| c.header("jwk", json!({ "kty": "oct", "k": "AQ" }))),
        ("for another alg", JWK_ALG, |c| c.jwk("alg", json!("ES384"))),
        ("for an alg of a number", JWK_ALG, |c| c.jwk("alg", json!(1))),
        ("no kty", KEY, |c| Case::without(&mut c.header["jwk"], "kty")),
        ("another kty", KEY, |c| c.jwk("kty", json!("ec"))),
        ("kty of a number", KEY, |c| c.jwk("kty", json!(1))),
        ("no crv", KEY, |c| Case::without(&mut c.header["jwk"], "crv")),
        ("no y", KEY, |c| Case::without(&mut c.header["jwk"], "y")),
        ("x of a number", KEY, |c| c.jwk("x", json!(1))),
        ("a point off the curve", KEY, |c| {
            let mut jwk = OURS.jwk.clone();
            jwk["y"] = jwk["x"].clone();
            c.bound_jwk(jwk);
        }),
        ("a short coordinate", KEY, |c| {
            let mut jwk = OURS.jwk.clone();
            jwk["x"] = json!("AQ");
            c.bound_jwk(jwk);
        }),
        ("a small RSA key", KEY, |c| {
            c.header("alg", json!("RS256"));
            c.bound_jwk(json!({ "kty": "RSA", "n": base64([0xff; 128]), "e": "AQAB" }));
        }),
        ("of another who signs", JKT, |c| {
            c.header("jwk", OTHER.jwk.clone());
            c.signer = &OTHER;
        }),
        ("of another", JKT, |c| c.header("jwk", OTHER.jwk.clone())),
        ("the token is another's", JKT, |c| c.jkt = Some(thumbprint(&OTHER.jwk))),
        ("bound to nothing that exists", JKT, |c| c.jkt = Some(String::new())),
        ("bound to the beginning", JKT, |c| c.jkt.as_mut().unwrap().truncate(42)),
        ("bound to something padded", JKT, |c| c.jkt.as_mut().unwrap().push('=')),
        ("another curve", JKT, |c| c.jwk("crv", json!("P-384"))),
    ]);
}

#[test]
fn time() {
    const IAT: &str = "the proof's iat is missing or no number";
    const OLD: &str = "the proof's iat is too long ago";
    const FUTURE: &str = "the proof's iat is in the future";
    const EXP: &str = "the proof's exp is no number";
    const EXPIRED: &str = "the proof has expired";
    const NBF: &str = "the proof's nbf is no number";
    const EARLY: &str = "the proof is not yet valid";
    assert_refused(&[
        ("no iat", IAT, |c| Case::without(&mut c.claims, "iat")),
        ("iat null", IAT, |c| c.claim("iat", json!(null))),
        ("iat text", IAT, |c| c.claim("iat", json!(NOW.to_string()))),
        ("iat NaN", IAT, |c| c.claim("iat", json!("NaN"))),
        ("iat true", IAT, |c| c.claim("iat", json!(true))),
        ("iat too old", OLD, |c| c.claim("iat", json!(NOW - 301))),
        ("iat a fraction too old", OLD, |c| c.claim("iat", json!(1_799_999_699.9))),
        ("iat 0", OLD, |c| c.claim("iat", json!(0))),
        ("iat negative", OLD, |c| c.claim("iat", json!(-1))),
        ("iat least", OLD, |c| c.claim("iat", json!(i64::MIN))),
        ("iat hugely negative", OLD, |c| c.claim("iat", json!(-1e300))),
        ("iat too old by the setting", OLD, |c| {
            c.settings.max_age = Duration::from_secs(10);
            c.claim("iat", json!(NOW - 11));
        }),
        ("iat in the future", FUTURE, |c| c.claim("iat", json!(NOW + 31))),
        ("iat in milliseconds", FUTURE, |c| c.claim("iat", json!(NOW * 1000))),
        ("iat most", FUTURE, |c| c.claim("iat", json!(i64::MAX))),
        ("iat beyond", FUTURE, |c| c.claim("iat", json!(u64::MAX))),
        ("iat huge", FUTURE, |c| c.claim("iat", json!(1e300))),
        ("iat in the future by the setting", FUTURE, |c| {
            c.settings.skew = Duration::ZERO;
            c.claim("iat", json!(NOW + 1));
        }),
        ("exp text", EXP, |c| c.claim("exp", json!("soon"))),
        ("exp null", EXP, |c| c.claim("exp", json!(null))),
        ("exp past", EXPIRED, |c| c.claim("exp", json!(NOW - 30))),
        ("exp least", EXPIRED, |c| c.claim("exp", json!(i64::MIN))),
        ("nbf text", NBF, |c| c.claim("nbf", json!("soon"))),
        ("nbf to come", EARLY, |c| c.claim("nbf", json!(NOW + 31))),
        ("nbf most", EARLY, |c| c.claim("nbf", json!(u64::MAX))),
    ]);
}

#[test]
fn method() {
    const HTM: &str = "the proof's htm is missing or no text";
    const METHOD: &str = "the proof is for another method";
    assert_refused(&[
        ("no htm", HTM, |c| Case::without(&mut c.claims, "htm")),
        ("htm null", HTM, |c| c.claim("htm", json!(null))),
        ("htm in an array", HTM, |c| c.claim("htm", json!(["POST"]))),
        ("htm empty", METHOD, |c| c.claim("htm", json!(""))),
        ("htm GET", METHOD, |c| c.claim("htm", json!("GET"))),
        ("htm in lower case", METHOD, |c| c.claim("htm", json!("post"))),
        ("htm with a space", METHOD, |c| c.claim("htm", json!("POST "))),
        ("a request by GET", METHOD, |c| c.method = "GET"),
        ("a request by post", METHOD, |c| c.method = "post"),
    ]);
}

#[test]
fn token_and_jti() {
    const ATH: &str = "the proof's ath is missing or no text";
    const OTHER_TOKEN: &str = "the proof is for another access token";
    const JTI: &str = "the proof's jti is missing or no text of 1 to 256 bytes";
    assert_refused(&[
        ("no ath", ATH, |c| Case::without(&mut c.claims, "ath")),
        ("ath of a number", ATH, |c| c.claim("ath", json!(1))),
        ("ath empty", OTHER_TOKEN, |c| c.claim("ath", json!(""))),
        ("ath of another token", OTHER_TOKEN, |c| c.claim("ath", json!(hash("another")))),
        ("another token", OTHER_TOKEN, |c| c.token = "another"),
        ("ath padded", OTHER_TOKEN, |c| c.claim("ath", json!(hash(TOKEN) + "="))),
        ("ath cut", OTHER_TOKEN, |c| c.claim("ath", json!(hash(TOKEN)[..42]))),
        ("ath is the token", OTHER_TOKEN, |c| c.claim("ath", json!(TOKEN))),
        ("no jti", JTI, |c| Case::without(&mut c.claims, "jti")),
        ("jti of a number", JTI, |c| c.claim("jti", json!(1))),
        ("jti null", JTI, |c| c.claim("jti", json!(null))),
        ("jti empty", JTI, |c| c.claim("jti", json!(""))),
        ("jti too long", JTI, |c| c.claim("jti", json!("a".repeat(257)))),
        ("jti too long in bytes", JTI, |c| c.claim("jti", json!("ä".repeat(129)))),
    ]);
}

#[test]
fn uris_that_are_the_same_are_good() {
    for htu in [
        HTU,
        "HTTPS://kas.example/kas.AccessService/Rewrap",
        "https://KAS.Example/kas.AccessService/Rewrap",
        "https://kas.example:443/kas.AccessService/Rewrap",
        "https://kas.example:/kas.AccessService/Rewrap",
        "https://kas%2eexample/kas.AccessService/Rewrap",
        "https://kas.example/%6bas.AccessService/Rewr%61p",
        "https://kas.example/kas%2EAccessService/Rewrap",
        "https://kas.example/./kas.AccessService/Rewrap",
        "https://kas.example/x/../kas.AccessService/./Rewrap",
        "https://kas.example/../kas.AccessService/Rewrap",
        "https://kas.example/%2e%2e/kas.AccessService/Rewrap",
        "https://kas.example/kas.AccessService/Rewrap?a=b",
        "https://kas.example/kas.AccessService/Rewrap#a",
        "https://kas.example/kas.AccessService/Rewrap?a#b?c",
        "http://LOCALHOST:8080/kas.AccessService/Rewrap",
        PATH,
        "/kas.AccessService/x/../Rewrap?a#b",
    ] {
        let found = Case::changed(|c| c.claim("htu", json!(htu))).check();
        assert_eq!(found.map(|proven| proven.proof), Ok(Proof::Dpop), "{htu}");
    }
}

#[test]
fn uris_that_are_not_the_same_are_refused() {
    for htu in [
        "",
        "/",
        "https://kas.example",
        "https://kas.example/",
        "https://other.example/kas.AccessService/Rewrap",
        "https://kas.example.other.example/kas.AccessService/Rewrap",
        "https://kas.example./kas.AccessService/Rewrap",
        "https://kas.exampl/kas.AccessService/Rewrap",
        "http://kas.example/kas.AccessService/Rewrap",
        "http://kas.example:443/kas.AccessService/Rewrap",
        "https://localhost:8080/kas.AccessService/Rewrap",
        "http://localhost/kas.AccessService/Rewrap",
        "https://kas.example:8443/kas.AccessService/Rewrap",
        "https://kas.example:80/kas.AccessService/Rewrap",
        "https://kas.example:0443/kas.AccessService/Rewrap",
        "https://kas.example:4430/kas.AccessService/Rewrap",
        "https://kas.example:443x/kas.AccessService/Rewrap",
        "wss://kas.example/kas.AccessService/Rewrap",
        "https://me@kas.example/kas.AccessService/Rewrap",
        "https://me:secret@kas.example/kas.AccessService/Rewrap",
        "https://@kas.example/kas.AccessService/Rewrap",
        "https://kas.example@other.example/kas.AccessService/Rewrap",
        "https://kas.example/kas.AccessService/PublicKey",
        "https://kas.example/kas.AccessService/Rewrap/",
        "https://kas.example/kas.AccessService/Rewrap/x",
        "https://kas.example/kas.AccessService/Rewrapx",
        "https://kas.example/kas.AccessService/rewrap",
        "https://kas.example/KAS.AccessService/Rewrap",
        "https://kas.example/x/kas.AccessService/Rewrap",
        "https://kas.example//kas.AccessService/Rewrap",
        "https://kas.example/kas.AccessService//Rewrap",
        "https://kas.example/kas.AccessService%2FRewrap",
        "https://kas.example/kas.AccessService/Rewrap%00",
        "https://kas.example/kas.AccessService/Rewrap%20",
        "https://kas.example/kas.AccessService/Rewrap ",
        " https://kas.example/kas.AccessService/Rewrap",
        "https://kas.example/kas.AccessService/Rewrap\n",
        "https://kas.example/?/kas.AccessService/Rewrap",
        "https://kas.example/#/kas.AccessService/Rewrap",
        "https://kas.example/%zz/../kas.AccessService/Rewrap",
        "//kas.example/kas.AccessService/Rewrap",
        "///kas.AccessService/Rewrap",
        "//kas.AccessService/Rewrap",
        "kas.AccessService/Rewrap",
        "./kas.AccessService/Rewrap",
        "kas.example/kas.AccessService/Rewrap",
        "https:/kas.example/kas.AccessService/Rewrap",
        "https:kas.AccessService/Rewrap",
        "https:///kas.AccessService/Rewrap",
        r"https:\\kas.example\kas.AccessService\Rewrap",
        r"https://kas.example\kas.AccessService\Rewrap",
        r"https://kas.example/kas.AccessService\Rewrap",
        r"\kas.AccessService\Rewrap",
        r"/\kas.example/kas.AccessService/Rewrap",
        "https://kаs.example/kas.AccessService/Rewrap",
        "https://ｋａｓ.example/kas.AccessService/Rewrap",
        "https://kas。example/kas.AccessService/Rewrap",
        "https://xn--kas.example/kas.AccessService/Rewrap",
        "/kas.AccessService/PublicKey",
        "/kas.AccessService/Rewrap/",
    ] {
        let found = Case::changed(|c| c.claim("htu", json!(htu))).check();
        let expected = refused(RefusalKind::Proof, "the proof is for another URI");
        assert_eq!(found.map(|proven| proven.proof), Err(expected), "{htu:?}");
    }
}

#[test]
fn uris_and_requests() {
    const HTU_TYPE: &str = "the proof's htu is missing or no text";
    const TARGET: &str = "the proof is for another URI";
    assert_refused(&[
        ("no htu", HTU_TYPE, |c| Case::without(&mut c.claims, "htu")),
        ("htu in an array", HTU_TYPE, |c| c.claim("htu", json!([HTU]))),
        ("a path where an origin is needed", TARGET, |c| {
            c.settings.path_only_htu = false;
            c.claim("htu", json!(PATH));
        }),
        ("another path", TARGET, |c| c.path = "/kas.AccessService/PublicKey"),
        ("no path", TARGET, |c| c.path = ""),
        ("all of the server", TARGET, |c| c.path = "*"),
        ("a path that is none", TARGET, |c| c.path = "kas.AccessService/Rewrap"),
        ("a path with a host", TARGET, |c| c.path = "//kas.example/kas.AccessService/Rewrap"),
        ("a whole URI for a path", TARGET, |c| c.path = HTU),
        ("a host without a scheme, the same in the path", TARGET, |c| {
            c.path = "//kas.example/kas.AccessService/Rewrap";
            c.claim("htu", json!("//kas.example/kas.AccessService/Rewrap"));
        }),
        ("an origin that is not ours any more", TARGET, |c| {
            c.settings.origins = vec!["https://other.example".to_owned()];
        }),
    ]);
    assert_good(&[
        ("an encoded path", |c| c.path = "/%6Bas.AccessService/Rewrap"),
        ("dots in the path", |c| c.path = "/x/../kas.AccessService/Rewrap"),
        ("slashes on both sides", |c| {
            c.path = "//kas.AccessService/Rewrap";
            c.claim("htu", json!("https://kas.example//kas.AccessService/Rewrap"));
        }),
        ("the root", |c| {
            c.path = "/";
            c.claim("htu", json!("https://kas.example"));
        }),
    ]);
}

// Nonces.

/// A nonce that a server with `secret` hands out at `now`.
fn nonce(secret: u8, now: u64) -> String {
    let mut case = Case::changed(|c| {
        c.settings = with_nonces(secret);
        c.now = now;
    });
    let challenge = case.proofs().challenge(&refused(RefusalKind::Nonce, ""));
    let [(_, _), ("dpop-nonce", nonce)] = challenge.as_slice() else { panic!("{challenge:?}") };
    nonce.clone()
}

#[test]
fn nonces_where_they_are_required() {
    const NO_NONCE: &str = "the proof has no nonce";
    const STALE: &str = "the proof's nonce is not one of ours, or was";
    let tampered = {
        let mut bytes = URL_SAFE_NO_PAD.decode(nonce(1, NOW)).unwrap();
        bytes[23] ^= 1;
        base64(bytes)
    };
    let cases = [
        ("missing", None, Err((RefusalKind::Nonce, NO_NONCE))),
        ("of a number", Some(json!(1)), Err((RefusalKind::Proof, "the proof's nonce is no text"))),
        ("current", Some(json!(nonce(1, NOW))), Ok(Proof::Dpop)),
        ("previous", Some(json!(nonce(1, NOW - 300))), Ok(Proof::Dpop)),
        ("expired", Some(json!(nonce(1, NOW - 600))), Err((RefusalKind::Nonce, STALE))),
        ("of the future", Some(json!(nonce(1, NOW + 300))), Err((RefusalKind::Nonce, STALE))),
        ("of another secret", Some(json!(nonce(2, NOW))), Err((RefusalKind::Nonce, STALE))),
        ("tampered", Some(json!(tampered)), Err((RefusalKind::Nonce, STALE))),
        ("padded", Some(json!(nonce(1, NOW) + "=")), Err((RefusalKind::Nonce, STALE))),
        ("empty", Some(json!("")), Err((RefusalKind::Nonce, STALE))),
    ];
    for (name, value, expected) in cases {
        let found = Case::changed(|c| {
            c.settings = with_nonces(1);
            if let Some(value) = value {
                c.claim("nonce", value);
            }
        })
        .check();
        let expected = expected.map_err(|(kind, reason)| refused(kind, reason));
        assert_eq!(found.map(|proven| proven.proof), expected, "{name}");
    }
}

#[test]
fn a_good_proof_is_answered_with_the_next_nonce() {
    let proven = Case::changed(|c| {
        c.settings = with_nonces(1);
        c.claim("nonce", json!(nonce(1, NOW - 300)));
    })
    .check()
    .unwrap();
    assert_eq!(proven.nonce, Some(nonce(1, NOW)));
}

#[test]
fn refusals_for_other_reasons_do_not_use_up_a_proof() {
    let mut case = Case::changed(|c| c.settings = with_nonces(1));
    let proofs = case.proofs();
    assert_eq!(case.check_by(&proofs).unwrap_err().kind, RefusalKind::Nonce);
    case.claim("nonce", json!(nonce(1, NOW)));
    case.claim("ath", json!("wrong"));
    assert_eq!(case.check_by(&proofs).unwrap_err().kind, RefusalKind::Proof);
    case.claim("ath", json!(hash(TOKEN)));
    assert_eq!(case.check_by(&proofs).unwrap().proof, Proof::Dpop);
}

#[test]
fn challenges_say_what_to_do() {
    let proof = refused(RefusalKind::Proof, "any");
    let invalid = ("www-authenticate", "DPoP error=\"invalid_dpop_proof\"".to_owned());
    assert_eq!(Case::good().proofs().challenge(&proof), std::slice::from_ref(&invalid));

    let proofs = Case::changed(|c| c.settings = with_nonces(1)).proofs();
    let current = ("dpop-nonce", nonce(1, NOW));
    assert_eq!(proofs.challenge(&proof), [invalid, current.clone()]);
    let use_nonce = ("www-authenticate", "DPoP error=\"use_dpop_nonce\"".to_owned());
    assert_eq!(proofs.challenge(&refused(RefusalKind::Nonce, "any")), [use_nonce, current]);
    for kind in [
        RefusalKind::MissingHeader,
        RefusalKind::Token,
        RefusalKind::Forbidden,
        RefusalKind::Unavailable,
        RefusalKind::Exhausted,
    ] {
        assert_eq!(proofs.challenge(&refused(kind, "any")), [], "{kind:?}");
    }
}

// Replay.

const REPLAY: &str = "the proof was used before";

#[test]
fn a_proof_is_good_once() {
    // The same bytes, whatever a new signature would look like.
    static PROOF: LazyLock<String> = LazyLock::new(|| Case::good().signed());
    let mut case = Case::good();
    let proofs = case.proofs();
    case.send = |_| vec![PROOF.clone()];
    assert_eq!(case.check_by(&proofs).unwrap().proof, Proof::Dpop);
    assert_eq!(case.check_by(&proofs).unwrap_err(), refused(RefusalKind::Proof, REPLAY));
}

#[test]
fn a_jti_is_good_once_for_each_key() {
    let mut case = Case::good();
    let proofs = case.proofs();
    assert!(case.check_by(&proofs).is_ok());
    case.claim("iat", json!(NOW - 1));
    assert_eq!(case.check_by(&proofs).unwrap_err(), refused(RefusalKind::Proof, REPLAY));
    assert!(Case::signed_by(&OTHER).check_by(&proofs).is_ok());
    case.claim("jti", json!("jti-2"));
    assert!(case.check_by(&proofs).is_ok());
}

#[test]
fn a_proof_is_remembered_for_as_long_as_it_would_be_good() {
    let time = Arc::new(AtomicU64::new(NOW));
    let clock: Clock = {
        let time = Arc::clone(&time);
        Arc::new(move || time.load(Ordering::Relaxed))
    };
    let replay = Arc::new(MemoryReplay::new(1, 1).with_clock(Arc::clone(&clock)));
    let proofs = Proofs::new(settings(), replay).unwrap().with_clock(clock);
    // From a clock that is ahead, so it stays good for longest.
    let proof = Case::changed(|c| c.claim("iat", json!(NOW + 30)));
    assert!(proof.check_by(&proofs).is_ok());
    for later in [1, 300, 329, 330] {
        time.store(NOW + later, Ordering::Relaxed);
        let refusal = proof.check_by(&proofs).unwrap_err();
        assert_eq!(refusal, refused(RefusalKind::Proof, REPLAY), "{later}");
    }
    // No longer good here, but for those whose clock is behind.
    let next = |later| {
        time.store(NOW + later, Ordering::Relaxed);
        let next = Case::changed(|c| c.claim("iat", json!(NOW + later)));
        next.check_by(&proofs).map(|proven| proven.proof)
    };
    assert_eq!(next(360), Err(refused(RefusalKind::Proof, REPLAY)));
    assert_eq!(next(361), Ok(Proof::Dpop));
}

#[test]
fn of_many_at_once_one_is_good() {
    const REQUESTS: usize = 8;
    let mut case = Case::good();
    let proofs = case.proofs();
    let good = std::thread::scope(|scope| {
        let requests: Vec<_> =
            (0..REQUESTS).map(|_| scope.spawn(|| case.check_by(&proofs).is_ok())).collect();
        requests.into_iter().map(|request| request.join().unwrap()).filter(|good| *good).count()
    });
    assert_eq!(good, 1);
}

#[test]
fn a_full_store_lets_nobody_in() {
    let mut case = Case::good();
    case.replay = Arc::new(MemoryReplay::new(1, 1).with_clock(fixed(NOW)));
    let proofs = case.proofs();
    assert!(case.check_by(&proofs).is_ok());
    case.claim("jti", json!("jti-2"));
    let quota = refused(RefusalKind::Exhausted, "the key has used up its room for proofs");
    assert_eq!(case.check_by(&proofs).unwrap_err(), quota);
    let full = refused(RefusalKind::Unavailable, "there is no room to remember one more proof");
    assert_eq!(Case::signed_by(&OTHER).check_by(&proofs).unwrap_err(), full);
}

/// A fake, as a real store cannot be made to fail at will.
#[derive(Debug)]
struct Failing(ReplayError);

#[async_trait]
impl ReplayStore for Failing {
    async fn remember(&self, _: &str, _: &str, _: u64) -> Result<Seen, ReplayError> {
        Err(self.0)
    }
}

#[test]
fn a_store_that_fails_lets_nobody_in() {
    for (error, kind, reason) in [
        (
            ReplayError::Unreachable,
            RefusalKind::Unavailable,
            "the store of used proofs does not answer",
        ),
        (
            ReplayError::Full,
            RefusalKind::Unavailable,
            "there is no room to remember one more proof",
        ),
        (ReplayError::Quota, RefusalKind::Exhausted, "the key has used up its room for proofs"),
    ] {
        let found = Case::changed(|c| c.replay = Arc::new(Failing(error))).check();
        assert_eq!(found.map(|proven| proven.proof), Err(refused(kind, reason)));
    }
}

/// A fake that shows what a store is told.
#[derive(Debug, Default)]
struct Noting(std::sync::Mutex<Vec<(String, String, u64)>>);

#[async_trait]
impl ReplayStore for Noting {
    async fn remember(&self, jkt: &str, jti: &str, until: u64) -> Result<Seen, ReplayError> {
        self.0.lock().unwrap().push((jkt.to_owned(), jti.to_owned(), until));
        Ok(Seen::First)
    }
}

#[test]
fn the_store_is_asked_about_good_proofs_alone() {
    let noting = Arc::new(Noting::default());
    let asked = |change: fn(&mut Case)| {
        let _ = Case::changed(|c| {
            c.replay = Arc::clone(&noting) as _;
            change(c);
        })
        .check();
        std::mem::take(&mut *noting.0.lock().unwrap())
    };
    let jkt = thumbprint(&OURS.jwk);
    assert_eq!(asked(|_| ()), [(jkt, "jti-1".to_owned(), NOW + 300 + 30)]);
    assert_eq!(asked(|c| c.claim("htm", json!("GET"))), []);
    assert_eq!(asked(|c| c.claim("ath", json!("x"))), []);
    assert_eq!(asked(|c| c.settings = with_nonces(1)), []);
    assert_eq!(asked(|c| c.signer = &OTHER), []);
    assert_eq!(asked(|c| c.jkt = None), []);
    assert_eq!(asked(|c| c.x5t = Some(hash(CERTIFICATE))), []);
}

// Tokens and their bindings.

type Outcome<'a> = (&'a str, Change, Result<(Proof, bool), Refusal>);

/// What a token bound as `token` says is proven, and whether by a key, after each change.
fn assert_proven(token: Change, cases: &[Outcome<'_>]) {
    for (name, change, expected) in cases {
        let mut case = Case::good();
        token(&mut case);
        change(&mut case);
        let found = case.check().map(|proven| (proven.proof, proven.key.is_some()));
        assert_eq!(found, *expected, "{name}");
    }
}

const COUNT: &str = "there is not exactly one proof of possession";

#[test]
fn a_token_that_names_a_key_needs_a_proof() {
    let by_bearer = "the token is bound to a key and came under the scheme Bearer";
    assert_proven(
        |_| (),
        &[
            ("by DPoP", |_| (), Ok((Proof::Dpop, true))),
            ("by Bearer", |c| c.scheme = Scheme::Bearer, Ok((Proof::Dpop, true))),
            (
                "by Bearer, no proof",
                |c| {
                    c.scheme = Scheme::Bearer;
                    c.send = |_| vec![];
                },
                Err(refused(RefusalKind::Proof, COUNT)),
            ),
            (
                "by Bearer where that is not accepted",
                |c| {
                    c.scheme = Scheme::Bearer;
                    c.settings.bound_by_bearer = false;
                },
                Err(refused(RefusalKind::Proof, by_bearer)),
            ),
            (
                "by DPoP where Bearer is not accepted",
                |c| c.settings.bound_by_bearer = false,
                Ok((Proof::Dpop, true)),
            ),
        ],
    );
}

#[test]
fn a_token_that_names_nothing_proves_nothing() {
    let unbound = "the token is bound to no key, so no proof can be one for it";
    assert_proven(
        |c| c.jkt = None,
        &[
            ("with a proof", |_| (), Ok((Proof::Bearer, false))),
            ("by Bearer", |c| c.scheme = Scheme::Bearer, Ok((Proof::Bearer, false))),
            (
                "with proofs that are none",
                |c| c.send = |_| vec!["x".to_owned(), "y".to_owned()],
                Ok((Proof::Bearer, false)),
            ),
            (
                "with a certificate",
                |c| c.certificate = Some(CERTIFICATE),
                Ok((Proof::Bearer, false)),
            ),
            (
                "by Bearer where that is not accepted for bound ones",
                |c| {
                    c.scheme = Scheme::Bearer;
                    c.settings.bound_by_bearer = false;
                },
                Ok((Proof::Bearer, false)),
            ),
            (
                "where nonces are required",
                |c| c.settings = with_nonces(1),
                Ok((Proof::Bearer, false)),
            ),
            (
                "with a proof, enforced",
                |c| c.settings.enforce = true,
                Err(refused(RefusalKind::Proof, unbound)),
            ),
            (
                "with a certificate, enforced",
                |c| {
                    c.settings.enforce = true;
                    c.certificate = Some(CERTIFICATE);
                },
                Err(refused(RefusalKind::Proof, unbound)),
            ),
        ],
    );
}

const NO_CERTIFICATE: &str =
    "the token is bound to a client certificate and the connection has none";
const OTHER_CERTIFICATE: &str = "the token is bound to another client certificate";

#[test]
fn a_token_that_names_a_certificate_needs_it_and_no_proof() {
    assert_proven(
        |c| {
            c.jkt = None;
            c.x5t = Some(hash(CERTIFICATE));
            c.certificate = Some(CERTIFICATE);
            c.send = |_| vec![];
            c.scheme = Scheme::Bearer;
        },
        &[
            ("with it", |_| (), Ok((Proof::Mtls, false))),
            ("with it, by DPoP", |c| c.scheme = Scheme::Dpop, Ok((Proof::Mtls, false))),
            ("with it, enforced", |c| c.settings.enforce = true, Ok((Proof::Mtls, false))),
            ("without", |c| c.certificate = None, Err(refused(RefusalKind::Token, NO_CERTIFICATE))),
            (
                "with another",
                |c| c.certificate = Some(b"another"),
                Err(refused(RefusalKind::Token, OTHER_CERTIFICATE)),
            ),
            (
                "with its hash padded",
                |c| c.x5t.as_mut().unwrap().push('='),
                Err(refused(RefusalKind::Token, OTHER_CERTIFICATE)),
            ),
            (
                "with an empty hash",
                |c| c.x5t = Some(String::new()),
                Err(refused(RefusalKind::Token, OTHER_CERTIFICATE)),
            ),
        ],
    );
}

#[test]
fn a_token_that_names_both_needs_both() {
    assert_proven(
        |c| {
            c.x5t = Some(hash(CERTIFICATE));
            c.certificate = Some(CERTIFICATE);
        },
        &[
            ("with both", |_| (), Ok((Proof::Mtls, true))),
            (
                "without the certificate",
                |c| c.certificate = None,
                Err(refused(RefusalKind::Token, NO_CERTIFICATE)),
            ),
            (
                "with another certificate",
                |c| c.certificate = Some(b"another"),
                Err(refused(RefusalKind::Token, OTHER_CERTIFICATE)),
            ),
            ("without a proof", |c| c.send = |_| vec![], Err(refused(RefusalKind::Proof, COUNT))),
            (
                "with the proof of another",
                |c| c.signer = &OTHER,
                Err(refused(RefusalKind::Proof, "the proof's signature is wrong")),
            ),
        ],
    );
}

// Settings.

#[test]
fn settings_are_checked() {
    let origin = |text: &str| DpopSettings {
        origins: vec!["https://kas.example".to_owned(), text.to_owned()],
        ..settings()
    };
    let seconds = Duration::from_secs;
    for (settings, expected) in [
        (DpopSettings::default(), "there are no origins, so no proof could be for this server"),
        (
            origin("https://kas.example/kas"),
            "origin number 2 cannot be used: it has a path, a query or a fragment",
        ),
        (
            origin("kas.example"),
            "origin number 2 cannot be used: it is not of the form scheme://host or \
             scheme://host:port",
        ),
        (
            origin("ws://kas.example"),
            "origin number 2 cannot be used: its scheme is neither http nor https",
        ),
        (
            origin("https://me:secret@kas.example"),
            "origin number 2 cannot be used: it has a user name",
        ),
        (DpopSettings { algorithms: vec![], ..settings() }, "there are no algorithms"),
        (
            DpopSettings { algorithms: vec!["HS256".to_owned()], ..settings() },
            "algorithm \"HS256\" is none that proofs can be signed with",
        ),
        (DpopSettings { max_age: seconds(0), ..settings() }, "max_age is not from 1s to 3600s"),
        (DpopSettings { max_age: seconds(3601), ..settings() }, "max_age is not from 1s to 3600s"),
        (DpopSettings { skew: seconds(301), ..settings() }, "skew is not from 0ns to 300s"),
        (
            DpopSettings { nonce_period: seconds(9), ..settings() },
            "nonce_period is not from 10s to 3600s",
        ),
    ] {
        let error = Proofs::new(settings, Arc::new(MemoryReplay::default())).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let error = Proofs::new(origin("x"), Arc::new(MemoryReplay::default())).unwrap_err();
    assert_eq!(error, DpopSettingsError::Origin { number: 2, error: OriginError::Form });
}

#[test]
fn debug_shows_nothing_secret() {
    let settings = with_nonces(0xAB);
    let shown = format!("{settings:?}");
    assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
    let replay = Arc::new(MemoryReplay::default().with_clock(fixed(NOW)));
    let proofs = Proofs::new(settings, replay).unwrap().with_clock(fixed(NOW));
    let mut case = Case::good();
    case.claim("nonce", json!(nonce(0xAB, NOW)));
    let proven = case.check_by(&proofs).unwrap();
    for shown in [format!("{proofs:?}"), format!("{proven:?}")] {
        assert!(!shown.contains("171") && !shown.contains("jti-1"), "{shown}");
        assert!(!shown.contains(TOKEN) && !shown.contains(&hash(TOKEN)), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_proof_panics(proof in any::<String>(), method in any::<String>(), path in any::<String>()) {
        let proofs = Case::good().proofs();
        let token = Case::good().verified();
        let presented = Presented {
            scheme: Scheme::Dpop,
            proofs: &[&proof],
            method: &method,
            path: &path,
            access_token: TOKEN,
            certificate: None,
        };
        let check = proofs.check(presented, &token);
        let found = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(check);
        prop_assert_eq!(found.unwrap_err().kind, RefusalKind::Proof);
    }

    #[test]
    fn no_signed_claim_panics(
        name in prop::sample::select(vec!["jti", "htm", "htu", "iat", "ath", "exp", "nbf", "nonce"]),
        value in prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
        ],
    ) {
        let mut case = Case::good();
        case.claim(name, value);
        let _ = case.check();
    }
}
