//! The issuer from outside, over a connection of its own.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm as Jose, EncodingKey};
use kasbah_auth::{Jws, VerifyingKey};
use kasbah_crypto::{Algorithm, Curve, PrivateKeyParts};
use kasbah_issuer::{
    Client, Issuer, IssuerError, KeysError, Settings, SigningAlgorithm, SigningKeys, TokenType,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use static_assertions::assert_not_impl_any;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

assert_not_impl_any!(SigningKeys: std::fmt::Debug, Clone, PartialEq);
assert_not_impl_any!(Client: std::fmt::Debug, Clone, PartialEq);

const AUDIENCE: &str = "http://localhost:8080";
/// Reads otherwise when it is decoded once too often, or once too seldom.
const SECRET: &str = "s%41+&=:é";

struct Running {
    issuer: Arc<Issuer>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> (u16, String) {
        let error = self.json()["error"].as_str().unwrap().to_owned();
        (self.status.as_u16(), error)
    }

    fn token(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        assert_eq!(self.headers["cache-control"], "no-store");
        self.json()["access_token"].as_str().unwrap().to_owned()
    }
}

impl Running {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keys = SigningKeys::generate().unwrap();
        let mut settings = Settings::new(address, vec![AUDIENCE.to_owned()], keys);
        change(&mut settings);
        let issuer = Arc::new(Issuer::new(settings).unwrap());
        issuer.add_client(client("opentdf", SECRET, json!({}))).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&issuer).serve(listener, async { drop(stopped.await) });
        Self { issuer, address, stop, task: tokio::spawn(serving) }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, url: &str) -> Answer {
        self.send(Request::get(url).body(Full::default()).unwrap()).await
    }

    /// A token request with some headers.
    async fn ask(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::post(self.issuer.token_url())
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    async fn prove(&self, proofs: &[&str]) -> Answer {
        let authorization = basic("opentdf", &encoded(SECRET));
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(proofs.iter().map(|proof| ("dpop", *proof)));
        self.ask(&headers, GRANT).await
    }

    /// Header and claims of a token that the published keys verify.
    async fn verified(&self, token: &str) -> (Value, Value) {
        let keys = self.get(self.issuer.jwks_url()).await.json();
        let jws = Jws::parse(token).unwrap();
        let kid = jws.header_text("kid").unwrap();
        let is_it = |key: &&Value| key["kid"] == kid;
        let key = keys["keys"].as_array().unwrap().iter().find(is_it).expect("its kid is known");
        let key = VerifyingKey::from_jwk(key.as_object().unwrap()).unwrap();
        jws.verify(&key).expect("the key signed it");
        (jws.header().clone().into(), jws.claims().clone().into())
    }
}

const GRANT: &str = "grant_type=client_credentials";

