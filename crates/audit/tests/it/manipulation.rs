//! Whoever can write the log, but has neither the signing key nor the second place, changes nothing
//! unseen.

use std::{fs, sync::LazyLock};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::Ed25519KeyPair,
};
use kasbah_audit::{AuditLog, Check, MemorySink, PublicKey, Settings, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{
    LONG, LinesOf, NODE, Place, event, fine, json_lines, keep, open, verify_bytes,
};

/// A log that was closed, and what vouches for it.
struct Closed {
    log: Vec<u8>,
    /// Where each line begins, and the end.
    starts: Vec<usize>,
    exported: Vec<u8>,
    check: Check,
    keyless: Check,
}

const EVENTS: u64 = 10_000;

static CLOSED: LazyLock<Closed> = LazyLock::new(|| {
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let log = open(place.settings());
    runtime.block_on(keep(&log, 0..EVENTS));
    log.close(LONG).unwrap();
    Closed::new(
        fs::read(place.log()).unwrap(),
        fs::read(place.checkpoints()).unwrap(),
        &place.public,
    )
});

impl Closed {
    fn new(log: Vec<u8>, exported: Vec<u8>, public: &PublicKey) -> Self {
        let mut starts = vec![0];
        starts.extend(log.lines_of().scan(0, |at, line| {
            *at += line.len() + 1;
            Some(*at)
        }));
        let check = Check { public_keys: vec![public.clone()], ..Check::default() };
        Self { log, starts, exported, check, keyless: Check::default() }
    }

    fn lines(&self) -> usize {
        self.starts.len() - 1
    }

    /// A line with its end.
    fn line(&self, index: usize) -> &[u8] {
        &self.log[self.starts[index]..self.starts[index + 1]]
    }

    /// The log with lines `from..to` replaced.
    fn with(&self, from: usize, to: usize, lines: &[&[u8]]) -> Vec<u8> {
        let (before, after) = (&self.log[..self.starts[from]], &self.log[self.starts[to]..]);
        [before, &lines.concat(), after].concat()
    }

    /// What is found with the second place, and with the key or without it.
    fn found(&self, log: &[u8], check: &Check) -> String {
        let report = verify_bytes(log, Some(&self.exported), check);
        report.problem.map(|problem| problem.to_string()).unwrap_or_default()
    }
}

#[test]
fn an_untouched_log_passes() {
    let closed = &*CLOSED;
    let report = fine(verify_bytes(&closed.log, Some(&closed.exported), &closed.check));
    assert_eq!((report.first, report.unvouched), (1, 0));
    assert_eq!(report.last, EVENTS + 10);
    assert_eq!((report.signed, report.exported), (10, 10));
    let signed_end = Check {
        require_signed_end: true,
        public_keys: closed.check.public_keys.clone(),
        ..Check::default()
    };
    fine(verify_bytes(&closed.log, None, &signed_end));
}

/// One thing done to one line.
#[derive(Debug, Clone)]
enum Deed {
    Byte(usize, u8),
    Remove,
    Duplicate,
    Swap(usize),
    Move(usize),
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (any::<usize>(), 1..=255_u8).prop_map(|(at, flip)| Deed::Byte(at, flip)),
        Just(Deed::Remove),
        Just(Deed::Duplicate),
        any::<usize>().prop_map(Deed::Swap),
        any::<usize>().prop_map(Deed::Move),
    ]
}

