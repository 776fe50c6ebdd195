//! Issuers that fail: what nobody can know is `unavailable`, what is known is refused.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::Full;
use kasbah_auth::{DpopSettings, IssuerSettings, KeySource, TokenRules, Tokens};
use kasbah_testkit::oidc::{self, Fault, TestIssuer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tonic::codegen::http::{Request, Response, StatusCode};

use super::{
    keys::{Keys, Signer, encode},
    log::Log,
    rig::{AUDIENCE, CANARY, ISSUER_A, Rig, Wire},
    table::{Refused, accepted, good, refused},
};

const DISCOVERY: &str =
    "the issuer's discovery document is not a JSON object with issuer and jwks_uri";
const DUPLICATE: &str = "the issuer's JWKS has two keys of one kid";
const FORM: &str = "the issuer's JWKS is not a JSON Web Key Set";
const JWKS_URI: &str = "the issuer's jwks_uri is no https URL; http is for issuers with http alone";
const NO_KID: &str = "a key of the issuer's JWKS has no kid and is not the only one";
const OTHER: &str = "the issuer's discovery document names another issuer";
const STATUS: &str = "the issuer did not answer with 200";
const TIMEOUT: &str = "the issuer did not answer in time";
const UNREACHABLE: &str = "the issuer cannot be reached, or its answer cannot be read";
const KID: &str = "its issuer has no key of its kid";
const ALGORITHM: &str = "its algorithm is no asymmetric signature";

/// Long enough for any machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_issuer_that_fails_lets_nobody_in_and_is_asked_again() {
    let (log, _guard) = Log::start();
    let mut issuers = Vec::new();
    for (fault, reason) in [
        (Some(Fault::GarbageJwks), FORM),
        (Some(Fault::OtherIssuer), OTHER),
        (Some(Fault::OversizedJwks), UNREACHABLE),
        (Some(Fault::Redirect), STATUS),
        (Some(Fault::ServerError), STATUS),
        (Some(Fault::Slow(Duration::from_hours(1))), TIMEOUT),
        // It is down.
        (None, UNREACHABLE),
    ] {
        let mut issuer = TestIssuer::start().await;
        issuer.set_fault(fault);
        if fault.is_none() {
            issuer.stop().await;
        }
        issuers.push((format!("{fault:?}"), issuer, reason));
    }
    let settings = issuers.iter().map(|(name, issuer, _)| {
        let timeout = if name.contains("Slow") { Duration::from_millis(500) } else { PATIENCE };
        discovered(issuer.issuer_url(), oidc::AUDIENCE, timeout)
    });
    let rig = rig(settings, &log).await;
    for (name, issuer, reason) in &issuers {
        good(&rig, name).await;
        let wire = with_token_of(&rig, issuer);
        for _ in 0..2 {
            refused(&rig, &wire, name, Refused::Unavailable(reason)).await;
        }
        good(&rig, name).await;
    }
    for (name, mut issuer, _) in issuers {
        issuer.set_fault(None);
        issuer.start_again().await;
        recovers(&rig, &name, || with_token_of(&rig, &issuer)).await;
    }
}

#[tokio::test]
async fn keys_that_are_known_outlive_their_issuer_and_others_are_unknown() {
    let (log, _guard) = Log::start();
    let mut issuer = TestIssuer::start().await;
    let settings = discovered(issuer.issuer_url(), oidc::AUDIENCE, PATIENCE);
    let rig = rig([settings], &log).await;
    accepted(&rig, &with_token_of(&rig, &issuer), "while it runs").await;
    issuer.stop().await;
    accepted(&rig, &with_token_of(&rig, &issuer), "by a known key").await;
    issuer.rotate();
    let wire = with_token_of(&rig, &issuer);
    refused(&rig, &wire, "by a new key", Refused::Unavailable(UNREACHABLE)).await;
    issuer.start_again().await;
    recovers(&rig, "it is back", || with_token_of(&rig, &issuer)).await;
}

#[tokio::test]
async fn a_key_that_was_rotated_away_verifies_no_more() {
    let (log, _guard) = Log::start();
    let issuer = TestIssuer::start().await;
    let settings = discovered(issuer.issuer_url(), oidc::AUDIENCE, PATIENCE);
    let rig = rig([settings], &log).await;
    let token = token_of(&rig, &issuer);
    accepted(&rig, &with(&rig, &token), "at first").await;
    issuer.rotate();
    accepted(&rig, &with_token_of(&rig, &issuer), "by the second key").await;
    accepted(&rig, &with(&rig, &token), "the first key is still in the set").await;
    issuer.rotate();
    accepted(&rig, &with_token_of(&rig, &issuer), "by the third key").await;
    // It was verified before, and is remembered with the keys that did it.
    for _ in 0..2 {
        refused(&rig, &with(&rig, &token), "the first key is gone", Refused::Token(KID)).await;
    }
}

