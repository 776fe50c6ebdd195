//! An administrator nobody here wrote: the platform's own Go stubs, see `tests/go`.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kasbah_pkcs11::provision;
use kasbah_proto::policy::KeyMode;
use kasbah_system_tests::{
    admin::{ADMIN, RSA_2048, id_of},
    server::Setup,
    token,
};
use kasbah_testkit::{
    postgres::Postgres,
    tokens::{SoftHsm, TestToken},
};
use kasbah_trust::Algorithm;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The compiled program, gone when this is dropped.
struct Flow(TempDir);

impl Flow {
    fn build() -> Self {
        let dir = TempDir::with_prefix("kasbah-go-").unwrap();
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(dir.path().join("flow"))
            .arg(".")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../go"))
            .env("GOFLAGS", "-mod=readonly")
            .output()
            .unwrap_or_else(|error| {
                panic!("go does not start: {error}; install Go, as new as tests/go/go.mod says")
            });
        assert!(output.status.success(), "go build: {}", said(&output));
        Self(dir)
    }

    /// What it reports of a run that went well.
    fn run(&self, input: &Value, arguments: &[&str]) -> Result<Value, String> {
        let file = self.file("input.json");
        std::fs::write(&file, input.to_string()).unwrap();
        let output = Command::new(self.file("flow")).arg(file).args(arguments).output().unwrap();
        if !output.status.success() {
            return Err(said(&output));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes both keys that the program registers; `remote_key_ids` and `public_keys` of its input.
fn generate(fixture: &TestToken) -> (Value, Value) {
    let token = token::open(fixture);
    let (mut ids, mut keys) = (Map::new(), Map::new());
    for kid in ["g1", "g2"] {
        let made = provision::generate(&token, kid, Algorithm::Rsa2048).unwrap();
        ids.insert(kid.to_owned(), format!("pkcs11:object={kid};type=private").into());
        keys.insert(kid.to_owned(), made.public_key.unwrap().to_pem().into());
    }
    (ids.into(), keys.into())
}

/// Both phases; in between a key is made that can be the base key when those of the program go.
async fn administer(database: &str) {
    let (flow, token) = (Flow::build(), SoftHsm::fresh());
    let (remote_key_ids, public_keys) = generate(&token);
    let mut setup = Setup::new();
    setup.registry(database);
    let settings = setup.token("softhsm", &token, "require-sealed");
    let server = setup.serve();
    let admin = server.admin();
    let mut input = json!({
        "url": server.address, "token": server.token(ADMIN), "kas_uri": admin.kas_uri,
        "module": "softhsm", "token_label": token.label(), "pin": "softhsm",
        "remote_key_ids": remote_key_ids, "public_keys": public_keys, "algorithm": "rsa:2048",
    });

    let mut stranger = input.clone();
    stranger["token"] = server.token("alice").into();
    let refusal = flow.run(&stranger, &[]).unwrap_err();
    assert!(refusal.contains("PermissionDenied"), "{refusal}");

    let made = flow.run(&input, &[]).unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
    assert_eq!(made["ok"], true);
    assert_eq!(id_of(&admin.key("g2").await.unwrap()), made["g2_id"].as_str().unwrap());

    let provider = admin.create_provider("other", "opentdf.io/hsm", &settings.to_string()).await;
    let other = admin.generate(&provider.unwrap(), "other", RSA_2048, KeyMode::Remote, "").await;
    input["other_base_key_id"] = id_of(&other.unwrap()).into();
    let cleaned = flow.run(&input, &["cleanup"]);
    let cleaned = cleaned.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
    assert_eq!(cleaned["g1_id"], made["g1_id"]);
    assert!(admin.key("g1").await.is_err() && admin.key("g2").await.is_err());
    assert!(admin.key("other").await.is_ok(), "the rest stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn go_administers_a_file() {
    administer("sqlite:registry.db").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_administers_postgresql() {
    let postgres = Postgres::start();
    administer(&postgres.url()).await;
}
