//! The thread that owns the chain and everything that it is written to.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Durability, NotKept, Settings,
    checkpoint::Checkpoint,
    export::Exports,
    key::SigningKey,
    line::{self, Head, MAX_LINE},
    log::Start,
    otlp::Otlp,
    sink::Sink,
    stats::{Counters, add},
};

/// An event that waits to be written.
pub(crate) struct Entry {
    pub(crate) event: Value,
    /// Who is told; `None` when the receipt was given already.
    pub(crate) answer: Option<Answer>,
}

type Answer = oneshot::Sender<Result<(), NotKept>>;

/// Who else gets the lines, best effort.
pub(crate) struct Copies {
    pub(crate) stderr: bool,
    pub(crate) otlp: Option<Otlp>,
}

pub(crate) struct Writer {
    entries: Receiver<Entry>,
    node: String,
    sink: Box<dyn Sink>,
    durability: Durability,
    head: Head,
    key: Option<SigningKey>,
    exports: Option<Exports>,
    copies: Copies,
    counters: Arc<Counters>,
    checkpoint_events: u64,
    checkpoint_interval: Duration,
    close_limit: Duration,
    /// Events that no checkpoint vouches for.
    pending: u64,
    /// When the last checkpoint could not be avoided any longer.
    due: Option<Instant>,
    /// When writing last failed, until it works again.
    failed: Option<Instant>,
    /// What the next line has to say, before any event.
    note: Option<Note>,
}

/// Something that the log has to tell about itself.
struct Note {
    reason: String,
    /// Events that were refused or lost meanwhile.
    lost: u64,
}

/// Lines that are written together.
struct Batch {
    /// Each with its end.
    bytes: Vec<u8>,
    /// Where the lines end in `bytes`.
    ends: Vec<usize>,
    head: Head,
}

impl Batch {
    fn new(head: &Head) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), head: head.clone() }
    }

    fn push(&mut self, line: &[u8]) {
        self.head = self.head.after(line);
        self.bytes.extend(line);
        self.bytes.push(b'\n');
        self.ends.push(self.bytes.len());
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..end - 1])
    }
}

impl Writer {
    pub(crate) fn new(
        settings: Settings,
        start: Start,
        exports: Option<Exports>,
        copies: Copies,
        counters: Arc<Counters>,
        entries: Receiver<Entry>,
    ) -> Self {
        counters.sequence.store(start.head.sequence, Ordering::Relaxed);
        let mut writer = Self {
            entries,
            node: settings.node,
            sink: settings.sink,
            durability: settings.durability,
            head: start.head,
            key: settings.signing_key,
            exports,
            copies,
            counters,
            checkpoint_events: settings.checkpoint_events,
            checkpoint_interval: settings.checkpoint_interval,
            close_limit: settings.close_limit,
            pending: 0,
            due: None,
            failed: None,
            note: start.note.map(|reason| Note { reason, lost: 0 }),
        };
        if start.pending {
            writer.add_pending(1);
        }
        writer
    }