fn client(id: &str, secret: &str, claims: Value) -> Client {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    Client { id: id.to_owned(), secret: secret.into(), claims }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn post(id: &str, secret: &str) -> String {
    format!("{GRANT}&client_id={}&client_secret={}", encoded(id), encoded(secret))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn discovery_names_endpoints_that_are_there() {
    let running = Running::start().await;
    let issuer = format!("http://{}/auth/realms/opentdf", running.address);
    let document = running.get(&format!("{issuer}/.well-known/openid-configuration")).await;
    assert_eq!(document.headers["access-control-allow-origin"], "*");
    let document = document.json();
    assert_eq!(document["issuer"], issuer);
    assert_eq!(document["token_endpoint"], format!("{issuer}/protocol/openid-connect/token"));
    assert_eq!(document["subject_types_supported"], json!(["public"]));
    let keys = running.get(document["jwks_uri"].as_str().unwrap()).await.json();
    assert_eq!(keys, running.issuer.jwks());
    let metadata = format!(
        "http://{}/.well-known/oauth-authorization-server/auth/realms/opentdf",
        running.address
    );
    assert_eq!(running.get(&metadata).await.json(), document);
    let authorization = running.get(document["authorization_endpoint"].as_str().unwrap()).await;
    assert_eq!(authorization.error(), (400, "unsupported_response_type".to_owned()));
    for nowhere in ["/", "/auth/realms/other/.well-known/openid-configuration"] {
        let answer = running.get(&format!("http://{}{nowhere}", running.address)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{nowhere}");
    }
}

#[tokio::test]
async fn the_key_set_is_public_and_has_a_key_per_algorithm() {
    let running = Running::start().await;
    let keys = running.issuer.jwks();
    let of = |alg: &str| {
        let keys = keys["keys"].as_array().unwrap();
        keys.iter().find(|key| key["alg"] == alg).unwrap().as_object().unwrap().clone()
    };
    let names = |key: &Map<String, Value>| key.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&of("RS256")), "alg e kid kty n use");
    assert_eq!(names(&of("ES256")), "alg crv kid kty use x y");
    assert_ne!(of("RS256")["kid"], of("ES256")["kid"]);
}

#[tokio::test]
async fn a_token_says_who_asked() {
    let running = Running::with(|settings| {
        settings.audience = vec!["one".to_owned(), "two".to_owned()];
        settings.lifetime = Duration::from_secs(90);
    })
    .await;
    let roles = json!({ "roles": ["opentdf-admin"] });
    let claims = json!({
        "realm_access": roles, "preferred_username": "alice",
        "iss": "mine", "exp": 1, "azp": "mine", "client_id": "mine", "cnf": { "jkt": "mine" },
    });
    running.issuer.add_client(client("admin", "secret", claims)).unwrap();
    let before = now();
    let answer = running.ask(&[], &post("admin", "secret")).await;
    assert_eq!(answer.json()["token_type"], "Bearer");
    assert_eq!(answer.json()["expires_in"], 90);
    let (header, claims) = running.verified(&answer.token()).await;
    assert_eq!((&header["alg"], &header["typ"]), (&json!("RS256"), &json!("at+jwt")));
    let issued = claims["iat"].as_u64().unwrap();
    assert!((before..=now()).contains(&issued));
    let mut rest = claims.clone();
    let jti = rest.as_object_mut().unwrap().remove("jti").unwrap();
    assert_eq!(jti.as_str().unwrap().len(), 36);
    assert_eq!(
        rest,
        json!({
            "iss": running.issuer.url(), "aud": ["one", "two"], "sub": "admin",
            "azp": "admin", "client_id": "admin", "iat": issued, "exp": issued + 90,
            "preferred_username": "alice", "realm_access": roles,
        })
    );
    let again = running.ask(&[], &post("admin", "secret")).await.token();
    assert_ne!(running.verified(&again).await.1["jti"], jti);
    let other = running.ask(&[], &post("opentdf", SECRET)).await.token();
    let (_, other) = running.verified(&other).await;
    assert_eq!(other["preferred_username"], "service-account-opentdf");
    assert_eq!(other["realm_access"], Value::Null, "claims of another client");
}

#[tokio::test]
async fn algorithm_and_type_can_be_chosen() {
    let running = Running::with(|settings| {
        settings.algorithm = SigningAlgorithm::Es256;
        settings.token_type = TokenType::Jwt;
    })
    .await;
    let token = running.ask(&[], &post("opentdf", SECRET)).await.token();
    let (header, _) = running.verified(&token).await;
    assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
}

#[tokio::test]
async fn clients_authenticate_in_either_way() {
    let running = Running::start().await;
    for (name, header, body) in [
        ("basic", Some(basic("opentdf", &encoded(SECRET))), GRANT.to_owned()),
        ("basic as it is", Some(basic("opentdf", SECRET)), GRANT.to_owned()),
        ("other case", Some(basic("opentdf", SECRET).replace("Basic", "bASIC")), GRANT.to_owned()),
        ("basic and id", Some(basic("opentdf", SECRET)), format!("{GRANT}&client_id=opentdf")),
        ("post", None, post("opentdf", SECRET)),
        ("scope", None, post("opentdf", SECRET) + "&scope=openid%20profile+email"),
    ] {
        let header = header.as_deref().map(|value| ("authorization", value));
        let answer = running.ask(header.as_slice(), &body).await;
        let (_, claims) = running.verified(&answer.token()).await;
        assert_eq!(claims["sub"], "opentdf", "{name}");
    }
}

#[tokio::test]
async fn nobody_else_gets_a_token() {
    let running = Running::start().await;
    running.issuer.add_client(client("other", "other-secret", json!({}))).unwrap();
    for (name, header, body) in [
        ("nobody", None, GRANT.to_owned()),
        ("no secret", None, format!("{GRANT}&client_id=opentdf")),
        ("empty secret", None, post("opentdf", "")),
        ("wrong secret", None, post("opentdf", "S%41+&=:é")),
        ("decoded twice", None, post("opentdf", "sA &=:é")),
        ("prefix", None, post("opentdf", "s%41+&=:")),
        ("longer", None, post("opentdf", "s%41+&=:é!")),
        ("another's", None, post("opentdf", "other-secret")),
        ("unknown", None, post("nobody", SECRET)),
        ("unknown without secret", None, post("nobody", "")),
        ("wrong in the header", Some(basic("opentdf", "wrong")), GRANT.to_owned()),
        ("half a header", Some("Basic".to_owned()), GRANT.to_owned()),
        ("not base64", Some("Basic ***".to_owned()), GRANT.to_owned()),
        ("no colon", Some(format!("Basic {}", STANDARD.encode("opentdf"))), GRANT.to_owned()),
        ("another scheme", Some("Bearer x".to_owned()), GRANT.to_owned()),
        (
            "another scheme beside a good body",
            Some("Bearer x".to_owned()),
            format!("{GRANT}&client_id=opentdf"),
        ),
    ] {
        let header = header.as_deref().map(|value| ("authorization", value));
        let answer = running.ask(header.as_slice(), &body).await;
        assert_eq!(answer.error(), (401, "invalid_client".to_owned()), "{name}");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Basic "));
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret-"), "{name}");
    }
}

#[tokio::test]
async fn a_replaced_client_has_another_secret() {
    let running = Running::start().await;
    running.issuer.add_client(client("opentdf", "new", json!({}))).unwrap();
    assert_eq!(running.ask(&[], &post("opentdf", SECRET)).await.status, StatusCode::UNAUTHORIZED);
    running.ask(&[], &post("opentdf", "new")).await.token();
    for (id, secret) in [("", "x"), ("x", "")] {
        let refused = running.issuer.add_client(client(id, secret, json!({})));
        assert_eq!(refused, Err(IssuerError::Client));
    }
}

#[tokio::test]
async fn bad_forms_are_refused() {
    let running = Running::start().await;
    let good = post("opentdf", SECRET);
    let header = basic("opentdf", SECRET);
    for (name, headers, body, error) in [
        ("no grant", vec![], good.replace(GRANT, ""), "invalid_request"),
        (
            "another grant",
            vec![],
            good.replace(GRANT, "grant_type=password"),
            "unsupported_grant_type",
        ),
        ("a grant twice", vec![], format!("{good}&{GRANT}"), "invalid_request"),
        ("an id twice", vec![], format!("{good}&client_id=opentdf"), "invalid_request"),
        ("two ways", vec![("authorization", header.as_str())], good.clone(), "invalid_request"),
        (
            "two ids",
            vec![("authorization", header.as_str())],
            format!("{GRANT}&client_id=other"),
            "invalid_request",
        ),
        ("two types", vec![("content-type", "text/plain")], good.clone(), "invalid_request"),
    ] {
        let answer = running.ask(&headers, &body).await;
        assert_eq!(answer.error(), (400, error.to_owned()), "{name}");
    }
    for kind in [None, Some("application/json"), Some("application/x-www-form-urlencoded-not")] {
        let mut request = Request::post(running.issuer.token_url());
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = running.send(request.body(Full::from(good.clone())).unwrap()).await;
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{kind:?}");
    }
    let request = Request::post(running.issuer.token_url())
        .header("content-type", "Application/X-WWW-Form-URLencoded; charset=UTF-8");
    running.send(request.body(Full::from(good)).unwrap()).await.token();
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let running = Running::start().await;
    let good = post("opentdf", SECRET) + "&padding=";
    for (len, status) in
        [(64 * 1024, StatusCode::OK), (64 * 1024 + 1, StatusCode::PAYLOAD_TOO_LARGE)]
    {
        // Not over a connection, which may break before all of the body is sent.
        let request = Request::post(running.issuer.token_url())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::<Bytes>::from(good.clone() + "x".repeat(len - good.len()).as_str()));
        let answer = running.issuer.answer(request.unwrap()).await;
        assert_eq!(answer.status(), status, "{len} bytes");
    }
}

