use std::collections::BTreeSet;

use kasbah_auth::{
    IssuerSettings, KeySource, KeyState, Refusal, RefusalKind, SetupError, TokenRules,
    TokenVerifier, Tokens,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::signer::{Signer, claims, encode, jwks, now};

const ISSUER: &str = "https://idp.example/realms/one";
const OTHER: &str = "https://idp.example/realms/two";

fn settings(issuer: &str, signers: &[&Signer]) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.to_owned(),
        audience: "kasbah".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(jwks(signers)),
    }
}

fn tokens(signers: &[&Signer]) -> Tokens {
    Tokens::new(vec![settings(ISSUER, signers)], TokenRules::default()).unwrap()
}

async fn refusal(tokens: &Tokens, token: &str) -> String {
    let Refusal { kind, reason } = tokens.verify(token).await.unwrap_err();
    assert_eq!(kind, RefusalKind::Token, "{reason}");
    reason.into_owned()
}

fn with(mut value: Value, name: &str, member: Value) -> Value {
    value[name] = member;
    value
}

fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().unwrap().remove(name);
    value
}

#[tokio::test]
async fn every_asymmetric_algorithm_verifies() {
    for algorithm in
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    {
        let signer = Signer::new("k", algorithm);
        let tokens = tokens(&[&signer]);
        let token = signer.token(&claims(ISSUER));
        // Anew, and remembered.
        for _ in 0..2 {
            let verified = tokens.verify(&token).await.unwrap();
            assert_eq!(verified.issuer, ISSUER);
            assert_eq!(verified.subject, "alice");
            assert_eq!(verified.expires, verified.claims["exp"].as_u64().unwrap());
            assert_eq!(verified.text.expose_secret(), token);
            assert_eq!(verified.confirmation, None);
        }
        let forged = Signer::new("k", algorithm).token(&claims(ISSUER));
        assert_eq!(refusal(&tokens, &forged).await, "its signature is wrong");
    }
}

#[tokio::test]
async fn claims_say_what_they_must() {
    let signer = Signer::new("k", "ES256");
    let tokens = tokens(&[&signer]);
    let good = claims(ISSUER);
    let now = now();
    for (claims, reason) in [
        (without(good.clone(), "iss"), "it has no iss"),
        (with(good.clone(), "iss", json!([ISSUER])), "its iss is not a single text"),
        (with(good.clone(), "iss", json!(OTHER)), "its issuer is not one that is configured"),
        (
            with(good.clone(), "iss", json!(format!("{ISSUER}/"))),
            "its issuer is not one that is configured",
        ),
        (without(good.clone(), "aud"), "it has no aud"),
        (with(good.clone(), "aud", json!("other")), "it is for another audience"),
        (with(good.clone(), "aud", json!("kasbah ")), "it is for another audience"),
        (with(good.clone(), "aud", json!([])), "it is for another audience"),
        (with(good.clone(), "aud", json!(["other", "another"])), "it is for another audience"),
        (
            with(good.clone(), "aud", json!(["kasbah", 7])),
            "its aud is neither a text nor a list of texts",
        ),
        (
            with(good.clone(), "aud", json!({ "kasbah": 1 })),
            "its aud is neither a text nor a list of texts",
        ),
        (without(good.clone(), "exp"), "it has no exp"),
        (with(good.clone(), "exp", json!(now - 61)), "it has expired"),
        (with(good.clone(), "exp", json!((now + 60).to_string())), "a time in it is no number"),
        (with(good.clone(), "exp", Value::Null), "a time in it is no number"),
        (with(good.clone(), "exp", json!(1e300)), "a time in it is before 1970 or after 9999"),
        (with(good.clone(), "exp", json!(u64::MAX)), "a time in it is before 1970 or after 9999"),
        (with(good.clone(), "exp", json!(-1)), "a time in it is before 1970 or after 9999"),
        (with(good.clone(), "nbf", json!(now + 600)), "it is not valid yet"),
        (with(good.clone(), "nbf", json!("0")), "a time in it is no number"),
        (with(good.clone(), "iat", json!(now + 600)), "it was issued in the future"),
        (with(good.clone(), "iat", json!(true)), "a time in it is no number"),
        (with(good.clone(), "iat", json!(f64::MAX)), "a time in it is before 1970 or after 9999"),
    ] {
        assert_eq!(refusal(&tokens, &signer.token(&claims)).await, reason, "{claims}");
    }
    #[expect(clippy::cast_precision_loss, reason = "small enough")]
    let fraction = now as f64 + 0.5;
    for claims in [
        with(good.clone(), "aud", json!(["other", "kasbah"])),
        with(good.clone(), "aud", json!(["kasbah"])),
        with(good.clone(), "exp", json!(fraction)),
        with(good.clone(), "iat", json!(fraction)),
        with(good.clone(), "nbf", json!(now + 50)),
        with(good.clone(), "exp", json!(253_402_300_799_u64)),
        without(without(good.clone(), "iat"), "nbf"),
        without(good.clone(), "sub"),
        with(good.clone(), "sub", json!(7)),
    ] {
        tokens.verify(&signer.token(&claims)).await.expect("accepted");
    }
}

