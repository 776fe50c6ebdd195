//! Configurations, good and bad, through `kasbah config check`.

use std::{collections::BTreeMap, fs};

use kasbah_crypto::{Algorithm, PrivateKey};
use serde_json::Value;

use crate::common::{Kasbah, Scratch};

/// A configuration that is fine; each bad one changes a line of it.
const GOOD: &str = r#"
server:
  listen: "127.0.0.1:0"
  limits: { kaos: 10, request_timeout_seconds: 5 }
kas: { uri: "http://localhost:8080", key_index: keyring }
auth:
  mode: jwt
  issuer: "https://idp.example"
  audience: "http://localhost:8080"
  jwks_file: jwks.json
secrets:
  pin1: { file: pin }
  root1: { env: KASBAH_TEST_ROOT }
modules:
  softhsm: { path: module.so, env: { SOFTHSM2_CONF: softhsm2.conf } }
key_managers: { unknown: refuse }
custody_floor: prefer-sealed
providers:
  - name: main
    manager: opentdf.io/hsm
    config: { module: softhsm, token: kas, pin: pin1, custody: require-sealed, workers: 2, queue: 64 }
keyring:
  - { kid: r1, algorithm: "rsa:2048", provider: main, key: "pkcs11:object=r1", legacy: true }
  - { kid: b1, algorithm: "ec:secp256r1", public_key_file: b1.pem, wrapped_key_file: b1.b64, wrapping_key: root1 }
"#;

const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJh7701UM8GjvAT7XNmujL11v5Ve0
sqvOit5Yy6FopV4XiKCymlamq+xAhMDJa9PcvKa1B/NdvqnphXCEedi9yQ==
-----END PUBLIC KEY-----
";

const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k",
"x":"Jh7701UM8GjvAT7XNmujL11v5Ve0sqvOit5Yy6FopV4","y":"F4igsppWpqvsQITAyWvT3LymtQfzXb6p6YVwhHnYvck"}]}"#;

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    for (name, text) in [
        ("pin", "12345678\n"),
        ("module.so", ""),
        ("softhsm2.conf", ""),
        ("b1.pem", P256_PEM),
        ("b1.b64", "AAAA\n"),
        ("jwks.json", JWKS),
        ("empty.json", r#"{"keys":[]}"#),
        ("text.pem", "no PEM at all"),
        ("bad.csv", "# rules\nq, a, b\n"),
        ("entitlements.yaml", "attributes: []\n"),
        ("bad-entitlements.yaml", "attributs: []\n"),
    ] {
        scratch.write(name, text);
    }
    scratch
}

/// What `config check` finds in `text`: its exit code and its report.
fn check(scratch: &Scratch, text: &str) -> (i32, Value) {
    let file = scratch.write("config.yaml", text);
    let ended = Kasbah::new(["config", "check", "--output", "json", "--config"]).arg(file).run();
    (ended.code, ended.json())
}

#[test]
fn a_good_one_is_fine() {
    let (code, report) = check(&scratch(), GOOD);
    assert_eq!(
        (code, &report["ok"], &report["problems"]),
        (0, &true.into(), &Value::Array(vec![]))
    );
    assert_eq!(report["warnings"], Value::Array(vec![]), "{report}");
}

#[test]
fn the_documented_one_is_fine() {
    let scratch = scratch();
    let documentation = include_str!("../../../../docs/configuration.md");
    let sample = documentation.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let key = PrivateKey::generate(Algorithm::Rsa2048).unwrap().public_key();
    scratch.write("b1.pem", &key.to_pem());
    let (code, report) = check(&scratch, sample);
    assert_eq!((code, &report["warnings"]), (0, &Value::Array(vec![])), "{report}");
}

/// Every example of the documentation, in place of the sections of the whole one that it has too.
#[test]
fn what_the_documentation_shows_in_part_is_fine() {
    let scratch = scratch();
    let key = PrivateKey::generate(Algorithm::Rsa2048).unwrap().public_key();
    scratch.write("b1.pem", &key.to_pem());
    for file in ["tls.crt", "tls.key", "clients.pem", "root1", "database-password"] {
        scratch.write(file, "text\n");
    }
    scratch.write("roles.csv", "p, role:standard, kas.AccessService/*, *, allow\n");
    let documentation = include_str!("../../../../docs/configuration.md");
    let mut samples = documentation.split("```yaml\n").skip(1).map(|rest| {
        let sample = rest.split("```").next().unwrap();
        sections(sample)
    });
    let whole = samples.next().unwrap();
    let parts: Vec<_> = samples.filter(|sample| !sample.contains_key("providers")).collect();
    assert!(parts.len() >= 3, "{parts:?}");
    for part in parts {
        let mut text = whole.clone();
        if part.get("kas").is_some_and(|kas| kas.contains("registry")) {
            text.remove("keyring");
        }
        for (name, section) in &part {
            let kept = text.remove(name).filter(|_| *name == "secrets");
            text.insert(name, kept.map_or(section.clone(), |kept| merged(&kept, section)));
        }
        let text: String = text.into_values().collect();
        let (code, report) = check(&scratch, &text);
        assert_eq!((code, &report["problems"]), (0, &Value::Array(vec![])), "{text}\n{report}");
    }
}

