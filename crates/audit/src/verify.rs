//! Reading a log back.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::Checkpoint,
    key::PublicKey,
    line::{Head, Line, MAX_LINE, sha256},
    problem::{Finding, Problem},
};

/// What to check a log against.
#[derive(Debug, Default)]
pub struct Check {
    /// Keys that may have signed checkpoints. Without any, signatures are not checked, and only exported
    /// checkpoints vouch for anything.
    pub public_keys: Vec<PublicKey>,
    /// Whether lines after the last signed checkpoint are an error. They are what was written since, or
    /// what somebody made up.
    pub require_signed_end: bool,
    /// The sequence that the log must begin with. Without it, the log may begin with 1 or, because older
    /// files were archived, anywhere; where exported checkpoints are given, only right after one.
    pub begins_at: Option<u64>,
}

/// Lines and the name to call them by.
pub struct Source<'a> {
    /// Name of the file.
    pub name: String,
    /// Its lines.
    pub lines: Box<dyn BufRead + 'a>,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// The node whose chain it is; `None` when there is no line.
    pub node: Option<String>,
    /// Sequence of the first line; 0 when there is none. Above 1, older lines are elsewhere.
    pub first: u64,
    /// Sequence of the last line that is sound.
    pub last: u64,
    /// Lines that are sound.
    pub lines: u64,
    /// Checkpoints in the log whose signature is right.
    pub signed: u64,
    /// Exported checkpoints that the log has.
    pub exported: u64,
    /// Lines at the end that no checkpoint vouches for yet.
    pub unvouched: u64,
    /// The first thing that is wrong; `None` when all is well.
    pub problem: Option<Problem>,
}

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {name}: {source}")]
pub struct VerifyError {
    /// Which file.
    pub name: String,
    /// Why.
    pub source: io::Error,
}

/// Checks files of a log, in the order of their first lines, against exported checkpoints.
///
/// # Errors
/// When a file cannot be read. What is wrong with a log is in the report.
pub fn verify_files(
    files: &[PathBuf],
    exported: Option<&Path>,
    check: &Check,
) -> Result<Report, VerifyError> {
    // Opened first, and read no further than it is long now: a log that is being written goes on.
    let exported = exported.map(open_as_it_is).transpose()?;
    let mut ordered = Vec::new();
    for path in files {
        ordered.push((first_sequence(path)?, path));
    }
    // Where one cannot be told, all stay where they were put.
    if ordered.iter().all(|(first, _)| first.is_some()) {
        ordered.sort_by_key(|(first, _)| *first);
    }
    walk(ordered.into_iter().map(|(_, path)| open(path)), exported, check)
}

/// Checks lines of a log against exported checkpoints. Holds one line of each at a time.
///
/// # Errors
/// When something cannot be read. What is wrong with a log is in the report.
pub fn verify<'a>(
    sources: impl IntoIterator<Item = Source<'a>>,
    exported: Option<Source<'a>>,
    check: &Check,
) -> Result<Report, VerifyError> {
    walk(sources.into_iter().map(Ok), exported, check)
}

fn walk<'a>(
    sources: impl Iterator<Item = Result<Source<'a>, VerifyError>>,
    exported: Option<Source<'a>>,
    check: &Check,
) -> Result<Report, VerifyError> {
    let mut walk = Walk {
        check,
        exported: exported.map(Exported::new),
        report: Report::default(),
        head: None,
        vouched: 0,
        last: Place::default(),
    };
    let mut steps = Steps { sources, current: None };
    let ended = loop {
        match steps.next()? {
            Some((place, step)) => match walk.step(&place, &step) {
                Ok(()) => walk.last = place,
                Err(stop) => break Err(stop),
            },
            None => break walk.end(),
        }
    };
    walk.report.unvouched = walk.report.last.saturating_sub(walk.vouched);
    match ended {
        Ok(()) => {}
        Err(Stop::Unreadable(error)) => return Err(error),
        Err(Stop::Problem(problem)) => walk.report.problem = Some(problem),
        Err(Stop::Missing(place, from, found)) => {
            let finding = if steps.have(from)? {
                Finding::Reordered { found, expected: from }
            } else {
                Finding::Missing { from, to: found - 1 }
            };
            walk.report.problem = Some(place.problem(finding));
        }
    }
    Ok(walk.report)
}

