//! `kasbah keys`: the keys of a registry.

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_proto::{
    kasbah::admin::v1::{
        Custody, Finding, GenerateKeyRequest, ReconcileRequest, SetKeyStateRequest,
        WrapKeysAgainRequest, finding::Kind, set_key_state_request::Target,
    },
    policy::{
        KasKey, SimpleKasKey,
        kasregistry::{
            ChangeMappings, CreateKeyRequest, GetBaseKeyRequest, KeyMapping,
            ListKeyMappingsRequest, MappedPolicyObject, RotateKeyRequest, RotatedResources,
            SetBaseKeyRequest, UpdateKeyRequest, rotate_key_request, set_base_key_request,
        },
        r#unsafe::UnsafeDeleteKasKeyRequest,
    },
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    control::{
        find::{KasName, KeyArguments},
        json::Object,
        key_states::{ListArguments, designation},
        labels::LabelChangeArguments,
        new_key::{GeneratedKey, GivenKey, NewKey, NewKeyArguments},
        page::PageArguments,
        refused::{OrRefused, present},
        server::{Server, ServerArguments},
        table::{cell, details, labels, one_line, time, yes},
        words,
    },
    exit::{Exit, Failure},
    output::{Output, columns},
    plan::Plan,
};

/// Keep the keys of a running server's registry
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every key at a glance, and which of them can be retired
    ///
    /// RETIRE is `safe` for a rotated key that no rewrap has needed for --unused-days, or ever. It
    /// knows nothing of TDFs that nobody has opened in that time.
    List(ListArguments),
    /// Show a key
    Get(KeyArguments),
    /// Make a key in a device, or register one that exists
    ///
    /// With --provider and --manager, the device makes the key. With --mode and --public-key-file,
    /// a key is registered that exists already; its private half, if it goes into the registry, is
    /// wrapped before it gets here.
    Create(Create),
    /// Register a key that exists, mode `local` unless another is given
    Import(Create),
    /// Replace a key by a new one, which takes over its mappings and whether it is the base key
    ///
    /// What was wrapped with the old key can be opened still.
    Rotate(Rotate),
    /// Change the labels of a key
    Update {
        #[command(flatten)]
        key: KeyArguments,
        #[command(flatten)]
        labels: LabelChangeArguments,
    },
    /// Take a key out of use
    Disable(KeyArguments),
    /// Take a disabled key back into use
    Enable(KeyArguments),
    /// Take a key out of use for good
    Compromise {
        #[command(flatten)]
        key: KeyArguments,
        /// This cannot be undone, and is meant
        #[arg(long)]
        yes: bool,
    },
    /// Look at or choose the key that clients use by default
    Base {
        #[command(subcommand)]
        command: Base,
    },
    /// List what a key, or every key, is mapped to
    #[command(alias = "list-mappings")]
    Mappings {
        #[command(flatten)]
        key: KeyArguments,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Delete a key: what was wrapped with it cannot be opened any more
    Delete(Delete),
    /// Compare the registry with the devices
    ///
    /// Exits with 1 when they disagree and it was not repaired.
    Reconcile {
        /// Repair what can be repaired
        #[arg(long)]
        repair: bool,
    },
    /// Wrap the private keys in the registry by another root key
    WrapAgain {
        /// The root key that wraps them now
        #[arg(long, value_name = "NAME")]
        from: String,
        /// The root key to wrap them with
        #[arg(long, value_name = "NAME")]
        to: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Name of the new key inside its key access server, which clients see
    #[arg(long, alias = "key-id")]
    kid: String,
    /// Its key access server; without it, the one that the server serves itself, or for a key that
    /// exists, the only one there is
    #[arg(long, value_name = "UUID|URI|NAME")]
    kas: Option<KasName>,
    /// Try it for old TDFs that do not say which key they need
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    legacy: bool,
    #[command(flatten)]
    new: NewKeyArguments,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    #[command(flatten)]
    key: KeyArguments,
    /// Name of the new key
    #[arg(long, value_name = "KID")]
    new_kid: String,
    #[command(flatten)]
    new: NewKeyArguments,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// Row id of the key
    #[arg(long, short, value_name = "UUID")]
    id: Uuid,
    /// Its name, which must match
    #[arg(long, alias = "key-id")]
    kid: String,
    /// URI of its key access server, which must match
    #[arg(long, value_name = "URI")]
    kas_uri: String,
    /// This cannot be undone, and is meant
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Base {
    /// Show the base key
    Get,
    /// Choose the base key
    Set(KeyArguments),
}

/// Plans the call.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(run(arguments, output))
}

async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let server = arguments.server.server()?;
    match arguments.command {
        Command::List(list) => list.run(&server, output).await,
        Command::Get(key) => {
            let key = server.key(&key).await?;
            output.print(&json(&key), |_| format!("{}\n{}", shown(&key, None), pem(&key)))
        }
        Command::Create(create) => match create.new.read()? {
            NewKey::Generated(key) => generate(&server, create, key, output).await,
            NewKey::Given(key) => register(&server, create, key, output).await,
        },
        Command::Import(create) => {
            let key = create.new.read_import()?;
            register(&server, create, key, output).await
        }
        Command::Rotate(rotate) => match rotate.new.read()? {
            NewKey::Generated(key) => rotate_in_device(&server, rotate, key, output).await,
            NewKey::Given(key) => rotate_to(&server, rotate, key, output).await,
        },
        Command::Update { key, labels } => update(&server, &key, &labels, output).await,
        Command::Disable(key) => set_state(&server, &key, Target::Disabled, output).await,
        Command::Enable(key) => set_state(&server, &key, Target::Enabled, output).await,
        Command::Compromise { key, yes } => {
            confirmed(yes, "a compromised key is out of use for good")?;
            set_state(&server, &key, Target::Compromised, output).await
        }
        Command::Base { command: Base::Get } => base(&server, output).await,
        Command::Base { command: Base::Set(key) } => set_base(&server, &key, output).await,
        Command::Mappings { key, page } => mappings(&server, &key, &page, output).await,
        Command::Delete(delete_key) => delete(&server, delete_key, output).await,
        Command::Reconcile { repair } => reconcile(&server, repair, output).await,
        Command::WrapAgain { from, to } => wrap_again(&server, from, to, output).await,
    }
}

