//! The log in files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    thread,
    time::Duration,
};

use kasbah_audit::{Durability, FileSettings, FileSink, NotKept, OpenError, Settings, SinkError};

use crate::common::{
    DURABILITIES, LONG, LinesOf, NODE, Place, append, fine, ids, json_lines, keep, names, open,
    refused,
};

fn read(path: &PathBuf) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[tokio::test]
async fn a_restart_continues_the_chain() {
    let place = Place::new();
    for run in 0..4 {
        let log = open(place.settings());
        keep(&log, run * 10..run * 10 + 10).await;
        log.close(LONG).unwrap();
    }
    let report = place.fine();
    assert_eq!((report.first, report.last, report.signed, report.exported), (1, 44, 4, 4));
    assert_eq!(ids(&read(&place.log())), (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn opening_and_closing_writes_nothing() {
    let place = Place::new();
    open(place.settings()).close(LONG).unwrap();
    assert_eq!(read(&place.log()), b"");
    let log = open(place.settings());
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    let before = read(&place.log());
    open(place.settings()).close(LONG).unwrap();
    assert_eq!(read(&place.log()), before);
}

#[tokio::test]
async fn a_torn_line_is_moved_aside_and_told() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..3).await;
    let crashed = read(&place.log());
    log.close(LONG).unwrap();
    let first = crashed.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // Torn in the first line, and at the ends of a later one.
    let whole = crashed.len();
    for (cut, kept) in [(1, 0), (first - 1, 0), (first + 1, 1), (whole - 1, 2), (whole - 100, 2)] {
        let place = Place::new();
        fs::write(place.log(), &crashed[..cut]).unwrap();
        let log = open(place.settings());
        keep(&log, 10..12).await;
        log.close(LONG).unwrap();
        place.fine();
        let bytes = read(&place.log());
        let events: Vec<_> = (0..kept).chain(10..12).collect();
        assert_eq!(ids(&bytes), events, "{cut}");
        let line = &json_lines(&bytes)[usize::try_from(kept).unwrap()];
        assert_eq!(line["msg"], "audit recovery");
        let reason =
            line["audit"]["eventMetaData"]["kasbah"]["recovery"]["reason"].as_str().unwrap();
        let start = if kept == 0 { 0 } else { bytes_of(&crashed, kept) };
        let torn = &crashed[start..cut];
        let aside = place.dir.path().join(format!("audit.log-torn-{}", kept + 1));
        assert_eq!(read(&aside), [torn, b"\n"].concat());
        assert!(reason.contains(aside.to_str().unwrap()), "{reason}");
        assert!(reason.contains(&format!("{} bytes", torn.len())), "{reason}");
    }
}

/// Bytes of the first lines.
fn bytes_of(bytes: &[u8], lines: u64) -> usize {
    bytes.lines_of().take(usize::try_from(lines).unwrap()).map(|line| line.len() + 1).sum()
}

#[tokio::test]
async fn a_torn_line_longer_than_a_block_is_found() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..2).await;
    log.close(LONG).unwrap();
    let mut bytes = read(&place.log());
    bytes.extend(vec![0; 300_000]);
    fs::write(place.log(), &bytes).unwrap();
    let log = open(place.settings());
    keep(&log, 2..3).await;
    log.close(LONG).unwrap();
    place.fine();
    assert_eq!(ids(&read(&place.log())), [0, 1, 2]);
    let aside = names(place.dir.path(), |name| name.contains("-torn-"));
    assert_eq!(read(&aside[0]).len(), 300_001);
}

#[tokio::test]
async fn two_writers_are_refused() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..1).await;
    let second = Settings { checkpoint_file: None, ..place.settings() };
    assert!(matches!(refused(second), OpenError::Sink(SinkError::InUse(_))));
    // Nor may two logs share the second place.
    let elsewhere = FileSettings::new(place.dir.path().join("other.log"));
    let second = place.settings_of(elsewhere);
    assert!(matches!(refused(second), OpenError::Sink(SinkError::InUse(_))));
    log.close(LONG).unwrap();
    drop(log);
    let log = open(place.settings());
    keep(&log, 1..2).await;
    log.close(LONG).unwrap();
    place.fine();
}

