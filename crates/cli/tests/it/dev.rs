//! `kasbah dev`, and `kasbah smoke` against it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use kasbah_proto::policy::kasregistry::{
    ListKeysRequest,
    key_access_server_registry_service_client::KeyAccessServerRegistryServiceClient,
};
use kasbah_testkit::proofs::ProofSigner;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use crate::common::{Ended, Kasbah, Scratch, Server};

const ALGORITHMS: [&str; 5] =
    ["rsa:2048", "rsa:4096", "ec:secp256r1", "ec:secp384r1", "ec:secp521r1"];

fn smoke<const N: usize>(url: &str, token: &str, arguments: [&str; N]) -> Ended {
    Kasbah::new(["smoke", url, "--token-env", "KASBAH_TEST_TOKEN", "--output", "json"])
        .args(&arguments)
        .env("KASBAH_TEST_TOKEN", token)
        .run()
}

#[test]
fn it_tells_what_it_made_and_leaves_it_behind() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let keys: Vec<_> = ready["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let text = |name: &str| key[name].as_str().unwrap().to_owned();
            assert!(text("public_key").starts_with("-----BEGIN PUBLIC KEY-----\n"));
            [text("kid"), text("algorithm"), text("manager"), text("custody")].join(" ")
        })
        .collect();
    assert_eq!(
        keys,
        [
            "r1 rsa:2048 opentdf.io/hsm sealed",
            "e1 ec:secp256r1 opentdf.io/hsm transient",
            "b1 rsa:2048 opentdf.io/basic transient",
        ]
    );
    let dir = scratch.path().join("dev");
    assert_eq!(ready["config"], dir.join("config.yaml").to_str().unwrap());
    assert_eq!(ready["access_token"], fs::read_to_string(dir.join("access-token")).unwrap());
    for name in ["pin", "so-pin", "root", "access-token", "credentials.json"] {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(server.stop(), 0);

    let check = Kasbah::new(["config", "check", "--config"]).arg(dir.join("config.yaml")).run();
    assert_eq!((check.code, check.stdout.trim()), (0, "the configuration is fine"));
    let server = Server::serve(&scratch, &dir.join("config.yaml"));
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    assert_eq!(smoke(url, token, []).json()["custody"], "sealed");
    assert_eq!(server.stop(), 0);
}

#[test]
fn every_kind_of_key_and_of_client_works() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    for (algorithm, kid, custody) in
        [("rsa:2048", "r1", "sealed"), ("ec:secp256r1", "e1", "transient")]
    {
        for client in ALGORITHMS {
            let ended =
                smoke(url, token, ["--algorithm", algorithm, "--client", client, "--count", "3"]);
            assert_eq!(ended.code, 0, "{algorithm} for {client}: {}", ended.stderr);
            let report = ended.json();
            assert_eq!((&report["ok"], &report["count"]), (&true.into(), &3.into()));
            assert_eq!(report["kid"], kid);
            // SoftHSM cannot wrap for an EC client inside.
            let expected = if client.starts_with("ec") { "transient" } else { custody };
            assert_eq!(report["custody"], expected, "{algorithm} for {client}");
            assert!(report["latency_us"]["p50"].as_u64().unwrap() > 0);
        }
    }
    let audit = server.log();
    assert_eq!(audit.matches("\"level\":\"AUDIT\"").count(), 30, "one event for each");
    assert!(!audit.contains(token), "tokens are not logged");
    let pin = fs::read_to_string(scratch.path().join("dev/pin")).unwrap();
    assert!(!audit.contains(&pin), "PINs are not logged");
}

#[test]
fn what_is_refused_exits_with_1() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    let ended = smoke(url, token, ["--algorithm", "ec:secp384r1"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("no public key for ec:secp384r1"), "{}", ended.stderr);
    let forged = format!("{}x", &token[..token.len() - 8]);
    for forged in [&forged, "e30.e30.e30"] {
        let ended = smoke(url, forged, []);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("Unauthenticated"), "{}", ended.stderr);
    }
    let ended = Kasbah::new(["smoke", url]).run();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("--token-file"), "{}", ended.stderr);
}

