//! Access tokens.

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_crypto::{Curve, PublicKey, ec::EcPublicKey, rsa::RsaPublicKey};
use serde_json::{Value, json};

use super::{
    keys::{Keys, Signer, encode},
    rig::{AUDIENCE, AUDIENCE_B, CANARY, ISSUER_A, ISSUER_B},
    sent::{Part, decode, replacing},
    table::{Case, ORDER, REPLAY, der, flipped, other_text, proof, token},
};
use crate::harness::now;

const FORM: &str = "it is not a compact JWS with JSON objects in it";
const ALGORITHM: &str = "its algorithm is no asymmetric signature";
const FIT: &str = "its algorithm does not fit the key";
const SIGNATURE: &str = "its signature is wrong";
const BRINGS: &str = "its header brings a key";
const NO_KID: &str = "it has no kid, and its issuer has several keys";
const KID: &str = "its issuer has no key of its kid";
const KID_TYPE: &str = "its kid is no text";
const CRITICAL: &str = "its header lists critical extensions";
const TYP: &str = "its typ is not that of an access token";
const ISSUER: &str = "its issuer is not one that is configured";
const ISSUER_TYPE: &str = "its iss is not a single text";
const AUD: &str = "it is for another audience";
const AUD_TYPE: &str = "its aud is neither a text nor a list of texts";
const TIME_TYPE: &str = "a time in it is no number";
const TIME_RANGE: &str = "a time in it is before 1970 or after 9999";
const CNF: &str = "its cnf names no SHA-256 digest in base64url";
const BOUND: &str = "it is bound to a key in a way that is not known (cnf)";
const CERTIFICATE: &str = "the token is bound to a client certificate and the connection has none";
const ENCRYPTED: &str = "it is encrypted";
const LONG: &str = "it is longer than 16 KiB";