#[tokio::test]
async fn rotation_does_not_let_a_second_writer_in() {
    let place = Place::new();
    let file = FileSettings { max_bytes: Some(1), ..FileSettings::new(place.log()) };
    let log = open(place.settings_of(file));
    for id in 0..3 {
        keep(&log, id..id + 1).await;
        let second = Settings { checkpoint_file: None, ..place.settings() };
        assert!(matches!(refused(second), OpenError::Sink(SinkError::InUse(_))));
    }
}

#[tokio::test]
async fn what_is_no_log_of_this_node_is_left_alone() {
    let place = Place::new();
    for foreign in ["hello\n", "{}\n", "{\"audit\":{}}\n", "\n"] {
        fs::write(place.log(), foreign).unwrap();
        assert!(matches!(refused(place.settings()), OpenError::Sink(SinkError::NotALog(_))));
        assert_eq!(read(&place.log()), foreign.as_bytes());
    }
    fs::remove_file(place.log()).unwrap();
    let log = open(place.settings());
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    drop(log);
    let other = Settings { node: "kas-2".to_owned(), ..place.settings() };
    let error = refused(other).to_string();
    assert_eq!(error, "the log belongs to node `kas-1`, not to `kas-2`");
    fs::remove_file(place.log()).unwrap();
    let other = Settings { node: "kas-2".to_owned(), ..place.settings() };
    let error = refused(other).to_string();
    assert_eq!(error, "the checkpoint file belongs to node `kas-1`, not to `kas-2`");
}

#[tokio::test]
async fn files_are_for_their_owner() {
    let place = Place::new();
    let file = FileSettings { max_bytes: Some(1), ..FileSettings::new(place.log()) };
    let log = open(place.settings_of(file));
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    drop(log);
    fs::write(place.log(), "torn").unwrap();
    open(place.settings()).close(LONG).unwrap();
    let files = names(place.dir.path(), |_| true);
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn files_rotate_by_size() {
    let place = Place::new();
    let file = FileSettings { max_bytes: Some(10_000), ..FileSettings::new(place.log()) };
    for run in 0..2 {
        let log = open(place.settings_of(file.clone()));
        for id in run * 50..run * 50 + 50 {
            keep(&log, id..id + 1).await;
        }
        log.close(LONG).unwrap();
    }
    let mut files = place.files();
    assert!(files.len() > 5, "{files:?}");
    for path in &files[1..] {
        let lines = json_lines(&read(path));
        let first = &lines[0]["audit"]["eventMetaData"]["kasbah"]["chain"]["sequence"];
        let name = format!("audit.log.{:012}", first.as_u64().unwrap());
        assert_eq!(path.file_name().unwrap().to_str(), Some(&*name));
        let size = read(path).len();
        assert!((10_000..13_000).contains(&size), "{size}");
        assert_eq!(lines.last().unwrap()["msg"], "audit checkpoint");
    }
    let report = place.fine();
    assert_eq!((report.first, report.unvouched), (1, 0));
    files.reverse();
    assert_eq!(fine(place.verify(&files)), report);
    // Without the oldest, or with one gone from the middle.
    files.sort();
    let oldest = files.remove(1);
    let shorter = fine(place.verify(&files));
    assert!(shorter.first > 1);
    files.remove(2);
    let problem = place.verify(&files).problem.unwrap().to_string();
    assert!(problem.contains("are missing before it"), "{problem}");
    // Begun in the middle of what a checkpoint vouches for.
    let lines = read(&oldest);
    let cut = lines.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&oldest, &lines[cut..]).unwrap();
    let problem = place.verify(&place.files()).problem.unwrap().to_string();
    assert!(problem.contains("line 1: has sequence 2, and no checkpoint"), "{problem}");
}

#[tokio::test]
async fn only_so_many_files_are_kept() {
    let place = Place::new();
    let new = FileSettings::new(place.log());
    let file = FileSettings { max_bytes: Some(5_000), keep: Some(2), ..new };
    let log = open(place.settings_of(file));
    for id in 0..100 {
        keep(&log, id..id + 1).await;
    }
    log.close(LONG).unwrap();
    assert_eq!(place.files().len(), 3);
    let report = place.fine();
    assert!(report.first > 50 && report.unvouched == 0, "{report:?}");
}

