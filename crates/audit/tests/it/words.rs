//! What is found, and how it is said.

use kasbah_audit::{Check, MemorySink, Report, Settings};

use crate::common::{LONG, LinesOf, NODE, fine, keep, open, verify_bytes};

/// Ten lines without checkpoints.
async fn ten(node: &str) -> Vec<Vec<u8>> {
    let sink = MemorySink::default();
    let log = open(Settings::new(node, sink.clone()));
    keep(&log, 0..10).await;
    log.close(LONG).unwrap();
    sink.lines().lines_of().map(<[u8]>::to_vec).collect()
}

fn join(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect()
}

fn found(bytes: &[u8]) -> String {
    verify_bytes(bytes, None, &Check::default()).problem.map_or_else(String::new, |p| p.to_string())
}

fn said(lines: &[Vec<u8>]) -> String {
    found(&join(lines))
}

#[tokio::test]
async fn each_problem_has_its_words() {
    let lines = ten(NODE).await;
    assert_eq!(said(&lines), "");

    let mut changed = lines.clone();
    let text = String::from_utf8(changed[4].clone()).unwrap();
    changed[4] = text.replace("user-8841", "user-8842").into_bytes();
    assert_eq!(said(&changed), "log: line 5: was changed, or line 6 was: the hash does not match");

    let mut removed = lines.clone();
    removed.drain(3..6);
    assert_eq!(said(&removed), "log: line 4: lines 4 to 6 are missing before it");
    removed.remove(0);
    let mut one = lines.clone();
    one.remove(6);
    assert_eq!(said(&one), "log: line 7: line 7 is missing before it");

    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    assert_eq!(
        said(&swapped),
        "log: line 3: has sequence 4 where 3 is due, which comes later: the order was changed"
    );

    let mut doubled = lines.clone();
    doubled.insert(3, lines[2].clone());
    assert_eq!(
        said(&doubled),
        "log: line 4: has sequence 3 again where 4 is due: it was inserted, or is a duplicate"
    );

    let mut foreign = lines.clone();
    foreign[7] = ten("kas-2").await[7].clone();
    assert_eq!(said(&foreign), "log: line 8: is of the chain of node `kas-2`, not `kas-1`");

    let mut first = lines.clone();
    let text = String::from_utf8(first[0].clone()).unwrap();
    first[0] = text.replace("\"node\":\"kas-1\"", "\"node\":\"kas-9\"").into_bytes();
    assert_eq!(
        said(&first),
        "log: line 1: was changed: it does not begin the chain of node `kas-9`"
    );

    let mut junk = lines.clone();
    junk[1] = b"{}".to_vec();
    assert_eq!(said(&junk), "log: line 2: is no line of an audit log");
    junk[1] = b"".to_vec();
    assert_eq!(said(&junk), "log: line 2: is no line of an audit log");

    let whole = join(&lines);
    let torn = found(&whole[..whole.len() - 1]);
    assert_eq!(torn, "log: line 10: has no end: it was cut short");
}

#[tokio::test]
async fn a_log_may_begin_later_and_says_so() {
    let lines = join(&ten(NODE).await[3..]);
    let report = fine(verify_bytes(&lines, None, &Check::default()));
    assert_eq!((report.first, report.last, report.lines), (4, 10, 7));
    assert_eq!(report.node.as_deref(), Some(NODE));
    let check = |begins_at| Check { begins_at: Some(begins_at), ..Check::default() };
    fine(verify_bytes(&lines, None, &check(4)));
    let problem = verify_bytes(&lines, None, &check(1)).problem.unwrap().to_string();
    assert!(problem.contains("has sequence 4, but the log must begin with 1"), "{problem}");
}

#[tokio::test]
async fn without_checkpoints_nothing_is_vouched_for() {
    let lines = join(&ten(NODE).await);
    assert_eq!(verify_bytes(&lines, None, &Check::default()).unvouched, 10);
    let check = Check { require_signed_end: true, ..Check::default() };
    let problem = |bytes| verify_bytes(bytes, None, &check).problem.unwrap().to_string();
    assert_eq!(problem(&lines), "log: no signed checkpoint vouches for the last 10 lines");
    assert_eq!(problem(b""), "no signed checkpoint vouches for anything: the log has no lines");
    assert_eq!(verify_bytes(b"", None, &Check::default()), Report::default());
}