async fn generate(
    server: &Server,
    create: Create,
    key: GeneratedKey,
    output: Output,
) -> Result<(), Failure> {
    let provider_id = server.provider_id(&key.provider).await?;
    let kas_id = server.kas_id_or_own(create.kas.as_ref()).await?;
    let request = key.request(create.kid, kas_id, provider_id);
    ask_device(server, GenerateKeyRequest { legacy: create.legacy, ..request }, output).await
}

async fn rotate_in_device(
    server: &Server,
    rotate: Rotate,
    key: GeneratedKey,
    output: Output,
) -> Result<(), Failure> {
    let old = server.key(&rotate.key).await?;
    let rotates = present(old.key, "key")?.id;
    let provider_id = server.provider_id(&key.provider).await?;
    let request = key.request(rotate.new_kid, old.kas_id, provider_id);
    ask_device(server, GenerateKeyRequest { rotates, ..request }, output).await
}

async fn ask_device(
    server: &Server,
    request: GenerateKeyRequest,
    output: Output,
) -> Result<(), Failure> {
    let kid = request.key_id.clone();
    let answer = server
        .admin()
        .generate_key(request)
        .await
        .or_refused(format_args!("cannot make key {}", one_line(&kid)))?;
    let key = present(answer.kas_key, "key")?;
    let custody = answer.custody;
    let json: Value =
        Object::default().message("kasKey", Some(&key)).message("custody", custody.as_ref()).into();
    output.print(&json, |_| shown(&key, custody.as_ref()))
}

