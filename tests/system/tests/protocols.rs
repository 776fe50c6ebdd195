//! Every protocol, codec, HTTP version and compression, with TLS and without, from the binary; each
//! answer read as its protocol says.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::io::{Read, Write};

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use hyper::{Method, Request, http::request::Builder};
use jsonwebtoken::Header;
use kasbah_crypto::Algorithm;
use kasbah_pkcs11::provision;
use kasbah_proto::kas::{
    PublicKeyRequest, PublicKeyResponse, RewrapRequest, RewrapResponse,
    key_access_rewrap_result::Result as Rewrapped,
};
use kasbah_system_tests::{
    client::{POLICY, SessionKey, body, kao, random_dek, request_claims},
    issuer::{Issuer, now},
    oidc::Holder,
    server::{Server, Setup},
    token,
    wire::{Answer, Version, Wire, only, trusting},
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use prost::Message;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

const PUBLIC_KEY: &str = "/kas.AccessService/PublicKey";
const REWRAP: &str = "/kas.AccessService/Rewrap";
const UNKNOWN: &str = "/kas.AccessService/Unknown";
/// Messages of the servers here, in bytes; without a token they may have 16 KiB.
const LARGEST: usize = 64 << 10;
const KEY: &str = "r1";
/// Key access objects of a rewrap, so that its answer is worth compressing.
const KAOS: usize = 4;
/// Answers are compressed from here on, in bytes.
const WORTH_COMPRESSING: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    ConnectPost,
    ConnectGet,
    Grpc,
    GrpcWeb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Json,
    Proto,
    /// Binary messages of gRPC that do not say that they are.
    Unsaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gzip {
    Nothing,
    Request,
    Answer,
}

/// One way to ask.
#[derive(Debug, Clone, Copy)]
struct Way {
    protocol: Protocol,
    codec: Codec,
    version: Version,
    tls: bool,
    gzip: Gzip,
}

/// A message before it is put in a frame, and for which method.
struct Ask {
    path: &'static str,
    message: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// What came back: a message, or a code and a text.
type Told = Result<Vec<u8>, (String, String)>;

impl Way {
    fn all(protocol: Protocol) -> Vec<Self> {
        let (codecs, versions) = match protocol {
            Protocol::ConnectPost | Protocol::ConnectGet => {
                (&[Codec::Json, Codec::Proto][..], &[Version::Http1, Version::Http2][..])
            }
            Protocol::Grpc => {
                (&[Codec::Json, Codec::Proto, Codec::Unsaid][..], &[Version::Http2][..])
            }
            Protocol::GrpcWeb => (
                &[Codec::Json, Codec::Proto, Codec::Unsaid][..],
                &[Version::Http1, Version::Http2][..],
            ),
        };
        let mut all = Vec::new();
        for &codec in codecs {
            for &version in versions {
                for tls in [false, true] {
                    for gzip in [Gzip::Nothing, Gzip::Request, Gzip::Answer] {
                        all.push(Self { protocol, codec, version, tls, gzip });
                    }
                }
            }
        }
        all
    }

    fn encode(self, json: &Value, message: &impl Message) -> Vec<u8> {
        match self.codec {
            Codec::Json => json.to_string().into_bytes(),
            Codec::Proto | Codec::Unsaid => message.encode_to_vec(),
        }
    }

    /// An answer says that it is binary, even if the request did not.
    fn answers_in(self) -> String {
        let codec = if self.codec == Codec::Unsaid { Codec::Proto } else { self.codec };
        Self { codec, ..self }.content_type()
    }

    fn content_type(self) -> String {
        let family = match self.protocol {
            Protocol::ConnectPost | Protocol::ConnectGet => "application/",
            Protocol::Grpc => "application/grpc+",
            Protocol::GrpcWeb => "application/grpc-web+",
        };
        match self.codec {
            Codec::Json => format!("{family}json"),
            Codec::Proto => format!("{family}proto"),
            Codec::Unsaid => family.trim_end_matches('+').to_owned(),
        }
    }

    fn request(self, ask: &Ask) -> Request<Vec<u8>> {
        let squeeze = self.gzip == Gzip::Request;
        let message = if squeeze { zipped(&ask.message) } else { ask.message.clone() };
        let accepted = if self.gzip == Gzip::Answer { "gzip" } else { "identity" };
        let mut request = Request::builder().method(Method::POST).uri(ask.path);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        match self.protocol {
            Protocol::ConnectGet => self.get(request, ask.path, &message),
            Protocol::ConnectPost => {
                if squeeze {
                    request = request.header("content-encoding", "gzip");
                }
                request
                    .header("content-type", self.content_type())
                    .header("connect-protocol-version", "1")
                    .header("accept-encoding", accepted)
                    .body(message)
            }
            Protocol::Grpc | Protocol::GrpcWeb => {
                if squeeze {
                    request = request.header("grpc-encoding", "gzip");
                }
                request
                    .header("content-type", self.content_type())
                    .header("te", "trailers")
                    .header("grpc-accept-encoding", accepted)
                    .body(frame(u8::from(squeeze), &message))
            }
        }
        .unwrap()
    }

    fn get(
        self,
        request: Builder,
        path: &str,
        message: &[u8],
    ) -> Result<Request<Vec<u8>>, hyper::http::Error> {
        let codec = if self.codec == Codec::Json { "json" } else { "proto" };
        let message = BASE64_URL_SAFE_NO_PAD.encode(message);
        let compression = if self.gzip == Gzip::Request { "&compression=gzip" } else { "" };
        let query = format!("connect=v1&encoding={codec}&base64=1&message={message}{compression}");
        let accepted = if self.gzip == Gzip::Answer { "gzip" } else { "identity" };
        request
            .method(Method::GET)
            .uri(format!("{path}?{query}"))
            .header("accept-encoding", accepted)
            .body(Vec::new())
    }

    fn read(self, answer: &Answer) -> Told {
        match self.protocol {
            Protocol::ConnectPost | Protocol::ConnectGet => self.read_connect(answer),
            Protocol::Grpc => self.read_grpc(answer),
            Protocol::GrpcWeb => self.read_grpc_web(answer),
        }
    }

    fn read_connect(self, answer: &Answer) -> Told {
        assert_eq!(answer.trailers, None);
        assert_eq!(answer.header("grpc-status"), None);
        let message = match answer.header("content-encoding") {
            None => answer.body.to_vec(),
            Some(encoding) => {
                assert_eq!((encoding, self.gzip), ("gzip", Gzip::Answer));
                unzipped(&answer.body)
            }
        };
        if answer.status == 200 {
            assert_eq!(answer.header("content-type"), Some(&*self.answers_in()));
            self.is_squeezed(&message, answer.headers.contains_key("content-encoding"));
            return Ok(message);
        }
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let error: Value = serde_json::from_slice(&message).unwrap();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, http_status(&text("code")), "{error}");
        Err((text("code"), text("message")))
    }

    fn read_grpc(self, answer: &Answer) -> Told {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some(&*self.answers_in()));
        let messages: Vec<_> = frames(&answer.body)
            .into_iter()
            .map(|(flags, message)| self.message(answer, flags, message))
            .collect();
        let end = answer.trailers.as_ref().unwrap();
        let status = (only(end, "grpc-status").unwrap(), only(end, "grpc-message").unwrap_or(""));
        self.has_one_status(answer, status.0);
        ended(status, messages)
    }

    fn read_grpc_web(self, answer: &Answer) -> Told {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some(&*self.answers_in()));
        assert_eq!(answer.trailers, None, "browsers do not see them");
        let mut frames = frames(&answer.body);
        let (flags, end) = frames.pop().unwrap();
        assert_eq!(flags, 0x80, "the last frame has the trailers");
        let end = String::from_utf8(end).unwrap();
        let field = |name: &str| {
            let mut values = end.split("\r\n").filter_map(|line| line.split_once(':'));
            values.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        assert!(end.ends_with("\r\n"), "{end:?}");
        let status = (field("grpc-status").unwrap(), field("grpc-message").unwrap_or(""));
        self.has_one_status(answer, status.0);
        let messages = frames.into_iter();
        ended(status, messages.map(|(flags, m)| self.message(answer, flags, m)).collect())
    }

    /// A refusal may have its status among the headers too, for clients that look there.
    fn has_one_status(self, answer: &Answer, status: &str) {
        let early = answer.header("grpc-status");
        assert!(early.is_none() || early == Some(status) && status != "0", "{self:?}: {answer:?}");
    }

    fn message(self, answer: &Answer, flags: u8, message: Vec<u8>) -> Vec<u8> {
        let message = match flags {
            0 => message,
            1 => {
                assert_eq!(answer.header("grpc-encoding"), Some("gzip"));
                unzipped(&message)
            }
            _ => panic!("flags {flags}"),
        };
        self.is_squeezed(&message, flags == 1);
        message
    }

    fn is_squeezed(self, message: &[u8], squeezed: bool) {
        let wanted = self.gzip == Gzip::Answer && message.len() >= WORTH_COMPRESSING;
        assert_eq!(squeezed, wanted, "{} bytes", message.len());
    }
}

