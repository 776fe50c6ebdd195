use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    NotKept, Receipt, Stats,
    checkpoint::Checkpoint,
    export::Exports,
    key::SigningKey,
    line::{Head, is_event},
    otlp::{Otlp, OtlpError, OtlpSettings},
    sink::{Opened, Sink, SinkError},
    stats::{Counters, add},
    writer::{Copies, Entry, Writer},
};

/// What must have happened before a receipt says that an event is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It waits to be written. A crash loses it, and so does a write that fails later on.
    Buffered,
    /// `write` has returned: the end of this process does not lose it, a power failure may.
    #[default]
    Written,
    /// `fdatasync` has returned: a power failure does not lose it. Events that come in together share
    /// one.
    Synced,
}

/// How a log is kept.
pub struct Settings {
    /// Name of this node, 1 to 255 bytes. Two nodes never share one: each has a chain of its own.
    pub node: String,
    /// Where the lines go.
    pub sink: Box<dyn Sink>,
    /// What a receipt promises.
    pub durability: Durability,
    /// How many events may wait, at least 1. Those beyond are refused.
    pub queue: usize,
    /// Signs checkpoints; without it there are none, and whoever can write the log can compute the chain
    /// anew.
    pub signing_key: Option<SigningKey>,
    /// The second place: a file that each checkpoint is appended to and synced, one JSON object per
    /// line. It should be out of reach of whoever can change the log. When it cannot be written, that is
    /// logged and counted, the log goes on, and what is missing is written as soon as that works again.
    pub checkpoint_file: Option<PathBuf>,
    /// A checkpoint after so many events, at least 1.
    pub checkpoint_events: u64,
    /// A checkpoint so long after the first event that none vouches for.
    pub checkpoint_interval: Duration,
    /// Writes each line to standard error too, best effort.
    pub stderr_copy: bool,
    /// Sends each line to a collector too, best effort. The log must then be opened on a Tokio runtime.
    pub otlp: Option<OtlpSettings>,
    /// How long dropping the log may take.
    pub close_limit: Duration,
}

impl Settings {
    /// Written, 4096 events waiting; a checkpoint every 1000 events and every 10 seconds once there is a
    /// key; no copies; 5 seconds to close.
    pub fn new(node: impl Into<String>, sink: impl Sink) -> Self {
        Self {
            node: node.into(),
            sink: Box::new(sink),
            durability: Durability::default(),
            queue: 4096,
            signing_key: None,
            checkpoint_file: None,
            checkpoint_events: 1000,
            checkpoint_interval: Duration::from_secs(10),
            stderr_copy: false,
            otlp: None,
            close_limit: Duration::from_secs(5),
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        if self.node.is_empty() || self.node.len() > 255 {
            return Err(OpenError::Setting("the name of the node needs 1 to 255 bytes"));
        }
        if self.queue == 0 || self.checkpoint_events == 0 {
            return Err(OpenError::Setting("queue and checkpoint_events must be 1 or more"));
        }
        if self.checkpoint_file.is_some() && self.signing_key.is_none() {
            return Err(OpenError::Setting("a checkpoint file needs a signing key"));
        }
        Ok(())
    }
}

/// A log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of bounds.
    #[error("{0}")]
    Setting(&'static str),
    /// The log or the checkpoint file cannot be used.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log or the checkpoint file is that of another node.
    #[error("{what} belongs to node `{found}`, not to `{node}`")]
    OtherNode {
        /// The log or the checkpoint file.
        what: &'static str,
        /// Whose it is.
        found: String,
        /// Who wanted to write it.
        node: String,
    },
    /// The log lacks lines that a checkpoint vouches for.
    #[error(
        "the log was cut off or changed: it ends at {end}, and that does not agree with the checkpoint of \
         {time}, which stands at {sequence}; put back what is missing, or move both files aside to begin \
         a new chain"
    )]
    CutOff {
        /// Its last line; 0 when there is none.
        end: u64,
        /// When the checkpoint was made.
        time: String,
        /// Sequence of the line that the checkpoint has in the log.
        sequence: u64,
    },
    /// The collector cannot be called.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The thread cannot be started.
    #[error("no thread for the audit log: {0}")]
    Thread(std::io::Error),
}

/// A log did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It could not write everything; receipts say which.
    #[error("the audit log could not be written to its end")]
    Failed,
    /// It is still writing.
    #[error("the audit log did not end in time")]
    Late,
}

/// A log of audit events. Clones write the same one; dropping the last of them closes it, which blocks.
#[derive(Clone)]
pub struct AuditLog(Arc<Shared>);

struct Shared {
    /// `None` once it is closed.
    entries: RwLock<Option<Sender<Entry>>>,
    durability: Durability,
    counters: Arc<Counters>,
    thread: Mutex<Option<JoinHandle<bool>>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    close_limit: Duration,
}