#[tokio::test]
async fn files_rotate_by_age() {
    let place = Place::new();
    let day = Some(Duration::from_hours(24));
    let aging = FileSettings { max_age: day, ..FileSettings::new(place.log()) };
    // What is written now is not old, whatever the events say.
    let log = open(place.settings_of(aging.clone()));
    keep(&log, 0..1).await;
    keep(&log, 1..2).await;
    log.close(LONG).unwrap();
    assert_eq!(place.files().len(), 1);
    drop(log);
    // A file that was begun long ago is: its first line is of March.
    let log = open(place.settings_of(aging));
    keep(&log, 2..3).await;
    keep(&log, 3..4).await;
    log.close(LONG).unwrap();
    assert_eq!(place.files().len(), 2);
    place.fine();
}

#[tokio::test]
async fn a_crash_right_after_a_rotation_loses_no_place_in_the_chain() {
    let place = Place::new();
    let file = FileSettings { max_bytes: Some(1), ..FileSettings::new(place.log()) };
    let log = open(place.settings_of(file.clone()));
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    drop(log);
    assert_eq!(read(&place.log()), b"");
    for gone in [false, true] {
        if gone {
            fs::remove_file(place.log()).unwrap();
        }
        let mut settings = place.settings_of(file.clone());
        settings.checkpoint_file = None;
        let log = open(settings);
        keep(&log, 1..2).await;
        log.close(LONG).unwrap();
    }
    let report = place.fine();
    assert_eq!((report.first, report.last), (1, 6));
}

#[tokio::test]
async fn archived_files_leave_their_place_in_the_chain() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..3).await;
    log.close(LONG).unwrap();
    drop(log);
    let archive = place.dir.path().join("archive");
    fs::rename(place.log(), &archive).unwrap();
    let log = open(place.settings());
    keep(&log, 3..4).await;
    log.close(LONG).unwrap();
    let report = place.fine();
    assert_eq!((report.first, report.last), (5, 7));
    assert_eq!(json_lines(&read(&place.log()))[0]["msg"], "audit recovery");
    let report = fine(place.verify(&[place.log(), archive]));
    assert_eq!((report.first, report.last), (1, 7));
}

#[tokio::test]
async fn a_log_that_was_cut_off_is_not_continued() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..3).await;
    log.close(LONG).unwrap();
    drop(log);
    let bytes = read(&place.log());
    fs::write(place.log(), &bytes[..bytes_of(&bytes, 3)]).unwrap();
    let error = refused(place.settings());
    assert!(matches!(error, OpenError::CutOff { end: 3, sequence: 4, .. }), "{error}");
    // The last line in a version of somebody else's.
    let changed =
        String::from_utf8(bytes).unwrap().replace("\"msg\":\"audit ch", "\"msg\":\"Audit ch");
    fs::write(place.log(), changed).unwrap();
    let error = refused(place.settings());
    assert!(matches!(error, OpenError::CutOff { end: 4, sequence: 4, .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_fails_receipts_until_there_is_room() {
    for durability in DURABILITIES {
        let place = Place::new();
        symlink("/dev/full", place.log()).unwrap();
        let log = open(Settings { durability, ..place.settings() });
        let kept = append(&log, 0..10).await;
        if durability != Durability::Buffered {
            assert_eq!(kept, Err(NotKept::Failed));
        }
        while log.stats().lost < 10 {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(log.stats().failed);
        fs::remove_file(place.log()).unwrap();
        thread::sleep(Duration::from_millis(1100));
        keep(&log, 10..20).await;
        log.close(LONG).unwrap();
        let bytes = read(&place.log());
        assert_eq!(ids(&bytes), (10..20).collect::<Vec<_>>());
        let recovery = &json_lines(&bytes)[0]["audit"]["eventMetaData"]["kasbah"]["recovery"];
        assert_eq!(recovery["lost"], 10);
        place.fine();
    }
}

#[test]
fn a_file_that_cannot_be_made_says_which() {
    let path = "/no/such/directory/audit.log";
    let error = refused(Settings::new(NODE, FileSink::new(FileSettings::new(path))));
    assert!(error.to_string().contains(path), "{error}");
}