async fn register(
    server: &Server,
    create: Create,
    key: GivenKey,
    output: Output,
) -> Result<(), Failure> {
    let provider_id = given_provider_id(server, &key).await?;
    let kas_id = server.kas_id(create.kas.as_ref()).await?;
    let what = format!("cannot register key {}", one_line(&create.kid));
    let request = key.request(create.kid, kas_id, provider_id);
    let answer = server
        .registry()
        .create_key(CreateKeyRequest { legacy: create.legacy, ..request })
        .await
        .or_refused(what)?;
    let key = present(answer.kas_key, "key")?;
    output.print(&json(&key), |_| shown(&key, None))
}

async fn rotate_to(
    server: &Server,
    rotate: Rotate,
    key: GivenKey,
    output: Output,
) -> Result<(), Failure> {
    let old = server.key_id(&rotate.key).await?;
    let provider_id = given_provider_id(server, &key).await?;
    let what = format!("cannot rotate to key {}", one_line(&rotate.new_kid));
    let request = RotateKeyRequest {
        active_key: Some(rotate_key_request::ActiveKey::Id(old)),
        new_key: Some(key.successor(rotate.new_kid, provider_id)),
    };
    let answer = server.registry().rotate_key(request).await.or_refused(what)?;
    let key = present(answer.kas_key, "key")?;
    let moved = answer.rotated_resources.unwrap_or_default();
    let json: Value = Object::default()
        .message("kasKey", Some(&key))
        .message("rotatedResources", Some(&moved))
        .into();
    output.print(&json, |_| format!("{}\n{}", shown(&key, None), shown_moved(&moved)))
}

async fn given_provider_id(server: &Server, key: &GivenKey) -> Result<String, Failure> {
    match &key.provider {
        Some(provider) => server.provider_id(provider).await,
        None => Ok(String::new()),
    }
}

async fn update(
    server: &Server,
    key: &KeyArguments,
    labels: &LabelChangeArguments,
    output: Output,
) -> Result<(), Failure> {
    let Some((metadata, behaviour)) = labels.change() else {
        return Err(Failure::usage("nothing to update: give --label"));
    };
    let request = UpdateKeyRequest {
        id: server.key_id(key).await?,
        metadata: Some(metadata),
        metadata_update_behavior: behaviour.into(),
    };
    let answer = server.registry().update_key(request).await.or_refused("cannot update the key")?;
    let key = present(answer.kas_key, "key")?;
    output.print(&json(&key), |_| shown(&key, None))
}

async fn set_state(
    server: &Server,
    key: &KeyArguments,
    target: Target,
    output: Output,
) -> Result<(), Failure> {
    let request = SetKeyStateRequest { id: server.key_id(key).await?, target: target.into() };
    let answer = server
        .admin()
        .set_key_state(request)
        .await
        .or_refused("cannot change the state of the key")?;
    let key = present(answer.kas_key, "key")?;
    output.print(&json(&key), |_| shown(&key, None))
}

async fn base(server: &Server, output: Output) -> Result<(), Failure> {
    let answer = server
        .registry()
        .get_base_key(GetBaseKeyRequest {})
        .await
        .or_refused("cannot get the base key")?;
    let Some(key) = answer.base_key else {
        return Err(Failure::not_fine(
            "there is no base key; choose one with `kasbah keys base set`",
        ));
    };
    let json: Value = Object::default().message("baseKey", Some(&key)).into();
    output.print(&json, |_| shown_simple(&key))
}

async fn set_base(server: &Server, key: &KeyArguments, output: Output) -> Result<(), Failure> {
    let id = server.key_id(key).await?;
    let request = SetBaseKeyRequest { active_key: Some(set_base_key_request::ActiveKey::Id(id)) };
    let answer =
        server.registry().set_base_key(request).await.or_refused("cannot set the base key")?;
    let key = present(answer.new_base_key, "base key")?;
    let json: Value = Object::default()
        .message("newBaseKey", Some(&key))
        .message("previousBaseKey", answer.previous_base_key.as_ref())
        .into();
    output.print(&json, |_| shown_simple(&key))
}