/// Top-level keys of a sample with their lines.
fn sections(sample: &str) -> BTreeMap<&str, String> {
    let mut sections = BTreeMap::<&str, String>::new();
    let mut name = "";
    for line in sample.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') {
            name = line.split(':').next().unwrap();
        }
        let section = sections.entry(name).or_default();
        section.push_str(line);
        section.push('\n');
    }
    sections
}

/// Entries of both; the first has them if both do.
fn merged(first: &str, second: &str) -> String {
    let known = |line: &str| first.contains(line.split_inclusive(':').next().unwrap());
    let others = second.lines().filter(|line| !known(line));
    others.fold(first.to_owned(), |text, line| text + line + "\n")
}

#[test]
fn a_short_one_is_fine() {
    let text = "kas: { uri: \"https://kas.example\" }\nauth: { mode: dev }\n";
    let (code, report) = check(&scratch(), text);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["warnings"][0]["path"], "keyring");
}

/// What to replace in [`GOOD`], by what, and how the only problem then reads.
const BAD: &[(&str, &str, &str)] = &[
    // Unknown keys, on every level.
    ("custody_floor:", "custody_flor:", "custody_flor: unknown key; there are `audit`, `auth`"),
    ("listen: \"127", "lissen: \"127", "server.lissen: unknown field `lissen`"),
    ("kaos: 10", "kao: 10", "server.limits.kao: unknown field `kao`"),
    ("key_index: keyring", "index: keyring", "kas.index: unknown field `index`"),
    ("  issuer:", "  isuer:", "auth.isuer: unknown field `isuer`"),
    ("{ file: pin }", "{ path: pin }", "secrets.pin1.path: unknown field `path`"),
    ("path: module.so,", "path: module.so, pin: x,", "modules.softhsm.pin: unknown field `pin`"),
    ("unknown: refuse", "unkown: refuse", "key_managers.unkown: unknown field `unkown`"),
    (
        "    manager: opentdf.io/hsm",
        "    manger: opentdf.io/hsm",
        "providers[0].manger: unknown field `manger`",
    ),
    ("workers: 2", "worker: 2", "providers[0].config.worker: unknown field `worker`"),
    ("legacy: true", "legasy: true", "keyring[0].legasy: unknown field `legasy`"),
    // Missing keys.
    ("uri: \"http://localhost:8080\", ", "", "kas.uri: is missing"),
    ("  mode: jwt\n", "", "auth.mode: is missing"),
    ("  issuer: \"https://idp.example\"\n", "", "auth.issuer: is missing"),
    ("  audience: \"http://localhost:8080\"\n", "", "auth.audience: is missing"),
    ("  jwks_file: jwks.json\n", "", "auth.jwks_file: set exactly one of `jwks_file` and"),
    ("path: module.so, ", "", "modules.softhsm.path: is missing"),
    ("  - name: main\n   ", "  -", "providers[0].name: is missing"),
    ("module: softhsm, ", "", "providers[0].config.module: is missing"),
    ("token: kas, ", "", "providers[0].config.token: is missing"),
    ("pin: pin1, ", "", "providers[0].config.pin: is missing"),
    ("kid: r1, ", "", "keyring[0].kid: is missing"),
    ("algorithm: \"rsa:2048\", ", "", "keyring[0].algorithm: is missing"),
    ("provider: main, ", "", "keyring[0].provider: is missing; name the provider"),
    (", key: \"pkcs11:object=r1\"", "", "keyring[0]: set exactly one of `key`"),
    ("public_key_file: b1.pem, ", "", "keyring[1].public_key_file: is missing"),
    (", wrapping_key: root1", "", "keyring[1].wrapping_key: is missing"),
    // Values.
    ("127.0.0.1:0", "localhost:8080", "server.listen: expected an IP address and a port"),
    ("kaos: 10", "kaos: 0", "server.limits.kaos: must be at least 1"),
    ("kaos: 10", "kaos: many", "server.limits.kaos: expected"),
    ("kaos: 10", "kaos: -1", "server.limits.kaos: expected"),
    ("kaos: 10", "message_bytes: 1000", "server.limits.message_bytes: is below srt_bytes"),
    ("timeout_seconds: 5", "timeout_seconds: 0", "server.limits.request_timeout_seconds: must be"),
    ("uri: \"http://localhost:8080\"", "uri: localhost", "kas.uri: expected an absolute http"),
    ("uri: \"http://localhost:8080\"", "uri: \"ftp://x\"", "kas.uri: expected an absolute http"),
    (
        "key_index: keyring",
        "key_index: registry",
        "registry.database: is missing; give `sqlite:FILE` or",
    ),
    (
        "key_index: keyring",
        "key_index: platform",
        "platform.endpoint: is missing; give the address of the platform",
    ),
    (
        "key_index: keyring",
        "base_key: r2",
        "kas.base_key: the keyring has no key `r2`; it has `r1`",
    ),
    ("key_index: keyring", "key_index: file", "kas.key_index: expected `keyring`, `registry`"),
    ("mode: jwt", "mode: none", "auth.mode: expected `oidc`, `jwt` or `dev`"),
    ("mode: jwt", "mode: jwt\n  algorithms: [HS256]", "auth.algorithms: "),
    ("mode: jwt", "mode: jwt\n  key_refresh_seconds: 0", "auth.key_refresh_seconds: must be"),
    (
        "mode: jwt",
        "mode: jwt\n  key_stale_limit_seconds: 60",
        "auth.key_stale_limit_seconds: is below key_refresh_seconds",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  token_endpoint: /token",
        "auth.token_endpoint: expected an absolute http",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  token_endpoint: \"ftp://idp.example/token\"",
        "auth.token_endpoint: expected an http or https",
    ),
    ("mode: jwt", "mode: jwt\n  issuers: []", "auth.issuers: set either `issuer` or `issuers`"),
    ("mode: jwt", "mode: jwt\n  min_proof: none", "auth.min_proof: expected `bearer`, `dpop`"),
    (
        "mode: jwt",
        "mode: jwt\n  min_proof: { keys: { r1: tls } }",
        "auth.min_proof.keys.r1: expected `bearer`, `dpop`",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  min_proof: { kids: {} }",
        "auth.min_proof.kids: unknown field `kids`",
    ),
    ("mode: jwt", "mode: jwt\n  dpop: { origin: [] }", "auth.dpop.origin: unknown field"),
    ("mode: jwt", "mode: jwt\n  dpop: { origins: [] }", "auth.dpop: "),
    ("mode: jwt", "mode: jwt\n  dpop: { origins: [\"https://x/y\"] }", "auth.dpop: "),
    ("mode: jwt", "mode: jwt\n  dpop: { max_age_seconds: 0 }", "auth.dpop: "),
    ("mode: jwt", "mode: jwt\n  dpop: { algorithms: [HS256] }", "auth.dpop: "),
    ("mode: jwt", "mode: jwt\n  dpop: { replay: memory }", "auth.dpop.replay: expected"),
    (
        "mode: jwt",
        "mode: jwt\n  dpop: { nonce_secret: nothing }",
        "auth.dpop.nonce_secret: no such entry under `secrets`",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  roles: { policy_file: bad.csv }",
        "auth.roles.policy_file: line 2: `q` begins no rule",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  roles: { policy_file: bad.csv, more_policy_file: bad.csv }",
        "auth.roles.more_policy_file: has no effect beside `policy_file`",
    ),
    ("mode: jwt", "mode: jwt\n  srt_lifetime_seconds: 0", "auth.srt_lifetime_seconds: must be"),
    // Decisions.
    ("secrets:\n", "decisions: { mode: allow }\nsecrets:\n", "decisions.mode: expected `local`"),
    (
        "secrets:\n",
        "decisions: { without_attributes: allow }\nsecrets:\n",
        "decisions.without_attributes: expected `permit` or `deny`",
    ),
    ("secrets:\n", "decisions: { mode: local }\nsecrets:\n", "decisions.file: set exactly one of"),
    (
        "secrets:\n",
        "decisions: { mode: local, from: registry }\nsecrets:\n",
        "decisions.from: needs `kas.key_index: registry`",
    ),
    (
        "secrets:\n",
        "decisions: { mode: local, file: none.yaml }\nsecrets:\n",
        "decisions.file: cannot read",
    ),
    (
        "secrets:\n",
        "decisions: { mode: local, file: bad-entitlements.yaml }\nsecrets:\n",
        "decisions.file: ",
    ),
    (
        "secrets:\n",
        "decisions: { mode: deny, file: entitlements.yaml }\nsecrets:\n",
        "decisions.file: has no effect with this `mode`",
    ),
    (
        "secrets:\n",
        "decisions: { mode: deny, timeout_ms: 5 }\nsecrets:\n",
        "decisions.timeout_ms: has no effect with this `mode`",
    ),
    (
        "secrets:\n",
        "decisions: { mode: platform }\nsecrets:\n",
        "platform.endpoint: is missing; `decisions.mode: platform` needs",
    ),
    // The audit log.
    ("secrets:\n", "audit: { durability: safe }\nsecrets:\n", "audit.durability: expected"),
    ("secrets:\n", "audit: { keep: 3 }\nsecrets:\n", "audit.keep: has no effect without `file`"),
    (
        "secrets:\n",
        "audit: { file: a.log, checkpoint_file: c }\nsecrets:\n",
        "audit.checkpoint_file: needs `signing_key`",
    ),
    (
        "secrets:\n",
        "audit: { file: a.log, signing_key: nothing }\nsecrets:\n",
        "audit.signing_key: no such entry under `secrets`",
    ),
    ("secrets:\n", "audit: { queue: 0 }\nsecrets:\n", "audit.queue: must be at least 1"),
    (
        "secrets:\n",
        "audit: { otlp: { endpoint: nowhere } }\nsecrets:\n",
        "audit.otlp.endpoint: expected an absolute http or https address",
    ),
    // TLS.
    (
        "  listen: \"127",
        "  plaintext: true\n  tls: { certificate_file: b1.pem, private_key: root1 }\n  listen: \"127",
        "server.plaintext: contradicts `server.tls`",
    ),
    (
        "  listen: \"127",
        "  tls: { certificate_file: none.pem, private_key: pin1 }\n  listen: \"127",
        "server.tls.certificate_file: cannot read",
    ),
    (
        "  listen: \"127",
        "  tls: { certificate_file: b1.pem, private_key: nothing }\n  listen: \"127",
        "server.tls.private_key: no such entry under `secrets`",
    ),
    (
        "  listen: \"127",
        "  tls: { certificate_file: b1.pem, private_key: root1, client_certificates: required }\n  listen: \"127",
        "server.tls.client_certificates: has no effect without `client_ca_file`",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  clock_skew_seconds: 901",
        "auth.clock_skew_seconds: expected at most",
    ),
    ("mode: jwt", "mode: jwt\n  public_key_file: b1.pem", "auth.jwks_file: set exactly one of"),
    ("jwks_file: jwks.json", "jwks_file: none.json", "auth.jwks_file: cannot read"),
    ("jwks_file: jwks.json", "jwks_file: pin", "auth.jwks_file: not a JSON Web Key Set"),
    ("jwks_file: jwks.json", "jwks_file: empty.json", "auth.jwks_file: the JWKS holds no"),
    ("jwks_file: jwks.json", "public_key_file: text.pem", "auth.public_key_file: not a public key"),
    ("unknown: refuse", "unknown: ignore", "key_managers.unknown: expected `default` or `refuse`"),
    (
        "custody_floor: prefer-sealed",
        "custody_floor: sealed",
        "custody_floor: expected `require-sealed`",
    ),
    ("path: module.so", "path: none.so", "modules.softhsm.path: /"),
    ("workers: 2", "workers: 65", "providers[0].config.workers: expected 1 to 64"),
    ("queue: 64", "queue: 0", "providers[0].config.queue: expected 1 to 4096"),
    ("token: kas", "token: ''", "providers[0].config.token: is empty"),
    (
        "custody: require-sealed",
        "custody: sealed",
        "providers[0].config.custody: expected `require-sealed`",
    ),
    (
        "custody: require-sealed",
        "custody: transient",
        "providers[0].config.custody: is below custody_floor",
    ),
    (
        "opentdf.io/hsm",
        "opentdf.io/aws",
        "providers[0].manager: `opentdf.io/aws` is not registered, and",
    ),
    (
        "algorithm: \"rsa:2048\"",
        "algorithm: rsa2048",
        "keyring[0].algorithm: unknown algorithm; expected one of rsa:2048",
    ),
    (
        "object=r1\"",
        "object=r1?pin-value=1\"",
        "keyring[0].key: key reference: only the attributes",
    ),
    ("pkcs11:object=r1", "r1", "keyring[0].key: key reference: must begin with pkcs11:"),
    (
        "pkcs11:object=r1",
        "pkcs11:object=r1;token=b",
        "keyring[0].key: key reference: names another token",
    ),
    (
        "legacy: true",
        "legacy: true, wrapping_key: root1",
        "keyring[0].wrapping_key: has no effect with `key`",
    ),
    (
        "legacy: true",
        "legacy: true, wrapped_key_file: b1.b64",
        "keyring[0]: set exactly one of `key`",
    ),
    ("legacy: true", "legacy: 'perhaps'", "keyring[0].legacy: expected a boolean"),
    (
        "legacy: true",
        "legacy: true, public_key_file: b1.pem",
        "keyring[0].public_key_file: is no rsa:2048 key",
    ),
    (
        "public_key_file: b1.pem",
        "public_key_file: text.pem",
        "keyring[1].public_key_file: no PEM block found",
    ),
    (
        "public_key_file: b1.pem",
        "public_key_file: none.pem",
        "keyring[1].public_key_file: cannot read",
    ),
    (
        "wrapped_key_file: b1.b64",
        "wrapped_key_file: none",
        "keyring[1].wrapped_key_file: cannot read",
    ),
    (
        "kid: b1",
        "kid: b1, provider: main",
        "keyring[1].wrapped_key_file: provider `main` uses keys in its token only",
    ),
    // Names that do not exist, or twice.
    (
        "module: softhsm",
        "module: kryoptic",
        "providers[0].config.module: no such entry under `modules`, which has `softhsm`",
    ),
    (
        "pin: pin1",
        "pin: pin2",
        "providers[0].config.pin: no such entry under `secrets`, which has `pin1`, `root1`",
    ),
    (
        "provider: main",
        "provider: other",
        "keyring[0].provider: there is no provider `other`; there are `main`",
    ),
    (
        "wrapping_key: root1",
        "wrapping_key: root2",
        "keyring[1].wrapping_key: no such entry under `secrets`",
    ),
    ("kid: b1", "kid: r1", "keyring[1].kid: another key of the keyring has this kid"),
    ("kid: b1", "kid: ' '", "keyring[1].kid: is empty"),
    (
        "keyring:\n",
        "  - { name: main, manager: opentdf.io/basic }\nkeyring:\n",
        "providers[1].name: another provider has this name",
    ),
    ("keyring:\n", "  - { name: '' }\nkeyring:\n", "providers[1].name: is empty"),
    (
        "keyring:\n",
        "  - { name: opentdf.io/basic, config: { a: 1 } }\nkeyring:\n",
        "providers[1].config.a: unknown field `a`",
    ),
    // Secrets.
    ("{ file: pin }", "{ file: none }", "secrets.pin1.file: /"),
    ("{ file: pin }", "{ file: pin, env: PIN }", "secrets.pin1: set exactly one of `file`"),
    ("{ file: pin }", "{}", "secrets.pin1: set exactly one of `file`"),
    ("{ file: pin }", "{ env: '' }", "secrets.pin1: set exactly one of `file`"),
    ("{ file: pin }", "{ command: [] }", "secrets.pin1: set exactly one of `file`"),
    ("{ file: pin }", "{ credential: a/b }", "secrets.pin1.credential: expected the name"),
    // Modules.
    (
        "modules:\n",
        "modules:\n  two: { path: module.so, env: { SOFTHSM2_CONF: other } }\n",
        "modules.two.env.SOFTHSM2_CONF: another module sets",
    ),
    // Plaintext and TLS.
    (
        "listen: \"127.0.0.1:0\"",
        "listen: \"0.0.0.0:0\"",
        "server.tls: is missing, and `server.listen` is no loopback address",
    ),
    (
        "listen: \"127.0.0.1:0\"",
        "plaintext: false\n  listen: \"[::]:0\"",
        "server.tls: is missing, and `server.listen` is no loopback address",
    ),
    (
        "  listen: \"127",
        "  plaintext: \"yes, please\"\n  listen: \"127",
        "server.plaintext: expected",
    ),
    (
        "  listen: \"127",
        "  tls: { certificate_file: b1.pem }\n  listen: \"127",
        "server.tls.private_key: is missing",
    ),
    (
        "  listen: \"127",
        "  tls: { certificate: b1.pem }\n  listen: \"127",
        "server.tls.certificate: unknown field",
    ),
    ("  listen: \"127", "  tls: b1.pem\n  listen: \"127", "server.tls: expected a map"),
    // CORS.
    ("  listen: \"127", "  cors: {}\n  listen: \"127", "server.cors.origins: is missing"),
    (
        "  listen: \"127",
        "  cors: { origins: [] }\n  listen: \"127",
        "server.cors.origins: expected origins such as",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: \"https://app.example\" }\n  listen: \"127",
        "server.cors.origins: expected a sequence",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\", \"https://app.example\"] }\n  listen: \"127",
        "server.cors.origins: expected origins such as",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"https://app.example\", \"https://app.example/page\"] }\n  listen: \"127",
        "server.cors.origins[1]: expected a scheme, a host",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"https://app.example/\"] }\n  listen: \"127",
        "server.cors.origins[0]: expected a scheme, a host",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [app.example] }\n  listen: \"127",
        "server.cors.origins[0]: expected a scheme, a host",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\"], credentials: true }\n  listen: \"127",
        "server.cors.credentials: browsers take no credentials",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\"], headers: [x-a, \"x b\"] }\n  listen: \"127",
        "server.cors.headers[1]: expected the name of a header",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\"], exposed_headers: [\"\"] }\n  listen: \"127",
        "server.cors.exposed_headers[0]: expected the name of a header",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\"], max_age_seconds: -1 }\n  listen: \"127",
        "server.cors.max_age_seconds: expected",
    ),
    (
        "  listen: \"127",
        "  cors: { origins: [\"*\"], max_age: 1 }\n  listen: \"127",
        "server.cors.max_age: unknown field",
    ),
    // Paths, and what is served below them.
    (
        "  listen: \"127",
        "  rest: { prefix: kas }\n  listen: \"127",
        "server.rest.prefix: expected a path such as /kas",
    ),
    (
        "  listen: \"127",
        "  rest: { prefix: /kas/ }\n  listen: \"127",
        "server.rest.prefix: expected a path such as /kas",
    ),
    (
        "  listen: \"127",
        "  rest: { path: /kas }\n  listen: \"127",
        "server.rest.path: unknown field",
    ),
    ("  listen: \"127", "  rest: true\n  listen: \"127", "server.rest: expected a map"),
    (
        "  listen: \"127",
        "  prefix: /\n  listen: \"127",
        "server.prefix: expected a path such as /kas",
    ),
    (
        "  listen: \"127",
        "  prefix: \"/a//b\"\n  listen: \"127",
        "server.prefix: expected a path such as /kas",
    ),
    (
        "  listen: \"127",
        "  prefix: \"/{any}\"\n  listen: \"127",
        "server.prefix: expected a path such as /kas",
    ),
    (
        "  listen: \"127",
        "  reflection: { v1: true }\n  listen: \"127",
        "server.reflection: expected",
    ),
    (
        "  listen: \"127",
        "  drain_delay_seconds: soon\n  listen: \"127",
        "server.drain_delay_seconds: expected",
    ),
    // More limits.
    ("kaos: 10", "connections: 0", "server.limits.connections: must be at least 1"),
    ("kaos: 10", "calls: 0", "server.limits.calls: must be at least 1"),
    (
        "kaos: 10",
        "streams_per_connection: 0",
        "server.limits.streams_per_connection: must be at least 1",
    ),
    ("kaos: 10", "header_bytes: 0", "server.limits.header_bytes: must be at least 1"),
    ("kaos: 10", "header_bytes: 5000000000", "server.limits.header_bytes: expected"),
    (
        "kaos: 10",
        "idle_timeout_seconds: 0",
        "server.limits.idle_timeout_seconds: must be at least 1",
    ),
    (
        "kaos: 10",
        "first_request_timeout_seconds: 0",
        "server.limits.first_request_timeout_seconds: must be at least 1",
    ),
    ("kaos: 10", "body_bytes: 1000", "server.limits.body_bytes: is below message_bytes"),
    (
        "kaos: 10",
        "calls_burst: 5",
        "server.limits.calls_burst: has no effect without `calls_per_second`",
    ),
    ("kaos: 10", "calls_per_second: 0", "server.limits.calls_per_second: must be at least 1"),
    (
        "kaos: 10",
        "calls_per_second: 1, calls_burst: 0",
        "server.limits.calls_burst: must be at least 1",
    ),
    // Metrics and traces.
    (
        "listen: \"127.0.0.1:0\"",
        "listen: \"127.0.0.1:8080\"\n  metrics: { listen: \"127.0.0.1:8080\" }",
        "server.metrics.listen: is where clients are served",
    ),
    ("  listen: \"127", "  metrics: {}\n  listen: \"127", "server.metrics.listen: is missing"),
    (
        "  listen: \"127",
        "  metrics: { listen: 9464 }\n  listen: \"127",
        "server.metrics.listen: expected an IP address and a port",
    ),
    (
        "  listen: \"127",
        "  metrics: { listen: \"localhost:9464\" }\n  listen: \"127",
        "server.metrics.listen: expected an IP address and a port",
    ),
    (
        "  listen: \"127",
        "  metrics: { listen: \"127.0.0.1:9464\", path: /m }\n  listen: \"127",
        "server.metrics.path: unknown field",
    ),
    ("secrets:\n", "telemetry: { metrics: {} }\nsecrets:\n", "telemetry.metrics: unknown field"),
    ("secrets:\n", "telemetry: on\nsecrets:\n", "telemetry: expected"),
    ("secrets:\n", "telemetry: { otlp: {} }\nsecrets:\n", "telemetry.otlp.endpoint: is missing"),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: collector } }\nsecrets:\n",
        "telemetry.otlp.endpoint: expected an absolute http or https address",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\", protocol: http } }\nsecrets:\n",
        "telemetry.otlp.protocol: unknown field",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\", interval_seconds: 0 } }\nsecrets:\n",
        "telemetry.otlp.interval_seconds: must be at least 1",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\", timeout_seconds: 0 } }\nsecrets:\n",
        "telemetry.otlp.timeout_seconds: must be at least 1",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\", headers: { authorization: nothing } } }\nsecrets:\n",
        "telemetry.otlp.headers.authorization: no such entry under `secrets`",
    ),
    (
        "secrets:\n",
        "telemetry: { traces: {} }\nsecrets:\n",
        "telemetry.traces: has no effect without `telemetry.otlp`",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\" }, traces: { sample_ratio: 1.5 } }\nsecrets:\n",
        "telemetry.traces.sample_ratio: expected 0 to 1",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\" }, traces: { sample_ratio: -0.1 } }\nsecrets:\n",
        "telemetry.traces.sample_ratio: expected 0 to 1",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://a:4317\" }, traces: { ratio: 1 } }\nsecrets:\n",
        "telemetry.traces.ratio: unknown field",
    ),
    // Shapes.
    ("key_managers: { unknown: refuse }", "key_managers: refuse", "key_managers: expected"),
    ("key_managers: {", "custody: [1]\nkey_managers: {", "custody: unknown key"),
    (
        "limits: { kaos: 10, request_timeout_seconds: 5 }",
        "limits: [10]",
        "server.limits: expected a map",
    ),
    (
        "custody_floor: prefer-sealed",
        "custody_floor: [transient]",
        "custody_floor: expected a text",
    ),
    (
        "secrets:\n  pin1: { file: pin }\n  root1: { env: KASBAH_TEST_ROOT }\n",
        "secrets: [7]\n",
        "secrets: expected a map",
    ),
];