/// One message and status 0, or none and another one.
fn ended((code, text): (&str, &str), mut messages: Vec<Vec<u8>>) -> Told {
    if code == "0" {
        assert_eq!(messages.len(), 1);
        return Ok(messages.remove(0));
    }
    assert!(messages.is_empty(), "a refusal has no message");
    let name = match code {
        "3" => "invalid_argument",
        "5" => "not_found",
        "8" => "resource_exhausted",
        "12" => "unimplemented",
        "16" => "unauthenticated",
        _ => panic!("grpc-status {code}: {text}"),
    };
    Err((name.to_owned(), unescaped(text)))
}

/// The HTTP status of a code of Connect.
fn http_status(code: &str) -> u16 {
    match code {
        "invalid_argument" => 400,
        "unauthenticated" => 401,
        // Of what is asked here only a method can be missing.
        "not_found" | "unimplemented" => 404,
        "resource_exhausted" => 429,
        _ => panic!("code {code}"),
    }
}

/// `grpc-message` is percent-encoded.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}

fn frame(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flags], &length[..], message].concat()
}

/// Flags and content of all frames, to the last byte.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<5>() {
        let [flags, length @ ..] = *prefix;
        let (message, rest) = rest.split_at(u32::from_be_bytes(length) as usize);
        frames.push((flags, message.to_vec()));
        body = rest;
    }
    assert!(body.is_empty(), "half a frame");
    frames
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut unzipped = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut unzipped).unwrap();
    unzipped
}