/// Any line; the first, the last and checkpoints more often than their number says.
fn line() -> impl Strategy<Value = usize> {
    let lines = usize::try_from(EVENTS).unwrap() + 10;
    prop_oneof![
        4 => 0..lines,
        1 => Just(0),
        1 => Just(lines - 1),
        1 => Just(lines - 2),
        1 => (1..=10_usize).prop_map(|checkpoint| checkpoint * 1001 - 1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_change_of_a_line_is_found(deed in deeds(), at in line(), with_key in any::<bool>()) {
        let closed = &*CLOSED;
        let lines = closed.lines();
        let this = closed.line(at);
        let log = match deed {
            Deed::Byte(byte, flip) => {
                let mut this = this.to_vec();
                let byte = byte % this.len();
                this[byte] ^= flip;
                closed.with(at, at + 1, &[&this])
            }
            Deed::Remove => closed.with(at, at + 1, &[]),
            Deed::Duplicate => closed.with(at, at + 1, &[this, this]),
            Deed::Swap(other) => {
                let (one, two) = (at.min(other % lines), at.max(other % lines));
                prop_assume!(one != two);
                let between = &closed.log[closed.starts[one + 1]..closed.starts[two]];
                closed.with(one, two + 1, &[closed.line(two), between, closed.line(one)])
            }
            Deed::Move(to) => {
                let to = to % lines;
                prop_assume!(to != at);
                if to < at {
                    let between = &closed.log[closed.starts[to]..closed.starts[at]];
                    closed.with(to, at + 1, &[this, between])
                } else {
                    let between = &closed.log[closed.starts[at + 1]..closed.starts[to + 1]];
                    closed.with(at, to + 1, &[between, this])
                }
            }
        };
        let check = if with_key { &closed.check } else { &closed.keyless };
        prop_assert_ne!(closed.found(&log, check), "");
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_is_found(at in any::<usize>(), at_a_line in any::<bool>(), near in any::<bool>()) {
        let closed = &*CLOSED;
        let length = closed.log.len();
        let at = if near { length - 1 - at % 3000 } else { at % length };
        // At the end of a line there is nothing torn to give it away.
        let line = closed.starts.partition_point(|start| *start <= at) - 1;
        let at = if at_a_line { closed.starts[line] } else { at };
        prop_assert_ne!(closed.found(&closed.log[..at], &closed.keyless), "");
    }
}

/// Each byte of the line that nothing comes after.
#[tokio::test]
async fn every_byte_of_the_last_line_counts() {
    let place = Place::new();
    let log = open(place.settings());
    keep(&log, 0..1).await;
    log.close(LONG).unwrap();
    let (log, exported) = (fs::read(place.log()).unwrap(), fs::read(place.checkpoints()).unwrap());
    let closed = Closed::new(log, exported, &place.public);
    let signed_end = Check { require_signed_end: true, ..place.check() };
    for at in closed.starts[1]..closed.log.len() {
        // The case of letters, too: hex digits have two.
        for flip in [0x20, 0x01, 0x80] {
            let mut changed = closed.log.clone();
            changed[at] ^= flip;
            assert_ne!(closed.found(&changed, &closed.check), "", "{at}");
            assert_ne!(closed.found(&changed, &closed.keyless), "", "{at}");
            // The key alone is enough for that.
            let report = verify_bytes(&changed, None, &signed_end);
            assert!(report.problem.is_some(), "{at}");
        }
    }
}

/// What somebody without the key does with checkpoints.
#[derive(Debug, Clone, Copy)]
enum Forgery {
    Drop,
    Keep,
    /// Signs new ones with a key of their own.
    Remake,
    /// The same, and lets them look like those of the right key.
    Disguise,
}

/// The log with everything from line `from` computed anew: one event changed, the rest as it was.
fn forge(closed: &Closed, from: usize, how: Forgery) -> Vec<u8> {
    let mut forged = closed.log[..closed.starts[from]].to_vec();
    let previous = forged.lines_of().last().map(<[u8]>::to_vec);
    let mut head = Chain::after(previous.as_deref(), from);
    let own = Ed25519KeyPair::generate().unwrap();
    let mut lines = json_lines(&closed.log[closed.starts[from]..]);
    lines[0]["audit"]["actor"]["id"] = json!("nobody");
    for mut line in lines {
        let kasbah = &line["audit"]["eventMetaData"]["kasbah"];
        let line = match (kasbah.get("checkpoint").cloned(), how) {
            (Some(_), Forgery::Drop) => continue,
            (None, _) | (Some(_), Forgery::Keep) => {
                head.put(&mut line);
                line.to_string().into_bytes()
            }
            (Some(true_one), Forgery::Remake | Forgery::Disguise) => {
                let claimed = match how {
                    Forgery::Disguise => true_one["key"].as_str().unwrap().to_owned(),
                    _ => "0123456789abcdef".to_owned(),
                };
                head.checkpoint(&own, &line, &claimed)
            }
        };
        head.add(&line);
        forged.extend([line, b"\n".to_vec()].concat());
    }
    forged
}

/// The chain as somebody else computes it.
struct Chain {
    sequence: u64,
    hash: String,
}

impl Chain {
    fn after(line: Option<&[u8]>, lines: usize) -> Self {
        let genesis: &[u8] = b"kasbah audit log v1: the chain of node kas-1 begins";
        Self { sequence: lines as u64, hash: sha256(line.unwrap_or(genesis)) }
    }

    fn add(&mut self, line: &[u8]) {
        self.sequence += 1;
        self.hash = sha256(line);
    }

    fn put(&self, line: &mut Value) {
        line["audit"]["eventMetaData"]["kasbah"]["chain"] =
            json!({ "node": NODE, "sequence": self.sequence + 1, "previous": self.hash });
    }

    /// A line of the very bytes that the log would write, but for the signature.
    fn checkpoint(&self, key: &Ed25519KeyPair, old: &Value, claimed: &str) -> Vec<u8> {
        let sink = MemorySink::default();
        let mut settings = Settings::new(NODE, sink.clone());
        settings.signing_key = Some(SigningKey::generate().unwrap().0);
        let log = AuditLog::open(settings).unwrap();
        let _ = log.append(event(0));
        log.close(LONG).unwrap();
        let template = sink.lines().lines_of().last().unwrap().to_vec();
        let template = String::from_utf8(template).unwrap();
        let model: Value = serde_json::from_str(&template).unwrap();
        let model = &model["audit"]["eventMetaData"]["kasbah"];
        let time = &old["time"];
        let (was, next) = (&model["checkpoint"], self.sequence + 1);
        template
            .replace(&was["time"].to_string(), &time.to_string())
            .replace("\"sequence\":2", &format!("\"sequence\":{next}"))
            .replace("\"sequence\":1,", &format!("\"sequence\":{},", self.sequence))
            .replace(was["head"].as_str().unwrap(), &self.hash)
            .replace(was["key"].as_str().unwrap(), claimed)
            .replace(was["signature"].as_str().unwrap(), &self.sign(key, time, claimed))
            .into_bytes()
    }

    fn sign(&self, key: &Ed25519KeyPair, time: &Value, claimed: &str) -> String {
        let mut message = b"kasbah audit checkpoint v1\0".to_vec();
        let (time, sequence) = (time.as_str().unwrap().as_bytes(), self.sequence.to_be_bytes());
        for field in [NODE.as_bytes(), &sequence, self.hash.as_bytes(), time, claimed.as_bytes()] {
            message.extend((field.len() as u64).to_be_bytes());
            message.extend(field);
        }
        hex::encode(key.sign(&message))
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// Whether the problem is of the kind that this forgery must lead to, and not of a clumsy test.
fn gives_away(how: Forgery, found: &str) -> bool {
    match how {
        Forgery::Drop => {
            found.contains("the chain was computed anew") || found.contains("was cut off")
        }
        Forgery::Keep => {
            found.contains("is a checkpoint that was changed")
                || found.contains("the chain was computed anew")
        }
        Forgery::Remake | Forgery::Disguise => {
            found.contains("wrong signature") || found.contains("the chain was computed anew")
        }
    }
}

#[test]
fn a_chain_that_was_computed_anew_is_found() {
    let closed = &*CLOSED;
    let lines = closed.lines();
    for from in [0, 4_711, lines - 2] {
        for how in [Forgery::Drop, Forgery::Keep, Forgery::Remake, Forgery::Disguise] {
            let found = closed.found(&forge(closed, from, how), &closed.check);
            assert!(gives_away(how, &found), "{how:?} from {from}: {found}");
        }
    }
}

/// With the key alone, a checkpoint cannot be made; leaving it out leaves an end that nobody signed.
#[test]
fn the_key_alone_finds_all_but_an_end_that_is_not_signed() {
    let closed = &*CLOSED;
    let from = 9_500;
    for how in [Forgery::Keep, Forgery::Remake, Forgery::Disguise] {
        let forged = forge(closed, from, how);
        let report = verify_bytes(&forged, None, &closed.check);
        assert!(gives_away(how, &report.problem.unwrap().to_string()), "{how:?}");
    }
    let forged = forge(closed, from, Forgery::Drop);
    let report = fine(verify_bytes(&forged, None, &closed.check));
    assert_eq!(report.unvouched, 10_009 - 9_009);
    // A forged chain without any key to check with is a chain.
    let forged = forge(closed, from, Forgery::Remake);
    fine(verify_bytes(&forged, None, &closed.keyless));
}

/// A log that begins later carries on what the checkpoint before it ends.
#[test]
fn another_chain_after_the_archived_part_is_found() {
    let closed = &*CLOSED;
    let later = &closed.log[closed.starts[1001]..closed.starts[1006]];
    let first = closed.exported.lines_of().next().unwrap();
    let exported = [first, b"\n"].concat();
    let report = fine(verify_bytes(later, Some(&exported), &closed.check));
    assert_eq!((report.first, report.last, report.unvouched), (1002, 1006, 5));
    let mut chain = Chain { sequence: 1001, hash: sha256(b"another") };
    let mut other = Vec::new();
    for mut line in json_lines(later) {
        chain.put(&mut line);
        let line = line.to_string().into_bytes();
        chain.add(&line);
        other.extend([line, b"\n".to_vec()].concat());
    }
    let problem = verify_bytes(&other, Some(&exported), &closed.check).problem.unwrap().to_string();
    assert!(problem.contains("line 1: is not what the checkpoint of"), "{problem}");
    // Only with exported checkpoints can that be seen.
    fine(verify_bytes(&other, None, &closed.check));
}

/// Who can write the second place as well, but has no key, cannot make it agree.
#[test]
fn checkpoints_of_the_second_place_are_checked_too() {
    let closed = &*CLOSED;
    let found = |exported: &[u8]| {
        let report = verify_bytes(&closed.log, Some(exported), &closed.check);
        report.problem.map(|problem| problem.to_string()).unwrap_or_default()
    };
    let text = String::from_utf8(closed.exported.clone()).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    let changed = text.replace("\"sequence\":1000,", "\"sequence\":999,");
    assert!(
        found(changed.as_bytes()).starts_with("checkpoints: line 1: is a checkpoint with a wrong")
    );
    assert!(found(b"{}\n").starts_with("checkpoints: line 1: is no checkpoint"));
    assert!(found(&closed.exported[..100]).starts_with("checkpoints: line 1: has no end"));
    lines.swap(3, 4);
    let swapped = lines.join("\n") + "\n";
    assert!(found(swapped.as_bytes()).contains("which does not come after the one before it"));
}
