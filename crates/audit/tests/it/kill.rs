//! `kill -9` loses no event whose receipt said that it was written.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use kasbah_audit::{FileSettings, FileSink, Settings};

use crate::common::{LONG, NODE, Place, event, ids, keep, open};

/// Set in the child: the file to write.
const CHILD: &str = "KASBAH_AUDIT_TEST_CHILD";

/// The next id.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes events without end, many at a time, and tells of each that is kept.
async fn write_until_killed(path: PathBuf) {
    let log = open(Settings::new(NODE, FileSink::new(FileSettings::new(path))));
    let write = || {
        let log = log.clone();
        async move {
            loop {
                let id = NEXT.fetch_add(1, Ordering::Relaxed);
                log.append(event(id)).wait().await.unwrap();
                println!("kept {id}");
            }
        }
    };
    futures_util::future::join_all((0..16).map(|_| write())).await;
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_kept() {
    if let Some(path) = env::var_os(CHILD) {
        return write_until_killed(path.into()).await;
    }
    for round in 1..4 {
        let place = Place::new();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::a_kill_loses_nothing_that_was_kept", "--nocapture"])
            .env(CHILD, place.log())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(id) = line.split("kept ").nth(1).and_then(|id| id.parse::<u64>().ok()) {
                told.push(id);
            }
            // What it has still told is read to its end.
            if told.len() == round * 700 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(told.len() >= round * 700, "{}", told.len());
        let log = open(place.settings());
        keep(&log, 1_000_000..1_000_001).await;
        log.close(LONG).unwrap();
        assert_eq!(place.fine().unvouched, 0);
        let mut there = ids(&std::fs::read(place.log()).unwrap());
        there.sort_unstable();
        let lost: Vec<_> = told.iter().filter(|id| there.binary_search(id).is_err()).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