/// What to add to [`GOOD`] so that it is still fine.
const FINE: &[(&str, &str)] = &[
    ("key_index: keyring", "base_key: b1"),
    ("mode: jwt", "mode: jwt\n  token_endpoint: \"https://idp.example/token\""),
    ("mode: jwt", "mode: jwt\n  min_proof: dpop"),
    (
        "mode: jwt",
        "mode: jwt\n  min_proof: { server: bearer, providers: { main: dpop }, keys: { r1: mtls } }",
    ),
    (
        "mode: jwt",
        "mode: jwt\n  dpop: { origins: [\"https://kas.example\"], require_nonce: true, replay: node }",
    ),
    (
        "  mode: jwt\n  issuer: \"https://idp.example\"\n  audience: \"http://localhost:8080\"\n  jwks_file: jwks.json\n",
        "  mode: oidc\n  issuers:\n    - { issuer: \"https://a.example\", audience: kas }\n    - { issuer: \"https://b.example\", audience: kas, jwks_file: jwks.json }\n",
    ),
    ("secrets:\n", "decisions: { mode: local, file: entitlements.yaml }\nsecrets:\n"),
    (
        "secrets:\n",
        "decisions: { mode: platform, timeout_ms: 500 }\nplatform: { endpoint: \"http://127.0.0.1:1\", token_endpoint: \"http://127.0.0.1:1\", client_id: a, client_secret: other }\nsecrets:\n  other: { env: X }\n",
    ),
    (
        "secrets:\n",
        "audit: { file: a.log, durability: synced, signing_key: key, checkpoint_file: c, rotate_bytes: 1000 }\nsecrets:\n  key: { env: X }\n",
    ),
    ("listen: \"127.0.0.1:0\"", "plaintext: true\n  listen: \"0.0.0.0:0\""),
    (
        "  listen: \"127",
        "  cors: { origins: [\"https://app.example:8443\", \"http://localhost:3000\"], headers: [x-a], exposed_headers: [x-b], credentials: true, max_age_seconds: 600 }\n  listen: \"127",
    ),
    ("  listen: \"127", "  cors: { origins: [\"*\"] }\n  listen: \"127"),
    ("  listen: \"127", "  rest: {}\n  listen: \"127"),
    (
        "  listen: \"127",
        "  rest: { prefix: /kas }\n  prefix: /api/kas-1.0\n  reflection: true\n  drain_delay_seconds: 5\n  listen: \"127",
    ),
    (
        "kaos: 10",
        "connections: 100, calls: 50, body_bytes: 10000000, first_request_timeout_seconds: 2, idle_timeout_seconds: 20, calls_per_second: 5, calls_burst: 10",
    ),
    ("  listen: \"127", "  metrics: { listen: \"[::1]:9464\" }\n  listen: \"127"),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"https://collector.example:4317\", headers: { authorization: collector }, interval_seconds: 10, timeout_seconds: 2 }, traces: { sample_ratio: 0.05 } }\nsecrets:\n  collector: { env: X }\n",
    ),
    (
        "secrets:\n",
        "telemetry: { otlp: { endpoint: \"http://127.0.0.1:4317\" }, traces: {} }\nsecrets:\n",
    ),
];

