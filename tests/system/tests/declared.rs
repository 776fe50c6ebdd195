//! Provider configurations that are declared in files, and what a call may put into one.
#![expect(clippy::unwrap_used, reason = "a panic is a failing test")]

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use kasbah_proto::{
    common::{MetadataMutable, MetadataUpdateEnum},
    kasbah::admin::v1::{ListProviderHealthRequest, ProviderHealth},
    policy::{
        KeyMode, KeyProviderConfig,
        keymanagement::{
            DeleteProviderConfigRequest, ListProviderConfigsRequest, UpdateProviderConfigRequest,
        },
    },
};
use kasbah_system_tests::{
    admin::{Admin, RSA_2048, pem_of},
    client::SessionKey,
    poll::within,
    server::{Setup, kasbah},
};
use kasbah_testkit::tokens::{SoftHsm, TestToken};
use serde_json::json;
use tonic::Code;

const HSM: &str = "opentdf.io/hsm";
const BASIC: &str = "opentdf.io/basic";
const ROOT: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const PATIENCE: Duration = Duration::from_secs(10);

/// A configuration with a registry, a token and a root key, and a directory for declarations.
struct Declaring {
    setup: Setup,
    _token: TestToken,
}

impl Declaring {
    fn new() -> Self {
        let token = SoftHsm::fresh();
        let mut setup = Setup::new();
        setup.registry("sqlite:registry.db");
        setup.token("softhsm", &token, "prefer-sealed");
        setup.root_key("root", ROOT);
        fs::create_dir(setup.dir().join("providers")).unwrap();
        let declaring = Self { setup, _token: token };
        declaring.write("main.cfg", &main("transient", "one"));
        declaring.write("soft.cfg", &format!("providers:\n- name: soft\n  manager: {BASIC}\n"));
        declaring.write("notes.txt", "[ not for kasbah");
        declaring
    }

    fn file(&self, name: &str) -> PathBuf {
        self.setup.dir().join("providers").join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.file(name), content).unwrap();
    }

    fn directory(&self) -> String {
        self.setup.dir().join("providers").to_str().unwrap().to_owned()
    }

    /// It does not start, and says all of this.
    fn assert_refused(&self, says: &[&str]) {
        let (code, said) = self.setup.fails(&["--provider-config", &self.directory()]);
        assert_eq!(code, 2, "{said}");
        for part in says {
            assert!(said.contains(part), "`{part}` is missing in: {said}");
        }
    }
}

/// A declaration of the token.
fn main(custody: &str, label: &str) -> String {
    format!(
        "providers:\n- name: Main\n  manager: {HSM}\n  config:\n    module: softhsm\n    \
         token: kas\n    pin: softhsm\n    custody: {custody}\n  metadata:\n    labels:\n      \
         version: {label}\n"
    )
}

async fn health(admin: &Admin) -> HashMap<String, ProviderHealth> {
    let request = admin.request(ListProviderHealthRequest {});
    let answer = admin.admin().list_provider_health(request).await.unwrap();
    let providers = answer.into_inner().providers;
    let named =
        |health: ProviderHealth| (health.provider_config.as_ref().unwrap().name.clone(), health);
    providers.into_iter().map(named).collect()
}

async fn configs(admin: &Admin) -> HashMap<String, KeyProviderConfig> {
    let request = admin.request(ListProviderConfigsRequest::default());
    let answer = admin.providers().list_provider_configs(request).await.unwrap();
    let configs = answer.into_inner().provider_configs;
    configs.into_iter().map(|config| (config.name.clone(), config)).collect()
}

fn label(config: &KeyProviderConfig) -> &str {
    &config.metadata.as_ref().unwrap().labels["version"]
}