#[tokio::test]
async fn a_header_is_that_of_an_access_token() {
    let signer = Signer::new("k", "ES256");
    let tokens = tokens(&[&signer]);
    let claims = claims(ISSUER);
    let good = signer.header();
    let wrong_typ = "its typ is not that of an access token";
    let own_key = "its header brings a key";
    let symmetric = "its algorithm is no asymmetric signature";
    for (header, reason) in [
        (with(good.clone(), "typ", json!("dpop+jwt")), wrong_typ),
        (with(good.clone(), "typ", json!("logout+jwt")), wrong_typ),
        (with(good.clone(), "typ", json!("id+jwt")), wrong_typ),
        (with(good.clone(), "typ", json!("")), wrong_typ),
        (with(good.clone(), "typ", json!(7)), wrong_typ),
        (with(good.clone(), "jwk", signer.jwk()), own_key),
        (with(good.clone(), "jku", json!("https://idp.example/jwks")), own_key),
        (with(good.clone(), "x5u", json!("https://idp.example/x5u")), own_key),
        (with(good.clone(), "alg", json!("none")), symmetric),
        (with(good.clone(), "alg", json!("HS256")), symmetric),
        (with(good.clone(), "alg", json!(["ES256"])), symmetric),
        (without(good.clone(), "alg"), symmetric),
        (with(good.clone(), "alg", json!("RS256")), "its algorithm does not fit the key"),
        (with(good.clone(), "crit", json!(["exp"])), "its header lists critical extensions"),
        (with(good.clone(), "kid", json!("other")), "its issuer has no key of its kid"),
        (with(good.clone(), "kid", json!(7)), "its kid is no text"),
        (with(good.clone(), "kid", Value::Null), "its kid is no text"),
    ] {
        assert_eq!(refusal(&tokens, &signer.sign(&header, &claims)).await, reason, "{header}");
    }
    for header in [
        without(good.clone(), "typ"),
        with(good.clone(), "typ", json!("JWT")),
        with(good.clone(), "typ", json!("jwt")),
        with(good.clone(), "typ", json!("AT+JWT")),
        with(good.clone(), "typ", json!("application/at+jwt")),
        // It is no key here, so it does no harm.
        with(good.clone(), "x5c", json!(["AAAA"])),
    ] {
        tokens.verify(&signer.sign(&header, &claims)).await.expect("accepted");
    }
}

