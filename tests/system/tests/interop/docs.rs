//! The commands of `docs/sdks.md`.

use std::{env, fs, path::Path, process::Command};

use kasbah_system_tests::server::kasbah;

use kasbah_system_tests::dev::Dev;

use crate::files::repository;

/// How many TDFs they open, each with a greeting inside.
pub(crate) const GREETINGS: usize = 3;

/// Every command, with the address of this server.
pub(crate) fn script(dev: &Dev) -> String {
    let text = fs::read_to_string(repository("docs/sdks.md")).unwrap();
    let blocks: Vec<_> = text
        .split("\n```sh\n")
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap().to_owned())
        .collect();
    assert!(blocks.len() >= 4, "{text}");
    blocks.join("\n").replace("http://127.0.0.1:8080", dev.url())
}

/// A shell that runs them where the server was started, with everything on the path that the page
/// takes for granted.
pub(crate) fn shell(dev: &Dev, script: &str) -> Command {
    let kasbah = kasbah();
    let of_kasbah = Path::new(kasbah.get_program()).parent().unwrap();
    let mut path = vec![repository("target/python-venv/bin"), of_kasbah.to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap()));
    let path = env::join_paths(path).unwrap();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dev.dir()).env("PATH", path);
    command.env("KASBAH", repository(""));
    command
}