#[tokio::test]
async fn heads_have_limits() {
    let running = Running::start().await;
    let path = "/auth/realms/opentdf/protocol/openid-connect/certs";
    for (name, headers) in
        [("long", format!("x: {}\r\n", "x".repeat(20_000))), ("many", "x: x\r\n".repeat(65))]
    {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        // Either may fail when the issuer hangs up first.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{name}: {answer}");
    }
    assert_eq!(running.get(running.issuer.jwks_url()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn pages_of_any_origin_may_ask() {
    let running = Running::start().await;
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri(running.issuer.token_url())
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "dpop,content-type");
    let answer = running.send(preflight.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST");
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap();
    assert_eq!(allowed, "authorization, content-type, dpop");
    let refused = running.ask(&[], GRANT).await;
    assert_eq!(refused.headers["access-control-allow-origin"], "*", "so that a page can read it");
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let running = Running::start().await;
    for (method, url, allowed) in [
        (Method::GET, running.issuer.token_url(), "POST"),
        (Method::PUT, running.issuer.token_url(), "POST"),
        (Method::POST, running.issuer.jwks_url(), "GET, HEAD"),
    ] {
        let request = Request::builder().method(method.clone()).uri(url);
        let answer = running.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {url}");
        assert_eq!(answer.headers["allow"], allowed);
    }
}

/// A key of a client.
struct Holder {
    key: EncodingKey,
    alg: Jose,
    jwk: Value,
    /// Text whose digest is the thumbprint (RFC 7638, section 3).
    canonical: String,
}

impl Holder {
    fn ec(curve: Curve, alg: Jose) -> Self {
        let (parts, jwk) = Self::parts(Algorithm::Ec(curve));
        let canonical =
            format!(r#"{{"crv":{},"kty":"EC","x":{},"y":{}}}"#, jwk["crv"], jwk["x"], jwk["y"]);
        let pem = parts.to_pem().unwrap();
        Self { key: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(), alg, jwk, canonical }
    }

    fn rsa(alg: Jose) -> Self {
        let (parts, jwk) = Self::parts(Algorithm::Rsa2048);
        let canonical = format!(r#"{{"e":{},"kty":"RSA","n":{}}}"#, jwk["e"], jwk["n"]);
        let pem = parts.to_pem().unwrap();
        Self { key: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), alg, jwk, canonical }
    }

    fn parts(algorithm: Algorithm) -> (PrivateKeyParts, Value) {
        let parts = PrivateKeyParts::generate(algorithm).unwrap();
        let jwk = serde_json::from_str(&parts.public_key().to_jwk()).unwrap();
        (parts, jwk)
    }

    fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.canonical))
    }

    /// A proof for the token endpoint, with `changes` to its header and claims; null removes.
    fn proof(&self, running: &Running, header: Value, claims: Value) -> String {
        let mut head = json!({ "typ": "dpop+jwt", "alg": self.alg, "jwk": self.jwk });
        let mut body = json!({
            "htm": "POST", "htu": running.issuer.token_url(), "iat": now(),
            "jti": uuid::Uuid::new_v4().to_string(),
        });
        merge(&mut head, header);
        merge(&mut body, claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&body));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, self.alg).unwrap();
        format!("{signed}.{signature}")
    }
}