async fn mappings(
    server: &Server,
    key: &KeyArguments,
    page: &PageArguments,
    output: Output,
) -> Result<(), Failure> {
    let request = key.mappings(server).await?;
    let found = page
        .collect(async |pagination| {
            let answer = server
                .registry()
                .list_key_mappings(ListKeyMappingsRequest {
                    pagination: Some(pagination),
                    ..request.clone()
                })
                .await
                .or_refused("cannot list mappings")?;
            Ok((answer.key_mappings, answer.pagination))
        })
        .await?;
    let json: Value = Object::default().list("keyMappings", &found).into();
    output.print(&json, |_| mapping_table(&found))
}

async fn delete(server: &Server, delete: Delete, output: Output) -> Result<(), Failure> {
    confirmed(delete.yes, "what was wrapped with the key cannot be opened any more")?;
    let what = format!("cannot delete key {}", one_line(&delete.kid));
    let request = UnsafeDeleteKasKeyRequest {
        id: delete.id.to_string(),
        kid: delete.kid,
        kas_uri: delete.kas_uri,
    };
    let answer = server.dangerous().unsafe_delete_kas_key(request).await.or_refused(what)?;
    let key = present(answer.key, "key")?;
    let json: Value = Object::default().message("key", Some(&key)).into();
    output.print(&json, |_| format!("deleted key {}", delete.id))
}

async fn reconcile(server: &Server, repair: bool, output: Output) -> Result<(), Failure> {
    let findings = server
        .admin()
        .reconcile(ReconcileRequest { repair })
        .await
        .or_refused("cannot compare the registry with the devices")?
        .findings;
    let json: Value = Object::default().list("findings", &findings).into();
    output.print(&json, |_| finding_table(&findings, repair))?;
    let fine = findings.iter().all(|finding| finding.repaired);
    if fine { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
}

async fn wrap_again(
    server: &Server,
    from: String,
    to: String,
    output: Output,
) -> Result<(), Failure> {
    if from == to {
        return Err(Failure::usage("--from and --to are the same root key"));
    }
    let nothing = format!("no key is wrapped by {}", one_line(&from));
    let kids = server
        .admin()
        .wrap_keys_again(WrapKeysAgainRequest { from, to })
        .await
        .or_refused("cannot wrap the keys again")?
        .key_ids;
    let json: Value = Object::default().texts("keyIds", &kids).into();
    output.print(&json, |_| match kids.len() {
        0 => nothing,
        _ => format!("wrapped again: {}", one_line(&kids.join(", "))),
    })
}

fn confirmed(yes: bool, consequence: &str) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::usage(format!("{consequence}; add --yes to do it"))) }
}

fn json(key: &KasKey) -> Value {
    Object::default().message("kasKey", Some(key)).into()
}

fn shown(kas_key: &KasKey, custody: Option<&Custody>) -> String {
    let key = kas_key.key.clone().unwrap_or_default();
    let metadata = key.metadata.as_ref();
    let kept_as = key.private_key_ctx.as_ref().map_or("", |private| &private.key_id);
    let mut properties = vec![
        ("id", cell(&key.id)),
        ("kas", cell(&kas_key.kas_uri)),
        ("kid", cell(&key.key_id)),
        ("algorithm", words::algorithm(key.key_algorithm).into()),
        ("status", words::status(key.key_status).into()),
        ("mode", words::mode(key.key_mode).into()),
        ("provider", designation(key.provider_config.as_ref())),
        (key_id_name(key.key_mode), cell(kept_as)),
        ("legacy", yes(key.legacy)),
        ("created", time(metadata.and_then(|metadata| metadata.created_at.as_ref()))),
        ("updated", time(metadata.and_then(|metadata| metadata.updated_at.as_ref()))),
        ("labels", labels(metadata)),
    ];
    properties.extend(custody.map(|custody| ("custody", shown_custody(custody))));
    details(&properties)
}