pub(super) fn cases(keys: &Keys) -> Vec<Case> {
    [
        algorithms(keys),
        brought_keys(),
        kids(),
        header(),
        repeated(),
        times(),
        issuers(),
        audiences(),
        confirmations(),
        signatures(),
        encodings(),
        shapes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What an attacker has of a key of the issuer, to use it as a secret.
fn public_forms(keys: &Keys) -> Vec<(&'static str, Vec<u8>)> {
    let [ec, rsa, _] = &keys.a;
    let member = |jwk: &Value, name: &str| decode(jwk[name].as_str().unwrap());
    let point = [vec![4], member(&ec.jwk, "x"), member(&ec.jwk, "y")].concat();
    let ec_key = PublicKey::Ec(EcPublicKey::from_sec1(Curve::P256, &point).unwrap());
    let (n, e) = (member(&rsa.jwk, "n"), member(&rsa.jwk, "e"));
    let rsa_key = PublicKey::Rsa(RsaPublicKey::from_components(&n, &e).unwrap());
    let der = |key: &PublicKey| {
        let pem = key.to_pem();
        let lines = pem.lines().filter(|line| !line.starts_with('-'));
        STANDARD.decode(lines.collect::<String>()).unwrap()
    };
    vec![
        ("the PEM of its EC key", ec_key.to_pem().into_bytes()),
        ("the DER of its EC key", der(&ec_key)),
        ("the JWK of its EC key", ec.jwk.to_string().into_bytes()),
        ("the point of its EC key", point),
        ("the PEM of its RSA key", rsa_key.to_pem().into_bytes()),
        ("the trimmed PEM of its RSA key", rsa_key.to_pem().trim_end().as_bytes().to_vec()),
        ("the DER of its RSA key", der(&rsa_key)),
        ("the JWK of its RSA key", rsa.jwk.to_string().into_bytes()),
        ("the modulus of its RSA key", n),
        ("its key set", keys.jwks()[0].to_string().into_bytes()),
        ("nothing", Vec::new()),
    ]
}

fn algorithms(keys: &Keys) -> Vec<Case> {
    let mut cases = Vec::new();
    for alg in ["HS256", "HS384", "HS512"] {
        for (form, secret) in public_forms(keys) {
            let name = format!("token: {alg} with {form}");
            let signer = Signer::hmac(alg, &secret);
            cases.push(token(name, ALGORITHM, move |s| s.token.signed_by(&signer)));
        }
    }
    cases.extend([
        token("token: alg none, signed", ALGORITHM, |s| s.token.header["alg"] = json!("none")),
        token("token: alg none, empty signature", ALGORITHM, |s| {
            s.token.header["alg"] = json!("none");
            s.token.signature = Box::new(|_| Vec::new());
        }),
        token("token: alg none, two parts", FORM, |s| {
            s.token.header["alg"] = json!("none");
            s.token.parts(|[header, claims, _]| format!("{header}.{claims}"));
        }),
        token("token: alg nOnE", ALGORITHM, |s| s.token.header["alg"] = json!("nOnE")),
        token("token: alg empty", ALGORITHM, |s| s.token.header["alg"] = json!("")),
        token("token: no alg", ALGORITHM, |s| s.token.without_header("alg")),
        token("token: alg null", ALGORITHM, |s| s.token.header["alg"] = json!(null)),
        token("token: alg a number", ALGORITHM, |s| s.token.header["alg"] = json!(256)),
        token("token: alg a list", ALGORITHM, |s| s.token.header["alg"] = json!(["ES256"])),
        token("token: alg an object", ALGORITHM, |s| s.token.header["alg"] = json!({ "a": 1 })),
        token("token: alg in lower case", ALGORITHM, |s| s.token.header["alg"] = json!("es256")),
        token("token: alg with a space", ALGORITHM, |s| s.token.header["alg"] = json!("ES256 ")),
        token("token: alg ES256K", ALGORITHM, |s| s.token.header["alg"] = json!("ES256K")),
        token("token: alg RSA-OAEP", ALGORITHM, |s| s.token.header["alg"] = json!("RSA-OAEP")),
        token("token: alg dir", ALGORITHM, |s| s.token.header["alg"] = json!("dir")),
        token("token: RS256 over the EC key", FIT, |s| s.token.header["alg"] = json!("RS256")),
        token("token: ES256 over the RSA key", FIT, |s| {
            let rsa = s.keys.a[1].clone();
            s.token.signed_as_said_by(&rsa);
            s.token.header["alg"] = json!("ES256");
        }),
        token("token: EdDSA over the EC key", FIT, |s| s.token.header["alg"] = json!("EdDSA")),
        token("token: ES384 over P-256", FIT, |s| s.token.header["alg"] = json!("ES384")),
        token("token: ES256 over P-384", FIT, |s| {
            let p384 = s.keys.a[2].clone();
            s.token.signed_as_said_by(&p384);
            s.token.header["alg"] = json!("ES256");
        }),
        token("token: PS256 where the key is for RS256", FIT, |s| {
            let rsa = s.keys.a[1].clone();
            s.token.signed_as_said_by(&rsa);
            s.token.header["alg"] = json!("PS256");
        }),
        token("token: PS256 signed as RS256", SIGNATURE, |s| {
            let rsa = s.keys.b[1].clone();
            s.token.signed_as_said_by(&rsa);
            s.token.header["alg"] = json!("PS256");
            s.token.claims["iss"] = json!(ISSUER_B);
            s.token.claims["aud"] = json!(AUDIENCE_B);
        }),
        token("token: RS512 signed as RS256", SIGNATURE, |s| {
            let rsa = s.keys.b[1].clone();
            s.token.signed_as_said_by(&rsa);
            s.token.header["alg"] = json!("RS512");
            s.token.claims["iss"] = json!(ISSUER_B);
            s.token.claims["aud"] = json!(AUDIENCE_B);
        }),
    ]);
    cases
}

/// The sender's own keys, with which it signs.
fn brought_keys() -> Vec<Case> {
    fn brings(part: &mut Part, thief: &std::sync::Arc<Signer>, name: &str, value: Value) {
        part.signed_by(thief);
        part.header[name] = value;
    }
    let url = json!(format!("https://{CANARY}.example/keys"));
    let (jku, x5u) = (url.clone(), url);
    vec![
        token("token: jwk of its own", BRINGS, |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "jwk", thief.jwk.clone());
        }),
        token("token: jwk of its own, no kid", BRINGS, |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "jwk", thief.jwk.clone());
            s.token.without_header("kid");
        }),
        token("token: jwk of the issuer's key", BRINGS, |s| {
            s.token.header["jwk"] = s.keys.a[0].jwk.clone();
        }),
        token("token: jwk null", BRINGS, |s| s.token.header["jwk"] = json!(null)),
        token("token: jku", BRINGS, move |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "jku", jku.clone());
        }),
        token("token: jku with a good signature", BRINGS, |s| {
            s.token.header["jku"] = json!(format!("{ISSUER_A}/keys"));
        }),
        token("token: x5u", BRINGS, move |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "x5u", x5u.clone());
        }),
        token("token: x5c of its own", SIGNATURE, |s| {
            let thief = s.keys.thief.clone();
            let certificate = rcgen::generate_simple_self_signed([CANARY.to_owned()]).unwrap();
            let chain = json!([STANDARD.encode(certificate.cert.der())]);
            brings(&mut s.token, &thief, "x5c", chain);
        }),
        token("token: x5c of its own, no kid", NO_KID, |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "x5c", json!([CANARY]));
            s.token.without_header("kid");
        }),
        token("token: x5t of its own", SIGNATURE, |s| {
            let thief = s.keys.thief.clone();
            brings(&mut s.token, &thief, "x5t#S256", json!(CANARY));
        }),
    ]
}

