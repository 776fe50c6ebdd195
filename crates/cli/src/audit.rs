//! `kasbah audit`: reading an audit log back, and the key that vouches for it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use kasbah_audit::{Check, PublicKey, Report, SigningKey, VerifyError, verify_files};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure, OrExit},
    output::Output,
    plan::Plan,
};

/// Check an audit log, or make the key that vouches for one
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Report the first line of a log that was changed, removed, moved or cut off
    ///
    /// Exits with 1 when there is one. What a log cannot show: lines that were written after the last
    /// checkpoint and removed or replaced since.
    Verify(VerifyArguments),
    /// Make a key that signs checkpoints
    ///
    /// Prints its public half, which is what the log is checked with. Keep that, and the exported
    /// checkpoints, where whoever can write the log cannot.
    Key {
        /// The file to make for the private key; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct VerifyArguments {
    /// Files of the log, in any order
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Checkpoints that were exported, which show whether the log was computed anew or cut off
    #[arg(long, value_name = "FILE")]
    checkpoints: Option<PathBuf>,
    /// Public key that checkpoints are signed with; again for each key that ever was
    #[arg(long, value_name = "PEM")]
    public_key: Vec<PathBuf>,
    /// Exit with 1 when there are lines after the last signed checkpoint, as there are while a server
    /// runs
    #[arg(long, requires = "public_key")]
    require_signed_end: bool,
    /// Sequence of the first line, where older files were archived; without it, a log may begin with
    /// any line that an exported checkpoint stands right before
    #[arg(long, value_name = "SEQUENCE")]
    begins_at: Option<u64>,
}

/// Plans the work.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    Plan::tool(async move {
        match arguments.command {
            Command::Verify(arguments) => verify(&arguments, output),
            Command::Key { out } => key(&out, output),
        }
    })
}

fn verify(arguments: &VerifyArguments, output: Output) -> Result<(), Failure> {
    let keys = arguments.public_key.iter().map(|path| public_key(path));
    let check = Check {
        public_keys: keys.collect::<Result<_, _>>()?,
        require_signed_end: arguments.require_signed_end,
        begins_at: arguments.begins_at,
    };
    let checkpoints = arguments.checkpoints.as_deref();
    let report = verify_files(&arguments.files, checkpoints, &check).map_err(unreadable)?;
    output.print(&in_json(&report), |_| in_words(&report, arguments))?;
    if report.problem.is_none() { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
}

fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let pem = fs::read_to_string(path);
    let pem =
        pem.with_context(|| format!("cannot read {}", path.display())).or_exit(Exit::Usage)?;
    PublicKey::from_pem(&pem).with_context(|| path.display().to_string()).or_exit(Exit::Usage)
}

fn unreadable(error: VerifyError) -> Failure {
    let named_wrongly = matches!(
        error.source.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory
    );
    Failure::new(if named_wrongly { Exit::Usage } else { Exit::Unavailable }, error)
}

fn in_json(report: &Report) -> Value {
    let problem = report.problem.as_ref().map(|problem| {
        json!({ "file": problem.file, "line": problem.line, "message": problem.finding.to_string() })
    });
    json!({
        "ok": report.problem.is_none(),
        "problem": problem,
        "node": report.node,
        "first": report.first,
        "last": report.last,
        "lines": report.lines,
        "signed_checkpoints": report.signed,
        "exported_checkpoints": report.exported,
        "unvouched": report.unvouched,
    })
}

fn in_words(report: &Report, arguments: &VerifyArguments) -> String {
    if let Some(problem) = &report.problem {
        let sound = format!("lines before it: {}, up to {}", report.lines, report.last);
        return format!("{problem}\n{sound}");
    }
    let Some(node) = &report.node else { return "the log has no lines".to_owned() };
    let mut words =
        vec![format!("the log of {node} is whole from {} to {}", report.first, report.last)];
    if report.first > 1 {
        words.push(format!("lines 1 to {} are not in these files", report.first - 1));
    }
    if !arguments.public_key.is_empty() {
        words.push(format!("signed checkpoints in it: {}", report.signed));
    }
    if arguments.checkpoints.is_some() {
        words.push(format!("exported checkpoints that agree with it: {}", report.exported));
    }
    match report.unvouched {
        0 => {}
        1 => words.push("no checkpoint vouches for the last line yet".to_owned()),
        count => words.push(format!("no checkpoint vouches for the last {count} lines yet")),
    }
    if arguments.public_key.is_empty() && arguments.checkpoints.is_none() {
        words.push(
            "without --public-key and --checkpoints, a chain that was computed anew is whole"
                .to_owned(),
        );
    }
    words.join("\n")
}

fn key(out: &Path, output: Output) -> Result<(), Failure> {
    let (key, pem) = SigningKey::generate().or_exit(Exit::Unavailable)?;
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).and_then(
        |mut file| {
            file.write_all(pem.expose_secret().as_bytes())?;
            file.sync_all()
        },
    );
    written.with_context(|| format!("cannot make {}", out.display())).or_exit(Exit::Usage)?;
    let public = key.public_key();
    let made = json!({
        "file": out.display().to_string(), "key": public.id(), "public_key": public.to_pem(),
    });
    output.print(&made, |_| public.to_pem())
}