fn merge(into: &mut Value, changes: Value) {
    let (Value::Object(into), Value::Object(changes)) = (into, changes) else {
        panic!("both are objects")
    };
    into.extend(changes);
    into.retain(|_, value| !value.is_null());
}

#[tokio::test]
async fn a_proof_binds_the_token_to_its_key() {
    let running = Running::start().await;
    for holder in [
        Holder::ec(Curve::P256, Jose::ES256),
        Holder::ec(Curve::P384, Jose::ES384),
        Holder::rsa(Jose::RS256),
        Holder::rsa(Jose::PS256),
    ] {
        let answer = running.prove(&[&holder.proof(&running, json!({}), json!({}))]).await;
        let (_, claims) = running.verified(&answer.token()).await;
        assert_eq!(answer.json()["token_type"], "DPoP");
        assert_eq!(claims["cnf"], json!({ "jkt": holder.thumbprint() }), "{:?}", holder.alg);
    }
}

#[tokio::test]
async fn proofs_of_real_clients_hold() {
    let running = Running::start().await;
    let holder = Holder::ec(Curve::P256, Jose::ES256);
    let url = running.issuer.token_url();
    for claims in [
        json!({ "exp": now() + 30 }),
        json!({ "iat": now() - 40 }),
        json!({ "iat": now() + 40 }),
        json!({ "htu": format!("{url}?a=b#c") }),
        json!({ "htu": url.replace("http:", "HTTP:") }),
        json!({ "nonce": "unasked", "ath": "unasked" }),
    ] {
        let proof = holder.proof(&running, json!({}), claims.clone());
        let answer = running.prove(&[&proof]).await;
        assert_eq!(answer.status, StatusCode::OK, "{claims}");
    }
}