fn key_id_name(mode: i32) -> &'static str {
    if mode == i32::from(words::Mode::Remote.wire()) { "remote key" } else { "wrapping key" }
}

fn shown_custody(custody: &Custody) -> String {
    let enforced = if custody.enforced_by_key { ", enforced by the key" } else { "" };
    format!("{} ({}{enforced})", cell(&custody.level), cell(&custody.boundary))
}

/// The public key; nothing when it is not the text that it should be.
fn pem(key: &KasKey) -> String {
    let encoded = key.key.as_ref().and_then(|key| key.public_key_ctx.as_ref());
    let bytes = encoded.and_then(|encoded| STANDARD.decode(&encoded.pem).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    lines(&text.unwrap_or_default())
}

fn shown_simple(simple: &SimpleKasKey) -> String {
    let key = simple.public_key.clone().unwrap_or_default();
    let properties = details(&[
        ("kas", cell(&simple.kas_uri)),
        ("kid", cell(&key.kid)),
        ("algorithm", words::algorithm(key.algorithm).into()),
    ]);
    format!("{properties}\n{}", lines(&key.pem))
}

/// Text of several lines that a terminal can be shown.
fn lines(text: &str) -> String {
    text.lines().map(one_line).collect::<Vec<_>>().join("\n")
}

fn shown_moved(moved: &RotatedResources) -> String {
    let old = moved.rotated_out_key.as_ref().and_then(|key| key.key.as_ref());
    let names = |mappings: &[ChangeMappings]| {
        let names: Vec<_> = mappings.iter().map(|mapping| mapping.fqn.as_str()).collect();
        cell(&names.join(", "))
    };
    details(&[
        ("replaces", old.map_or_else(|| cell(""), |key| cell(&key.key_id))),
        ("namespaces", names(&moved.namespace_mappings)),
        ("attributes", names(&moved.attribute_definition_mappings)),
        ("values", names(&moved.attribute_value_mappings)),
    ])
}

fn mapping_table(found: &[KeyMapping]) -> String {
    if found.is_empty() {
        return "nothing is mapped".into();
    }
    let names = |objects: &[MappedPolicyObject]| {
        let names: Vec<_> = objects.iter().map(|object| object.fqn.as_str()).collect();
        cell(&names.join(", "))
    };
    let rows: Vec<_> = found
        .iter()
        .map(|mapping| {
            [
                cell(&mapping.kid),
                cell(&mapping.kas_uri),
                names(&mapping.namespace_mappings),
                names(&mapping.attribute_mappings),
                names(&mapping.value_mappings),
            ]
        })
        .collect();
    columns(["KID", "KAS", "NAMESPACES", "ATTRIBUTES", "VALUES"], &rows)
}

fn finding_table(findings: &[Finding], repair: bool) -> String {
    if findings.is_empty() {
        return "the registry and the devices agree".into();
    }
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let (kid, provider) = (cell(&finding.kid), cell(&finding.provider));
            let repaired = yes(finding.repaired);
            [kind(finding.kind), kid, provider, repaired, cell(&finding.detail)]
        })
        .collect();
    let table = columns(["KIND", "KID", "PROVIDER", "REPAIRED", "DETAIL"], &rows);
    let hint = if repair { "" } else { "repair what can be repaired with --repair" };
    format!("{table}{hint}")
}