#[test]
fn several_issuers_say_which_of_them_gives_roles() {
    let scratch = scratch();
    let issuers = |first: &str, second: &str| {
        let list = format!(
            "  issuers:\n    - {{ issuer: a, audience: kas, jwks_file: jwks.json{first} }}\n    \
             - {{ issuer: b, audience: kas, jwks_file: jwks.json{second} }}\n"
        );
        let own = "  issuer: \"https://idp.example\"\n  audience: \"http://localhost:8080\"\n  \
                   jwks_file: jwks.json\n";
        assert_eq!(GOOD.matches(own).count(), 1);
        let (code, report) = check(&scratch, &GOOD.replacen(own, &list, 1));
        assert_eq!(code, 0, "{report}");
        let warnings = report["warnings"].as_array().unwrap();
        warnings.iter().map(|warning| warning["path"].as_str().unwrap().to_owned()).collect()
    };
    let told: Vec<String> = issuers(", gives_roles: true", ", gives_roles: false");
    assert!(told.is_empty(), "{told:?}");
    let told: Vec<String> = issuers(", gives_roles: true", "");
    assert_eq!(told, ["auth.issuers[1].gives_roles"]);
}

#[test]
fn what_the_documentation_offers_is_fine() {
    let scratch = scratch();
    for (find, replacement) in FINE {
        assert_eq!(GOOD.matches(find).count(), 1, "{find}");
        let (code, report) = check(&scratch, &GOOD.replacen(find, replacement, 1));
        assert_eq!((code, &report["problems"]), (0, &Value::Array(vec![])), "{replacement}");
    }
}

