//! A case, and how it is checked.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::json;
use tonic::Code;

use super::{
    keys::encode,
    rig::{AUDIENCE, AUDIENCE_B, Answer, CANARY, ISSUER_B, PATH, Rig, Wire},
    sent::{Sent, decode},
};
use crate::harness::{URI, now};

pub(super) const REPLAY: &str = "the proof was used before";

type Change = Box<dyn Fn(&mut Sent)>;

/// A change to a good request, and how it is refused.
pub(super) struct Case {
    pub(super) name: String,
    change: Change,
    refused: Refused,
}

/// How a request is refused, with the reason in the log.
#[derive(Clone, Copy)]
pub(super) enum Refused {
    /// For its access token.
    Token(&'static str),
    /// For its proof of possession.
    Proof(&'static str),
    /// For want of a good nonce.
    Nonce(&'static str),
    /// As it brings no access token.
    NoHeader,
    /// As nothing is served there, whoever asks.
    Unserved,
    /// As nobody can know.
    Unavailable(&'static str),
    /// For the signed request in it, by the service behind the gate, with that public text.
    Request(Code, &'static str),
}

impl Refused {
    /// Code, text, and challenge that the client gets.
    fn told(self) -> (Code, String, Option<&'static str>) {
        let unauthenticated =
            |challenge| (Code::Unauthenticated, "unauthenticated".to_owned(), challenge);
        match self {
            Self::Token(_) => unauthenticated(None),
            Self::Proof(_) => unauthenticated(Some(r#"DPoP error="invalid_dpop_proof""#)),
            Self::Nonce(_) => unauthenticated(Some(r#"DPoP error="use_dpop_nonce""#)),
            Self::NoHeader => {
                (Code::Unauthenticated, "missing authorization header".to_owned(), None)
            }
            Self::Unserved => (Code::Unimplemented, "method not found".to_owned(), None),
            Self::Unavailable(_) => {
                (Code::Unavailable, "authentication unavailable".to_owned(), None)
            }
            Self::Request(code, desc) => {
                (code, format!("request error\nrpc error: code = {code:?} desc = {desc}"), None)
            }
        }
    }

    /// The reason in the log; the service behind the gate tells the audit log instead.
    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Token(reason)
            | Self::Proof(reason)
            | Self::Nonce(reason)
            | Self::Unavailable(reason) => Some(reason),
            Self::NoHeader => Some("there is no authorization header"),
            Self::Unserved | Self::Request(..) => None,
        }
    }

    /// Whether the proof was found good, and is used up.
    fn uses_up(self) -> bool {
        matches!(self, Self::Request(..))
    }
}

pub(super) fn case(
    name: impl Into<String>,
    refused: Refused,
    change: impl Fn(&mut Sent) + 'static,
) -> Case {
    Case { name: name.into(), change: Box::new(change), refused }
}

/// Refused for its access token.
pub(super) fn token(
    name: impl Into<String>,
    reason: &'static str,
    change: impl Fn(&mut Sent) + 'static,
) -> Case {
    case(name, Refused::Token(reason), change)
}

/// Refused for its proof.
pub(super) fn proof(
    name: impl Into<String>,
    reason: &'static str,
    change: impl Fn(&mut Sent) + 'static,
) -> Case {
    case(name, Refused::Proof(reason), change)
}

/// Sends the bad request, the good one, and the bad one again: it got into no cache, and took
/// nothing from the good one. `before` is the last good one, and becomes this one.
pub(super) async fn check(rig: &Rig, case: &Case, before: &mut Wire) {
    let name = case.name.as_str();
    let wire = bad(rig, case, before);
    refused(rig, &wire, name, case.refused).await;
    let after = good(rig, name).await;
    let again = if case.refused.uses_up() { bad(rig, case, before) } else { wire };
    refused(rig, &again, name, case.refused).await;
    *before = after;
}

fn bad(rig: &Rig, case: &Case, before: &Wire) -> Wire {
    let mut sent = rig.request();
    sent.before = Some(before.clone());
    (case.change)(&mut sent);
    sent.seal()
}

/// A good request, that was let in.
pub(super) async fn good(rig: &Rig, name: &str) -> Wire {
    let wire = rig.request().seal();
    accepted(rig, &wire, name).await;
    wire
}

pub(super) async fn accepted(rig: &Rig, wire: &Wire, name: &str) {
    let answer = rig.send(wire).await.unwrap();
    assert!(answer.is_good(), "{name}: the good request: {answer:?}\n{}", rig.log.take());
    let log = rig.logged(wire, name);
    assert_eq!(lines(&log), "", "{name}");
    assert_eq!(rig.server.audit.take().len(), 1, "{name}");
}

pub(super) async fn refused(rig: &Rig, wire: &Wire, name: &str, refused: Refused) {
    let answer = rig.send(wire).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let log = rig.logged(wire, name);
    let (code, message, challenge) = refused.told();
    assert!(answer.outcome.is_none(), "{name}: it was let in");
    let told = match refused {
        // The path follows.
        Refused::Unserved => answer.message.split_once(':').map_or("", |(text, _)| text),
        _ => &answer.message,
    };
    assert_eq!((answer.code, told), (code, message.as_str()), "{name}\n{}", lines(&log));
    assert_eq!(answer.header("www-authenticate"), challenge, "{name}");
    let events = rig.server.audit.take();
    if let Some(reason) = refused.reason() {
        let lines = lines(&log);
        assert_eq!(lines.matches('\n').count(), 1, "{name}: {lines}");
        assert!(lines.contains(&format!(" reason={reason} ")), "{name}: {lines}");
        says_nothing_of(&answer, reason, name);
        assert!(events.is_empty(), "{name}: it got past the gate");
    } else if matches!(refused, Refused::Unserved) {
        assert_eq!(lines(&log), "", "{name}: the gate was asked");
        assert!(events.is_empty(), "{name}: it was served");
    } else {
        assert_eq!(lines(&log), "", "{name}: the gate let it in");
        assert_eq!(events.len(), 1, "{name}");
        assert!(events[0].manager.is_none(), "{name}: a key was used");
    }
}

/// Those of the gate.
fn lines(log: &str) -> String {
    const WORDS: [&str; 2] = ["a call was refused", "a call cannot be let in"];
    let lines = log.lines().filter(|line| WORDS.iter().any(|words| line.contains(words)));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn says_nothing_of(answer: &Answer, reason: &str, name: &str) {
    for (header, value) in &answer.headers {
        // What is in `grpc-status-details-bin`.
        let inner = STANDARD_NO_PAD.decode(value.as_bytes()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&inner).contains(reason), "{name}: {header}");
        let value = String::from_utf8_lossy(value.as_bytes()).replace("%20", " ");
        assert!(!value.contains(reason), "{name}: the client is told the reason in {header}");
    }
}

type Harmless = (&'static str, fn(&mut Sent));

/// Changes that change nothing.
pub(super) fn harmless() -> Vec<Harmless> {
    vec![
        ("nothing", |_| ()),
        ("under Bearer, with its proof", |s| s.scheme(|token| format!("Bearer {token}"))),
        ("bound to nothing", |s| {
            s.token.without("cnf");
            s.srt.parts(|[header, claims, _]| format!("{header}.{claims}.AAAA"));
        }),
        ("bound to nothing, under Bearer, without a proof", |s| {
            s.token.without("cnf");
            s.scheme(|token| format!("Bearer {token}"));
            s.proofs = Box::new(|_| Vec::new());
        }),
        ("another key of the issuer, RS256", |s| {
            let key = s.keys.a[1].clone();
            s.token.signed_as_said_by(&key);
        }),
        ("another key of the issuer, ES384", |s| {
            let key = s.keys.a[2].clone();
            s.token.signed_as_said_by(&key);
        }),
        ("the other issuer, for its audience", |s| {
            let key = s.keys.b[0].clone();
            s.token.signed_as_said_by(&key);
            s.token.claims["iss"] = json!(ISSUER_B);
            s.token.claims["aud"] = json!([AUDIENCE_B, AUDIENCE]);
        }),
        ("several audiences", |s| s.token.claims["aud"] = json!(["another", AUDIENCE])),
        ("typ JWT", |s| s.token.header["typ"] = json!("JWT")),
        ("typ as a media type", |s| s.token.header["typ"] = json!("application/AT+JWT")),
        ("no typ", |s| s.token.without_header("typ")),
        ("no nbf and no iat", |s| {
            s.token.without("nbf");
            s.token.without("iat");
        }),
        ("within the skew", |s| {
            s.token.claims["exp"] = json!(now() - 30);
            s.token.claims["nbf"] = json!(now() + 30);
            s.token.claims["iat"] = json!(now() + 30);
        }),
        // A chain of somebody's certificates brings no key: the issuer's own is what counts.
        ("x5c of a stranger", |s| s.token.header["x5c"] = json!(["AAAA"])),
        // Without `crit` they are members like any other (RFC 7515, section 4; RFC 7797, section 6).
        ("b64 and zip without effect", |s| {
            s.token.header["b64"] = json!(false);
            s.token.header["zip"] = json!("DEF");
        }),
        ("htu without query and fragment", |s| {
            s.proof.claims["htu"] = json!(format!("{URI}/kas.AccessService/Rewrap"));
        }),
        ("htu as a path", |s| s.proof.claims["htu"] = json!("/kas.AccessService/Rewrap")),
        ("htu in other words", |s| {
            let htu = "HTTP://LOCALHOST:8080/x/../%6bas.AccessService/Rewrap";
            s.proof.claims["htu"] = json!(htu);
        }),
        ("a jti of 256 bytes", |s| {
            let jti = s.proof.claims["jti"].as_str().unwrap().to_owned();
            s.proof.claims["jti"] = json!(format!("{jti:x<256}"));
        }),
        ("a query in the path", |s| s.path = Box::new(|_| format!("{PATH}?a=b"))),
        ("the other signature of the same key over it", |s| {
            s.token.signature = Box::new(|bytes| other_s(&bytes));
        }),
        ("a signed request without iat", |s| s.srt.without("iat")),
        // Nothing is decided by `sub`: it is empty if it is no text.
        ("sub a number", |s| s.token.claims["sub"] = json!(7)),
        ("sub an object", |s| s.token.claims["sub"] = json!({ "sub": CANARY })),
        ("no sub", |s| s.token.without("sub")),
        ("sub of 8 KiB", |s| s.token.claims["sub"] = json!("s".repeat(8 << 10))),
    ]
}

/// `(r, n - s)` is as good as `(r, s)`; nothing here depends on a signature having one form.
fn other_s(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(32);
    let mut borrow = 0_i16;
    let mut other = [0; 32];
    for (index, byte) in other.iter_mut().enumerate().rev() {
        let difference = i16::from(ORDER[index]) - i16::from(s[index]) - borrow;
        borrow = i16::from(difference < 0);
        *byte = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    [r, &other].concat()
}

/// The order of P-256.
pub(super) const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// DER of a signature of two halves, as X.509 has it.
pub(super) fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let bytes: Vec<_> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign = bytes.first().is_none_or(|first| *first >= 0x80);
        let bytes = [if sign { &[0][..] } else { &[] }, &bytes].concat();
        [&[2, u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let both = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], both.as_slice()].concat()
}

/// Another text of the same bytes: the bits that base64 has to spare are set.
pub(super) fn other_text(part: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = part.split_at(part.len() - 1);
    let place = ALPHABET.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
    let other = format!("{rest}{}", char::from(ALPHABET[place | 1]));
    assert!(!part.len().is_multiple_of(4) && other != part, "no bits to spare");
    other
}

/// Changes one bit.
pub(super) fn flipped(part: &str) -> String {
    let mut bytes = decode(part);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    encode(bytes)
}