#[tokio::test]
async fn a_bad_proof_gets_no_token() {
    let running = Running::start().await;
    let holder = Holder::ec(Curve::P256, Jose::ES256);
    let other = Holder::ec(Curve::P256, Jose::ES256);
    let url = running.issuer.token_url();
    let mut private = holder.jwk.clone();
    private["d"] = "AAAA".into();
    let none = json!({});
    for (name, header, claims) in [
        ("typ", json!({ "typ": "JWT" }), none.clone()),
        ("no typ", json!({ "typ": null }), none.clone()),
        ("alg of another type", json!({ "alg": "RS256" }), none.clone()),
        ("alg none", json!({ "alg": "none" }), none.clone()),
        (
            "symmetric",
            json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AAAA" } }),
            none.clone(),
        ),
        ("critical", json!({ "crit": ["x"], "x": 1 }), none.clone()),
        ("no jwk", json!({ "jwk": null }), none.clone()),
        ("jwk is no object", json!({ "jwk": "x" }), none.clone()),
        ("private jwk", json!({ "jwk": private }), none.clone()),
        ("jwk of another", json!({ "jwk": other.jwk }), none.clone()),
        ("htm", none.clone(), json!({ "htm": "GET" })),
        ("htm in lower case", none.clone(), json!({ "htm": "post" })),
        ("no htm", none.clone(), json!({ "htm": null })),
        ("htu", none.clone(), json!({ "htu": running.issuer.jwks_url() })),
        ("htu of another path", none.clone(), json!({ "htu": format!("{url}/x") })),
        ("path in another case", none.clone(), json!({ "htu": url.replace("auth", "Auth") })),
        (
            "only a path",
            none.clone(),
            json!({ "htu": url.replace(&format!("http://{}", running.address), "") }),
        ),
        ("another host", none.clone(), json!({ "htu": url.replace("127.0.0.1", "127.0.0.2") })),
        ("htu beyond ASCII", none.clone(), json!({ "htu": "é".repeat(40) })),
        ("no htu", none.clone(), json!({ "htu": null })),
        ("old", none.clone(), json!({ "iat": now() - 70 })),
        ("from the future", none.clone(), json!({ "iat": now() + 600 })),
        ("iat in text", none.clone(), json!({ "iat": now().to_string() })),
        ("no iat", none.clone(), json!({ "iat": null })),
        ("expired", none.clone(), json!({ "exp": now() - 1 })),
        ("exp in text", none.clone(), json!({ "exp": "never" })),
        ("jti", none.clone(), json!({ "jti": 7 })),
        ("empty jti", none.clone(), json!({ "jti": "" })),
        ("no jti", none.clone(), json!({ "jti": null })),
    ] {
        let answer = running.prove(&[&holder.proof(&running, header, claims)]).await;
        assert_eq!(answer.error(), (400, "invalid_dpop_proof".to_owned()), "{name}");
    }
    let good = || holder.proof(&running, json!({}), json!({}));
    let cut = good();
    for (name, proofs) in [
        ("no proof", vec!["x".to_owned()]),
        ("empty", vec![String::new()]),
        ("cut", vec![cut[..cut.len() - 4].to_owned()]),
        ("two", vec![good(), good()]),
    ] {
        let proofs: Vec<_> = proofs.iter().map(String::as_str).collect();
        let answer = running.prove(&proofs).await;
        assert_eq!(answer.error(), (400, "invalid_dpop_proof".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_proof_is_good_once() {
    let running = Running::start().await;
    let holder = Holder::ec(Curve::P256, Jose::ES256);
    let proof = holder.proof(&running, json!({}), json!({ "jti": "one" }));
    // Who is not a client spends nobody's proof.
    let stranger = running.ask(&[("dpop", &proof)], &post("nobody", "x")).await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
    running.prove(&[&proof]).await.token();
    let same_jti = holder.proof(&running, json!({}), json!({ "jti": "one", "iat": now() - 10 }));
    for (name, again) in [("replayed", &proof), ("same jti", &same_jti), ("again", &proof)] {
        let answer = running.prove(&[again]).await;
        assert_eq!(answer.error(), (400, "invalid_dpop_proof".to_owned()), "{name}");
    }
    running.prove(&[&holder.proof(&running, json!({}), json!({ "jti": "two" }))]).await.token();
}

#[tokio::test]
async fn a_rotation_keeps_one_generation() {
    let running = Running::start().await;
    let token = || async { running.ask(&[], &post("opentdf", SECRET)).await.token() };
    let kid = |header: &Value| header["kid"].as_str().unwrap().to_owned();
    let first = token().await;
    running.issuer.rotate(SigningKeys::generate().unwrap());
    let second = token().await;
    let (old, new) = (running.verified(&first).await.0, running.verified(&second).await.0);
    assert_ne!(kid(&old), kid(&new));
    assert_eq!(running.issuer.jwks()["keys"].as_array().unwrap().len(), 4);
    running.issuer.rotate(SigningKeys::generate().unwrap());
    running.verified(&second).await;
    let keys = running.issuer.jwks();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    assert!(keys.iter().all(|key| key["kid"] != kid(&old)), "the first generation is gone");
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let keys = SigningKeys::generate().unwrap();
    let pem = keys.to_pem();
    let text = pem.expose_secret();
    assert_eq!(text.matches("-----BEGIN PRIVATE KEY-----").count(), 2);
    let first = Running::with(|settings| settings.keys = keys).await;
    let again = SigningKeys::from_pem(&pem).unwrap();
    let second = Running::with(|settings| settings.keys = again).await;
    assert_eq!(first.issuer.jwks(), second.issuer.jwks());
    let token = second.ask(&[], &post("opentdf", SECRET)).await.token();
    first.verified(&token).await;
    let (rsa, ec) = text.split_at(text.rfind("-----BEGIN").unwrap());
    let swapped = SigningKeys::from_pem(&format!("{ec}{rsa}").into()).unwrap();
    let third = Running::with(|settings| settings.keys = swapped).await;
    assert_eq!(first.issuer.jwks(), third.issuer.jwks());
    for (name, text) in [
        ("empty", String::new()),
        ("one", rsa.to_owned()),
        ("the same twice", format!("{rsa}{rsa}")),
        ("three", format!("{rsa}{ec}{rsa}")),
        ("cut", text[..text.len() - 40].to_owned()),
        ("public", text.replace("PRIVATE", "PUBLIC")),
        ("another curve", {
            let other = PrivateKeyParts::generate(Algorithm::Ec(Curve::P384)).unwrap();
            format!("{rsa}{}", *other.to_pem().unwrap())
        }),
    ] {
        let refused = SigningKeys::from_pem(&SecretString::from(text)).err();
        assert_eq!(refused, Some(KeysError::Form), "{name}");
    }
}

#[tokio::test]
async fn it_stays_on_its_machine() {
    for address in ["0.0.0.0:8888", "192.0.2.1:8888", "[::]:8888"] {
        let address: SocketAddr = address.parse().unwrap();
        let settings = Settings::new(address, Vec::new(), SigningKeys::generate().unwrap());
        assert_eq!(Issuer::new(settings).err(), Some(IssuerError::NotLoopback(address)));
    }
    let settings = |address: &str| {
        Settings::new(address.parse().unwrap(), Vec::new(), SigningKeys::generate().unwrap())
    };
    let issuer = Arc::new(Issuer::new(settings("127.0.0.1:1")).unwrap());
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = issuer.serve(everywhere, std::future::pending()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    let six = Issuer::new(settings("[::1]:8888")).unwrap();
    assert_eq!(six.url(), "http://[::1]:8888/auth/realms/opentdf");
}

#[tokio::test]
async fn it_stops_when_told() {
    let running = Running::start().await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    running.get(running.issuer.jwks_url()).await;
    running.stop.send(()).unwrap();
    running.task.await.unwrap().unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0, "connections are closed");
    TcpStream::connect(running.address).await.expect_err("nobody listens");
}