fn kids() -> Vec<Case> {
    let unknown = [
        ("unknown", CANARY.to_owned()),
        ("empty", String::new()),
        ("a path", format!("../../../../../../{CANARY}")),
        ("a file", format!("/dev/null?{CANARY}")),
        ("a URL", format!("https://{CANARY}.example/jwks")),
        ("SQL", format!("x' UNION SELECT '{CANARY}' --")),
        ("a command", format!("$(echo {CANARY})|id;`id`")),
        ("a lookup", format!("${{jndi:ldap://{CANARY}.example/a}}")),
        ("very long", format!("{CANARY}{}", "k".repeat(8000))),
        ("NUL", format!("{CANARY}\0")),
        ("a line break", format!("{CANARY}\r\nreason=none")),
        ("a wildcard", format!("*{CANARY}%")),
    ];
    let mut cases: Vec<_> = unknown
        .into_iter()
        .map(|(name, kid)| {
            let change = move |s: &mut super::sent::Sent| s.token.header["kid"] = json!(kid);
            token(format!("token: kid {name}"), KID, change)
        })
        .collect();
    for (name, kid) in [
        ("null", json!(null)),
        ("a number", json!(0)),
        ("a list", json!([CANARY])),
        ("an object", json!({ "kid": CANARY })),
        ("a truth", json!(true)),
    ] {
        let change = move |s: &mut super::sent::Sent| s.token.header["kid"] = kid.clone();
        cases.push(token(format!("token: kid {name}"), KID_TYPE, change));
    }
    cases.extend([
        token("token: no kid", NO_KID, |s| s.token.without_header("kid")),
        token("token: kid and key of the other issuer", KID, |s| {
            let key = s.keys.b[0].clone();
            s.token.signed_as_said_by(&key);
        }),
        token("token: kid of the other issuer alone", KID, |s| {
            s.token.header["kid"] = json!(s.keys.b[0].kid);
        }),
        token("token: kid of the issuer, key of the other", SIGNATURE, |s| {
            let key = s.keys.b[0].clone();
            s.token.signed_by(&key);
        }),
        token("token: kid of the issuer, key of a stranger", SIGNATURE, |s| {
            let thief = s.keys.thief.clone();
            s.token.signed_by(&thief);
        }),
        token("token: kid of the issuer, key of the client", SIGNATURE, |s| {
            let client = s.keys.client.clone();
            s.token.signed_by(&client);
        }),
        token("token: kid of another key of the issuer", FIT, |s| {
            s.token.header["kid"] = json!(s.keys.a[1].kid);
        }),
        token("token: kid in upper case", KID, |s| {
            s.token.header["kid"] = json!(s.keys.a[0].kid.to_uppercase());
        }),
        token("token: kid with a space", KID, |s| {
            s.token.header["kid"] = json!(format!("{} ", s.keys.a[0].kid));
        }),
    ]);
    cases
}