impl AuditLog {
    /// Opens the log, continues its chain, and starts the thread that writes it. Does I/O.
    ///
    /// # Errors
    /// When it cannot be written, or is not what was left.
    pub fn open(mut settings: Settings) -> Result<Self, OpenError> {
        settings.check()?;
        let opened = settings.sink.open()?;
        let exports = settings.checkpoint_file.take().map(Exports::open).transpose()?;
        let start = Start::new(&settings.node, opened, exports.as_ref())?;
        if settings.signing_key.is_none() {
            tracing::warn!(
                "the audit log has no signing key, so nothing shows that its chain was computed anew"
            );
        }
        let counters = Arc::new(Counters::default());
        let otlp = settings.otlp.take();
        let otlp = otlp.map(|otlp| Otlp::new(&otlp, &settings.node, Arc::clone(&counters)));
        let copies = Copies { stderr: settings.stderr_copy, otlp: otlp.transpose()? };
        let (sender, entries) = crossbeam_channel::bounded(settings.queue);
        let (running, ended) = crossbeam_channel::bounded(0);
        let (durability, close_limit) = (settings.durability, settings.close_limit);
        let writer = Writer::new(settings, start, exports, copies, Arc::clone(&counters), entries);
        let run = move || {
            let _running = running;
            writer.run()
        };
        let thread = thread::Builder::new().name("audit-log".to_owned()).spawn(run);
        let thread = Mutex::new(Some(thread.map_err(OpenError::Thread)?));
        let entries = RwLock::new(Some(sender));
        Ok(Self(Arc::new(Shared { entries, durability, counters, thread, ended, close_limit })))
    }

    /// Adds an event: a JSON object in the shape of OpenTDF's audit log, to which
    /// `audit.eventMetaData.kasbah.chain` is added. Does not block.
    ///
    /// The receipt says at once that it is not kept when too many events wait, whatever the durability,
    /// when the log is closed, and when there is no room for the chain in it.
    pub fn append(&self, event: Value) -> Receipt {
        if !is_event(&event) {
            tracing::error!("something that is no audit event was to be logged");
            return self.lost();
        }
        let (answer, receipt) = match self.0.durability {
            Durability::Buffered => (None, Receipt::kept()),
            Durability::Written | Durability::Synced => {
                let (answer, receipt) = oneshot::channel();
                (Some(answer), Receipt::pending(receipt))
            }
        };
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = &*entries else { return self.lost() };
        match entries.try_send(Entry { event, answer }) {
            Ok(()) => receipt,
            Err(TrySendError::Full(_)) => {
                add(&self.0.counters.full, 1);
                Receipt::not_kept(NotKept::Full)
            }
            Err(TrySendError::Disconnected(_)) => {
                // The thread has panicked.
                self.0.counters.failed.store(true, Ordering::Relaxed);
                self.lost()
            }
        }
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        self.0.counters.read()
    }

    /// Writes what waits and a last checkpoint, and ends; events that come later are refused. Blocks for
    /// at most `limit`. Once it is closed, closing it again does nothing.
    ///
    /// # Errors
    /// When not everything was written, or not in time.
    pub fn close(&self, limit: Duration) -> Result<(), CloseError> {
        self.0.close(limit)
    }

    fn lost(&self) -> Receipt {
        add(&self.0.counters.lost, 1);
        Receipt::not_kept(NotKept::Failed)
    }
}

impl Shared {
    fn close(&self, limit: Duration) -> Result<(), CloseError> {
        let until = Instant::now() + limit;
        self.entries.write().unwrap_or_else(PoisonError::into_inner).take();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            return Ok(());
        }
        if self.ended.recv_deadline(until).is_err_and(|error| error.is_timeout()) {
            return Err(CloseError::Late);
        }
        match thread.take().map(JoinHandle::join) {
            None | Some(Ok(true)) => Ok(()),
            Some(Ok(false) | Err(_)) => Err(CloseError::Failed),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.close(self.close_limit) {
            tracing::error!(%error, "the end of the audit log may be missing");
        }
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AuditLog").field(&self.stats()).finish()
    }
}

/// Where a chain goes on.
pub(crate) struct Start {
    pub(crate) head: Head,
    /// Whether there are lines that no checkpoint vouches for.
    pub(crate) pending: bool,
    /// What the first line has to say.
    pub(crate) note: Option<String>,
}

impl Start {
    fn new(node: &str, opened: Opened, exports: Option<&Exports>) -> Result<Self, OpenError> {
        let last = exports.and_then(Exports::last);
        let of_log = opened.node.map(|found| ("the log", found));
        let of_file = last.map(|last| ("the checkpoint file", last.node.clone()));
        for (what, found) in of_log.into_iter().chain(of_file) {
            if found != node {
                return Err(OpenError::OtherNode { what, found, node: node.to_owned() });
            }
        }
        let pending = opened.head.is_some() && !opened.ends_with_checkpoint;
        match (opened.head, last) {
            (Some(head), None) => Ok(Self { head, pending, note: opened.repaired }),
            (None, None) => Ok(Self { head: Head::genesis(node), pending, note: opened.repaired }),
            (Some(head), Some(last)) => {
                agree(&head, last)?;
                Ok(Self { head, pending, note: opened.repaired })
            }
            // The files were archived; the line of the checkpoint follows from it.
            (None, Some(last)) => {
                let head = last.head_after().ok_or_else(|| cut_off(0, last))?;
                let note = format!(
                    "no earlier line was found; the chain goes on after the checkpoint of {}, \
                     which stands at {}",
                    last.time, head.sequence
                );
                Ok(Self { head, pending, note: Some(opened.repaired.unwrap_or(note)) })
            }
        }
    }
}

/// A checkpoint is exported after its line is durable, so the log cannot end before it.
fn agree(head: &Head, last: &Checkpoint) -> Result<(), OpenError> {
    let refused = || cut_off(head.sequence, last);
    let line = last.head_after().ok_or_else(refused)?;
    if head.sequence < line.sequence || head.sequence == line.sequence && *head != line {
        return Err(refused());
    }
    Ok(())
}

fn cut_off(end: u64, last: &Checkpoint) -> OpenError {
    let sequence = last.sequence.saturating_add(1);
    OpenError::CutOff { end, time: last.time.clone(), sequence }
}