#[tokio::test]
async fn other_forms_are_refused() {
    let signer = Signer::new("k", "ES256");
    let tokens = tokens(&[&signer]);
    let good = signer.token(&claims(ISSUER));
    let form = "it is not a compact JWS with JSON objects in it";
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(refusal(&tokens, "").await, form);
    assert_eq!(refusal(&tokens, "opaque").await, form);
    assert_eq!(refusal(&tokens, signed).await, form);
    assert_eq!(refusal(&tokens, &format!("{good}.a.b")).await, "it is encrypted");
    assert_eq!(refusal(&tokens, &format!("{signed}.")).await, "its signature is wrong");
    assert_eq!(refusal(&tokens, &format!("{good} ")).await, "its signature is wrong");

    // Signed as it is, a name that appears twice is still not read.
    let header = encode(signer.header().to_string());
    let claims = claims(ISSUER).to_string().replacen('{', r#"{"iss":"x","#, 1);
    assert_eq!(refusal(&tokens, &format!("{header}.{}.AA", encode(claims))).await, form);
}

#[tokio::test]
async fn the_length_is_bounded() {
    let signer = Signer::new("k", "ES256");
    let tokens = tokens(&[&signer]);
    let of_length =
        |padding| signer.token(&with(claims(ISSUER), "padding", json!("x".repeat(padding))));
    let longest = of_length(11_800);
    assert!(longest.len() <= 16 * 1024);
    tokens.verify(&longest).await.unwrap();
    let too_long = of_length(12_300);
    assert!(too_long.len() > 16 * 1024);
    assert_eq!(refusal(&tokens, &too_long).await, "it is longer than 16 KiB");
}

/// The issuer's key as a secret: the classic confusion.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let signer = Signer::new("k", "RS256");
    let pem = |jwk: Value| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let key = kasbah_crypto::rsa::RsaPublicKey::from_components(&part("n"), &part("e"));
        kasbah_crypto::PublicKey::Rsa(key.unwrap()).to_pem()
    };
    let pem = pem(signer.jwk());
    let settings =
        IssuerSettings { keys: KeySource::Pem(pem.clone()), ..settings(ISSUER, &[&signer]) };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    // A key without kid is taken whatever the token names.
    tokens.verify(&signer.token(&claims(ISSUER))).await.unwrap();
    let header = without(signer.header(), "kid");
    tokens.verify(&signer.sign(&header, &claims(ISSUER))).await.unwrap();

    let header = json!({ "alg": "HS256", "typ": "JWT" }).to_string();
    let signed = format!("{}.{}", encode(header), encode(claims(ISSUER).to_string()));
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, pem.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&secret, signed.as_bytes());
    let token = format!("{signed}.{}", encode(tag));
    assert_eq!(refusal(&tokens, &token).await, "its algorithm is no asymmetric signature");
}

#[tokio::test]
async fn an_issuer_speaks_for_itself_only() {
    let (one, two) = (Signer::new("k", "ES256"), Signer::new("k", "ES256"));
    let second = IssuerSettings { audience: "second".to_owned(), ..settings(OTHER, &[&two]) };
    let tokens =
        Tokens::new(vec![settings(ISSUER, &[&one]), second], TokenRules::default()).unwrap();
    tokens.verify(&one.token(&claims(ISSUER))).await.unwrap();
    let of_second = with(claims(OTHER), "aud", json!("second"));
    assert_eq!(tokens.verify(&two.token(&of_second)).await.unwrap().issuer, OTHER);

    assert_eq!(refusal(&tokens, &two.token(&claims(ISSUER))).await, "its signature is wrong");
    assert_eq!(refusal(&tokens, &one.token(&of_second)).await, "its signature is wrong");
    assert_eq!(refusal(&tokens, &two.token(&claims(OTHER))).await, "it is for another audience");
    let confused = with(claims(ISSUER), "aud", json!("second"));
    assert_eq!(refusal(&tokens, &one.token(&confused)).await, "it is for another audience");
}