fn header() -> Vec<Case> {
    let mut cases = Vec::new();
    for typ in [
        json!("dpop+jwt"),
        json!("logout+jwt"),
        json!("secevent+jwt"),
        json!("id_token"),
        json!("kb+jwt"),
        json!("JOSE"),
        json!("JOSE+JSON"),
        json!("at+jwt "),
        json!(""),
        json!(CANARY),
        json!(null),
        json!(7),
        json!(["at+jwt"]),
        json!({ "at+jwt": 1 }),
    ] {
        let name = format!("token: typ {typ}");
        cases.push(token(name, TYP, move |s| s.token.header["typ"] = typ.clone()));
    }
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!(CANARY)] {
        let name = format!("token: crit {crit}");
        cases.push(token(name, CRITICAL, move |s| s.token.header["crit"] = crit.clone()));
    }
    cases.extend([
        token("token: b64 false, and so it is", FORM, |s| {
            s.token.header["b64"] = json!(false);
            s.token.parts(|[header, claims, signature]| {
                format!("{header}.{}.{signature}", String::from_utf8(decode(claims)).unwrap())
            });
        }),
        token("token: b64 false, critical", CRITICAL, |s| {
            s.token.header["b64"] = json!(false);
            s.token.header["crit"] = json!(["b64"]);
        }),
        token("token: zip, and so it is", FORM, |s| {
            s.token.header["zip"] = json!("DEF");
            // A stored block of DEFLATE.
            s.token.claims_bytes = Box::new(|claims| {
                let length = u16::try_from(claims.len()).unwrap();
                let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
                [&[1], lengths.as_slice(), &claims].concat()
            });
        }),
        token("token: cty JWT, and so it is", FORM, |s| {
            s.token.header["cty"] = json!("JWT");
            s.token.claims_bytes = Box::new(|claims| {
                let (header, claims) = (encode(r#"{"alg":"none"}"#), encode(claims));
                format!("{header}.{claims}.").into_bytes()
            });
        }),
    ]);
    cases
}

/// Two readers could each take another one of these.
fn repeated() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, members) in [
        ("alg", r#""alg":"none""#),
        ("alg, the same", r#""alg":"ES256""#),
        ("kid", r#""kid":"canary-4f1d8f0e7c""#),
        ("typ", r#""typ":"JWT""#),
        ("alg, escaped", r#""\u0061lg":"none""#),
        ("a member twice that nobody reads", r#""x":1,"x":1"#),
        ("a member twice in an object", r#""x":{"y":1,"y":2}"#),
    ] {
        let change = move |s: &mut super::sent::Sent| s.token.header_begins_with(members);
        cases.push(token(format!("token: header repeats {name}"), FORM, change));
    }
    for (name, members) in [
        ("iss", r#""iss":"canary-4f1d8f0e7c""#),
        ("iss, the same", r#""iss":"https://issuer.example/realms/a""#),
        ("iss, escaped", r#""\u0069ss":"canary-4f1d8f0e7c""#),
        ("iss, all escaped", r#""\u0069\u0073\u0073":"canary-4f1d8f0e7c""#),
        ("aud", r#""aud":"canary-4f1d8f0e7c""#),
        ("exp", r#""exp":1"#),
        ("exp, escaped", r#""e\u0078p":9999999999"#),
        ("nbf", r#""nbf":1"#),
        ("sub", r#""sub":"canary-4f1d8f0e7c""#),
        ("azp", r#""azp":"canary-4f1d8f0e7c""#),
        ("cnf", r#""cnf":{}"#),
        ("cnf, escaped", r#""\u0063nf":{}"#),
        ("a claim twice that nobody reads", r#""x":1,"x":1"#),
        ("a claim twice in a list of objects", r#""x":[{"y":[{"z":1,"z":1}]}]"#),
    ] {
        let change = move |s: &mut super::sent::Sent| s.token.claims_begin_with(members);
        cases.push(token(format!("token: claims repeat {name}"), FORM, change));
    }
    cases.push(token("token: claims repeat jkt in cnf", FORM, |s| {
        s.token.claims_bytes = replacing(r#""jkt":"#, r#""jkt":"canary-4f1d8f0e7c","jkt":"#);
    }));
    cases.push(token("token: claims repeat jkt in cnf, escaped", FORM, |s| {
        s.token.claims_bytes = replacing(r#""jkt":"#, r#""\u006akt":"canary-4f1d8f0e7c","jkt":"#);
    }));
    cases
}

fn times() -> Vec<Case> {
    let mut cases = vec![
        token("token: no exp", "it has no exp", |s| s.token.without("exp")),
        token("token: expired", "it has expired", |s| s.token.claims["exp"] = json!(now() - 61)),
        token("token: exp 0", "it has expired", |s| s.token.claims["exp"] = json!(0)),
        token("token: exp a small fraction", "it has expired", |s| {
            s.token.claims["exp"] = json!(0.5);
        }),
        token("token: nbf to come", "it is not valid yet", |s| {
            s.token.claims["nbf"] = json!(now() + 3600);
        }),
        token("token: iat to come", "it was issued in the future", |s| {
            s.token.claims["iat"] = json!(now() + 3600);
        }),
    ];
    for claim in ["exp", "nbf", "iat"] {
        for value in [
            json!(null),
            json!(""),
            json!("9999999999"),
            json!(CANARY),
            json!([9_999_999_999_u64]),
            json!({ "exp": 9_999_999_999_u64 }),
            json!(true),
        ] {
            let name = format!("token: {claim} {value}");
            cases.push(token(name, TIME_TYPE, move |s| s.token.claims[claim] = value.clone()));
        }
        for value in [
            json!(-1),
            json!(-0.5),
            json!(i64::MIN),
            json!(253_402_300_800_u64),
            json!(u64::MAX),
            json!(1e300),
        ] {
            let name = format!("token: {claim} {value}");
            cases.push(token(name, TIME_RANGE, move |s| s.token.claims[claim] = value.clone()));
        }
        for text in ["1e400", "-1e400", "NaN", "Infinity", "0x7fffffff", "01", "+9999999999", "1e"]
        {
            let name = format!("token: {claim} of the text {text}");
            cases.push(token(name, FORM, move |s| s.token.raw(claim, text)));
        }
    }
    // More digits than a float has: the nearest number, which is far off.
    cases.push(token("token: exp with 400 digits", FORM, |s| {
        s.token.claims_bytes = Box::new(|claims| {
            let claims = String::from_utf8(claims).unwrap();
            claims.replacen(r#""exp":"#, &format!(r#""exp":{}"#, "9".repeat(400)), 1).into_bytes()
        });
    }));
    cases
}

fn issuers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, iss) in [
        ("empty", String::new()),
        ("with a slash behind", format!("{ISSUER_A}/")),
        ("in upper case", ISSUER_A.to_uppercase()),
        ("with a host in upper case", ISSUER_A.replace("issuer", "ISSUER")),
        ("with a port", ISSUER_A.replace(".example", ".example:443")),
        ("by http", ISSUER_A.replace("https", "http")),
        ("with a query", format!("{ISSUER_A}?{CANARY}")),
        ("with a fragment", format!("{ISSUER_A}#")),
        ("with a user", ISSUER_A.replace("://", &format!("://{CANARY}@"))),
        ("with dots in it", ISSUER_A.replace("/realms", "/x/../realms")),
        ("encoded", ISSUER_A.replace("realms", "%72ealms")),
        ("with a space before", format!(" {ISSUER_A}")),
        ("with a line break behind", format!("{ISSUER_A}\n")),
        ("with NUL behind", format!("{ISSUER_A}\0")),
        ("with a letter that looks the same", ISSUER_A.replace("realms/a", "realms/а")),
        ("with wide letters", ISSUER_A.replace("issuer", "ｉｓｓｕｅｒ")),
        ("without its end", ISSUER_A[..ISSUER_A.len() - 2].to_owned()),
        ("both", format!("{ISSUER_A} {ISSUER_B}")),
        ("unknown", format!("https://{CANARY}.example")),
    ] {
        let change = move |s: &mut super::sent::Sent| s.token.claims["iss"] = json!(iss);
        cases.push(token(format!("token: iss {name}"), ISSUER, change));
    }
    for iss in [
        json!(null),
        json!(7),
        json!([ISSUER_A]),
        json!([ISSUER_A, ISSUER_B]),
        json!({ "iss": ISSUER_A }),
        json!(true),
    ] {
        let name = format!("token: iss {iss}");
        cases.push(token(name, ISSUER_TYPE, move |s| s.token.claims["iss"] = iss.clone()));
    }
    cases.extend([
        token("token: no iss", "it has no iss", |s| s.token.without("iss")),
        token("token: iss in the header alone", "it has no iss", |s| {
            s.token.without("iss");
            s.token.header["iss"] = json!(ISSUER_A);
        }),
        token("token: iss B, key of A", KID, |s| {
            s.token.claims["iss"] = json!(ISSUER_B);
            s.token.claims["aud"] = json!(AUDIENCE_B);
        }),
        token("token: iss B, kid of B, key of A", SIGNATURE, |s| {
            s.token.claims["iss"] = json!(ISSUER_B);
            s.token.claims["aud"] = json!(AUDIENCE_B);
            s.token.header["kid"] = json!(s.keys.b[0].kid);
        }),
        token("token: iss A, kid of A, RSA key of B", SIGNATURE, |s| {
            let (a, b) = (s.keys.a[1].clone(), s.keys.b[1].clone());
            s.token.signed_by(&b);
            s.token.header["kid"] = json!(a.kid);
        }),
        token("token: iss B, for the audience of A", AUD, |s| {
            let key = s.keys.b[0].clone();
            s.token.signed_as_said_by(&key);
            s.token.claims["iss"] = json!(ISSUER_B);
        }),
    ]);
    cases
}

fn audiences() -> Vec<Case> {
    let mut cases = vec![token("token: no aud", "it has no aud", |s| s.token.without("aud"))];
    for aud in [
        json!(""),
        json!([]),
        json!(CANARY),
        json!([CANARY, "account"]),
        json!(&AUDIENCE[..AUDIENCE.len() - 1]),
        json!(format!("{AUDIENCE}{CANARY}")),
        json!(AUDIENCE.to_uppercase()),
        json!(format!("{AUDIENCE} ")),
        json!(format!("{AUDIENCE} {CANARY}")),
        json!(format!("{AUDIENCE},{CANARY}")),
        json!(format!("{AUDIENCE}\0")),
        json!(format!("[\"{AUDIENCE}\"]")),
        json!(AUDIENCE_B),
        json!("*"),
    ] {
        let name = format!("token: aud {aud}");
        cases.push(token(name, AUD, move |s| s.token.claims["aud"] = aud.clone()));
    }
    for aud in [
        json!(null),
        json!(7),
        json!(true),
        json!({ AUDIENCE: 1 }),
        json!([AUDIENCE, 7]),
        json!([AUDIENCE, null]),
        json!([[AUDIENCE]]),
    ] {
        let name = format!("token: aud {aud}");
        cases.push(token(name, AUD_TYPE, move |s| s.token.claims["aud"] = aud.clone()));
    }
    cases
}

fn confirmations() -> Vec<Case> {
    let mut cases = Vec::new();
    for cnf in [json!(null), json!(""), json!(CANARY), json!(7), json!([]), json!(true)] {
        let name = format!("token: cnf {cnf}");
        let reason = "its cnf is no object";
        cases.push(token(name, reason, move |s| s.token.claims["cnf"] = cnf.clone()));
    }
    for cnf in [
        json!({}),
        json!({ "kid": CANARY }),
        json!({ "jwk": { "kty": "EC" } }),
        json!({ "jku": CANARY }),
        json!({ "x5t": CANARY }),
        json!({ "JKT": CANARY }),
    ] {
        let name = format!("token: cnf {cnf}");
        cases.push(token(name, BOUND, move |s| s.token.claims["cnf"] = cnf.clone()));
    }
    for (name, jkt) in [
        ("null", json!(null)),
        ("empty", json!("")),
        ("a number", json!(7)),
        ("a list", json!(["jkt"])),
        ("too short", json!(encode([7; 31]))),
        ("too long", json!(encode([7; 33]))),
        ("of SHA-512", json!(encode([7; 64]))),
        ("in hex", json!("07".repeat(32))),
        ("padded", json!(format!("{}=", encode([7; 32])))),
        ("in the other alphabet", json!(STANDARD.encode([0xff; 32]).trim_end_matches('='))),
        ("no base64", json!(CANARY)),
    ] {
        let certificate = jkt.clone();
        cases.push(token(format!("token: jkt {name}"), CNF, move |s| {
            s.token.claims["cnf"] = json!({ "jkt": jkt });
        }));
        cases.push(token(format!("token: x5t#S256 {name}"), CNF, move |s| {
            s.token.claims["cnf"]["x5t#S256"] = certificate.clone();
        }));
    }
    cases.extend([
        proof(
            "token: jkt of another key",
            "the proof's jwk is not the one that the token is bound to",
            |s| s.token.claims["cnf"] = json!({ "jkt": s.keys.thief.thumbprint() }),
        ),
        token("token: x5t#S256 without a certificate", CERTIFICATE, |s| {
            s.token.claims["cnf"] = json!({ "x5t#S256": encode([7; 32]) });
        }),
        token("token: jkt and x5t#S256, without a certificate", CERTIFICATE, |s| {
            s.token.claims["cnf"]["x5t#S256"] = json!(encode([7; 32]));
        }),
    ]);
    cases
}

fn signatures() -> Vec<Case> {
    let half = |signature: &[u8], r: &[u8], s: &[u8]| {
        let (old_r, old_s) = signature.split_at(32);
        let pick = |new: &[u8], old: &[u8]| if new.is_empty() { old } else { new }.to_vec();
        [pick(r, old_r), pick(s, old_s)].concat()
    };
    let halves: [(&str, [Vec<u8>; 2]); 8] = [
        ("r = 0", [vec![0; 32], Vec::new()]),
        ("s = 0", [Vec::new(), vec![0; 32]]),
        ("r = n", [ORDER.into(), Vec::new()]),
        ("s = n", [Vec::new(), ORDER.into()]),
        ("r = s = n", [ORDER.into(), ORDER.into()]),
        ("all zeros", [vec![0; 32], vec![0; 32]]),
        ("all ones", [vec![0xff; 32], vec![0xff; 32]]),
        ("r = 1", [[vec![0; 31], vec![1]].concat(), Vec::new()]),
    ];
    let mut cases: Vec<_> = halves
        .into_iter()
        .map(|(name, [r, s])| {
            token(format!("token: signature, {name}"), SIGNATURE, move |sent| {
                let (r, s) = (r.clone(), s.clone());
                sent.token.signature = Box::new(move |signature| half(&signature, &r, &s));
            })
        })
        .collect();
    let text = |name: &str, change: fn(&str) -> String| {
        token(format!("token: signature, {name}"), SIGNATURE, move |s| {
            s.token.parts(move |[header, claims, signature]| {
                format!("{header}.{claims}.{}", change(signature))
            });
        })
    };
    cases.extend([
        text("a bit flipped", flipped),
        text("cut off", |signature| encode(&decode(signature)[..63])),
        text("half of it", |signature| encode(&decode(signature)[..32])),
        text("none", |_| String::new()),
        text("longer", |signature| encode([decode(signature), vec![0]].concat())),
        text("twice", |signature| encode([decode(signature), decode(signature)].concat())),
        text("in DER", |signature| encode(der(&decode(signature)))),
        text("the other way round", |signature| {
            let bytes = decode(signature);
            encode([&bytes[32..], &bytes[..32]].concat())
        }),
        text("padded", |signature| format!("{signature}==")),
        text("a space behind", |signature| format!("{signature} ")),
        text("another text of the same bytes", other_text),
        text("no base64", |signature| format!("{}!", &signature[1..])),
        token("token: claims changed after signing", SIGNATURE, |s| {
            s.token.parts(|[header, claims, signature]| {
                let mut claims: Value = serde_json::from_slice(&decode(claims)).unwrap();
                claims["preferred_username"] = json!("admin");
                format!("{header}.{}.{signature}", encode(claims.to_string()))
            });
        }),
        token("token: the same claims in another order of letters", SIGNATURE, |s| {
            s.token.parts(|[header, claims, signature]| {
                format!("{header}.{}.{signature}", encode([decode(claims), vec![b' ']].concat()))
            });
        }),
        token("token: header changed after signing", SIGNATURE, |s| {
            s.token.parts(|[header, claims, signature]| {
                let mut header: Value = serde_json::from_slice(&decode(header)).unwrap();
                header["typ"] = json!("JWT");
                format!("{}.{claims}.{signature}", encode(header.to_string()))
            });
        }),
        token("token: another key of the issuer after signing", FIT, |s| {
            let kid = s.keys.a[1].kid.clone();
            s.token.parts(move |[header, claims, signature]| {
                let mut header: Value = serde_json::from_slice(&decode(header)).unwrap();
                header["kid"] = json!(kid);
                format!("{}.{claims}.{signature}", encode(header.to_string()))
            });
        }),
        // As the good token was let in, its signature is known: not under these claims.
        token("token: signature of a good token", SIGNATURE, |s| {
            let good = s.before.clone().unwrap().access_token();
            let good = good.rsplit_once('.').unwrap().1.to_owned();
            s.token.claims["azp"] = json!("admin");
            s.token.parts(move |[header, claims, _]| format!("{header}.{claims}.{good}"));
        }),
        proof("token: a good token once more, with its proof", REPLAY, |s| {
            let before = s.before.clone().unwrap();
            let token = before.access_token();
            s.token.text = Box::new(move |_| token.clone());
            s.proofs = Box::new(move |_| vec![before.proof().into()]);
        }),
    ]);
    cases
}

fn encodings() -> Vec<Case> {
    let form = |name: &str, change: fn([&str; 3]) -> String| {
        token(format!("token: {name}"), FORM, move |s| s.token.parts(change))
    };
    let bytes = |name: &str, change: fn(Vec<u8>) -> Vec<u8>| {
        token(format!("token: {name}"), FORM, move |s| s.token.claims_bytes = Box::new(change))
    };
    vec![
        form("padding in the header", |[h, c, s]| format!("{h}=.{c}.{s}")),
        form("padding in the claims", |[h, c, s]| format!("{h}.{c}=.{s}")),
        form("the other alphabet", |[h, c, s]| {
            let other = c.replace('-', "+").replace('_', "/");
            assert_ne!(other, c);
            format!("{h}.{other}.{s}")
        }),
        form("a space in the claims", |[h, c, s]| format!("{h}.{} {}.{s}", &c[..8], &c[8..])),
        form("a tab in the claims", |[h, c, s]| format!("{h}.{}\t{}.{s}", &c[..8], &c[8..])),
        form("a space before it", |[h, c, s]| format!(" {h}.{c}.{s}")),
        form("JSON that is not encoded", |[h, c, s]| {
            format!("{}.{}.{s}", String::from_utf8_lossy(&decode(h)), c)
        }),
        form("claims encoded twice", |[h, c, s]| format!("{h}.{}.{s}", encode(c))),
        token("token: another text of the same claims", FORM, |s| {
            s.token.claims_bytes = Box::new(with_bits_to_spare);
            s.token.parts(|[h, c, s]| format!("{h}.{}.{s}", other_text(c)));
        }),
        token("token: another text of the same header", FORM, |s| {
            s.token.header_bytes = Box::new(with_bits_to_spare);
            s.token.parts(|[h, c, s]| format!("{}.{c}.{s}", other_text(h)));
        }),
        bytes("claims with a byte order mark", |claims| {
            [&[0xef, 0xbb, 0xbf], claims.as_slice()].concat()
        }),
        bytes("claims in UTF-16", |claims| {
            String::from_utf8(claims).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect()
        }),
        bytes("claims with invalid UTF-8", |claims| {
            let claims = replacing(CANARY, "@@")(claims);
            claims.into_iter().map(|byte| if byte == b'@' { 0xff } else { byte }).collect()
        }),
        bytes("claims with an overlong NUL", |claims| {
            let claims = replacing(CANARY, "@~")(claims);
            let overlong = |byte| match byte {
                b'@' => 0xc0,
                b'~' => 0x80,
                byte => byte,
            };
            claims.into_iter().map(overlong).collect()
        }),
        bytes("claims with a lone surrogate", replacing_text::<0>),
        bytes("claims with a raw line break in a text", replacing_text::<1>),
        bytes("claims in single quotes", |claims| {
            String::from_utf8(claims).unwrap().replace('"', "'").into_bytes()
        }),
        bytes("claims with a comment", replacing_text::<2>),
        bytes("claims with a comma too many", replacing_text::<3>),
        bytes("claims and more", |claims| [claims, b"{}".to_vec()].concat()),
        bytes("claims and NUL", |claims| [claims, vec![0]].concat()),
        bytes("claims cut off", |claims| claims[..claims.len() - 1].to_vec()),
        bytes("no claims, not even an object", |_| Vec::new()),
        bytes("claims a list", |claims| [b"[", claims.as_slice(), b"]"].concat()),
        bytes("claims a text", |_| b"\"claims\"".to_vec()),
        bytes("claims null", |_| b"null".to_vec()),
        bytes("claims a number", |_| b"7".to_vec()),
        bytes("claims nested deeply", |claims| {
            let deep = format!(r#"{{"x":{}{},"#, "[".repeat(1000), "]".repeat(1000));
            replacing("{", &deep)(claims)
        }),
        bytes("claims nested deeply in objects", |claims| {
            let deep = format!(r#"{{"x":{}1{},"#, r#"{"x":"#.repeat(500), "}".repeat(500));
            replacing("{", &deep)(claims)
        }),
        token("token: header nested deeply", FORM, |s| {
            let deep = format!(r#"{{"x":{}{},"#, "[".repeat(1000), "]".repeat(1000));
            s.token.header_bytes = replacing("{", &deep);
        }),
        token("token: header a list", FORM, |s| {
            s.token.header_bytes = Box::new(|header| [b"[", header.as_slice(), b"]"].concat());
        }),
        token("token: header with a byte order mark", FORM, |s| {
            s.token.header_bytes =
                Box::new(|header| [&[0xef, 0xbb, 0xbf], header.as_slice()].concat());
        }),
        token("token: header empty", ALGORITHM, |s| {
            s.token.header_bytes = Box::new(|_| b"{}".to_vec());
        }),
        token("token: claims empty", "it has no iss", |s| {
            s.token.claims_bytes = Box::new(|_| b"{}".to_vec());
        }),
    ]
}

/// JSON of which the encoding does not fill its last letter.
fn with_bits_to_spare(mut json: Vec<u8>) -> Vec<u8> {
    while json.len() % 3 != 1 {
        json.push(b' ');
    }
    json
}

/// Makes one of several kinds of text that is no JSON of the canary.
fn replacing_text<const KIND: usize>(claims: Vec<u8>) -> Vec<u8> {
    let (old, new) = [(CANARY, r"\ud800"), (CANARY, "\n"), ("{", "{/* */"), ("}", ",}")][KIND];
    replacing(old, new)(claims)
}

fn shapes() -> Vec<Case> {
    let jwe = || {
        let header =
            encode(json!({ "alg": "RSA-OAEP", "enc": "A256GCM", "kid": CANARY }).to_string());
        format!(
            "{header}.{}.{}.{}.{}",
            encode(CANARY),
            encode([7; 12]),
            encode([7; 99]),
            encode([7; 16])
        )
    };
    let bomb = || {
        let header = json!({ "alg": "dir", "enc": "A256GCM", "zip": "DEF", "kid": CANARY });
        // A block of DEFLATE that says the same byte over and over.
        let bytes = [vec![0xec, 0xc0, 0x01], vec![0; 9000]].concat();
        let (iv, tag) = (encode([7; 12]), encode([7; 16]));
        format!("{}..{iv}.{}.{tag}", encode(header.to_string()), encode(bytes))
    };
    vec![
        token("token: empty parts", FORM, |s| s.token.text = Box::new(|_| "..".to_owned())),
        token("token: one part", FORM, |s| s.token.text = Box::new(|_| encode(CANARY))),
        token("token: a dot behind", FORM, |s| s.token.text = Box::new(|text| text + ".")),
        token("token: a dot before", FORM, |s| s.token.text = Box::new(|text| format!(".{text}"))),
        token("token: four parts", FORM, |s| s.token.text = Box::new(|text| text + ".AAAA")),
        token("token: without claims", FORM, |s| {
            s.token.parts(|[header, _, signature]| format!("{header}..{signature}"));
        }),
        token("token: parts in another order", FORM, |s| {
            s.token.parts(|[header, claims, signature]| format!("{signature}.{claims}.{header}"));
        }),
        // Five parts, as if it were encrypted.
        token("token: two joined", ENCRYPTED, |s| {
            s.token.text = Box::new(|text| format!("{text}{text}"));
        }),
        token("token: two joined by a dot", FORM, |s| {
            s.token.text = Box::new(|text| format!("{text}.{text}"));
        }),
        token("token: two joined by a space", ENCRYPTED, |s| {
            s.token.text = Box::new(|text| format!("{text} {text}"));
        }),
        token("token: in quotes", FORM, |s| s.token.text = Box::new(|text| format!("\"{text}\""))),
        token("token: encrypted", ENCRYPTED, move |s| s.token.text = Box::new(move |_| jwe())),
        token("token: encrypted, grows when it is unpacked", ENCRYPTED, move |s| {
            s.token.text = Box::new(move |_| bomb());
        }),
        token("token: JSON, flattened", FORM, |s| {
            s.token.parts(|[protected, payload, signature]| {
                json!({ "protected": protected, "payload": payload, "signature": signature })
                    .to_string()
            });
        }),
        token("token: JSON, with signatures", FORM, |s| {
            s.token.parts(|[protected, payload, signature]| {
                let signatures = json!([{ "protected": protected, "signature": signature }]);
                json!({ "payload": payload, "signatures": signatures }).to_string()
            });
        }),
        token("token: of 17 KiB", LONG, |s| s.token.claims["x"] = json!("x".repeat(12_500))),
        token("token: of 40 KiB, all dots", LONG, |s| {
            s.token.text = Box::new(|_| ".".repeat(40 << 10));
        }),
        token("token: its own proof", TYP, |s| {
            let (proof, other) = (s.proof.claims.clone(), s.proof.header.clone());
            s.token.header = other;
            s.token.claims = proof;
            s.token.signer = s.keys.client.clone();
        }),
        token("token: the signed request", "it has no iss", |s| {
            s.token.header = s.srt.header.clone();
            s.token.claims = s.srt.claims.clone();
            s.token.signer = s.keys.client.clone();
        }),
    ]
}