#[test]
fn a_key_that_is_not_handed_out_can_be_asked_about() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    assert_eq!(smoke(url, token, ["--kid", "r1"]).code, 0);
    let other = smoke(url, token, ["--kid", "b1"]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    assert!(other.stderr.contains("the server hands out r1 for rsa:2048, not b1"));

    let file = scratch.path().join("dev/b1.pem");
    let file = file.to_str().unwrap();
    let given = smoke(url, token, ["--kid", "b1", "--public-key-file", file]);
    assert_eq!(given.code, 0, "{}", given.stderr);
    assert_eq!(
        (&given.json()["kid"], &given.json()["custody"]),
        (&"b1".into(), &"transient".into())
    );
    let wrong = smoke(url, token, ["--kid", "r1", "--public-key-file", file]);
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    let no_key = scratch.write("no.pem", "nothing");
    let no_key = smoke(url, token, ["--kid", "r1", "--public-key-file", no_key.to_str().unwrap()]);
    assert_eq!(no_key.code, 2, "{}", no_key.stderr);
}

#[test]
fn its_log_can_be_json() {
    let scratch = Scratch::new();
    let server = Server::dev_with(&scratch, &["--log-format", "json"]);
    let log = server.log();
    let kids: Vec<_> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line))
        .filter(|line| line["message"] == "key is ready")
        .map(|line| line["kid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kids.len(), 3, "{log}");
}

/// The issuer of a throw-away server, as a client of it sees it.
struct Issuer {
    url: String,
    id: String,
    secret: String,
}

impl Issuer {
    fn of(ready: &Value) -> Self {
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { url: text("issuer"), id: text("client_id"), secret: text("client_secret") }
    }

    fn discovery(&self) -> Value {
        let (status, document) =
            http("GET", &format!("{}/.well-known/openid-configuration", self.url), &[], "");
        assert_eq!(status, 200, "{document}");
        document
    }

    fn endpoint(&self) -> String {
        self.discovery()["token_endpoint"].as_str().unwrap().to_owned()
    }

    /// Asks for a token with the secret in the header.
    fn by_basic(&self, secret: &str, proof: Option<&str>) -> (u16, Value) {
        let pair = BASE64_STANDARD.encode(format!("{}:{secret}", self.id));
        let authorization = format!("Basic {pair}");
        let mut headers = vec![("Authorization", authorization.as_str())];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        http("POST", &self.endpoint(), &headers, "grant_type=client_credentials")
    }

    /// Asks for a token with the secret in the form.
    fn by_form(&self, secret: &str) -> (u16, Value) {
        let id = &self.id;
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        http("POST", &self.endpoint(), &[], &form)
    }
}

/// Status and JSON of an answer over plain HTTP/1.0.
fn http(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let fields: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let request = format!(
        "{method} /{path} HTTP/1.0\r\nHost: {host}\r\n{fields}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len(),
    );
    let mut connection = TcpStream::connect(host).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

fn token_of((status, answer): &(u16, Value)) -> String {
    assert_eq!(*status, 200, "{answer}");
    answer["access_token"].as_str().unwrap().to_owned()
}

fn claims_of(token: &str) -> Value {
    let part = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&part).unwrap()
}

/// The kids that an administrator with this token sees.
fn keys_list(url: &str, token: &str) -> Result<Vec<String>, String> {
    let scratch = Scratch::new();
    let file = scratch.write("token", token);
    let ended = Kasbah::new(["keys", "list", "--url", url, "--output", "json", "--token-file"])
        .arg(file)
        .run();
    if ended.code != 0 {
        return Err(ended.stderr);
    }
    let keys = ended.json();
    let kids = keys["keys"].as_array().unwrap().iter();
    let mut kids: Vec<_> =
        kids.map(|key| key["kasKey"]["key"]["keyId"].as_str().unwrap().to_owned()).collect();
    kids.sort_unstable();
    Ok(kids)
}

#[test]
fn its_issuer_gives_tokens_to_its_client() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let issuer = Issuer::of(&ready);
    let url = ready["url"].as_str().unwrap();
    let document = issuer.discovery();
    assert_eq!(document["issuer"], issuer.url);
    let (status, keys) = http("GET", document["jwks_uri"].as_str().unwrap(), &[], "");
    assert_eq!(status, 200);
    assert!(!keys["keys"].as_array().unwrap().is_empty());
    assert!(keys["keys"].as_array().unwrap().iter().all(|key| key.get("d").is_none()));
    let file = scratch.path().join("dev/client-secret");
    assert_eq!(fs::read_to_string(&file).unwrap(), issuer.secret);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let credentials = fs::read(scratch.path().join("dev/credentials.json")).unwrap();
    let credentials: Value = serde_json::from_slice(&credentials).unwrap();
    let expected = json!({ "clientId": issuer.id, "clientSecret": issuer.secret });
    assert_eq!(credentials, expected);

    for answer in [issuer.by_basic(&issuer.secret, None), issuer.by_form(&issuer.secret)] {
        assert_eq!(answer.1["token_type"], "Bearer");
        let token = token_of(&answer);
        assert_eq!(claims_of(&token)["iss"], issuer.url);
        let ended = smoke(url, &token, []);
        assert_eq!((ended.code, &ended.json()["ok"]), (0, &true.into()), "{}", ended.stderr);
        assert_eq!(keys_list(url, &token).unwrap(), ["b1", "e1", "r1"]);
    }
    for (status, answer) in [issuer.by_basic("wrong", None), issuer.by_form("wrong")] {
        assert_eq!((status, &answer["error"]), (401, &"invalid_client".into()));
        assert_eq!(answer.get("access_token"), None);
    }
    let nobody = Issuer { id: "nobody".to_owned(), ..Issuer::of(&ready) };
    assert_eq!(nobody.by_form(&issuer.secret).0, 401);
    let log = server.log();
    assert!(!log.contains(&issuer.secret), "the secret is not logged");
    assert_eq!(server.stop(), 0);
}

