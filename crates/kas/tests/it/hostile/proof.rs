//! Proofs of possession.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    keys::{Signer, encode, thumbprint},
    rig::CANARY,
    sent::{Sent, decode, hash},
    table::{Case, ORDER, REPLAY, der, flipped, other_text, proof},
};
use crate::harness::{URI, now};

const COUNT: &str = "there is not exactly one proof of possession";
const SIZE: &str = "the proof is too long";
const FORM: &str = "the proof is no compact JWS with JSON objects in it";
const TYP: &str = "the proof's typ is not dpop+jwt";
const ALG: &str = "the proof's alg is not allowed";
const JWK: &str = "the proof's jwk is missing or no object";
const PRIVATE: &str = "the proof's jwk is no public key";
const JWK_ALG: &str = "the proof's jwk is for another alg";
const KEY: &str = "the proof's jwk is no key of a supported type";
const FIT: &str = "the proof's alg does not fit its jwk";
const JKT: &str = "the proof's jwk is not the one that the token is bound to";
const SIGNATURE: &str = "the proof's signature is wrong";
const IAT: &str = "the proof's iat is missing or no number";
const OLD: &str = "the proof's iat is too long ago";
const FUTURE: &str = "the proof's iat is in the future";
const EXP: &str = "the proof's exp is no number";
const EXPIRED: &str = "the proof has expired";
const NBF: &str = "the proof's nbf is no number";
const EARLY: &str = "the proof is not yet valid";
const HTM: &str = "the proof's htm is missing or no text";
const METHOD: &str = "the proof is for another method";
const HTU: &str = "the proof's htu is missing or no text";
const TARGET: &str = "the proof is for another URI";
const ATH: &str = "the proof's ath is missing or no text";
const TOKEN: &str = "the proof is for another access token";
const JTI: &str = "the proof's jti is missing or no text of 1 to 256 bytes";

pub(super) fn cases() -> Vec<Case> {
    [count(), form(), header(), keys(), signatures(), times(), targets(), bindings(), replay()]
        .into_iter()
        .flatten()
        .collect()
}

fn count() -> Vec<Case> {
    let sent = |name: &str, reason, headers: fn(&str) -> Vec<String>| {
        proof(format!("proof: {name}"), reason, move |s| {
            s.proofs =
                Box::new(move |proof| headers(proof).into_iter().map(String::into_bytes).collect());
        })
    };
    vec![
        sent("none", COUNT, |_| Vec::new()),
        sent("two, the same", COUNT, |proof| vec![proof.to_owned(), proof.to_owned()]),
        sent("one and an empty one", COUNT, |proof| vec![proof.to_owned(), String::new()]),
        sent("one behind one that is none", COUNT, |proof| {
            vec![CANARY.to_owned(), proof.to_owned()]
        }),
        sent("empty", FORM, |_| vec![String::new()]),
        sent("two in one header", FORM, |proof| vec![format!("{proof}, {proof}")]),
        sent("a space before", FORM, |proof| vec![format!(" {proof}")]),
        sent("a space behind", SIGNATURE, |proof| vec![format!("{proof} ")]),
        sent("a scheme before", FORM, |proof| vec![format!("DPoP {proof}")]),
        sent("in quotes", FORM, |proof| vec![format!("\"{proof}\"")]),
        proof("proof: bytes that are no text", FORM, |s| {
            s.proofs = Box::new(|proof| vec![[proof.as_bytes(), &[0xff]].concat()]);
        }),
        proof("proof: too long", SIZE, |s| s.proof.claims["x"] = json!("x".repeat(8 << 10))),
        proof("proof: too long, all dots", SIZE, |s| s.proof.text = Box::new(|_| ".".repeat(9000))),
    ]
}

