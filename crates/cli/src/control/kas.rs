//! `kasbah kas`: the key access servers of a registry.

use kasbah_proto::{
    common::MetadataUpdateEnum,
    policy::{
        KeyAccessServer, SourceType,
        kasregistry::{
            CreateKeyAccessServerRequest, DeleteKeyAccessServerRequest,
            ListKeyAccessServersRequest, UpdateKeyAccessServerRequest,
        },
    },
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    control::{
        find::KasName,
        json::Object,
        labels::{LabelArguments, LabelChangeArguments},
        page::PageArguments,
        refused::{OrRefused, present},
        server::{Server, ServerArguments},
        table::{cell, details, labels, time},
    },
    exit::Failure,
    output::{Output, columns},
    plan::Plan,
};

/// Keep the key access servers of a running server's registry
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the key access servers
    List(PageArguments),
    /// Show a key access server
    Get(Which),
    /// Register a key access server
    Create(Create),
    /// Change a key access server
    Update(Update),
    /// Remove a key access server, which must have no keys
    Delete {
        /// Row id of the key access server
        #[arg(long, short, value_name = "UUID")]
        id: Uuid,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Row id of the key access server
    #[arg(long, short, value_name = "UUID")]
    id: Option<Uuid>,
    /// Its URI
    #[arg(long, short)]
    uri: Option<String>,
    /// Its name
    #[arg(long, short)]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Where clients reach it: what is in their TDFs
    #[arg(long, short)]
    uri: String,
    /// A name for it
    #[arg(long, short)]
    name: Option<String>,
    #[command(flatten)]
    labels: LabelArguments,
}

#[derive(Debug, clap::Args)]
struct Update {
    /// Row id of the key access server
    #[arg(long, short, value_name = "UUID")]
    id: Uuid,
    /// New URI
    #[arg(long, short)]
    uri: Option<String>,
    /// New name
    #[arg(long, short)]
    name: Option<String>,
    #[command(flatten)]
    labels: LabelChangeArguments,
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
            let found = server.kas(&which.name()?).await?;
            output.print(&json(&found), |_| shown(&found))
        }
        Command::Create(create) => {
            let answer = server
                .registry()
                .create_key_access_server(create.request())
                .await
                .or_refused(format_args!("cannot register {}", create.uri))?;
            let made = present(answer.key_access_server, "key access server")?;
            output.print(&json(&made), |_| shown(&made))
        }
        Command::Update(update) => {
            let answer = server
                .registry()
                .update_key_access_server(update.request()?)
                .await
                .or_refused(format_args!("cannot update key access server {}", update.id))?;
            let updated = present(answer.key_access_server, "key access server")?;
            output.print(&json(&updated), |_| format!("updated key access server {}", update.id))
        }
        Command::Delete { id } => {
            let answer = server
                .registry()
                .delete_key_access_server(DeleteKeyAccessServerRequest { id: id.to_string() })
                .await
                .or_refused(format_args!("cannot delete key access server {id}"))?;
            let deleted = present(answer.key_access_server, "key access server")?;
            output.print(&json(&deleted), |_| format!("deleted key access server {id}"))
        }
    }
}

async fn list(server: &Server, page: &PageArguments, output: Output) -> Result<(), Failure> {
    let found = page
        .collect(async |pagination| {
            let answer = server
                .registry()
                .list_key_access_servers(ListKeyAccessServersRequest {
                    pagination: Some(pagination),
                    ..Default::default()
                })
                .await
                .or_refused("cannot list key access servers")?;
            Ok((answer.key_access_servers, answer.pagination))
        })
        .await?;
    let json: Value = Object::default().list("keyAccessServers", &found).into();
    output.print(&json, |_| table(&found))
}

impl Which {
    fn name(self) -> Result<KasName, Failure> {
        let id = self.id.map(KasName::Id);
        let uri = self.uri.map(KasName::Uri);
        let name = self.name.map(KasName::Name);
        id.or(uri).or(name).ok_or_else(|| Failure::usage("give one of --id, --uri and --name"))
    }
}

impl Create {
    fn request(&self) -> CreateKeyAccessServerRequest {
        CreateKeyAccessServerRequest {
            uri: self.uri.clone(),
            name: self.name.clone().unwrap_or_default(),
            metadata: self.labels.metadata(),
            ..Default::default()
        }
    }
}

impl Update {
    fn request(&self) -> Result<UpdateKeyAccessServerRequest, Failure> {
        let change = self.labels.change();
        if self.uri.is_none() && self.name.is_none() && change.is_none() {
            return Err(Failure::usage("nothing to update: give --uri, --name or --label"));
        }
        let (metadata, behaviour) = change.unzip();
        Ok(UpdateKeyAccessServerRequest {
            id: self.id.to_string(),
            uri: self.uri.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
            metadata,
            metadata_update_behavior: behaviour.unwrap_or(MetadataUpdateEnum::Unspecified).into(),
            ..Default::default()
        })
    }
}