#[test]
fn each_mistake_is_named_with_its_path() {
    let scratch = scratch();
    let mut wrong = Vec::new();
    for (find, replacement, expected) in BAD {
        assert_eq!(GOOD.matches(find).count().max(1), GOOD.matches(find).count(), "{find}");
        let (code, report) = check(&scratch, &GOOD.replacen(find, replacement, 1));
        let problems: Vec<_> = report["problems"].as_array().unwrap().iter().map(told).collect();
        if code != 1 || problems.len() != 1 || !problems[0].starts_with(expected) {
            wrong.push(format!(
                "{replacement:?}: expected {expected}\n  found ({code}) {problems:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn told(problem: &Value) -> String {
    format!("{}: {}", problem["path"].as_str().unwrap(), problem["message"].as_str().unwrap())
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let scratch = scratch();
    for (find, replacement) in [
        ("pin: pin1", "pin: hunter2"),
        ("pin1: { file: pin }", "pin1: hunter2"),
        ("pin1: { file: pin }", "pin1: [hunter2]"),
        ("pin1: { file: pin }", "pin1: { file: { value: hunter2 } }"),
        ("pin1: { file: pin }", "pin1: { file: pin, command: hunter2 }"),
        ("wrapping_key: root1", "wrapping_key: hunter2"),
        ("object=r1\"", "object=r1?pin-value=hunter2\""),
        ("legacy: true", "legacy: hunter2"),
    ] {
        let (code, report) = check(&scratch, &GOOD.replacen(find, replacement, 1));
        assert_eq!(code, 1, "{replacement}: {report}");
        assert!(!report.to_string().contains("hunter2"), "{replacement}: {report}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = GOOD
        .replace("mode: jwt", "mode: none")
        .replace("rsa:2048", "rsa:1024")
        .replace("workers: 2", "workers: 0")
        .replace("uri: \"http", "uri: \"gopher");
    let (code, report) = check(&scratch(), &text);
    let paths: Vec<_> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["path"].as_str().unwrap())
        .collect();
    assert_eq!(code, 1);
    assert_eq!(
        paths,
        ["kas.uri", "auth.mode", "providers[0].config.workers", "keyring[0].algorithm"]
    );
}

#[test]
fn a_registry_has_its_own_base_key() {
    let text = "kas: { uri: \"http://a\", key_index: registry, base_key: r1 }\nauth: { mode: dev }\n\
                registry: { database: \"sqlite:registry.db\" }\n";
    let (code, report) = check(&scratch(), text);
    let problems: Vec<_> = report["problems"].as_array().unwrap().iter().map(told).collect();
    assert_eq!((code, problems.len()), (1, 1), "{problems:?}");
    assert!(
        problems[0].starts_with("kas.base_key: is for `kas.key_index: keyring`"),
        "{problems:?}"
    );
}

#[test]
fn dev_tokens_stay_on_loopback() {
    let text = "server: { listen: \"0.0.0.0:8080\", plaintext: true }\nkas: { uri: \"http://a\" }\nauth: { mode: dev }\n";
    let (code, report) = check(&scratch(), text);
    assert_eq!(code, 1);
    assert!(
        told(&report["problems"][0]).starts_with("auth.mode: `dev` accepts any token"),
        "{report}"
    );
}

#[test]
fn what_is_worth_a_look_is_a_warning() {
    let text = GOOD
        .replace("unknown: refuse", "unknown: default")
        .replace("kid: b1,", "kid: b1, legacy: true,")
        .replace(
            "keyring:\n",
            "  - { name: old, manager: opentdf.io/aws, required: false }\nkeyring:\n",
        );
    let (code, report) = check(&scratch(), &text);
    let warnings: Vec<_> = report["warnings"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(code, 0, "{report}");
    assert!(
        warnings[0].starts_with("providers[1].manager: `opentdf.io/aws` is not registered"),
        "{report}"
    );
    assert!(warnings[1].starts_with("keyring[1].legacy: has no effect"), "{report}");
    assert!(warnings[2].starts_with("providers[1]: no key of the keyring uses `old`"), "{report}");
}

#[test]
fn the_environment_goes_on_top() {
    let scratch = scratch();
    let file = scratch.write("config.yaml", GOOD);
    let check = || Kasbah::new(["config", "check", "--config"]).arg(&file);
    let bad = check().env("KASBAH__KAS__URI", "nonsense").run();
    assert_eq!(bad.code, 1);
    assert!(bad.stdout.contains("problem: kas.uri: expected an absolute"), "{}", bad.stdout);
    let bad = check().env("KASBAH__SERVER__LIMITS__KAOS", "0").run();
    assert!(bad.stdout.contains("server.limits.kaos: must be at least 1"), "{}", bad.stdout);
    let text = GOOD.replace("http://localhost:8080\", key_index", "nonsense\", key_index");
    fs::write(&file, text).unwrap();
    assert_eq!(check().env("KASBAH__KAS__URI", "http://good.example").run().code, 0);
}

#[test]
fn what_is_no_configuration_is_wrong_usage() {
    let scratch = scratch();
    for (name, text) in [
        ("broken.yaml", "server: { listen: "),
        ("list.yaml", "- a\n- b\n"),
        ("text.yaml", "just text"),
        ("twice.yaml", "kas: { uri: a }\nkas: { uri: b }\n"),
    ] {
        let file = scratch.write(name, text);
        let ended = Kasbah::new(["config", "check", "--config"]).arg(&file).run();
        assert_eq!(ended.code, 2, "{name}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(name), "{name}: {}", ended.stderr);
    }
    let ended = Kasbah::new(["config", "check", "--config", "/no/such.yaml"]).run();
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("/no/such.yaml"), "{}", ended.stderr);
}
