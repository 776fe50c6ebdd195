//! `kasbah providers`: the provider configurations of a registry.

use std::{fs, path::PathBuf};

use anyhow::Context;
use kasbah_proto::{
    common::MetadataUpdateEnum,
    kasbah::admin::v1::{ListProviderHealthRequest, ProviderHealth},
    policy::{
        KeyProviderConfig,
        keymanagement::{
            CreateProviderConfigRequest, DeleteProviderConfigRequest, ListProviderConfigsRequest,
            UpdateProviderConfigRequest,
        },
    },
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    control::{
        find::ProviderName,
        json::Object,
        labels::{LabelArguments, LabelChangeArguments},
        page::PageArguments,
        refused::{OrRefused, present},
        server::{Server, ServerArguments},
        table::{cell, details, labels, time},
    },
    exit::{Exit, Failure, OrExit},
    output::{Output, columns},
    plan::Plan,
};

/// Keep the provider configurations of a running server's registry
///
/// A provider configuration tells a key manager which device to use. It names entries of the
/// server's own configuration, so it has no secrets, paths or commands in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the provider configurations
    List(PageArguments),
    /// Show a provider configuration
    Get(Which),
    /// Make a provider configuration
    Create(Create),
    /// Change a provider configuration
    Update(Update),
    /// Remove a provider configuration, which no key may use
    Delete {
        /// Row id of the provider configuration
        #[arg(long, short, value_name = "UUID")]
        id: Uuid,
    },
    /// Show whether the server can use its providers
    ///
    /// Exits with 1 when one of them is not ready.
    Health,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Row id of the provider configuration
    #[arg(
        long,
        short,
        value_name = "UUID",
        required_unless_present = "name",
        conflicts_with_all = ["name", "manager"]
    )]
    id: Option<Uuid>,
    /// Its name
    #[arg(long, short, requires = "manager")]
    name: Option<String>,
    /// Its key manager
    #[arg(long, short, requires = "name")]
    manager: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// A name, unique among those of the same manager
    #[arg(long, short)]
    name: String,
    /// The key manager, for example `opentdf.io/hsm`
    #[arg(long, short)]
    manager: String,
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    labels: LabelArguments,
}

#[derive(Debug, clap::Args)]
struct Update {
    /// Row id of the provider configuration
    #[arg(long, short, value_name = "UUID")]
    id: Uuid,
    /// New name
    #[arg(long, short)]
    name: Option<String>,
    /// New key manager
    #[arg(long, short)]
    manager: Option<String>,
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    labels: LabelChangeArguments,
}

/// What the key manager reads.
#[derive(Debug, clap::Args)]
#[group(id = "settings", multiple = false)]
struct Config {
    /// Settings for the key manager, a JSON object such as
    /// `{"module":"softhsm","token":"kas","pin":"pin1"}`
    #[arg(long, short, value_name = "JSON")]
    config: Option<String>,
    /// File with them
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
}

/// Plans the call.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(run(arguments, output))
}

async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let server = arguments.server.server()?;
    match arguments.command {
        Command::List(page) => list(&server, &page, output).await,
        Command::Get(which) => {
            let found = server.provider(&which.name()?).await?;
            output.print(&json(&found), |_| shown(&found))
        }
        Command::Create(create) => {
            let answer = server
                .key_management()
                .create_provider_config(create.request()?)
                .await
                .or_refused(format_args!("cannot make {}#{}", create.manager, create.name))?;
            let made = present(answer.provider_config, "provider configuration")?;
            output.print(&json(&made), |_| shown(&made))
        }
        Command::Update(update) => {
            let answer = server
                .key_management()
                .update_provider_config(update.request()?)
                .await
                .or_refused(format_args!("cannot update provider configuration {}", update.id))?;
            let updated = present(answer.provider_config, "provider configuration")?;
            output
                .print(&json(&updated), |_| format!("updated provider configuration {}", update.id))
        }
        Command::Delete { id } => {
            let answer = server
                .key_management()
                .delete_provider_config(DeleteProviderConfigRequest { id: id.to_string() })
                .await
                .or_refused(format_args!("cannot delete provider configuration {id}"))?;
            let deleted = present(answer.provider_config, "provider configuration")?;
            output.print(&json(&deleted), |_| format!("deleted provider configuration {id}"))
        }
        Command::Health => health(&server, output).await,
    }
}