fn json(kas: &KeyAccessServer) -> Value {
    Object::default().message("keyAccessServer", Some(kas)).into()
}

fn table(found: &[KeyAccessServer]) -> String {
    if found.is_empty() {
        return "the registry has no key access servers; make one with `kasbah kas create`".into();
    }
    let rows: Vec<_> = found
        .iter()
        .map(|kas| {
            let labels = labels(kas.metadata.as_ref());
            [cell(&kas.id), cell(&kas.uri), cell(&kas.name), kas.kas_keys.len().to_string(), labels]
        })
        .collect();
    columns(["ID", "URI", "NAME", "KEYS", "LABELS"], &rows)
}

fn shown(kas: &KeyAccessServer) -> String {
    let kids: Vec<_> = kas
        .kas_keys
        .iter()
        .filter_map(|key| key.public_key.as_ref())
        .map(|key| key.kid.as_str())
        .collect();
    let metadata = kas.metadata.as_ref();
    details(&[
        ("id", cell(&kas.id)),
        ("uri", cell(&kas.uri)),
        ("name", cell(&kas.name)),
        ("source", source(kas.source_type).into()),
        ("keys", cell(&kids.join(", "))),
        ("created", time(metadata.and_then(|metadata| metadata.created_at.as_ref()))),
        ("updated", time(metadata.and_then(|metadata| metadata.updated_at.as_ref()))),
        ("labels", labels(metadata)),
    ])
}

fn source(number: i32) -> &'static str {
    match SourceType::try_from(number) {
        Ok(SourceType::Internal) => "internal",
        Ok(SourceType::External) => "external",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use kasbah_proto::policy::{SimpleKasKey, SimpleKasPublicKey};

    use super::*;

    const ID: &str = "6e3c8a1e-9d0b-4a3f-8f0e-0d4b5f6a7c88";

    fn parse(arguments: &[&str]) -> Result<Command, clap::Error> {
        let command = Arguments::augment_args(clap::Command::new("kas"));
        let matches = command.try_get_matches_from(["kas"].iter().chain(arguments))?;
        Ok(Arguments::from_arg_matches(&matches)?.command)
    }

    #[test]
    fn wrong_combinations_are_refused() {
        for arguments in [
            vec![],
            vec!["get"],
            vec!["get", "--id", ID, "--name", "main"],
            vec!["get", "--id", "main"],
            vec!["create"],
            vec!["create", "--uri", "http://kas", "--label", "team"],
            vec!["update", "--uri", "http://kas"],
            vec!["delete"],
            vec!["delete", "--id", "1"],
            vec!["list", "--limit", "0"],
            vec!["list", "--offset", "-1"],
            vec!["list", "--token", "secret"],
        ] {
            let error = parse(&arguments).expect_err(&format!("{arguments:?}"));
            let display = clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            assert!(error.exit_code() == 2 || error.kind() == display, "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_server_is_named_before_or_after_the_verb() {
        for arguments in [["--url", "http://a", "list"], ["list", "--url", "http://a"]] {
            assert!(parse(&arguments).is_ok(), "{arguments:?}");
        }
    }

    #[test]
    fn an_update_changes_only_what_is_given() {
        let request =
            |arguments: &[&str]| match parse(&[&["update", "--id", ID], arguments].concat()) {
                Ok(Command::Update(update)) => update.request(),
                other => panic!("{other:?}"),
            };
        let failure = request(&[]).unwrap_err();
        assert!(format!("{failure:?}").contains("Usage"), "{failure:?}");
        let named = request(&["--name", "main"]).unwrap();
        assert_eq!((named.id.as_str(), named.name.as_str(), named.uri.as_str()), (ID, "main", ""));
        assert_eq!(named.metadata, None);
        assert_eq!(named.metadata_update_behavior(), MetadataUpdateEnum::Unspecified);
        let labelled = request(&["--label", "a=1,b=2"]).unwrap();
        assert_eq!(labelled.metadata.unwrap().labels.len(), 2);
        let cleared = request(&["--force-replace-labels"]).unwrap();
        assert_eq!(cleared.metadata_update_behavior(), MetadataUpdateEnum::Replace);
        assert!(cleared.metadata.unwrap().labels.is_empty());
    }

    #[test]
    fn a_list_is_a_table_with_the_number_of_keys() {
        let public_key = SimpleKasPublicKey { kid: "r1".into(), ..Default::default() };
        let key = SimpleKasKey { public_key: Some(public_key), ..Default::default() };
        let kas = KeyAccessServer {
            id: "1".into(),
            uri: "http://kas".into(),
            kas_keys: vec![key],
            ..Default::default()
        };
        assert_eq!(
            table(std::slice::from_ref(&kas)),
            "ID  URI         NAME  KEYS  LABELS\n1   http://kas  -     1     -\n"
        );
        assert!(shown(&kas).contains("keys     r1\n"), "{}", shown(&kas));
        assert!(table(&[]).contains("kasbah kas create"));
    }
}