/// Two servers with the same key, one with TLS.
struct Servers {
    plain: Server,
    encrypted: Server,
    authority: String,
    pem: String,
    _token: TestToken,
}

impl Servers {
    fn start() -> Self {
        let fixture = SoftHsm::fresh();
        let key = provision::generate(&token::open(&fixture), KEY, Algorithm::Rsa2048).unwrap();
        let pem = key.public_key.unwrap().to_pem();
        let plain = setup(&fixture).serve();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let own = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let mut encrypted = setup(&fixture);
        encrypted.write("server.pem", certificate.signed_by(&own, &authority).unwrap().pem());
        encrypted.write("server.key", own.serialize_pem());
        encrypted.config["secrets"]["tls"] = json!({ "file": "server.key" });
        encrypted.config["server"]["tls"] =
            json!({ "certificate_file": "server.pem", "private_key": "tls" });
        let (encrypted, authority) = (encrypted.serve(), authority.pem());
        Self { plain, encrypted, authority, pem, _token: fixture }
    }

    fn wire(&self, way: Way) -> Wire {
        let server = if way.tls { &self.encrypted } else { &self.plain };
        let tls = way.tls.then(|| trusting(&self.authority));
        Wire { address: server.address.clone(), version: way.version, tls }
    }

    fn token(&self, way: Way) -> String {
        let server = if way.tls { &self.encrypted } else { &self.plain };
        server.token_with("alice", &json!({ "exp": now() + 3600 }))
    }

    async fn tell(&self, way: Way, ask: &Ask) -> Told {
        let answer = self.wire(way).send(way.request(ask)).await;
        way.read(&answer.unwrap_or_else(|error| panic!("{way:?} {}: {error}", ask.path)))
    }

    async fn refused(&self, way: Way, ask: &Ask) -> (String, String) {
        match self.tell(way, ask).await {
            Ok(_) => panic!("{way:?} {}: expected a refusal", ask.path),
            Err(refusal) => refusal,
        }
    }

