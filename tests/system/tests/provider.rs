//! Access tokens of an `OpenID` provider that shares no code with this repository, npm's
//! oidc-provider: see `tests/oidc-provider`.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use kasbah_pkcs11::provision;
use kasbah_proto::policy::kasregistry::ListKeyAccessServersRequest;
use kasbah_system_tests::{
    admin::Admin,
    issuer::AUDIENCE,
    oidc::{Asker, Holder, Secret, TokenClient, challenge, read},
    server::{Server, Setup},
    token,
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use kasbah_trust::Algorithm;
use serde_json::{Value, json};
use tonic::{Code, Status};

const KID: &str = "r1";
const SECRET: &str = "correcthorsebatterystaple";
const BOTH: [Secret; 2] = [Secret::Basic, Secret::Form];

/// A running provider; ends when this is dropped.
struct Provider {
    child: Child,
    issuer: String,
    endpoint: String,
}

impl Provider {
    /// A provider with these clients, whose secret is [`SECRET`]: id, claims of their tokens.
    fn start(clients: &[(&str, Value)], require_nonce: bool) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut child = Command::new(root.join("target/oidc-provider/node"))
            .arg(root.join("tests/oidc-provider/provider.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("the provider does not start: {error}; run tests/oidc-provider/setup.sh")
            });
        let client = |(id, claims): &(&str, Value)| json!({ "id": id, "secret": SECRET, "claims": claims, "dpop": id.starts_with("bound") });
        let clients: Vec<_> = clients.iter().map(client).collect();
        let settings =
            json!({ "audience": AUDIENCE, "clients": clients, "require_nonce": require_nonce });
        writeln!(child.stdin.as_ref().unwrap(), "{settings}").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("the provider says {line:?}: {error}; run tests/oidc-provider/setup.sh")
        });
        let text = |name: &str| told[name].as_str().expect("it tells where it is").to_owned();
        Self { issuer: text("issuer"), endpoint: text("token_endpoint"), child }
    }

    fn client(&self, id: &str) -> TokenClient {
        let (id, secret) = (id.to_owned(), SECRET.to_owned());
        TokenClient { endpoint: self.endpoint.clone(), id, secret }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that takes tokens of a provider, with a key in a token.
struct Served {
    server: Server,
    asker: Asker,
    provider: Provider,
    _token: TestToken,
}

impl Served {
    /// `more` is added to `auth`.
    fn start(provider: Provider, more: &Value) -> Self {
        let fixture = SoftHsm::fresh();
        let pem = {
            let token = token::open(&fixture);
            let key = provision::generate(&token, KID, Algorithm::Rsa2048).unwrap();
            key.public_key.unwrap().to_pem()
        };
        let mut setup = Setup::new();
        setup.hsm("softhsm", &fixture, "require-sealed");
        setup.key(json!({
            "kid": KID, "algorithm": "rsa:2048", "provider": "softhsm",
            "key": format!("pkcs11:object={KID}"),
        }));
        setup.config["auth"] =
            json!({ "mode": "oidc", "issuer": provider.issuer, "audience": AUDIENCE });
        let auth = setup.config["auth"].as_object_mut().unwrap();
        auth.extend(more.as_object().unwrap().clone());
        let server = setup.serve();
        let asker = Asker::at(server.url(), KID, &pem);
        Self { server, asker, provider, _token: fixture }
    }

    /// What the last audit event says that the caller proved.
    fn last_proof(&self) -> Value {
        self.server.audit().last().unwrap()["eventMetaData"]["kasbah"]["proof"].clone()
    }
}

fn assert_refused(answer: Result<(), Status>, what: &str) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tokens_open_keys() {
    let provider = Provider::start(&[("plain", json!({}))], false);
    let served = Served::start(provider, &json!({}));
    let client = served.provider.client("plain");
    for secret in BOTH {
        let token = client.token(secret, None).await;
        let (header, claims) = read(&token);
        assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("RS256")));
        assert_eq!((&claims["aud"], &claims["azp"]), (&json!(AUDIENCE), &json!("plain")));
        assert_eq!(claims["iss"], served.provider.issuer);
        assert_eq!(claims["cnf"], Value::Null);
        served.asker.bearer(&token).await.unwrap();
        assert_eq!(served.last_proof(), "bearer");
        // The signature, the header and the claims all count.
        let parts: Vec<_> = token.split('.').collect();
        let other = client.token(secret, None).await;
        let other: Vec<_> = other.split('.').collect();
        assert_ne!(parts[1], other[1], "each token is another");
        let mixed = [parts[0], other[1], parts[2]].join(".");
        assert_refused(served.asker.bearer(&mixed).await, "another token's claims");
        assert_refused(served.asker.bearer(&token[..token.len() - 6]).await, "cut off");
    }
    let events = served.server.audit();
    assert_eq!(events.len(), 2, "only calls that were let in are in the audit log");
    assert_eq!(events[0]["actor"]["id"], "plain");
    for secret in BOTH {
        let wrong = TokenClient { secret: "wrong".to_owned(), ..served.provider.client("plain") };
        let answer = wrong.ask(secret, None).await;
        assert_eq!((answer.status, &answer.body["error"]), (401, &json!("invalid_client")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_bound_tokens_open_keys_for_their_holder_alone() {
    only_for_their_holder(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_want_a_nonce_for_a_bound_token() {
    only_for_their_holder(true).await;
}

async fn only_for_their_holder(require_nonce: bool) {
    let provider = Provider::start(&[("bound", json!({})), ("any", json!({}))], require_nonce);
    let served = Served::start(provider, &json!({}));
    let asker = &served.asker;
    for (secret, holder, id) in [
        (Secret::Basic, Holder::ec(), "bound"),
        (Secret::Form, Holder::rsa(), "bound"),
        (Secret::Form, Holder::ec(), "any"),
        (Secret::Basic, Holder::rsa(), "any"),
    ] {
        let client = served.provider.client(id);
        let proof = holder.proof(&holder.claims(&client.endpoint));
        let challenged = client.ask(secret, Some(&proof)).await;
        if require_nonce {
            assert_eq!(
                (challenged.status, &challenged.body["error"]),
                (400, &json!("use_dpop_nonce"))
            );
            assert!(challenged.nonce.is_some(), "{}", challenged.body);
        } else {
            assert_eq!(challenged.body["token_type"], "DPoP");
        }
        let token = client.token(secret, Some(&holder)).await;
        let (header, claims) = read(&token);
        assert_eq!(header["typ"], "at+jwt");
        assert_eq!(claims["cnf"]["jkt"], holder.thumbprint(), "{}", holder.algorithm());

        asker.proven(&token, &holder).await.unwrap();
        assert_eq!(served.last_proof(), "dpop");
        let proof = holder.rewrap_proof(&token);
        asker.with_proof(&token, &proof, &holder).await.unwrap();
        let again = asker.with_proof(&token, &proof, &holder).await;
        assert_eq!(
            challenge(again.as_ref().unwrap_err()).0,
            Some("DPoP error=\"invalid_dpop_proof\"")
        );
        assert_refused(again.map(drop), "a proof that was used");
        assert_refused(asker.bearer(&token).await, "no proof");
        let thief = Holder::ec();
        assert_refused(asker.proven(&token, &thief).await, "another key");
        let proof = holder.rewrap_proof(&token);
        let swapped = asker.with_proof(&token, &proof, &thief).await.map(drop);
        assert_refused(swapped, "a request that somebody else signed");
        let other = client.token(secret, Some(&holder)).await;
        let proof = holder.rewrap_proof(&other);
        let other = asker.with_proof(&token, &proof, &holder).await.map(drop);
        assert_refused(other, "a proof for another token");
    }
    // A client that is to have bound tokens gets no others.
    let answer = served.provider.client("bound").ask(Secret::Basic, None).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_want_a_proof_of_everybody() {
    let provider = Provider::start(&[("any", json!({}))], false);
    let more = json!({ "min_proof": "dpop", "dpop": { "require_nonce": true } });
    let served = Served::start(provider, &more);
    let client = served.provider.client("any");
    let plain = client.token(Secret::Basic, None).await;
    assert_refused(served.asker.bearer(&plain).await, "a token that is bound to nothing");
    // A proof does not make it one that is bound.
    let holder = Holder::ec();
    assert_refused(served.asker.proven(&plain, &holder).await, "a proof of just any key");

    let token = client.token(Secret::Basic, Some(&holder)).await;
    let status = served.asker.proven(&token, &holder).await.unwrap_err();
    let (asked, nonce) = challenge(&status);
    assert_eq!(asked, Some("DPoP error=\"use_dpop_nonce\""));
    let mut claims = holder.rewrap_claims(&token);
    claims["nonce"] = nonce.unwrap().into();
    let proof = holder.proof(&claims);
    let next = served.asker.with_proof(&token, &proof, &holder).await.unwrap();
    assert!(next.is_some(), "the next nonce comes with the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_roles_decide_who_administers() {
    let roles = |roles: &[&str]| json!({ "realm_access": { "roles": roles } });
    let provider = Provider::start(
        &[
            ("admin", roles(&["opentdf-admin"])),
            ("standard", roles(&["opentdf-standard"])),
            ("nobody", json!({})),
            ("liar", json!({ "groups": ["opentdf-admin"], "role": "opentdf-admin" })),
            ("pretender", roles(&["role:admin"])),
        ],
        false,
    );
    let mut setup = Setup::new();
    setup.registry("sqlite:registry.db");
    setup.config["auth"] =
        json!({ "mode": "oidc", "issuer": provider.issuer, "audience": AUDIENCE });
    let server = setup.serve();
    for (id, writes) in [
        ("admin", true),
        ("standard", false),
        ("nobody", false),
        ("liar", false),
        ("pretender", false),
    ] {
        let token = provider.client(id).token(Secret::Form, None).await;
        let admin = Admin::new(server.url(), &token, AUDIENCE);
        let made = admin.create_provider(id, "opentdf.io/basic", "{}").await;
        let read = ListKeyAccessServersRequest::default();
        admin.registry().list_key_access_servers(admin.request(read)).await.unwrap();
        if writes {
            made.unwrap();
        } else {
            let status = made.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{id}: {status}");
        }
    }
    // A bound token counts for nothing without its proof, an administrator's too.
    let token = provider.client("admin").token(Secret::Form, Some(&Holder::ec())).await;
    let admin = Admin::new(server.url(), &token, AUDIENCE);
    let made = admin.create_provider("other", "opentdf.io/basic", "{}").await;
    assert_eq!(made.unwrap_err().code(), Code::Unauthenticated);
}