fn is_changed(config: &KeyProviderConfig, version: &str) -> Result<(), String> {
    if label(config) == version { Ok(()) } else { Err(format!("{config:?}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_declare_is_there_and_theirs() {
    let declaring = Declaring::new();
    let files = [("main", declaring.file("main.cfg")), ("soft", declaring.file("soft.cfg"))];
    let directory = declaring.directory();
    let server = declaring.setup.serve_with(&["--provider-config", &directory]);
    let admin = server.admin();
    let (configs, health) = (configs(&admin).await, health(&admin).await);
    assert_eq!((configs.len(), health.len()), (2, 2));
    assert_eq!((configs["main"].manager.as_str(), label(&configs["main"])), (HSM, "one"));
    assert_eq!(configs["soft"].manager, BASIC);
    for (name, file) in files {
        let file = file.to_str().unwrap();
        let state = &health[name];
        assert!(state.manager_registered && state.ready, "{state:?}");
        assert_eq!(state.file, file);

        let id = configs[name].id.clone();
        let labels = HashMap::from([("version".to_owned(), "by a call".to_owned())]);
        let message = UpdateProviderConfigRequest {
            id: id.clone(),
            metadata: Some(MetadataMutable { labels }),
            metadata_update_behavior: MetadataUpdateEnum::Extend as i32,
            ..Default::default()
        };
        let updated = admin.providers().update_provider_config(admin.request(message)).await;
        let message = DeleteProviderConfigRequest { id };
        let deleted = admin.providers().delete_provider_config(admin.request(message)).await;
        for refusal in [updated.map(drop).unwrap_err(), deleted.map(drop).unwrap_err()] {
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
            assert!(refusal.message().contains(file), "{refusal:?}");
        }
    }
    assert_eq!(self::configs(&admin).await, configs, "nothing was changed");

    let config = server.dir().join("kasbah.yaml");
    let check = kasbah().args(["db", "check", "--config"]).arg(config).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    let states = self::health(&admin).await;
    assert!(states.values().all(|state| !state.file.is_empty()), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_has_the_files_read_again() {
    let declaring = Declaring::new();
    let (file, directory) = (declaring.file("main.cfg"), declaring.directory());
    let server = declaring.setup.serve_with(&["--provider-config", &directory]);
    let (admin, kas, client) = (server.admin(), server.connect("alice").await, SessionKey::rsa());
    admin.create_kas().await;
    let before = configs(&admin).await;
    let id = &before["main"].id;
    let key = admin.generate(id, "r1", RSA_2048, KeyMode::Remote, "").await.unwrap();
    let rewrap = async || kas.try_key(&client, "r1", &pem_of(&key)).await;
    assert_eq!(within(PATIENCE, rewrap).await, "transient");

    fs::write(&file, main("prefer-sealed", "two")).unwrap();
    server.hang_up();
    within(PATIENCE, async || is_changed(&configs(&admin).await["main"], "two")).await;
    within(PATIENCE, async || match rewrap().await {
        Ok(custody) if custody == "sealed" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let after = configs(&admin).await;
    assert_eq!(&after["main"].id, id, "it is the same configuration, changed");
    assert_eq!(after["soft"], before["soft"], "what did not change stays");

    fs::write(&file, main("transient", "three").replace("pin:", "pins:")).unwrap();
    server.hang_up();
    within(PATIENCE, async || {
        let log = server.log();
        if log.contains("stay as they were") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(server.log().contains("pins"), "{}", server.log());
    fs::write(&file, format!("{}  colour: red\n", main("transient", "four"))).unwrap();
    server.hang_up();
    let place = format!("{}:12: unknown key `colour`", file.display());
    within(PATIENCE, async || {
        let log = server.log();
        if log.contains(&place) { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(configs(&admin).await, after, "a broken file changes nothing");
    assert_eq!(rewrap().await.unwrap(), "sealed");

    fs::write(&file, main("transient", "five")).unwrap();
    server.hang_up();
    within(PATIENCE, async || is_changed(&configs(&admin).await["main"], "five")).await;
}

#[test]
fn broken_declarations_do_not_start() {
    let declaring = Declaring::new();
    let file = declaring.file("main.cfg");
    let at = |line: usize| format!("{}:{line}:", file.display());
    let sound = main("transient", "one");

    declaring.write("main.cfg", "providers:\n- name: [\n");
    declaring.assert_refused(&[&at(3)]);
    declaring.write("main.cfg", &sound.replace("  manager:", "  manger:"));
    declaring.assert_refused(&[&at(3), "unknown key `manger`", "`manager`"]);
    declaring.write("main.cfg", &sound.replace("module: softhsm", "module: softhsm\n    pni: x"));
    declaring.assert_refused(&["pni", "main.cfg"]);
    declaring.write("main.cfg", &sound.replace("transient", "sealed"));
    declaring.assert_refused(&["custody", "require-sealed", "main.cfg"]);
    declaring.write("main.cfg", &sound.replace("pin: softhsm", "pin: /run/secrets/pin"));
    declaring.assert_refused(&["pin", "secrets", "main.cfg"]);
}

#[test]
fn two_declarations_of_one_do_not_start() {
    let mut declaring = Declaring::new();
    declaring.write("other.cfg", &main("prefer-sealed", "two"));
    let (main_file, other) = (declaring.file("main.cfg"), declaring.file("other.cfg"));
    let place = |file: &PathBuf| format!("{}:2", file.display());
    declaring.assert_refused(&[&place(&other), &place(&main_file), "main"]);

    fs::remove_file(&other).unwrap();
    declaring.setup.config["providers"] = json!([{
        "name": "main", "manager": HSM,
        "config": { "module": "softhsm", "token": "kas", "pin": "softhsm" },
    }]);
    declaring.assert_refused(&[&place(&main_file), "kasbah.yaml"]);
}

#[test]
fn declarations_are_for_a_registry() {
    let mut declaring = Declaring::new();
    declaring.setup.config["kas"]["key_index"] = "keyring".into();
    declaring.setup.config.as_object_mut().unwrap().remove("registry");
    declaring.assert_refused(&["--provider-config", "kas.key_index: registry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_names_what_the_node_has_and_no_more() {
    let mut declaring = Declaring::new();
    declaring.setup.config["custody_floor"] = "prefer-sealed".into();
    let server = declaring.setup.serve();
    let admin = server.admin();
    let sound = json!({ "module": "softhsm", "token": "kas", "pin": "softhsm",
        "custody": "prefer-sealed" });
    for (setting, value, says) in [
        ("module", "/usr/lib/softhsm/libsofthsm2.so", "`modules`"),
        ("module", "../softhsm", "`modules`"),
        ("pin", "/etc/kasbah/pin", "`secrets`"),
        ("pin", "$(cat pin)", "`secrets`"),
        ("library", "softhsm", "unknown field `library`"),
        ("pin_value", "12345678", "unknown field `pin_value`"),
        ("custody", "transient", "custody_floor"),
        ("custody", "sealed", "require-sealed"),
        ("token", "", "token is empty"),
    ] {
        let mut settings = sound.clone();
        settings[setting] = value.into();
        let refusal = admin.create_provider("wrong", HSM, &settings.to_string()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{setting}: {refusal:?}");
        assert!(refusal.message().contains(says), "{setting}: {refusal:?}");
        if setting.starts_with("pin") {
            assert!(!refusal.message().contains(value), "it was repeated: {refusal:?}");
        }
    }
    assert!(configs(&admin).await.is_empty(), "nothing was kept");

    let mut elsewhere = sound.clone();
    elsewhere["module"] = "other-node".into();
    admin.create_provider("elsewhere", HSM, &elsewhere.to_string()).await.unwrap();
    admin.create_provider("cloud", "example.com/kms", "{}").await.unwrap();
    admin.create_provider("here", HSM, &sound.to_string()).await.unwrap();
    let health = health(&admin).await;
    assert!(health["here"].ready, "{:?}", health["here"]);
    let elsewhere = &health["elsewhere"];
    assert!(elsewhere.manager_registered && !elsewhere.ready, "{elsewhere:?}");
    assert!(elsewhere.detail.contains("other-node"), "{elsewhere:?}");
    assert!(!health["cloud"].manager_registered && !health["cloud"].ready);
    assert!(health["cloud"].detail.contains("example.com/kms"), "{:?}", health["cloud"]);
    assert!(health.values().all(|health| health.file.is_empty()));
}