    async fn public_key(&self, way: Way) {
        let answer = self.tell(way, &ask_public_key(way, "rsa:2048")).await.unwrap();
        let (pem, kid) = match way.codec {
            Codec::Json => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let text = |name: &str| answer[name].as_str().unwrap().to_owned();
                (text("publicKey"), text("kid"))
            }
            Codec::Proto | Codec::Unsaid => {
                let answer = PublicKeyResponse::decode(&*answer).unwrap();
                (answer.public_key, answer.kid)
            }
        };
        assert_eq!((&*kid, &pem), (KEY, &self.pem));
    }

    async fn rewrap(&self, way: Way) {
        let (session, dek) = (SessionKey::rsa(), random_dek());
        let kaos = vec![kao(KEY, &self.pem, &dek, POLICY); KAOS];
        let header = Header::new(jsonwebtoken::Algorithm::ES256);
        let signed = Issuer::new().sign(&header, &request_claims(&body(&session, POLICY, &kaos)));
        let ask = ask_rewrap(way, &signed, Some(self.token(way)));
        let answer = self.tell(way, &ask).await.unwrap();
        let wrapped: Vec<Vec<u8>> = match way.codec {
            Codec::Json => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let results = answer["responses"][0]["results"].as_array().unwrap();
                let wrapped = results.iter().map(|result| result["kasWrappedKey"].as_str());
                wrapped.map(|text| BASE64_STANDARD.decode(text.unwrap()).unwrap()).collect()
            }
            Codec::Proto | Codec::Unsaid => {
                let mut answer = RewrapResponse::decode(&*answer).unwrap();
                let results = answer.responses.remove(0).results.into_iter();
                results
                    .map(|result| match result.result.unwrap() {
                        Rewrapped::KasWrappedKey(wrapped) => wrapped,
                        Rewrapped::Error(error) => panic!("{error}"),
                    })
                    .collect()
            }
        };
        assert_eq!(wrapped.len(), KAOS);
        for wrapped in wrapped {
            assert_eq!(session.open(&wrapped, "").as_ref(), Some(&dek));
        }
    }
}

fn setup(fixture: &TestToken) -> Setup {
    let mut setup = Setup::new();
    setup.hsm("softhsm", fixture, "require-sealed");
    setup.key(json!({
        "kid": KEY, "algorithm": "rsa:2048", "provider": "softhsm", "key": "pkcs11:object=r1",
    }));
    setup.config["server"]["limits"] =
        json!({ "message_bytes": LARGEST, "srt_bytes": LARGEST - 1024 });
    setup.config["auth"]["dpop"] = json!({ "require_nonce": true });
    setup
}

fn ask_public_key(way: Way, algorithm: &str) -> Ask {
    let message = PublicKeyRequest { algorithm: algorithm.to_owned(), ..Default::default() };
    let message = way.encode(&json!({ "algorithm": algorithm }), &message);
    Ask { path: PUBLIC_KEY, message, headers: Vec::new() }
}

fn ask_rewrap(way: Way, signed: &str, token: Option<String>) -> Ask {
    let message = RewrapRequest { signed_request_token: signed.to_owned() };
    let message = way.encode(&json!({ "signedRequestToken": signed }), &message);
    let headers = token.map(|token| ("authorization", format!("Bearer {token}")));
    Ask { path: REWRAP, message, headers: headers.into_iter().collect() }
}

/// What a server refuses, by what it says then.
fn refusals(servers: &Servers, way: Way) -> Vec<(&'static str, &'static str, Ask)> {
    let token = || Some(servers.token(way));
    let raw =
        |message: &[u8]| Ask { path: PUBLIC_KEY, message: message.to_vec(), headers: Vec::new() };
    let unknown = Ask { path: UNKNOWN, ..ask_public_key(way, "") };
    // A string that is longer than the message, and one that is none.
    let malformed =
        if way.codec == Codec::Json { raw(b"{\"algorithm\":") } else { raw(b"\x0a\x7f") };
    let unfit = if way.codec == Codec::Json { raw(b"{\"algorithm\":7}") } else { raw(b"\x08\x07") };
    let mut refusals = vec![
        ("an unknown method", "unimplemented", unknown),
        ("an unknown algorithm", "not_found", ask_public_key(way, "rsa:512")),
        ("half a message", "invalid_argument", malformed),
        ("a number for a text", "invalid_argument", unfit),
        (
            "too much without a token",
            "resource_exhausted",
            ask_public_key(way, &"a".repeat(20 << 10)),
        ),
    ];
    if way.protocol == Protocol::ConnectGet {
        return refusals;
    }
    let header = Header::new(jsonwebtoken::Algorithm::ES256);
    let nothing = Issuer::new().sign(&header, &request_claims(&json!({})));
    refusals.extend([
        ("no token", "unauthenticated", ask_rewrap(way, "a.b.c", None)),
        ("no such token", "unauthenticated", ask_rewrap(way, "a.b.c", Some("a.b.c".to_owned()))),
        ("no signed request", "unauthenticated", ask_rewrap(way, "a.b.c", token())),
        ("a signed request for nothing", "invalid_argument", ask_rewrap(way, &nothing, token())),
        ("too much", "resource_exhausted", ask_rewrap(way, &"a".repeat(LARGEST), token())),
    ]);
    if way.gzip == Gzip::Request {
        // Small enough as it comes.
        let bomb = "a".repeat(8 << 20);
        refusals.extend([
            ("a bomb without a token", "resource_exhausted", ask_public_key(way, &bomb)),
            ("a bomb", "resource_exhausted", ask_rewrap(way, &bomb, token())),
        ]);
    }
    refusals
}

