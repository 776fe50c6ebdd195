//! `kasbah entitlements`: who may read what, for all nodes of a registry.

use std::{fs, path::PathBuf};

use anyhow::Context;
use kasbah_access::{Entitlements, LocalOptions};
use kasbah_proto::kasbah::admin::v1::{GetEntitlementsRequest, SetEntitlementsRequest};
use serde::Serialize;

use crate::{
    control::{
        refused::OrRefused,
        server::{Server, ServerArguments},
        table::one_line,
    },
    exit::{Exit, Failure, OrExit},
    output::Output,
    plan::Plan,
};

/// Keep the entitlements that all servers of a registry decide by
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put a document in place of the one before
    Set {
        /// File with the document (YAML)
        file: PathBuf,
        /// Only if the document before has this revision; 0 if there must be none
        #[arg(long, value_name = "N")]
        expected_revision: Option<u64>,
    },
    /// Print the document; with `--output json`, exactly as it was written, and with its revision
    Get,
    /// Report everything that is wrong with a document; no server is asked
    ///
    /// Exits with 1 when it could not be used.
    Check {
        /// File with the document (YAML)
        file: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Kept {
    revision: u64,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Current {
    revision: u64,
    document: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    ok: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
}

/// Plans the call.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(run(arguments, output))
}

async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let Arguments { server, command } = arguments;
    match command {
        Command::Set { file, expected_revision } => {
            let document = read(&file)?;
            set(&server.server()?, SetEntitlementsRequest { document, expected_revision }, output)
                .await
        }
        Command::Get => get(&server.server()?, output).await,
        Command::Check { file } => {
            let report = check(&read(&file)?);
            output.print(&report, shown)?;
            if report.ok { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
        }
    }
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    let text = fs::read_to_string(file);
    text.with_context(|| format!("cannot read {}", file.display())).or_exit(Exit::Usage)
}

async fn set(
    server: &Server,
    request: SetEntitlementsRequest,
    output: Output,
) -> Result<(), Failure> {
    let answer = server.admin().set_entitlements(request).await;
    let answer = answer.or_refused("cannot set the entitlements")?;
    let kept = Kept { revision: answer.revision, warnings: answer.warnings };
    output.print(&kept, |kept| {
        let verdict = format!("the entitlements are at revision {}", kept.revision);
        [lines("warning", &kept.warnings), vec![verdict]].concat().join("\n")
    })
}

async fn get(server: &Server, output: Output) -> Result<(), Failure> {
    let answer = server.admin().get_entitlements(GetEntitlementsRequest {}).await;
    let answer = answer.or_refused("cannot get the entitlements")?;
    if answer.revision == 0 {
        return Err(Failure::not_fine(
            "there are no entitlements; set them with `kasbah entitlements set`",
        ));
    }
    let current = Current { revision: answer.revision, document: answer.document };
    output.print(&current, |current| current.document.clone())
}

fn check(document: &str) -> Report {
    match Entitlements::parse(document) {
        Ok(entitlements) => Report {
            ok: true,
            problems: Vec::new(),
            warnings: entitlements.warnings(LocalOptions::default()),
        },
        Err(error) => Report {
            ok: false,
            problems: error.to_string().lines().map(str::to_owned).collect(),
            warnings: Vec::new(),
        },
    }
}

fn shown(report: &Report) -> String {
    let verdict = match (report.problems.len(), report.warnings.len()) {
        (0, 0) => "the entitlements are fine".to_owned(),
        (0, warnings) => format!("the entitlements can be used; warnings: {warnings}"),
        (problems, _) => format!("the entitlements cannot be used; problems: {problems}"),
    };
    let problems = lines("problem", &report.problems);
    let warnings = lines("warning", &report.warnings);
    [problems, warnings, vec![verdict]].concat().join("\n")
}

fn lines(kind: &str, findings: &[String]) -> Vec<String> {
    findings.iter().map(|finding| format!("{kind}: {}", one_line(finding))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use clap::Parser;
    use kasbah_proto::kasbah::admin::v1::{
        GetEntitlementsResponse, SetEntitlementsResponse,
        admin_service_server::{AdminService, AdminServiceServer},
    };
    use tonic::{
        Request, Response, Status,
        transport::{Server as Transport, server::TcpIncoming},
    };

    use super::*;

    /// A server that keeps what it is given.
    #[derive(Debug, Clone, Default)]
    struct Keeper(Arc<Mutex<Option<SetEntitlementsRequest>>>);

    #[tonic::async_trait]
    impl AdminService for Keeper {
        async fn set_entitlements(
            &self,
            request: Request<SetEntitlementsRequest>,
        ) -> Result<Response<SetEntitlementsResponse>, Status> {
            let request = request.into_inner();
            if request.document.contains("wrong") {
                return Err(Status::invalid_argument("line 1: wrong\nline 2: wrong"));
            }
            *self.0.lock().unwrap() = Some(request);
            Ok(Response::new(SetEntitlementsResponse { revision: 7, warnings: Vec::new() }))
        }

        async fn get_entitlements(
            &self,
            _: Request<GetEntitlementsRequest>,
        ) -> Result<Response<GetEntitlementsResponse>, Status> {
            let kept = self.0.lock().unwrap().clone();
            let answer =
                kept.map(|kept| GetEntitlementsResponse { document: kept.document, revision: 7 });
            Ok(Response::new(answer.unwrap_or_default()))
        }
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    async fn run_line(line: &[&str]) -> Result<(), Failure> {
        let Line { arguments } = Line::parse_from([&["entitlements"], line].concat());
        run(arguments, Output::default()).await
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[tokio::test]
    async fn a_document_goes_to_the_server_as_it_is() {
        let keeper = Keeper::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let server = Transport::builder()
            .add_service(AdminServiceServer::new(keeper.clone()))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let none = format!("{:?}", run_line(&["get", "--url", &url]).await.unwrap_err());
        assert!(none.contains("NotFine") && none.contains("entitlements set"), "{none}");
        let text = "# \u{e4}\r\n\n";
        let document = file(text);
        let path = document.path().to_str().unwrap();
        run_line(&["set", path, "--url", &url]).await.unwrap();
        let asked = keeper.0.lock().unwrap().clone().unwrap();
        assert_eq!((&*asked.document, asked.expected_revision), (text, None));
        run_line(&["set", path, "--expected-revision", "0", "--url", &url]).await.unwrap();
        let asked = keeper.0.lock().unwrap().clone().unwrap();
        assert_eq!(asked.expected_revision, Some(0));
        run_line(&["get", "--url", &url]).await.unwrap();
        let wrong = file("wrong");
        let refused = run_line(&["set", wrong.path().to_str().unwrap(), "--url", &url]).await;
        let refused = format!("{:?}", refused.unwrap_err());
        assert!(refused.contains("line 1: wrong line 2: wrong"), "{refused}");
        server.abort();
    }

    #[tokio::test]
    async fn a_document_is_checked_without_a_server() {
        let document = file("no: document");
        let nobody = "http://127.0.0.1:1";
        let path = document.path().to_str().unwrap();
        let failure = run_line(&["check", path, "--url", nobody]).await.unwrap_err();
        assert!(format!("{failure:?}").contains("NotFine"), "{failure:?}");
        let missing = run_line(&["check", "/nowhere/entitlements.yaml"]).await.unwrap_err();
        assert!(format!("{missing:?}").contains("Usage"), "{missing:?}");
        assert!(!check("no: document").problems.is_empty());
    }

    #[test]
    fn everything_that_was_found_is_shown() {
        let found = |problems: &[&str], warnings: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let (problems, warnings): (Vec<_>, Vec<_>) = (texts(problems), texts(warnings));
            shown(&Report { ok: problems.is_empty(), problems, warnings })
        };
        assert_eq!(found(&[], &[]), "the entitlements are fine");
        assert_eq!(
            found(&["a\tb", "c"], &[]),
            "problem: a b\nproblem: c\nthe entitlements cannot be used; problems: 2"
        );
        assert_eq!(found(&[], &["w"]), "warning: w\nthe entitlements can be used; warnings: 1");
    }
}