/// The sequence of the first line of a file, `u64::MAX` when it is empty; `None` when it has no such
/// line, or can be read only once.
fn first_sequence(path: &Path) -> Result<Option<u64>, VerifyError> {
    let mut source = open(path)?;
    let regular = path.metadata().is_ok_and(|file| file.is_file());
    if !regular {
        return Ok(None);
    }
    Ok(match source.read()? {
        Step::Line(line) => Line::read(&line).map(|line| line.link.sequence),
        Step::End => Some(u64::MAX),
        Step::Torn | Step::TooLong => None,
    })
}

fn open(path: &Path) -> Result<Source<'static>, VerifyError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok(Source { name, lines: Box::new(BufReader::with_capacity(BUFFER, file)) }),
        Err(source) => Err(VerifyError { name, source }),
    }
}

fn open_as_it_is(path: &Path) -> Result<Source<'static>, VerifyError> {
    let Source { name, lines } = open(path)?;
    match path.metadata() {
        Ok(file) if file.is_file() => Ok(Source { name, lines: Box::new(lines.take(file.len())) }),
        Ok(_) => Ok(Source { name, lines }),
        Err(source) => Err(VerifyError { name, source }),
    }
}

/// What comes next in a file.
enum Step {
    Line(Vec<u8>),
    /// Without an end.
    Torn,
    TooLong,
    End,
}

impl Source<'_> {
    fn read(&mut self) -> Result<Step, VerifyError> {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = (&mut *self.lines).take(limit).read_until(b'\n', &mut line);
        let read = read.map_err(|source| VerifyError { name: self.name.clone(), source })?;
        Ok(match line.pop() {
            None => Step::End,
            Some(b'\n') => Step::Line(line),
            Some(_) if read > MAX_LINE => Step::TooLong,
            Some(_) => Step::Torn,
        })
    }
}

/// A line of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    file: String,
    line: u64,
}

impl Place {
    fn problem(&self, finding: Finding) -> Problem {
        Problem { file: self.file.clone(), line: Some(self.line), finding }
    }
}

/// The lines of all files.
struct Steps<'a, I> {
    sources: I,
    current: Option<(Place, Source<'a>)>,
}