    /// Writes until nobody can append any more. Whether everything was written.
    pub(crate) fn run(mut self) -> bool {
        if self.note.is_some() {
            self.write(Vec::new());
        }
        loop {
            match self.next() {
                Ok(entry) => {
                    let entries = self.gather(entry);
                    self.write(entries);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_checkpoint_due() {
                self.checkpoint();
            }
            if self.failed.is_none() && self.sink.is_rotation_due() {
                self.rotate();
            }
        }
        self.end()
    }

    fn next(&self) -> Result<Entry, RecvTimeoutError> {
        match self.due {
            Some(due) if self.failed.is_none() && self.key.is_some() => {
                self.entries.recv_deadline(due)
            }
            _ => self.entries.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// What waits behind `entry`, up to the next checkpoint.
    fn gather(&self, entry: Entry) -> Vec<Entry> {
        let room = self.checkpoint_events.saturating_sub(self.pending).clamp(1, MOST_TOGETHER);
        let room = usize::try_from(room).unwrap_or(1);
        let mut entries = vec![entry];
        entries.extend(self.entries.try_iter().take(room - 1));
        entries
    }

    fn write(&mut self, entries: Vec<Entry>) {
        if !self.is_ready() {
            self.refuse(entries);
            return;
        }
        let mut batch = Batch::new(&self.head);
        if let Some(note) = &self.note {
            let what = json!({ "reason": note.reason, "lost": note.lost });
            let time = line::now();
            let what = ("recovery", &what);
            batch.push(&line::own("audit recovery", &self.node, &batch.head, &time, what));
        }
        let mut answers = Vec::with_capacity(entries.len());
        for Entry { event, answer } in entries {
            match line::stamp(event, &self.node, &batch.head).filter(|line| line.len() <= MAX_LINE)
            {
                Some(line) => {
                    batch.push(&line);
                    answers.push(answer);
                }
                None => self.refuse_one(answer),
            }
        }
        match self.put(&batch, self.durability == Durability::Synced) {
            Ok(()) => {
                self.note = None;
                self.add_pending(batch.ends.len() as u64);
                tell(answers, Ok(()));
            }
            Err(error) => {
                self.fail(&error);
                self.lose(answers);
            }
        }
        self.copy(&batch);
    }

    /// Writes a batch. When it fails, the chain ends where it did.
    fn put(&mut self, batch: &Batch, sync: bool) -> io::Result<()> {
        if batch.ends.is_empty() {
            return Ok(());
        }
        self.sink.write(&batch.bytes, self.head.sequence + 1)?;
        if sync {
            self.sink.sync()?;
        }
        self.head = batch.head.clone();
        self.counters.sequence.store(self.head.sequence, Ordering::Relaxed);
        Ok(())
    }

    fn copy(&mut self, batch: &Batch) {
        // What was not kept is no part of the log.
        if self.failed.is_some() {
            return;
        }
        if self.copies.stderr && io::stderr().lock().write_all(&batch.bytes).is_err() {
            add(&self.counters.stderr_failures, batch.ends.len());
        }
        let Some(otlp) = &self.copies.otlp else { return };
        let first = self.head.sequence + 1 - batch.ends.len() as u64;
        for (line, sequence) in batch.lines().zip(first..) {
            otlp.send(line, sequence);
        }
    }

    /// Whether it can be written; after a failure it is tried again now and then.
    fn is_ready(&mut self) -> bool {
        match self.failed {
            None => true,
            Some(at) if at.elapsed() < PAUSE => false,
            Some(_) => self.reopen(),
        }
    }

    fn reopen(&mut self) -> bool {
        match self.sink.reopen(&self.head) {
            Ok(()) => {
                tracing::info!("the audit log can be written again");
                self.failed = None;
                self.counters.failed.store(false, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the audit log cannot be written: events are refused");
        self.failed = Some(Instant::now());
        self.counters.failed.store(true, Ordering::Relaxed);
        self.note.get_or_insert_with(|| Note {
            reason: format!("the log could not be written: {error}"),
            lost: 0,
        });
    }

    fn refuse(&mut self, entries: Vec<Entry>) {
        self.lose(entries.into_iter().map(|entry| entry.answer).collect());
    }

    fn lose(&mut self, answers: Vec<Option<Answer>>) {
        add(&self.counters.lost, answers.len());
        if let Some(note) = &mut self.note {
            note.lost += answers.len() as u64;
        }
        tell(answers, Err(NotKept::Failed));
    }

    fn refuse_one(&self, answer: Option<Answer>) {
        tracing::error!("an audit event is too large for the log");
        add(&self.counters.lost, 1);
        tell(vec![answer], Err(NotKept::Failed));
    }

    fn add_pending(&mut self, lines: u64) {
        if lines > 0 {
            self.pending += lines;
            self.due.get_or_insert_with(|| Instant::now() + self.checkpoint_interval);
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let late = self.due.is_some_and(|due| Instant::now() >= due);
        self.failed.is_none()
            && self.pending > 0
            && (late || self.pending >= self.checkpoint_events)
    }

    /// Writes and exports a checkpoint. The log is synced first: what a second place says must be there.
    fn checkpoint(&mut self) {
        let Some(key) = &self.key else {
            (self.pending, self.due) = (0, None);
            return;
        };
        let checkpoint = Checkpoint::sign(key, &self.node, &self.head, line::now());
        let Some(line) = checkpoint.line() else { return };
        let mut batch = Batch::new(&self.head);
        batch.push(&line);
        if let Err(error) = self.put(&batch, true) {
            self.fail(&error);
            return;
        }
        (self.pending, self.due) = (0, None);
        add(&self.counters.checkpoints, 1);
        self.copy(&batch);
        self.export(checkpoint);
    }

    fn export(&mut self, checkpoint: Checkpoint) {
        let Some(exports) = &mut self.exports else { return };
        if let Err(error) = exports.export(checkpoint) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "a checkpoint of the audit log could not be exported; it is tried again with the next"
            );
            add(&self.counters.export_failures, 1);
        }
    }

    /// Begins another file. A checkpoint ends the one there is.
    fn rotate(&mut self) {
        if self.pending > 0 {
            self.checkpoint();
        }
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.sink.sync().and_then(|()| self.sink.rotate()) {
            tracing::error!(%error, "the audit log could not be rotated");
        }
    }

    /// Everything is written or refused; vouches for the rest.
    fn end(mut self) -> bool {
        if self.failed.is_some() && self.reopen() {
            self.write(Vec::new());
        }
        if self.pending > 0 && self.failed.is_none() {
            self.checkpoint();
        }
        let synced = self.sink.sync();
        if let Err(error) = &synced {
            tracing::error!(%error, "the end of the audit log may not survive a power failure");
        }
        if let Some(otlp) = &self.copies.otlp {
            otlp.close(self.close_limit);
        }
        self.failed.is_none() && synced.is_ok()
    }
}

fn tell(answers: Vec<Option<Answer>>, what: Result<(), NotKept>) {
    for answer in answers.into_iter().flatten() {
        // Whoever asked may have gone.
        let _ = answer.send(what);
    }
}

/// Events in one write.
const MOST_TOGETHER: u64 = 256;

/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(1);