async fn every_way(protocol: Protocol, ways: usize) {
    let servers = Servers::start();
    let all = Way::all(protocol);
    assert_eq!(all.len(), ways);
    let mut asked = 0;
    for way in all {
        servers.public_key(way).await;
        if protocol != Protocol::ConnectGet {
            servers.rewrap(way).await;
        }
        for (what, code, ask) in refusals(&servers, way) {
            let told = servers.refused(way, &ask).await;
            assert_eq!(told.0, code, "{what}, {way:?}: {told:?}");
            asked += 1;
        }
    }
    println!("{protocol:?}: {ways} ways, {asked} refusals");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_spoken() {
    every_way(Protocol::ConnectPost, 24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_spoken_by_get() {
    every_way(Protocol::ConnectGet, 24).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_spoken() {
    every_way(Protocol::Grpc, 18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_spoken() {
    every_way(Protocol::GrpcWeb, 36).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_in_the_headers_of_every_protocol() {
    let servers = Servers::start();
    let holder = Holder::ec();
    let bound_to = json!({ "cnf": { "jkt": holder.thumbprint() } });
    let protocols = [Protocol::ConnectPost, Protocol::Grpc, Protocol::GrpcWeb];
    for way in protocols.into_iter().flat_map(Way::all) {
        let server = if way.tls { &servers.encrypted } else { &servers.plain };
        let token = server.token_with("alice", &bound_to);
        let ask = Ask {
            headers: vec![
                ("authorization", format!("DPoP {token}")),
                ("dpop", holder.rewrap_proof(&token)),
            ],
            ..ask_rewrap(way, "a.b.c", None)
        };
        let answer = servers.wire(way).send(way.request(&ask)).await.unwrap();
        assert_eq!(way.read(&answer).unwrap_err().0, "unauthenticated", "{way:?}");
        // Libraries of gRPC show their callers the trailers.
        let trailers = (way.protocol == Protocol::Grpc).then(|| answer.trailers.as_ref().unwrap());
        for headers in [Some(&answer.headers), trailers].into_iter().flatten() {
            let challenge = only(headers, "www-authenticate").unwrap();
            assert!(challenge.contains("use_dpop_nonce"), "{way:?}: {challenge}");
            assert!(only(headers, "dpop-nonce").is_some_and(|nonce| !nonce.is_empty()), "{way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_gets_a_status_of_http() {
    let servers = Servers::start();
    let bearer = format!("Bearer {}", servers.plain.token("alice"));
    let authorization = ("authorization", &*bearer);
    let (json, plain) = (("content-type", "application/json"), ("content-type", "text/plain"));
    let near = ("content-type", "application/jsonx");
    let squeezed = ("content-encoding", "br");
    let by_get = format!("{REWRAP}?connect=v1&encoding=json&message=%7B%7D");
    let requests: [(&str, &str, Headers<'_>, u16); 8] = [
        ("POST", PUBLIC_KEY, &[], 415),
        ("POST", PUBLIC_KEY, &[plain], 415),
        ("POST", PUBLIC_KEY, &[near], 415),
        ("PUT", PUBLIC_KEY, &[json], 405),
        // It has effects.
        ("GET", &by_get, &[authorization], 405),
        ("DELETE", REWRAP, &[authorization, json], 405),
        ("GET", PUBLIC_KEY, &[], 400),
        ("POST", PUBLIC_KEY, &[json, squeezed], 501),
    ];
    for (method, uri, headers, status) in requests {
        for version in [Version::Http1, Version::Http2] {
            let mut request = Request::builder().method(method).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let wire = Wire { address: servers.plain.address.clone(), version, tls: None };
            let answer = wire.send(request.body(b"{}".to_vec()).unwrap()).await.unwrap();
            assert_eq!(answer.status, status, "{method} {uri} {headers:?}: {answer:?}");
        }
    }
}