async fn list(server: &Server, page: &PageArguments, output: Output) -> Result<(), Failure> {
    let found = page
        .collect(async |pagination| {
            let answer = server
                .key_management()
                .list_provider_configs(ListProviderConfigsRequest { pagination: Some(pagination) })
                .await
                .or_refused("cannot list provider configurations")?;
            Ok((answer.provider_configs, answer.pagination))
        })
        .await?;
    let json: Value = Object::default().list("providerConfigs", &found).into();
    output.print(&json, |_| table(&found))
}

async fn health(server: &Server, output: Output) -> Result<(), Failure> {
    let found = server
        .admin()
        .list_provider_health(ListProviderHealthRequest {})
        .await
        .or_refused("cannot ask for the health of providers")?
        .providers;
    let json: Value = Object::default().list("providers", &found).into();
    output.print(&json, |_| health_table(&found))?;
    let fine = found.iter().all(|provider| provider.ready);
    if fine { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
}

impl Which {
    fn name(self) -> Result<ProviderName, Failure> {
        match (self.id, self.name, self.manager) {
            (Some(id), ..) => Ok(ProviderName::Id(id)),
            (None, Some(name), Some(manager)) => Ok(ProviderName::Named { name, manager }),
            _ => Err(Failure::usage("give --id, or --name and --manager")),
        }
    }
}

impl Create {
    fn request(&self) -> Result<CreateProviderConfigRequest, Failure> {
        let Some(config_json) = self.config.read()? else {
            return Err(Failure::usage("give --config or --config-file; `{}` for no settings"));
        };
        Ok(CreateProviderConfigRequest {
            name: self.name.clone(),
            config_json,
            manager: self.manager.clone(),
            metadata: self.labels.metadata(),
        })
    }
}

impl Update {
    fn request(&self) -> Result<UpdateProviderConfigRequest, Failure> {
        let (config, change) = (self.config.read()?, self.labels.change());
        let renamed = self.name.is_some() || self.manager.is_some();
        if !renamed && config.is_none() && change.is_none() {
            return Err(Failure::usage(
                "nothing to update: give --name, --manager, --config or --label",
            ));
        }
        let (metadata, behaviour) = change.unzip();
        Ok(UpdateProviderConfigRequest {
            id: self.id.to_string(),
            name: self.name.clone().unwrap_or_default(),
            config_json: config.unwrap_or_default(),
            manager: self.manager.clone().unwrap_or_default(),
            metadata,
            metadata_update_behavior: behaviour.unwrap_or(MetadataUpdateEnum::Unspecified).into(),
        })
    }
}

impl Config {
    fn read(&self) -> Result<Option<Vec<u8>>, Failure> {
        let (from, text) = match (&self.config, &self.config_file) {
            (Some(text), _) => ("--config".to_owned(), text.clone()),
            (None, Some(file)) => {
                let from = file.display().to_string();
                let text = fs::read_to_string(file)
                    .with_context(|| format!("cannot read {from}"))
                    .or_exit(Exit::Usage)?;
                (from, text)
            }
            (None, None) => return Ok(None),
        };
        serde_json::from_str::<Map<String, Value>>(&text)
            .with_context(|| format!("{from}: expected a JSON object"))
            .or_exit(Exit::Usage)?;
        Ok(Some(text.into_bytes()))
    }
}

fn json(provider: &KeyProviderConfig) -> Value {
    Object::default().message("providerConfig", Some(provider)).into()
}

fn settings(provider: &KeyProviderConfig) -> String {
    cell(&String::from_utf8_lossy(&provider.config_json))
}

fn table(found: &[KeyProviderConfig]) -> String {
    if found.is_empty() {
        let hint = "make one with `kasbah providers create`";
        return format!("the registry has no provider configurations; {hint}");
    }
    let rows: Vec<_> = found
        .iter()
        .map(|provider| {
            let (name, manager) = (cell(&provider.name), cell(&provider.manager));
            [cell(&provider.id), name, manager, settings(provider)]
        })
        .collect();
    columns(["ID", "NAME", "MANAGER", "CONFIG"], &rows)
}

fn shown(provider: &KeyProviderConfig) -> String {
    let metadata = provider.metadata.as_ref();
    details(&[
        ("id", cell(&provider.id)),
        ("name", cell(&provider.name)),
        ("manager", cell(&provider.manager)),
        ("config", settings(provider)),
        ("created", time(metadata.and_then(|metadata| metadata.created_at.as_ref()))),
        ("updated", time(metadata.and_then(|metadata| metadata.updated_at.as_ref()))),
        ("labels", labels(metadata)),
    ])
}

fn health_table(found: &[ProviderHealth]) -> String {
    if found.is_empty() {
        return "the server has no provider configurations".into();
    }
    let rows: Vec<_> = found
        .iter()
        .map(|health| {
            let config = health.provider_config.as_ref();
            let name = config.map_or_else(|| cell(""), |config| cell(&config.name));
            let manager = config.map_or_else(|| cell(""), |config| cell(&config.manager));
            let ready = match (health.ready, health.manager_registered) {
                (true, _) => "ready",
                (false, true) => "not ready",
                (false, false) => "no such manager",
            };
            [name, manager, ready.into(), cell(&health.file), cell(&health.detail)]
        })
        .collect();
    columns(["NAME", "MANAGER", "STATE", "FILE", "DETAIL"], &rows)
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    const ID: &str = "6e3c8a1e-9d0b-4a3f-8f0e-0d4b5f6a7c88";

    fn parse(arguments: &[&str]) -> Result<Command, clap::Error> {
        let command = Arguments::augment_args(clap::Command::new("providers"));
        let matches = command.try_get_matches_from(["providers"].iter().chain(arguments))?;
        Ok(Arguments::from_arg_matches(&matches)?.command)
    }

    fn created(config: &[&str]) -> Result<CreateProviderConfigRequest, Failure> {
        let named = ["create", "--name", "main", "--manager", "opentdf.io/hsm"];
        match parse(&[&named, config].concat()) {
            Ok(Command::Create(create)) => create.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_combinations_are_refused() {
        for arguments in [
            vec!["get"],
            vec!["get", "--name", "main"],
            vec!["get", "--manager", "opentdf.io/hsm"],
            vec!["get", "--id", ID, "--name", "main", "--manager", "opentdf.io/hsm"],
            vec!["create", "--name", "main", "--config", "{}"],
            vec!["create", "--manager", "opentdf.io/hsm", "--config", "{}"],
            vec!["create", "--name", "a", "--manager", "b", "--config", "{}", "--config-file", "c"],
            vec!["update", "--name", "main"],
            vec!["delete", "--name", "main"],
            vec!["health", "--id", ID],
        ] {
            let error = parse(&arguments).expect_err(&format!("{arguments:?}"));
            assert_eq!(error.exit_code(), 2, "{arguments:?}: {error}");
        }
    }

    #[test]
    fn settings_are_a_json_object() {
        let request = created(&["--config", r#"{"module":"softhsm"}"#]).unwrap();
        assert_eq!(request.config_json, br#"{"module":"softhsm"}"#);
        for wrong in [
            &[] as &[&str],
            &["--config", ""],
            &["--config", "[]"],
            &["--config", "module: softhsm"],
            &["--config", "{} {}"],
            &["--config-file", "/no/such/file"],
        ] {
            let failure = format!("{:?}", created(wrong).unwrap_err());
            assert!(failure.contains("Usage"), "{wrong:?}: {failure}");
        }
    }

    #[test]
    fn an_update_changes_something() {
        let request =
            |arguments: &[&str]| match parse(&[&["update", "--id", ID], arguments].concat()) {
                Ok(Command::Update(update)) => update.request(),
                other => panic!("{other:?}"),
            };
        assert!(request(&[]).is_err());
        assert_eq!(request(&["--config", "{}"]).unwrap().config_json, b"{}");
        assert_eq!(request(&["--manager", "m"]).unwrap().manager, "m");
    }

    #[test]
    fn tables_show_settings_and_health() {
        let provider = KeyProviderConfig {
            id: "1".into(),
            name: "main".into(),
            manager: "opentdf.io/hsm".into(),
            config_json: b"{\n}".to_vec(),
            metadata: None,
        };
        assert_eq!(
            table(std::slice::from_ref(&provider)),
            "ID  NAME  MANAGER         CONFIG\n1   main  opentdf.io/hsm  { }\n"
        );
        let health = ProviderHealth {
            provider_config: Some(provider),
            manager_registered: false,
            ready: false,
            detail: "no manager".into(),
            file: String::new(),
        };
        assert_eq!(
            health_table(&[health]),
            "NAME  MANAGER         STATE            FILE  DETAIL\n\
             main  opentdf.io/hsm  no such manager  -     no manager\n"
        );
    }
}
