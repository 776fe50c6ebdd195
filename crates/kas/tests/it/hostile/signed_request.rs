//! Signed request tokens, of callers who are let in.

use serde_json::{Value, json};
use tonic::Code;

use super::{
    keys::{Keys, Signer, encode},
    rig::CANARY,
    sent::{Sent, decode, replacing},
    table::{Case, ORDER, Refused, case, der, flipped, other_text},
};
use crate::harness::now;

const PARSE: Refused = Refused::Request(Code::Unauthenticated, "could not parse token");
const VERIFY: Refused = Refused::Request(Code::Unauthenticated, "unable to verify request token");
const MISSING: Refused = Refused::Request(Code::InvalidArgument, "missing request body");
const INVALID: Refused = Refused::Request(Code::InvalidArgument, "invalid request body");
const LARGE: Refused =
    Refused::Request(Code::ResourceExhausted, "resource exhausted: signed request token too large");

pub(super) fn cases(keys: &Keys) -> Vec<Case> {
    let hmac = Signer::hmac("HS256", keys.client.jwk.to_string().as_bytes());
    let mut cases = vec![
        srt("signed by another", VERIFY, |s| s.srt.signer = s.keys.thief.clone()),
        srt("signed by the issuer", VERIFY, |s| s.srt.signer = s.keys.a[0].clone()),
        srt("signed by another, with its jwk", VERIFY, |s| {
            let thief = s.keys.thief.clone();
            s.srt.header["jwk"] = thief.jwk.clone();
            s.srt.signer = thief;
        }),
        srt("signed by another, whose kid it names", VERIFY, |s| {
            let thief = s.keys.thief.clone();
            s.srt.signed_as_said_by(&thief);
        }),
        srt("signed by another, with RS256", VERIFY, |s| {
            let rsa = s.keys.b[1].clone();
            s.srt.signed_as_said_by(&rsa);
        }),
        srt("signed by another, with jku", VERIFY, |s| {
            s.srt.header["jku"] = json!(format!("https://{CANARY}.example"));
            s.srt.signer = s.keys.thief.clone();
        }),
        srt("HS256 with the public key", PARSE, move |s| s.srt.signed_by(&hmac)),
        srt("alg none", PARSE, |s| s.srt.header["alg"] = json!("none")),
        srt("alg none, unsigned", PARSE, |s| {
            s.srt.header["alg"] = json!("none");
            s.srt.signature = Box::new(|_| Vec::new());
        }),
        srt("no alg", PARSE, |s| s.srt.without_header("alg")),
        srt("alg RS256 over the EC key", VERIFY, |s| s.srt.header["alg"] = json!("RS256")),
        srt("alg ES384 over P-256", VERIFY, |s| s.srt.header["alg"] = json!("ES384")),
        srt("alg in lower case", PARSE, |s| s.srt.header["alg"] = json!("es256")),
        srt("crit", PARSE, |s| s.srt.header["crit"] = json!(["exp"])),
        srt("crit b64", PARSE, |s| {
            s.srt.header["crit"] = json!(["b64"]);
            s.srt.header["b64"] = json!(false);
        }),
        srt("header repeats alg", PARSE, |s| s.srt.header_begins_with(r#""alg":"none""#)),
        srt("claims repeat requestBody", PARSE, |s| {
            s.srt.claims_begin_with(r#""requestBody":"{}""#);
        }),
        srt("claims repeat requestBody, escaped", PARSE, |s| {
            s.srt.claims_begin_with(r#""request\u0042ody":"{}""#);
        }),
        srt("claims repeat exp", PARSE, |s| s.srt.claims_begin_with(r#""exp":9999999999"#)),
        // Just too large for this service, and not for the transport.
        srt("too large", LARGE, |s| {
            s.srt.text = Box::new(|text| {
                let padding = "A".repeat((4 << 20) - 500 - text.len());
                [text, padding].concat()
            });
        }),
        srt("the access token", MISSING, |s| {
            let token = s.token.seal();
            s.srt.text = Box::new(move |_| token.clone());
        }),
        srt("the proof", MISSING, |s| {
            s.srt.header = s.proof.header.clone();
            s.srt.claims = s.proof.claims.clone();
        }),
    ];
    cases.extend(bodies());
    cases.extend(times());
    cases.extend(signatures());
    cases.extend(shapes());
    cases
}

fn srt(name: &str, refused: Refused, change: impl Fn(&mut Sent) + 'static) -> Case {
    case(format!("request token: {name}"), refused, change)
}

fn bodies() -> Vec<Case> {
    let mut cases = vec![srt("no requestBody", MISSING, |s| s.srt.without("requestBody"))];
    for body in [
        json!(null),
        json!(7),
        json!({}),
        json!([]),
        json!(true),
        // A text, and not of a body.
        json!(""),
        json!(CANARY),
        json!("[]"),
        json!("null"),
        json!("{"),
    ] {
        let name = format!("requestBody {body}");
        cases.push(srt(&name, INVALID, move |s| s.srt.claims["requestBody"] = body.clone()));
    }
    cases.push(srt("requestBody that is no text but an object", INVALID, |s| {
        let body = s.srt.claims["requestBody"].as_str().unwrap();
        s.srt.claims["requestBody"] = serde_json::from_str(body).unwrap();
    }));
    cases.push(srt("requestBody that repeats requests", INVALID, |s| {
        let body = s.srt.claims["requestBody"].as_str().unwrap();
        let body = body.replacen('{', r#"{"requests":[],"#, 1);
        s.srt.claims["requestBody"] = json!(body);
    }));
    cases.push(srt("requestBody nested deeply", INVALID, |s| {
        let body = s.srt.claims["requestBody"].as_str().unwrap();
        let deep = format!(r#"{{"x":{}{},"#, "[".repeat(9000), "]".repeat(9000));
        s.srt.claims["requestBody"] = json!(body.replacen('{', &deep, 1));
    }));
    cases
}

fn times() -> Vec<Case> {
    let with = |name: &str, claims: fn() -> Value| {
        srt(name, VERIFY, move |s| {
            s.srt.without("iat");
            s.srt.without("exp");
            let claims = claims().as_object().unwrap().clone();
            s.srt.claims.as_object_mut().unwrap().extend(claims);
        })
    };
    vec![
        with("no times", || json!({})),
        with("times null", || json!({ "iat": null, "exp": null })),
        with("times 0", || json!({ "iat": 0, "exp": 0 })),
        with("expired", || json!({ "iat": now() - 200, "exp": now() - 100 })),
        with("expired by iat", || json!({ "iat": now() - 8000 })),
        with("good for too long", || json!({ "exp": now() + 8000 })),
        with("iat to come", || json!({ "iat": now() + 200, "exp": now() + 300 })),
        with("nbf to come", || json!({ "iat": now(), "nbf": now() + 200 })),
        with("exp negative", || json!({ "exp": -5 })),
        with("exp huge", || json!({ "exp": 1e300 })),
        with("exp text", || json!({ "exp": "9999999999" })),
        with("iat text", || json!({ "iat": CANARY, "exp": now() + 60 })),
        with("nbf a list", || json!({ "nbf": [1], "exp": now() + 60 })),
        with("iat a truth", || json!({ "iat": true, "exp": now() + 60 })),
        srt("exp of the text 1e400", PARSE, |s| s.srt.raw("exp", "1e400")),
        srt("exp of the text NaN", PARSE, |s| s.srt.raw("exp", "NaN")),
    ]
}

fn signatures() -> Vec<Case> {
    let text = |name: &str, refused, change: fn(&str) -> String| {
        srt(&format!("signature, {name}"), refused, move |s| {
            s.srt.parts(move |[h, c, s]| format!("{h}.{c}.{}", change(s)));
        })
    };
    vec![
        text("none", PARSE, |_| String::new()),
        text("a bit flipped", VERIFY, flipped),
        text("all zeros", VERIFY, |_| encode([0; 64])),
        text("s = n", VERIFY, |signature| encode([&decode(signature)[..32], &ORDER].concat())),
        text("in DER", VERIFY, |signature| encode(der(&decode(signature)))),
        text("cut off", VERIFY, |signature| encode(&decode(signature)[..63])),
        text("padded", PARSE, |signature| format!("{signature}==")),
        text("another text of the same bytes", PARSE, other_text),
        text("no base64", PARSE, |_| "!".to_owned()),
        srt("the body changed after signing", VERIFY, |s| {
            s.srt.parts(|[h, c, s]| {
                let mut claims: Value = serde_json::from_slice(&decode(c)).unwrap();
                claims["requestBody"] = json!("{}");
                format!("{h}.{}.{s}", encode(claims.to_string()))
            });
        }),
        srt("the times changed after signing", VERIFY, |s| {
            s.srt.parts(|[h, c, s]| {
                let mut claims: Value = serde_json::from_slice(&decode(c)).unwrap();
                claims["exp"] = json!(now() + 600);
                format!("{h}.{}.{s}", encode(claims.to_string()))
            });
        }),
    ]
}

fn shapes() -> Vec<Case> {
    let parts = |name: &str, change: fn([&str; 3]) -> String| {
        srt(name, PARSE, move |s| s.srt.parts(change))
    };
    vec![
        parts("empty", |_| String::new()),
        parts("dots", |_| "..".to_owned()),
        parts("one part", |[h, _, _]| h.to_owned()),
        parts("two parts", |[h, c, _]| format!("{h}.{c}")),
        parts("four parts", |[h, c, s]| format!("{h}.{c}.{s}.{s}")),
        parts("five parts", |[h, c, s]| format!("{h}.{c}.{s}.{s}.{s}")),
        parts("JSON", |[h, c, s]| {
            json!({ "protected": h, "payload": c, "signature": s }).to_string()
        }),
        parts("a space before", |[h, c, s]| format!(" {h}.{c}.{s}")),
        parts("a line break behind", |[h, c, s]| format!("{h}.{c}.{s}\n")),
        parts("NUL behind", |[h, c, s]| format!("{h}.{c}.{s}\0")),
        parts("padding in the claims", |[h, c, s]| format!("{h}.{c}=.{s}")),
        srt("claims a list", PARSE, |s| {
            s.srt.claims_bytes = Box::new(|claims| [b"[", claims.as_slice(), b"]"].concat());
        }),
        srt("claims with a byte order mark", PARSE, |s| {
            s.srt.claims_bytes =
                Box::new(|claims| [&[0xef, 0xbb, 0xbf], claims.as_slice()].concat());
        }),
        srt("claims nested deeply", PARSE, |s| {
            let deep = format!(r#"{{"x":{}{},"#, "[".repeat(9000), "]".repeat(9000));
            s.srt.claims_bytes = replacing("{", &deep);
        }),
        srt("header a list", PARSE, |s| {
            s.srt.header_bytes = Box::new(|header| [b"[", header.as_slice(), b"]"].concat());
        }),
    ]
}