#[tokio::test]
async fn several_keys_are_told_apart_by_kid() {
    let (one, two) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    let both = tokens(&[&one, &two]);
    both.verify(&one.token(&claims(ISSUER))).await.unwrap();
    both.verify(&two.token(&claims(ISSUER))).await.unwrap();
    let nameless = one.sign(&without(one.header(), "kid"), &claims(ISSUER));
    assert_eq!(refusal(&both, &nameless).await, "it has no kid, and its issuer has several keys");
    let misnamed = one.sign(&two.header(), &claims(ISSUER));
    assert_eq!(refusal(&both, &misnamed).await, "its signature is wrong");
    tokens(&[&one]).verify(&nameless).await.unwrap();
}

#[tokio::test]
async fn algorithms_can_be_fewer() {
    let (one, two) = (Signer::new("1", "ES256"), Signer::new("2", "RS256"));
    let settings = IssuerSettings {
        algorithms: vec!["ES256".to_owned(), "PS256".to_owned()],
        ..settings(ISSUER, &[&one, &two])
    };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    tokens.verify(&one.token(&claims(ISSUER))).await.unwrap();
    let reason = refusal(&tokens, &two.token(&claims(ISSUER))).await;
    assert_eq!(reason, "its algorithm is not allowed for its issuer");
}