#[tokio::test]
async fn key_sets_and_documents_that_are_not_right() {
    let (log, _guard) = Log::start();
    let keys = Keys::generate();
    let pages = Pages::serve().await;
    let cases = wrong_key_sets(&keys, &pages);
    let cases: Vec<_> = cases.into_iter().chain(wrong_documents(&keys, &pages)).collect();
    for (name, document, jwks, _) in &cases {
        pages.set(name, document, jwks);
    }
    let settings =
        cases.iter().map(|(name, ..)| discovered(&pages.issuer(name), AUDIENCE, PATIENCE));
    let rig = rig_of(&keys, settings, &log).await;
    let wire_of = |name: &str, secret: bool| {
        let mut sent = rig.request();
        sent.token.claims["iss"] = json!(pages.issuer(name));
        if secret {
            sent.token.signed_by(&Signer::hmac("HS256", CANARY.as_bytes()));
        }
        sent.seal()
    };
    for (name, .., expected) in &cases {
        refused(&rig, &wire_of(name, false), name, *expected).await;
        good(&rig, name).await;
    }
    // Whoever knows the secret of the set.
    refused(&rig, &wire_of("secret", true), "secret", Refused::Token(ALGORITHM)).await;
    let [right, _] = keys.jwks();
    for (name, ..) in &cases {
        pages.set(name, &pages.document(name), &right.to_string());
    }
    for (name, ..) in &cases {
        recovers(&rig, name, || wire_of(name, false)).await;
    }
}