fn form() -> Vec<Case> {
    let parts = |name: &str, change: fn([&str; 3]) -> String| {
        proof(format!("proof: {name}"), FORM, move |s| s.proof.parts(change))
    };
    let repeats = |name: &str, members: &'static str| {
        proof(format!("proof: claims repeat {name}"), FORM, move |s| {
            s.proof.claims_begin_with(members);
        })
    };
    vec![
        parts("two parts", |[h, c, _]| format!("{h}.{c}")),
        parts("four parts", |[h, c, s]| format!("{h}.{c}.{s}.{s}")),
        parts("encrypted", |[h, c, s]| format!("{h}.{c}.{s}.{s}.{s}")),
        parts("JSON", |[h, c, s]| {
            json!({ "protected": h, "payload": c, "signature": s }).to_string()
        }),
        parts("padding in the header", |[h, c, s]| format!("{h}=.{c}.{s}")),
        parts("claims not encoded", |[h, c, s]| {
            format!("{h}.{}.{s}", String::from_utf8(decode(c)).unwrap())
        }),
        proof("proof: header a list", FORM, |s| s.proof.header = json!([s.proof.header])),
        proof("proof: claims a list", FORM, |s| {
            s.proof.claims_bytes = Box::new(|claims| [b"[", claims.as_slice(), b"]"].concat());
        }),
        proof("proof: crit", FORM, |s| s.proof.header["crit"] = json!(["b64"])),
        proof("proof: crit empty", FORM, |s| s.proof.header["crit"] = json!([])),
        repeats("htm", r#""htm":"GET""#),
        repeats("htu", r#""htu":"https://canary-4f1d8f0e7c.example""#),
        repeats("jti", r#""jti":"canary-4f1d8f0e7c""#),
        repeats("ath", r#""ath":"canary-4f1d8f0e7c""#),
        repeats("iat, escaped", r#""\u0069at":1"#),
        proof("proof: header repeats jwk", FORM, |s| {
            s.proof.header_begins_with(r#""jwk":{"kty":"EC"}"#);
        }),
        proof("proof: header repeats alg", FORM, |s| s.proof.header_begins_with(r#""alg":"none""#)),
        proof("proof: jwk repeats x", FORM, |s| {
            s.proof.header_bytes = super::sent::replacing(r#""x":"#, r#""x":"AAAA","x":"#);
        }),
        proof("proof: nested deeply", FORM, |s| {
            let deep = format!(r#"{{"x":{}{},"#, "[".repeat(1000), "]".repeat(1000));
            s.proof.claims_bytes = super::sent::replacing("{", &deep);
        }),
    ]
}

fn header() -> Vec<Case> {
    let mut cases = vec![
        proof("proof: no typ", TYP, |s| s.proof.without_header("typ")),
        proof("proof: no alg", ALG, |s| s.proof.without_header("alg")),
        proof("proof: alg none, unsigned", ALG, |s| {
            s.proof.header["alg"] = json!("none");
            s.proof.signature = Box::new(|_| Vec::new());
        }),
        proof("proof: alg of another curve", FIT, |s| s.proof.header["alg"] = json!("ES384")),
        proof("proof: alg of another type", FIT, |s| s.proof.header["alg"] = json!("RS256")),
    ];
    for typ in
        [json!("JWT"), json!("at+jwt"), json!("DPOP+JWT"), json!("application/dpop+jwt"), json!(1)]
    {
        let name = format!("proof: typ {typ}");
        cases.push(proof(name, TYP, move |s| s.proof.header["typ"] = typ.clone()));
    }
    for alg in [json!("none"), json!("es256"), json!("EdDSA"), json!("ES256K"), json!(""), json!(7)]
    {
        let name = format!("proof: alg {alg}");
        cases.push(proof(name, ALG, move |s| s.proof.header["alg"] = alg.clone()));
    }
    for alg in ["HS256", "HS384", "HS512"] {
        cases.push(proof(format!("proof: {alg} with its public key"), ALG, move |s| {
            let secret = s.keys.client.jwk.to_string();
            s.proof.signed_by(&Signer::hmac(alg, secret.as_bytes()));
        }));
        cases.push(proof(format!("proof: {alg} with a secret in its jwk"), PRIVATE, move |s| {
            s.proof.signer = Signer::hmac(alg, CANARY.as_bytes());
            s.proof.header["jwk"] = json!({ "kty": "oct", "k": encode(CANARY) });
        }));
    }
    cases
}

fn keys() -> Vec<Case> {
    let jwk = |name: &'static str, reason, member: &'static str, value: Value| {
        proof(format!("proof: jwk, {name}"), reason, move |s| {
            s.proof.header["jwk"][member] = value.clone();
        })
    };
    let whole = |name: &'static str, value: fn(&Value) -> Value| {
        proof(format!("proof: jwk {name}"), JWK, move |s| {
            s.proof.header["jwk"] = value(&s.keys.client.jwk);
        })
    };
    let mut cases = vec![
        proof("proof: no jwk", JWK, |s| s.proof.without_header("jwk")),
        whole("null", |_| json!(null)),
        whole("in a list", |jwk| json!([jwk])),
        whole("as a text", |jwk| json!(jwk.to_string())),
        jwk("for another alg", JWK_ALG, "alg", json!("ES384")),
        jwk("for an alg that is a number", JWK_ALG, "alg", json!(7)),
        jwk("another kty", KEY, "kty", json!("ec")),
        jwk("kty null", KEY, "kty", json!(null)),
        jwk("x a number", KEY, "x", json!(7)),
        jwk("y null", KEY, "y", json!(null)),
        jwk("crv null", KEY, "crv", json!(null)),
        jwk("another crv", JKT, "crv", json!("P-384")),
        jwk("x padded", JKT, "x", json!("AA==")),
        proof("proof: the jwk of another, who signs", JKT, |s| {
            let thief = s.keys.thief.clone();
            s.proof.signer = Arc::clone(&thief);
            s.proof.header["jwk"] = thief.jwk.clone();
        }),
        proof("proof: the jwk of another, the client signs", JKT, |s| {
            s.proof.header["jwk"] = s.keys.thief.jwk.clone();
        }),
        proof("proof: signed by another", SIGNATURE, |s| s.proof.signer = s.keys.thief.clone()),
        proof("proof: signed by the issuer", SIGNATURE, |s| s.proof.signer = s.keys.a[0].clone()),
        proof("proof: a key that only its kid names", JWK, |s| {
            s.proof.without_header("jwk");
            s.proof.header["kid"] = json!(s.keys.client.thumbprint());
        }),
        bound("a point off the curve", KEY, |jwk| jwk["y"] = jwk["x"].clone()),
        bound("the point at infinity", KEY, |jwk| {
            jwk["x"] = json!(encode([0; 32]));
            jwk["y"] = json!(encode([0; 32]));
        }),
        bound("a short coordinate", KEY, |jwk| jwk["x"] = json!(encode([7]))),
        bound("a long coordinate", KEY, |jwk| {
            let x = decode(jwk["x"].as_str().unwrap());
            jwk["x"] = json!(encode([vec![0], x].concat()));
        }),
        bound("a P-256 point as one of P-384", KEY, |jwk| jwk["crv"] = json!("P-384")),
        bound("a small RSA key", KEY, |jwk| {
            *jwk = json!({ "kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB" });
        }),
        bound("an RSA key with e = 1", KEY, |jwk| {
            *jwk = json!({ "kty": "RSA", "n": encode([0xff; 256]), "e": "AQ" });
        }),
        bound("an endless RSA key", KEY, |jwk| {
            *jwk = json!({ "kty": "RSA", "n": encode(vec![0xff; 2048]), "e": "AQAB" });
        }),
        bound("an Ed25519 key", FIT, |jwk| {
            *jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode([0; 32]) });
        }),
    ];
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        cases.push(jwk(member, PRIVATE, member, json!(encode(CANARY))));
    }
    cases
}

/// A token that is bound to a key that is none.
fn bound(name: &str, reason: &'static str, change: fn(&mut Value)) -> Case {
    proof(format!("proof: bound to {name}"), reason, move |s| {
        let mut jwk = s.keys.client.jwk.clone();
        change(&mut jwk);
        s.bound_to(&jwk);
    })
}

fn signatures() -> Vec<Case> {
    let text = |name: &str, change: fn(&str) -> String| {
        proof(format!("proof: signature, {name}"), SIGNATURE, move |s| {
            s.proof.parts(move |[h, c, s]| format!("{h}.{c}.{}", change(s)));
        })
    };
    vec![
        text("none", |_| String::new()),
        text("a bit flipped", flipped),
        text("padded", |signature| format!("{signature}==")),
        text("another text of the same bytes", other_text),
        text("in DER", |signature| encode(der(&decode(signature)))),
        text("all zeros", |_| encode([0; 64])),
        text("s = n", |signature| encode([&decode(signature)[..32], &ORDER].concat())),
        text("cut off", |signature| encode(&decode(signature)[..63])),
        proof("proof: claims changed after signing", SIGNATURE, |s| {
            s.proof.parts(|[h, c, s]| {
                let mut claims: Value = serde_json::from_slice(&decode(c)).unwrap();
                claims["jti"] = json!(format!("{CANARY}-another"));
                format!("{h}.{}.{s}", encode(claims.to_string()))
            });
        }),
    ]
}

fn times() -> Vec<Case> {
    let claim = |name: &'static str, reason, value: fn() -> Value| {
        proof(format!("proof: {name} {}", value()), reason, move |s| {
            s.proof.claims[name] = value();
        })
    };
    let relative = |name: &str, reason, claim: &'static str, value: fn() -> u64| {
        proof(format!("proof: {name}"), reason, move |s| s.proof.claims[claim] = json!(value()))
    };
    vec![
        proof("proof: no iat", IAT, |s| s.proof.without("iat")),
        claim("iat", IAT, || json!(null)),
        claim("iat", IAT, || json!("1800000000")),
        claim("iat", IAT, || json!(true)),
        claim("iat", IAT, || json!([1])),
        claim("iat", OLD, || json!(0)),
        claim("iat", OLD, || json!(-1)),
        claim("iat", OLD, || json!(i64::MIN)),
        claim("iat", OLD, || json!(-1e300)),
        relative("iat too old", OLD, "iat", || now() - 301),
        relative("iat to come", FUTURE, "iat", || now() + 60),
        relative("iat in milliseconds", FUTURE, "iat", || now() * 1000),
        claim("iat", FUTURE, || json!(u64::MAX)),
        claim("iat", FUTURE, || json!(1e300)),
        proof("proof: iat of the text 1e400", FORM, |s| s.proof.raw("iat", "1e400")),
        proof("proof: iat of the text NaN", FORM, |s| s.proof.raw("iat", "NaN")),
        claim("exp", EXP, || json!("soon")),
        claim("exp", EXP, || json!(null)),
        relative("expired", EXPIRED, "exp", || now() - 31),
        claim("exp", EXPIRED, || json!(i64::MIN)),
        claim("nbf", NBF, || json!("soon")),
        relative("nbf to come", EARLY, "nbf", || now() + 60),
        claim("nbf", EARLY, || json!(u64::MAX)),
    ]
}

fn targets() -> Vec<Case> {
    let mut cases = vec![
        proof("proof: no htm", HTM, |s| s.proof.without("htm")),
        proof("proof: no htu", HTU, |s| s.proof.without("htu")),
    ];
    for htm in [json!(null), json!(["POST"]), json!(7)] {
        let name = format!("proof: htm {htm}");
        cases.push(proof(name, HTM, move |s| s.proof.claims["htm"] = htm.clone()));
    }
    for htm in ["", "GET", "post", "POST ", "*", CANARY] {
        let name = format!("proof: htm {htm:?}");
        cases.push(proof(name, METHOD, move |s| s.proof.claims["htm"] = json!(htm)));
    }
    for htu in [json!(null), json!([URI]), json!(7)] {
        let name = format!("proof: htu {htu}");
        cases.push(proof(name, HTU, move |s| s.proof.claims["htu"] = htu.clone()));
    }
    for htu in [
        "",
        "/",
        "*",
        URI,
        "http://localhost/kas.AccessService/Rewrap",
        "https://localhost:8080/kas.AccessService/Rewrap",
        "http://127.0.0.1:8080/kas.AccessService/Rewrap",
        "http://[::1]:8080/kas.AccessService/Rewrap",
        "http://localhost.:8080/kas.AccessService/Rewrap",
        "http://localhost:80800/kas.AccessService/Rewrap",
        "http://localhost:08080/kas.AccessService/Rewrap",
        "http://localhost:8080@canary-4f1d8f0e7c.example/kas.AccessService/Rewrap",
        "http://canary-4f1d8f0e7c@localhost:8080/kas.AccessService/Rewrap",
        "http://localhost:8080.canary-4f1d8f0e7c.example/kas.AccessService/Rewrap",
        "http://canary-4f1d8f0e7c.example/?http://localhost:8080/kas.AccessService/Rewrap",
        "http://canary-4f1d8f0e7c.example/#/kas.AccessService/Rewrap",
        "grpc://localhost:8080/kas.AccessService/Rewrap",
        "localhost:8080/kas.AccessService/Rewrap",
        "//localhost:8080/kas.AccessService/Rewrap",
        "http:/kas.AccessService/Rewrap",
        "http:///kas.AccessService/Rewrap",
        r"http:\\localhost:8080\kas.AccessService\Rewrap",
        "http://loc\u{430}lhost:8080/kas.AccessService/Rewrap",
        "http://localhost:8080/kas.AccessService/PublicKey",
        "http://localhost:8080/kas.AccessService/Rewrap/",
        "http://localhost:8080/kas.AccessService/rewrap",
        "http://localhost:8080//kas.AccessService/Rewrap",
        "http://localhost:8080/kas.AccessService%2FRewrap",
        "http://localhost:8080/kas.AccessService/Rewrap%00",
        "http://localhost:8080/kas.AccessService/Rewrap ",
        "http://localhost:8080/kas.AccessService/Rewrap\n",
        " http://localhost:8080/kas.AccessService/Rewrap",
        "http://localhost:8080/%zz/../kas.AccessService/Rewrap",
        "kas.AccessService/Rewrap",
        "/kas.AccessService/PublicKey",
        "/kas.AccessService/Rewrap/",
    ] {
        let name = format!("proof: htu {htu:?}");
        cases.push(proof(name, TARGET, move |s| s.proof.claims["htu"] = json!(htu)));
    }
    cases
}

fn bindings() -> Vec<Case> {
    let ath = |name: &str, reason, value: fn(&Sent) -> Value| {
        proof(format!("proof: ath {name}"), reason, move |s| s.proof.claims["ath"] = value(s))
    };
    vec![
        proof("proof: no ath", ATH, |s| s.proof.without("ath")),
        ath("null", ATH, |_| json!(null)),
        ath("a number", ATH, |_| json!(7)),
        ath("a list", ATH, |_| json!([hash(CANARY)])),
        ath("empty", TOKEN, |_| json!("")),
        ath("of another text", TOKEN, |_| json!(hash(CANARY))),
        ath("of nothing", TOKEN, |_| json!(hash(""))),
        ath("of a good token before", TOKEN, |s| {
            json!(hash(&s.before.clone().unwrap().access_token()))
        }),
        proof("proof: ath of the header", TOKEN, |s| {
            // One token for both, as every signature is another.
            let token = s.token.seal();
            s.proof.claims["ath"] = json!(hash(&format!("DPoP {token}")));
            s.token.text = Box::new(move |_| token.clone());
        }),
        proof("proof: ath padded", TOKEN, |s| {
            let token = s.token.seal();
            s.proof.claims["ath"] = json!(format!("{}=", hash(&token)));
            s.token.text = Box::new(move |_| token.clone());
        }),
        proof("proof: ath cut off", TOKEN, |s| {
            let token = s.token.seal();
            s.proof.claims["ath"] = json!(hash(&token)[..42]);
            s.token.text = Box::new(move |_| token.clone());
        }),
        proof("proof: the token changed in its signature alone", TOKEN, |s| {
            let token = s.token.seal();
            s.proof.claims["ath"] = json!(hash(&token));
        }),
        proof("proof: no jti", JTI, |s| s.proof.without("jti")),
        proof("proof: jti null", JTI, |s| s.proof.claims["jti"] = json!(null)),
        proof("proof: jti a number", JTI, |s| s.proof.claims["jti"] = json!(7)),
        proof("proof: jti a list", JTI, |s| s.proof.claims["jti"] = json!([CANARY])),
        proof("proof: jti empty", JTI, |s| s.proof.claims["jti"] = json!("")),
        proof("proof: jti too long", JTI, |s| s.proof.claims["jti"] = json!("j".repeat(257))),
        proof("proof: jti too long in bytes", JTI, |s| {
            s.proof.claims["jti"] = json!("ä".repeat(129));
        }),
        proof("proof: the signed request", TYP, |s| {
            s.proof.header = s.srt.header.clone();
            s.proof.claims = s.srt.claims.clone();
        }),
        proof("proof: the access token", TYP, |s| {
            let token = s.token.seal();
            let proof = token.clone();
            s.token.text = Box::new(move |_| token.clone());
            s.proof.text = Box::new(move |_| proof.clone());
        }),
        proof("proof: the signed request as one of its kind", JWK, |s| {
            s.proof.header = s.srt.header.clone();
            s.proof.header["typ"] = json!("dpop+jwt");
            s.proof.claims = s.srt.claims.clone();
        }),
        proof("proof: bound to its own key, by another token", JKT, |s| {
            let thief = s.keys.thief.clone();
            s.token.claims["cnf"] = json!({ "jkt": thumbprint(&thief.jwk) });
            s.token.claims["azp"] = json!(CANARY);
        }),
    ]
}

/// What was sent before, and was good.
fn replay() -> Vec<Case> {
    let jti = |s: &Sent| {
        let proof = s.before.clone().unwrap().proof();
        let claims: Value =
            serde_json::from_slice(&decode(proof.split('.').nth(1).unwrap())).unwrap();
        claims["jti"].clone()
    };
    vec![
        proof("proof: used before, under Bearer", REPLAY, |s| {
            let before = s.before.clone().unwrap();
            let token = before.access_token();
            s.scheme(move |_| format!("Bearer {token}"));
            s.proofs = Box::new(move |_| vec![before.proof().into()]);
        }),
        proof("proof: used before, with another token", TOKEN, |s| {
            let before = s.before.clone().unwrap();
            s.proofs = Box::new(move |_| vec![before.proof().into()]);
        }),
        proof("proof: a jti that was used, signed anew", REPLAY, move |s| {
            s.proof.claims["jti"] = jti(s);
        }),
        proof("proof: a jti that was used, of another time", REPLAY, move |s| {
            s.proof.claims["jti"] = jti(s);
            s.proof.claims["iat"] = json!(now() - 100);
        }),
        proof("proof: a jti that was used, escaped", REPLAY, move |s| {
            let jti = jti(s);
            s.proof.claims["jti"] = jti;
            s.proof.claims_bytes = super::sent::replacing(r#""jti":"c"#, r#""jti":"\u0063"#);
        }),
        proof("proof: a jti that was used, with an exp", REPLAY, move |s| {
            s.proof.claims["jti"] = jti(s);
            s.proof.claims["exp"] = json!(now() + 300);
        }),
    ]
}