impl<'a, I: Iterator<Item = Result<Source<'a>, VerifyError>>> Steps<'a, I> {
    fn next(&mut self) -> Result<Option<(Place, Step)>, VerifyError> {
        loop {
            if let Some((place, source)) = &mut self.current {
                place.line += 1;
                match source.read()? {
                    Step::End => {}
                    step => return Ok(Some((place.clone(), step))),
                }
            }
            let Some(source) = self.sources.next().transpose()? else { return Ok(None) };
            self.current = Some((Place { file: source.name.clone(), line: 0 }, source));
        }
    }

    /// Whether a line of this sequence is still to come.
    fn have(&mut self, sequence: u64) -> Result<bool, VerifyError> {
        while let Some((_, step)) = self.next()? {
            if let Step::Line(line) = step
                && Line::read(&line).is_some_and(|line| line.link.sequence == sequence)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Why reading ended early.
enum Stop {
    Unreadable(VerifyError),
    Problem(Problem),
    /// From this sequence on up to before that one, lines are not where they should be.
    Missing(Place, u64, u64),
}

struct Walk<'a> {
    check: &'a Check,
    exported: Option<Exported<'a>>,
    report: Report,
    head: Option<Head>,
    /// Up to which sequence something vouches for the lines.
    vouched: u64,
    /// Where the last line was.
    last: Place,
}

impl Walk<'_> {
    fn step(&mut self, place: &Place, step: &Step) -> Result<(), Stop> {
        let wrong = |finding| Err(Stop::Problem(place.problem(finding)));
        let bytes = match step {
            Step::Line(bytes) => bytes,
            Step::TooLong => return wrong(Finding::TooLong),
            Step::Torn | Step::End => return wrong(Finding::Torn),
        };
        let Some(line) = Line::read(bytes) else { return wrong(Finding::NotALine) };
        if self.head.is_some() {
            self.follow(place, &line)?;
        } else {
            self.begin(place, &line)?;
        }
        self.check_checkpoint(place, &line, bytes)?;
        let head = Head { sequence: line.link.sequence, hash: sha256(bytes) };
        self.check_exported(place, &head)?;
        self.report.last = head.sequence;
        self.report.lines += 1;
        self.head = Some(head);
        Ok(())
    }

    /// The line comes first.
    fn begin(&mut self, place: &Place, line: &Line) -> Result<(), Stop> {
        let wrong = |finding| Err(Stop::Problem(place.problem(finding)));
        let (node, found) = (&line.link.node, line.link.sequence);
        match self.check.begins_at {
            Some(expected) if found != expected => {
                return wrong(Finding::Begins { found, expected });
            }
            _ if found == 0 => return wrong(Finding::NotALine),
            _ => {}
        }
        self.report.node = Some(node.clone());
        self.report.first = found;
        self.vouched = found - 1;
        if found == 1 {
            let matches = line.link.previous == hex::encode(Head::genesis(node).hash);
            return if matches { Ok(()) } else { wrong(Finding::NotTheBeginning(node.clone())) };
        }
        self.begin_after_checkpoint(place, line)
    }

    /// The log begins later: right after an exported checkpoint, if there are any.
    fn begin_after_checkpoint(&mut self, place: &Place, line: &Line) -> Result<(), Stop> {
        let wrong = |finding| Err(Stop::Problem(place.problem(finding)));
        let (node, found) = (&line.link.node, line.link.sequence);
        let Some(exported) = &mut self.exported else { return Ok(()) };
        let mut any = false;
        while let Some(checkpoint) = exported.peek(self.check, Some(node))? {
            any = true;
            let stands_at = checkpoint.sequence.saturating_add(1);
            if stands_at >= found {
                break;
            }
            if stands_at == found - 1 {
                let previous = checkpoint.head_after().map(|head| hex::encode(head.hash));
                let sequence = checkpoint.sequence;
                if previous.as_ref() != Some(&line.link.previous) {
                    let time = checkpoint.time.clone();
                    return wrong(Finding::Recomputed { time, sequence });
                }
                exported.take();
                return Ok(());
            }
            exported.take();
        }
        if any && self.check.begins_at.is_none() {
            return wrong(Finding::BeginsBetween(found));
        }
        Ok(())
    }

    /// The line comes after another.
    fn follow(&self, place: &Place, line: &Line) -> Result<(), Stop> {
        let wrong = |finding| Err(Stop::Problem(place.problem(finding)));
        let Some(head) = &self.head else { return Ok(()) };
        let node = self.report.node.clone().unwrap_or_default();
        if line.link.node != node {
            return wrong(Finding::OtherNode { found: line.link.node.clone(), node });
        }
        let (found, expected) = (line.link.sequence, head.sequence.saturating_add(1));
        if found < expected {
            return wrong(Finding::Duplicate { found, expected });
        }
        if found > expected {
            return Err(Stop::Missing(place.clone(), expected, found));
        }
        if line.link.previous != hex::encode(head.hash) {
            let next = match (self.last.file == place.file, place) {
                (true, Place { line, .. }) => format!("line {line}"),
                (false, Place { line, file }) => format!("line {line} of {file}"),
            };
            return Err(Stop::Problem(self.last.problem(Finding::Changed { next })));
        }
        Ok(())
    }

    /// A checkpoint of the log itself.
    fn check_checkpoint(&mut self, place: &Place, line: &Line, bytes: &[u8]) -> Result<(), Stop> {
        let wrong = |finding| Err(Stop::Problem(place.problem(finding)));
        let (Some(checkpoint), link) = (&line.checkpoint, &line.link) else { return Ok(()) };
        // The line follows from the checkpoint, so nothing else of it needs to be looked at.
        if checkpoint.line().as_deref() != Some(bytes) {
            return wrong(Finding::CheckpointChanged);
        }
        if self.check.public_keys.is_empty() {
            return Ok(());
        }
        if !checkpoint.is_signed_by(&self.check.public_keys) {
            return wrong(Finding::Signature(checkpoint.key.clone()));
        }
        self.report.signed += 1;
        self.vouched = link.sequence;
        Ok(())
    }

    /// What exported checkpoints say of the line that the chain has come to. What they vouch for is
    /// judged once the line after it is there: that tells a changed line from a chain computed anew.
    fn check_exported(&mut self, place: &Place, head: &Head) -> Result<(), Stop> {
        let Some(exported) = &mut self.exported else { return Ok(()) };
        while let Some(checkpoint) = exported.peek(self.check, self.report.node.as_ref())? {
            if checkpoint.sequence >= head.sequence {
                break;
            }
            if checkpoint.head_after().as_ref() != Some(head) {
                let (time, sequence) = (checkpoint.time.clone(), checkpoint.sequence);
                let vouched_for = checkpoint.spoken_of();
                return Err(Stop::Problem(match &self.head {
                    Some(before) if vouched_for.as_ref() != Some(before) => {
                        self.last.problem(Finding::Recomputed { time, sequence })
                    }
                    _ => place.problem(Finding::CheckpointMissing { time, sequence }),
                }));
            }
            exported.take();
            self.report.exported += 1;
            self.vouched = head.sequence;
        }
        Ok(())
    }

    /// No line is left.
    fn end(&mut self) -> Result<(), Stop> {
        let whole = |finding| {
            let file = self.last.file.clone();
            Err(Stop::Problem(Problem { file, line: None, finding }))
        };
        if let Some(exported) = &mut self.exported
            && let Some(checkpoint) = exported.peek(self.check, self.report.node.as_ref())?
        {
            let (time, sequence) = (checkpoint.time.clone(), checkpoint.sequence);
            let vouched_for = checkpoint.spoken_of();
            if self.report.last == sequence && vouched_for != self.head {
                return Err(Stop::Problem(
                    self.last.problem(Finding::Recomputed { time, sequence }),
                ));
            }
            return whole(Finding::CutOff { end: self.report.last, time, sequence });
        }
        let unvouched = self.report.last.saturating_sub(self.vouched);
        if self.check.require_signed_end && (unvouched > 0 || self.report.lines == 0) {
            return whole(Finding::UnsignedEnd(unvouched));
        }
        Ok(())
    }
}