/// Name, discovery document and key set of issuers, and how their tokens are refused.
type Wrong = (&'static str, String, String, Refused);

fn wrong_key_sets(keys: &Keys, pages: &Pages) -> Vec<Wrong> {
    const UNKNOWN: fn(&'static str) -> Refused = Refused::Unavailable;
    let ours = keys.a[0].jwk_with(&json!({}));
    let with = |member: Value| keys.a[0].jwk_with(&member);
    let set = |keys: &[&Value]| json!({ "keys": keys }).to_string();
    let [right, of_b] = keys.jwks();
    let secret = json!({ "kty": "oct", "k": encode(CANARY), "kid": keys.a[0].kid, "alg": "HS256" });
    let same_kid = keys.thief.jwk_with(&json!({ "kid": keys.a[0].kid }));
    [
        ("empty", set(&[]), Refused::Token(KID)),
        ("secret", set(&[&secret]), Refused::Token(KID)),
        ("for-encryption", set(&[&with(json!({ "use": "enc" }))]), Refused::Token(KID)),
        ("to-sign", set(&[&with(json!({ "key_ops": ["sign"] }))]), Refused::Token(KID)),
        ("kid-a-number", set(&[&with(json!({ "kid": 7 }))]), Refused::Token(KID)),
        ("of-another", of_b.to_string(), Refused::Token(KID)),
        ("of-10-megabytes", padded(&right, 10 << 20), UNKNOWN(UNREACHABLE)),
        ("one-kid-twice", set(&[&ours, &same_kid]), UNKNOWN(DUPLICATE)),
        ("one-key-twice", set(&[&ours, &ours]), UNKNOWN(DUPLICATE)),
        ("without-kid", set(&[&ours, &keys.a[2].jwk]), UNKNOWN(NO_KID)),
        ("a-list", json!([ours]).to_string(), UNKNOWN(FORM)),
        ("one-key", ours.to_string(), UNKNOWN(FORM)),
        ("keys-an-object", json!({ "keys": { "a": ours } }).to_string(), UNKNOWN(FORM)),
        ("keys-repeated", format!(r#"{{"keys":[],"keys":[{ours}]}}"#), UNKNOWN(FORM)),
        ("html", "<html>".to_owned(), UNKNOWN(FORM)),
        ("nothing", String::new(), UNKNOWN(FORM)),
        ("cut-off", right.to_string()[..200].to_owned(), UNKNOWN(FORM)),
        ("absent", ABSENT.to_owned(), UNKNOWN(STATUS)),
    ]
    .map(|(name, jwks, refused)| (name, pages.document(name), jwks, refused))
    .into()
}

fn wrong_documents(keys: &Keys, pages: &Pages) -> Vec<Wrong> {
    let with = |name: &str, member: &str, value: Value| {
        let mut document: Value = serde_json::from_str(&pages.document(name)).unwrap();
        document[member] = value;
        document.to_string()
    };
    let [right, _] = keys.jwks();
    let mut all: Vec<_> = [
        ("other-issuer", "issuer", json!(ISSUER_A), OTHER),
        ("issuers", "issuer", json!([ISSUER_A]), DISCOVERY),
        ("file", "jwks_uri", json!("file:///etc/passwd"), JWKS_URI),
        ("ftp", "jwks_uri", json!("ftp://127.0.0.1/jwks"), JWKS_URI),
        ("data", "jwks_uri", json!("data:application/json,{}"), JWKS_URI),
        ("relative", "jwks_uri", json!("/jwks"), JWKS_URI),
        ("no-jwks-uri", "jwks_uri", json!(null), DISCOVERY),
        ("document-of-300-kilobytes", "x", json!("x".repeat(300 << 10)), UNREACHABLE),
    ]
    .map(|(name, member, value, reason)| (name, with(name, member, value), reason))
    .into();
    let repeats = pages.document("repeats").replacen('{', r#"{"issuer":"x","#, 1);
    all.push(("repeats", repeats, DISCOVERY));
    all.push(("document-a-list", format!("[{}]", pages.document("document-a-list")), DISCOVERY));
    all.push(("document-absent", ABSENT.to_owned(), STATUS));
    all.into_iter()
        .map(|(name, document, reason)| {
            (name, document, right.to_string(), Refused::Unavailable(reason))
        })
        .collect()
}

fn padded(document: &Value, bytes: usize) -> String {
    let mut document = document.clone();
    document["padding"] = "x".repeat(bytes).into();
    document.to_string()
}

fn discovered(issuer: &str, audience: &str, timeout: Duration) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.to_owned(),
        audience: audience.to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Discovery { jwks_uri: None, ca_file: None, timeout },
    }
}

async fn rig(settings: impl IntoIterator<Item = IssuerSettings>, log: &Log) -> Rig {
    rig_of(&Keys::generate(), settings, log).await
}

/// A server that knows these issuers beside A.
async fn rig_of(
    keys: &Arc<Keys>,
    settings: impl IntoIterator<Item = IssuerSettings>,
    log: &Log,
) -> Rig {
    let [of_a, _] = keys.jwks();
    let a = IssuerSettings {
        keys: KeySource::Jwks(of_a.to_string()),
        ..discovered(ISSUER_A, AUDIENCE, PATIENCE)
    };
    let settings = settings.into_iter().chain([a]).collect();
    let rules = TokenRules { unknown_kid_interval: Duration::ZERO, ..TokenRules::default() };
    let tokens = Tokens::new(settings, rules).unwrap();
    Rig::with(keys, log, tokens, DpopSettings::default()).await
}

fn token_of(rig: &Rig, issuer: &TestIssuer) -> String {
    issuer.token(&json!({ "sub": CANARY, "cnf": { "jkt": rig.keys.client.thumbprint() } }))
}

fn with_token_of(rig: &Rig, issuer: &TestIssuer) -> Wire {
    with(rig, &token_of(rig, issuer))
}

/// A request that is good if `token` is.
fn with(rig: &Rig, token: &str) -> Wire {
    let token = token.to_owned();
    let mut sent = rig.request();
    sent.token.text = Box::new(move |_| token.clone());
    sent.seal()
}

/// Asks until a request is let in: an issuer that failed is left alone for a while.
async fn recovers(rig: &Rig, name: &str, wire: impl Fn() -> Wire) {
    for _ in 0..400 {
        let answer = rig.send(&wire()).await.unwrap();
        if answer.is_good() {
            rig.log.take();
            rig.server.audit.take();
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{name}: it does not recover");
}

/// What a page says that is not found.
const ABSENT: &str = "404";

/// A fake of many issuers that answers with what it is told; a real one would not.
struct Pages {
    address: SocketAddr,
    texts: Arc<Mutex<HashMap<String, String>>>,
}

impl Pages {
    async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let texts = Arc::new(Mutex::new(HashMap::<String, String>::new()));
        let this = Self { address, texts: Arc::clone(&texts) };
        let answer = move |request: Request<_>| {
            let text = texts.lock().unwrap().get(request.uri().path()).cloned();
            let text = text.filter(|text| text != ABSENT);
            let status = if text.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let mut response = Response::new(Full::from(text.unwrap_or_default()));
            *response.status_mut() = status;
            std::future::ready(response)
        };
        tokio::spawn(kasbah_issuer::serve(listener, answer, std::future::pending()));
        this
    }

    fn issuer(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// The right one.
    fn document(&self, name: &str) -> String {
        let issuer = self.issuer(name);
        json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks") }).to_string()
    }

    fn set(&self, name: &str, document: &str, jwks: &str) {
        let mut texts = self.texts.lock().unwrap();
        let discovery = format!("/{name}/.well-known/openid-configuration");
        texts.insert(discovery, document.to_owned());
        texts.insert(format!("/{name}/jwks"), jwks.to_owned());
    }
}