/// Asks for the list of keys with a token and a proof.
#[tokio::main(flavor = "current_thread")]
async fn list_with(url: &str, token: &str, proof: Option<&str>) -> Result<usize, Status> {
    let mut request = Request::new(ListKeysRequest::default());
    let headers = request.metadata_mut();
    headers.insert("authorization", format!("DPoP {token}").parse().unwrap());
    if let Some(proof) = proof {
        headers.insert("dpop", proof.parse().unwrap());
    }
    let client = KeyAccessServerRegistryServiceClient::connect(url.to_owned()).await.unwrap();
    Ok({ client }.list_keys(request).await?.into_inner().kas_keys.len())
}

#[test]
fn its_issuer_binds_tokens_to_a_key() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let issuer = Issuer::of(&ready);
    let url = ready["url"].as_str().unwrap();
    let holder = ProofSigner::new();
    let mut claims = holder.claims("POST", &issuer.endpoint(), "");
    claims.as_object_mut().unwrap().remove("ath");
    let proof = holder.proof_of(&claims);
    let answer = issuer.by_basic(&issuer.secret, Some(&proof));
    assert_eq!(answer.1["token_type"], "DPoP");
    let token = token_of(&answer);
    assert_eq!(claims_of(&token)["cnf"], json!({ "jkt": holder.thumbprint() }));
    let (status, again) = issuer.by_basic(&issuer.secret, Some(&proof));
    assert_eq!((status, &again["error"]), (400, &"invalid_dpop_proof".into()));

    // As a plain token it is good for nothing.
    let ended = smoke(url, &token, []);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("Unauthenticated"), "{}", ended.stderr);
    let refused = keys_list(url, &token).unwrap_err();
    assert!(refused.contains("nauthenticated"), "{refused}");
    let path = "/policy.kasregistry.KeyAccessServerRegistryService/ListKeys";
    let prove =
        |signer: &ProofSigner, path: &str| signer.proof("POST", &format!("{url}{path}"), &token);
    let proof = prove(&holder, path);
    assert_eq!(list_with(url, &token, Some(&proof)).unwrap(), 3);
    for (what, proof) in [
        ("no proof", None),
        ("a proof that was used", Some(proof)),
        ("a proof of another key", Some(prove(&ProofSigner::new(), path))),
        ("a proof for another call", Some(prove(&holder, "/kas.AccessService/Rewrap"))),
    ] {
        let status = list_with(url, &token, proof.as_deref()).expect_err(what);
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn its_token_outlives_its_issuer() {
    let scratch = Scratch::new();
    let server = Server::dev(&scratch);
    let ready = server.ready();
    let (url, token) = (ready["url"].as_str().unwrap(), ready["access_token"].as_str().unwrap());
    let issuer = Issuer::of(&ready);
    let host = issuer.url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    assert_eq!(keys_list(url, token).unwrap(), ["b1", "e1", "r1"]);
    let given = token_of(&issuer.by_form(&issuer.secret));
    assert_eq!(server.stop(), 0);

    let server = Server::serve(&scratch, &scratch.path().join("dev/config.yaml"));
    TcpStream::connect(host).expect_err("the issuer is gone");
    for token in [token, &given] {
        let ended = smoke(url, token, []);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_eq!(keys_list(url, token).unwrap(), ["b1", "e1", "r1"]);
    }
    assert_eq!(server.stop(), 0);
}