fn kind(number: i32) -> String {
    let name = Kind::try_from(number).unwrap_or_default().as_str_name();
    name.trim_start_matches("KIND_").to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use kasbah_proto::policy::{
        Algorithm, AsymmetricKey, KeyMode, KeyStatus, PrivateKeyCtx, PublicKeyCtx,
        SimpleKasPublicKey,
    };

    use super::*;

    const ID: &str = "6e3c8a1e-9d0b-4a3f-8f0e-0d4b5f6a7c88";
    const CREATE: [&str; 5] = ["create", "--kid", "k1", "--algorithm", "rsa:2048"];

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        let command = Arguments::augment_args(clap::Command::new("keys"));
        let matches = command.try_get_matches_from(["keys"].iter().chain(arguments))?;
        Arguments::from_arg_matches(&matches)
    }

    /// Runs a command that must be refused before anything is sent.
    async fn refused(arguments: &[&str]) -> String {
        let failure = run(parse(arguments).unwrap(), Output::Table).await.unwrap_err();
        let failure = format!("{failure:?}");
        assert!(failure.contains("exit: Usage"), "{arguments:?}: {failure}");
        failure
    }

    fn key() -> KasKey {
        KasKey {
            kas_id: "k".into(),
            kas_uri: "http://kas".into(),
            key: Some(AsymmetricKey {
                id: "i".into(),
                key_id: "r1".into(),
                key_algorithm: Algorithm::EcP256.into(),
                key_status: KeyStatus::Active.into(),
                key_mode: KeyMode::Remote.into(),
                private_key_ctx: Some(PrivateKeyCtx {
                    key_id: "pkcs11:object=r1".into(),
                    wrapped_key: String::new(),
                }),
                public_key_ctx: Some(PublicKeyCtx { pem: STANDARD.encode("A\nB\u{1b}\n") }),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn wrong_combinations_are_refused() {
        for arguments in [
            vec!["get", "--id", ID, "--kid", "k1"],
            vec!["get", "--id", ID, "--kas", "main"],
            vec!["get", "--id", "k1"],
            vec!["get", "--kas", "main"],
            vec!["create", "--algorithm", "rsa:2048"],
            vec!["create", "--kid", "k1"],
            vec!["create", "--kid", "k1", "--algorithm", "rsa:1024"],
            [&CREATE[..], &["--mode", "hsm"]].concat(),
            [&CREATE[..], &["--provider", "main"]].concat(),
            [&CREATE[..], &["--manager", "opentdf.io/hsm"]].concat(),
            [&CREATE[..], &["--provider", "main", "--manager", "m", "--provider-config-id", ID]]
                .concat(),
            [&CREATE[..], &["--legacy", "maybe"]].concat(),
            vec!["rotate", "--kid", "k1", "--algorithm", "rsa:2048"],
            vec!["list", "--algorithm", "aes"],
            vec!["list", "--unused-days", "-1"],
            vec!["base"],
            vec!["delete", "--id", ID, "--yes"],
            vec!["wrap-again", "--from", "root1"],
            vec!["list", "--timeout", "0"],
        ] {
            let error = parse(&arguments).map(|_| ()).expect_err(&format!("{arguments:?}"));
            assert_eq!(error.exit_code(), 2, "{arguments:?}: {error}");
        }
    }

    #[test]
    fn the_words_of_other_tools_are_known() {
        for arguments in [
            vec!["create", "--key-id", "k1", "-a", "RSA:2048", "-m", "Remote", "-p", ID],
            vec!["import", "--kid", "k1", "-a", "rsa:2048", "--legacy", "true"],
            vec!["get", "--key", "k1", "--kas", "http://kas"],
            vec!["list", "--legacy"],
            vec!["list", "--legacy", "false"],
            vec!["list-mappings", "-l", "5", "-o", "10"],
            vec!["base", "set", "--kid", "k1"],
        ] {
            assert!(parse(&arguments).is_ok(), "{arguments:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_undone_is_confirmed() {
        let deletion = ["delete", "--id", ID, "--kid", "k1", "--kas-uri", "http://kas"];
        assert!(refused(&deletion).await.contains("--yes"));
        assert!(refused(&["compromise", "--id", ID]).await.contains("--yes"));
    }

    #[tokio::test]
    async fn nothing_is_sent_when_something_is_missing() {
        for (arguments, reason) in [
            (vec!["get"], "name a key"),
            (vec!["disable"], "name a key"),
            (vec!["update", "--id", ID], "nothing to update"),
            (vec!["wrap-again", "--from", "root1", "--to", "root1"], "the same root key"),
            (CREATE.to_vec(), "which device"),
            (vec!["import", "--kid", "k1", "-a", "rsa:2048"], "--public-key-file"),
            (vec!["list", "--url", "https://kas"], "https is not available"),
            (vec!["list", "--token-file", "/no/such/file"], "/no/such/file"),
        ] {
            let failure = refused(&arguments).await;
            assert!(failure.contains(reason), "{arguments:?}: {failure}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_unavailable() {
        let arguments = ["list", "--url", "http://127.0.0.1:1"];
        let failure = run(parse(&arguments).unwrap(), Output::Table).await.unwrap_err();
        let failure = format!("{failure:?}");
        assert!(failure.contains("exit: Unavailable"), "{failure}");
        assert!(failure.contains("cannot list keys"), "{failure}");
    }

    #[test]
    fn a_key_is_shown_with_its_custody() {
        let custody =
            Custody { level: "sealed".into(), enforced_by_key: true, boundary: "hardware".into() };
        assert_eq!(
            shown(&key(), Some(&custody)),
            "\
id          i
kas         http://kas
kid         r1
algorithm   ec:secp256r1
status      active
mode        remote
provider    -
remote key  pkcs11:object=r1
legacy      -
created     -
updated     -
labels      -
custody     sealed (hardware, enforced by the key)"
        );
    }

    #[test]
    fn a_public_key_is_shown_as_text() {
        assert_eq!(pem(&key()), "A\nB\u{fffd}");
        assert_eq!(pem(&KasKey::default()), "");
        let public_key = SimpleKasPublicKey {
            algorithm: Algorithm::Rsa2048.into(),
            kid: "r1".into(),
            pem: "A\nB".into(),
        };
        let base = SimpleKasKey { public_key: Some(public_key), ..Default::default() };
        assert_eq!(shown_simple(&base), "kas        -\nkid        r1\nalgorithm  rsa:2048\nA\nB");
    }

    #[test]
    fn a_rotation_says_what_moved() {
        let mapping = ChangeMappings { id: "1".into(), fqn: "https://a/attr/b".into() };
        let moved = RotatedResources {
            rotated_out_key: Some(key()),
            attribute_definition_mappings: vec![mapping],
            ..Default::default()
        };
        assert_eq!(
            shown_moved(&moved),
            "replaces    r1\nnamespaces  -\nattributes  https://a/attr/b\nvalues      -"
        );
    }

    #[test]
    fn findings_are_a_table() {
        let finding = Finding {
            kind: Kind::HalfKey.into(),
            kid: "k1".into(),
            provider: "opentdf.io/hsm#main".into(),
            detail: "half".into(),
            repaired: true,
        };
        assert_eq!(
            finding_table(std::slice::from_ref(&finding), true),
            "KIND      KID  PROVIDER             REPAIRED  DETAIL\n\
             half-key  k1   opentdf.io/hsm#main  yes       half\n"
        );
        assert!(finding_table(&[finding], false).ends_with("--repair"));
        assert_eq!(finding_table(&[], false), "the registry and the devices agree");
        assert_eq!(kind(99), "unspecified");
    }

    #[test]
    fn mappings_are_a_table() {
        let object = MappedPolicyObject { id: "1".into(), fqn: "https://a".into() };
        let mapping = KeyMapping {
            kid: "r1".into(),
            kas_uri: "http://kas".into(),
            namespace_mappings: vec![object],
            ..Default::default()
        };
        assert_eq!(
            mapping_table(&[mapping]),
            "KID  KAS         NAMESPACES  ATTRIBUTES  VALUES\n\
             r1   http://kas  https://a   -           -\n"
        );
        assert_eq!(mapping_table(&[]), "nothing is mapped");
    }
}