#[tokio::test]
async fn a_confirmation_is_one_that_can_be_checked() {
    let signer = Signer::new("k", "ES256");
    let tokens = tokens(&[&signer]);
    let digest = encode([7; 32]);
    let token = |cnf: &Value| signer.token(&with(claims(ISSUER), "cnf", cnf.clone()));
    for (cnf, jkt, certificate) in [
        (json!({ "jkt": digest }), true, false),
        (json!({ "x5t#S256": digest }), false, true),
        (json!({ "jkt": digest, "x5t#S256": digest }), true, true),
        (json!({ "jkt": digest, "other": 1 }), true, false),
    ] {
        let bound = tokens.verify(&token(&cnf)).await.unwrap().confirmation.clone().unwrap();
        assert_eq!(bound.jkt, jkt.then(|| digest.clone()));
        assert_eq!(bound.certificate, certificate.then(|| digest.clone()));
    }
    let no_digest = "its cnf names no SHA-256 digest in base64url";
    let unknown = "it is bound to a key in a way that is not known (cnf)";
    for (cnf, reason) in [
        (Value::Null, "its cnf is no object"),
        (json!("x"), "its cnf is no object"),
        (json!([{ "jkt": digest }]), "its cnf is no object"),
        (json!({}), unknown),
        (json!({ "kid": "x" }), unknown),
        (json!({ "jwk": signer.jwk() }), unknown),
        (json!({ "jkt": 7 }), no_digest),
        (json!({ "jkt": null, "x5t#S256": digest }), no_digest),
        (json!({ "jkt": digest, "x5t#S256": [digest] }), no_digest),
        (json!({ "jkt": "" }), no_digest),
        (json!({ "jkt": encode([7; 31]) }), no_digest),
        (json!({ "jkt": encode([7; 33]) }), no_digest),
        (json!({ "jkt": format!("{digest}=") }), no_digest),
        // Bits after the last byte: the same digest, spelt differently.
        (json!({ "jkt": format!("{}d", &digest[..42]) }), no_digest),
    ] {
        assert_eq!(refusal(&tokens, &token(&cnf)).await, reason, "{cnf}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let signer = Signer::new("k", "ES256");
    let good = || settings(ISSUER, &[&signer]);
    let given = |keys: Value| {
        let keys = KeySource::Jwks(json!({ "keys": keys }).to_string());
        vec![IssuerSettings { keys, ..good() }]
    };
    let other = Signer::new("k", "ES256");
    let nameless = without(other.jwk(), "kid");
    let fetched = |issuer: &str, jwks_uri: Option<&'static str>, ca_file: Option<&str>| {
        vec![IssuerSettings {
            issuer: issuer.to_owned(),
            keys: KeySource::Discovery {
                jwks_uri: jwks_uri.map(|uri| uri.parse().unwrap()),
                ca_file: ca_file.map(Into::into),
                timeout: std::time::Duration::from_secs(5),
            },
            ..good()
        }]
    };
    let mut texts = BTreeSet::new();
    for (settings, text) in [
        (vec![], "no issuer"),
        (vec![good(), good()], "configured twice"),
        (vec![IssuerSettings { audience: String::new(), ..good() }], "audience is empty"),
        (
            vec![IssuerSettings { algorithms: vec!["HS256".to_owned()], ..good() }],
            "`HS256` is none of RS256, ",
        ),
        (given(json!([])), "holds no RSA"),
        (given(json!([signer.jwk(), other.jwk()])), "two keys of the JWKS have the same kid"),
        (given(json!([signer.jwk(), nameless])), "one of them has no kid"),
        (given(json!({})), "not a JSON Web Key Set"),
        (vec![IssuerSettings { keys: KeySource::Pem("x".to_owned()), ..good() }], "PEM"),
        (fetched("urn:idp", None, None), "no http or https URL"),
        (fetched(ISSUER, Some("http://idp.example/jwks"), None), "must be an https URL"),
        (fetched(ISSUER, Some("/jwks"), None), "must be an https URL"),
        (fetched(ISSUER, None, Some("/nowhere.pem")), "/nowhere.pem"),
    ] {
        let error = Tokens::new(settings, TokenRules::default()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        texts.insert(error);
    }
    assert_eq!(texts.len(), 12);
    let error = Tokens::new(vec![good(), good()], TokenRules::default()).unwrap_err();
    assert!(matches!(error, SetupError::DuplicateIssuer(name) if name == ISSUER));
}

#[tokio::test]
async fn keys_that_are_no_use_are_passed_over() {
    let signer = Signer::new("k", "ES256");
    let other = |name: &str, value: Value| with(Signer::new("k", "ES256").jwk(), name, value);
    let keys = [
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "k" }),
        json!({ "kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB", "kid": "k" }),
        json!({ "kty": "AKP", "kid": "k" }),
        json!("text"),
        other("use", json!("enc")),
        other("use", json!(1)),
        other("key_ops", json!(["sign"])),
        other("key_ops", json!("verify")),
        other("crv", json!("secp256k1")),
        other("kid", json!(7)),
        with(with(signer.jwk(), "use", json!("sig")), "key_ops", json!(["verify", "sign"])),
    ];
    let keys = KeySource::Jwks(json!({ "keys": keys, "more": true }).to_string());
    let settings = IssuerSettings { keys, ..settings(ISSUER, &[]) };
    let tokens = Tokens::new(vec![settings], TokenRules::default()).unwrap();
    tokens.verify(&signer.token(&claims(ISSUER))).await.unwrap();
}

#[test]
fn keys_beyond_the_bound_are_not_looked_at() {
    let signer = Signer::new("k", "ES256");
    for (others, good) in [(255, true), (256, false)] {
        let mut keys = vec![json!({ "kty": "oct" }); others];
        keys.push(signer.jwk());
        let keys = KeySource::Jwks(json!({ "keys": keys }).to_string());
        let settings = IssuerSettings { keys, ..settings(ISSUER, &[]) };
        assert_eq!(Tokens::new(vec![settings], TokenRules::default()).is_ok(), good);
    }
}

#[tokio::test]
async fn nothing_of_a_token_is_printed() {
    let signer = Signer::new("kid-one", "ES256");
    let tokens = tokens(&[&signer]);
    let token = signer.token(&claims(ISSUER));
    let verified = tokens.verify(&token).await.unwrap();
    let text = format!("{tokens:?} {verified:?}");
    assert!(text.contains(ISSUER) && text.contains("kid-one"), "{text}");
    assert!(!text.contains(&token) && !text.contains(signer.jwk()["x"].as_str().unwrap()));
    let health = tokens.issuers();
    assert_eq!((health[0].keys, health[0].age), (KeyState::Current, None));
}