/// Checkpoints of the second place.
struct Exported<'a> {
    source: Source<'a>,
    place: Place,
    next: Option<Checkpoint>,
    /// Sequence of the one before.
    before: u64,
}

impl<'a> Exported<'a> {
    fn new(source: Source<'a>) -> Self {
        let place = Place { file: source.name.clone(), line: 0 };
        Self { source, place, next: None, before: 0 }
    }

    /// The next checkpoint, checked; of `node`, once that is known.
    fn peek(&mut self, check: &Check, node: Option<&String>) -> Result<Option<&Checkpoint>, Stop> {
        if self.next.is_none() {
            self.next = self.read(check, node)?;
        }
        Ok(self.next.as_ref())
    }

    fn take(&mut self) {
        self.before = self.next.take().map_or(self.before, |checkpoint| checkpoint.sequence);
    }

    fn read(&mut self, check: &Check, node: Option<&String>) -> Result<Option<Checkpoint>, Stop> {
        self.place.line += 1;
        let wrong = |finding| Err(Stop::Problem(self.place.problem(finding)));
        let line = match self.source.read().map_err(Stop::Unreadable)? {
            Step::Line(line) => line,
            Step::End => return Ok(None),
            Step::Torn => return wrong(Finding::Torn),
            Step::TooLong => return wrong(Finding::TooLong),
        };
        let Ok(checkpoint) = serde_json::from_slice::<Checkpoint>(&line) else {
            return wrong(Finding::NotACheckpoint);
        };
        if let Some(node) = node.filter(|node| **node != checkpoint.node) {
            let (found, node) = (checkpoint.node, node.clone());
            return wrong(Finding::OtherNode { found, node });
        }
        if checkpoint.sequence <= self.before {
            return wrong(Finding::CheckpointOrder(checkpoint.sequence));
        }
        if !check.public_keys.is_empty() && !checkpoint.is_signed_by(&check.public_keys) {
            return wrong(Finding::Signature(checkpoint.key));
        }
        Ok(Some(checkpoint))
    }
}

const BUFFER: usize = 256 * 1024;
