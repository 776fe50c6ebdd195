//! Threads that own sessions.
//!
//! A PKCS#11 call blocks and cannot be stopped, so each session has a named thread of its own. One
//! bounded queue feeds them all. What a caller gives up on before a worker took it is skipped; what
//! has started inside the token runs to its end and the result is wiped.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, at, never, select_biased};
use cryptoki::{error::Error as Cryptoki, object::ObjectHandle};
use kasbah_telemetry::instruments;
use kasbah_trust::{CustodyPolicy, Error, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    MANAGER,
    error::ErrorClass,
    job::{Job, Key, Outcome, Ticket},
    object::Ledger,
    opened::Opened,
    recipient::WrapHandle,
    recovery::Device,
    rewrap::{Fault, Stage},
};

pub(crate) const SHORT: &str = "sealed custody required, but the token cannot check the policy binding of a \
                     data key shorter than 32 bytes";
/// Orders beside the queue.
#[derive(Debug)]
pub(crate) enum Control {
    /// Destroy the session key of a response, then free its place.
    Release(Arc<WrapHandle>, OwnedSemaphorePermit),
    /// Close the session: the token is gone, and the module may need a restart.
    Park,
}

/// Figures of a manager's workers.
#[derive(Debug, Default)]
pub struct Stats {
    /// Jobs answered.
    pub done: AtomicU64,
    /// Jobs skipped because nobody waited for them any more.
    pub skipped: AtomicU64,
    /// Jobs in a worker's hands now.
    pub running: AtomicUsize,
    /// Nanoseconds that jobs waited for a worker, in all.
    pub queue_ns: AtomicU64,
    /// Nanoseconds that workers spent on jobs, in all.
    pub exec_ns: AtomicU64,
    /// Session objects that jobs left behind; always zero.
    pub live_objects: AtomicUsize,
    /// Session keys of responses under way.
    pub live_recipients: AtomicUsize,
    /// Canaries run, see the error handling of this crate.
    pub canaries: AtomicU64,
}

/// What one worker has whether or not it has a session.
pub(crate) struct Worker {
    pub(crate) device: Arc<Device>,
    pub(crate) policy: CustodyPolicy,
    pub(crate) jobs: Receiver<Ticket>,
    pub(crate) control: (Sender<Control>, Receiver<Control>),
    /// How many failures may wait for a canary, so that a flood of garbage holds no memory.
    pub(crate) max_suspects: usize,
    /// How many wrapped private keys may be open on its session.
    pub(crate) max_open: usize,
}

/// A worker with a session.
pub(crate) struct Seat<'w, 'l> {
    pub(crate) worker: &'w Worker,
    pub(crate) ledger: &'l Ledger<'l>,
    pub(crate) generation: u64,
    /// Handles of private keys in the token, by serial.
    pub(crate) handles: HashMap<u64, ObjectHandle>,
    /// Those of wrapped private keys.
    pub(crate) opened: Opened,
    /// Session keys of responses, made on this session.
    pub(crate) recipients: Vec<Arc<WrapHandle>>,
    suspects: Vec<Suspect>,
}

/// A failure that waits for a canary.
struct Suspect {
    ticket: Ticket,
    key: Arc<Key>,
    stage: Stage,
    error: Cryptoki,
    due: Instant,
}

/// Why a worker leaves its session.
enum Leave {
    /// The manager closes.
    Closed,
    /// For another session, on which this job is to be tried again.
    Reopen(Option<Box<Ticket>>),
}

/// What a worker waited for.
enum Event {
    Closed,
    Control(Control),
    Due,
    Job(Box<Ticket>),
}

impl Worker {
    /// Works until the manager closes its end of the queue and the queue is empty.
    pub(crate) fn run(self) {
        let mut carried = None;
        loop {
            let Some(ticket) = carried.take().or_else(|| self.next_ticket()) else { return };
            match self.device.open_session() {
                Err(why) => {
                    instruments().token_error("gone");
                    ticket.unavailable(&why);
                }
                Ok((session, generation)) => {
                    let ledger = Ledger::new(&session);
                    match Seat::new(&self, &ledger, generation).serve(ticket) {
                        Leave::Closed => return,
                        Leave::Reopen(ticket) => carried = ticket,
                    }
                }
            }
        }
    }

    /// The next job while there is no session. Session keys died with the last one.
    fn next_ticket(&self) -> Option<Box<Ticket>> {
        loop {
            match self.wait(None) {
                Event::Closed => return None,
                Event::Job(ticket) => return Some(ticket),
                Event::Control(_) | Event::Due => {}
            }
        }
    }

    fn wait(&self, due: Option<Instant>) -> Event {
        let due = due.map_or_else(never, at);
        select_biased! {
            recv(self.control.1) -> control => control.map_or(Event::Closed, Event::Control),
            recv(due) -> _ => Event::Due,
            recv(self.jobs) -> ticket => {
                ticket.map_or(Event::Closed, |ticket| Event::Job(Box::new(ticket)))
            }
        }
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.device.stats
    }
}

impl<'w, 'l> Seat<'w, 'l> {
    fn new(worker: &'w Worker, ledger: &'l Ledger<'l>, generation: u64) -> Self {
        Self {
            worker,
            ledger,
            generation,
            handles: HashMap::new(),
            opened: Opened::default(),
            recipients: Vec::new(),
            suspects: Vec::new(),
        }
    }

    fn serve(mut self, first: Box<Ticket>) -> Leave {
        let mut event = Event::Job(first);
        let leave = loop {
            let left = match event {
                Event::Closed => Some(Leave::Closed),
                Event::Control(Control::Park) => Some(Leave::Reopen(None)),
                Event::Control(Control::Release(key, _permit)) => {
                    self.release(&key);
                    None
                }
                Event::Due => self.judge_due(),
                Event::Job(ticket) => self.handle(ticket),
            };
            if let Some(leave) = left.or_else(|| self.is_spent().then_some(Leave::Reopen(None))) {
                break leave;
            }
            event = self.worker.wait(self.suspects.iter().map(|suspect| suspect.due).min());
        };
        self.clear();
        leave
    }

    /// Whether this session is not to be used any more.
    fn is_spent(&self) -> bool {
        self.ledger.is_stained() || self.device().generation() != self.generation
    }

    /// Leaves nothing behind that the session's end would make wrong.
    fn clear(&mut self) {
        for key in std::mem::take(&mut self.recipients) {
            self.worker.stats().live_recipients.fetch_sub(1, Ordering::Relaxed);
            key.revoke();
        }
        for suspect in std::mem::take(&mut self.suspects) {
            instruments().token_error("transient");
            suspect.ticket.unavailable("the session ended before the failure could be explained");
        }
    }

    pub(crate) fn device(&self) -> &'w Device {
        &self.worker.device
    }

    fn handle(&mut self, mut ticket: Box<Ticket>) -> Option<Leave> {
        let stats = self.worker.stats();
        if ticket.is_abandoned() {
            stats.skipped.fetch_add(1, Ordering::Relaxed);
            instruments().not_done(MANAGER, "abandoned");
            return None;
        }
        let start = Instant::now();
        stats.queue_ns.fetch_add(nanos(start - ticket.queued), Ordering::Relaxed);
        stats.running.fetch_add(1, Ordering::Relaxed);
        let span = ticket.begin();
        let outcome =
            span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.perform(&ticket.job))));
        let elapsed = start.elapsed();
        stats.running.fetch_sub(1, Ordering::Relaxed);
        stats.exec_ns.fetch_add(nanos(elapsed), Ordering::Relaxed);
        instruments().executed(MANAGER, ticket.job.operation(), elapsed);
        drop(span);
        self.count_objects();
        match outcome {
            Ok(Ok(outcome)) => {
                self.acquit(&ticket.job);
                self.finish(ticket, Ok(outcome));
                None
            }
            Ok(Err(fault)) => self.fail(ticket, fault),
            Err(_panic) => {
                self.finish(ticket, Err(Error::internal("a job panicked")));
                Some(Leave::Reopen(None))
            }
        }
    }

    fn finish(&self, ticket: Box<Ticket>, outcome: Result<Outcome>) {
        self.worker.stats().done.fetch_add(1, Ordering::Relaxed);
        ticket.answer(outcome);
    }

    fn count_objects(&self) {
        let live = self.ledger.live();
        debug_assert_eq!(live, 0, "a job left session objects behind");
        self.worker.stats().live_objects.fetch_add(live, Ordering::Relaxed);
    }

    /// Decides what a fault means. See [`ErrorClass`].
    fn fail(&mut self, ticket: Box<Ticket>, fault: Fault) -> Option<Leave> {
        let (error, stage) = match fault {
            Fault::Answer(error) => {
                self.finish(ticket, Err(error));
                return None;
            }
            Fault::ShortKey => {
                self.finish(ticket, Err(Error::NotPermitted(SHORT)));
                return None;
            }
            Fault::Call(error, stage) => (error, stage),
        };
        let class = ErrorClass::of(&error);
        tracing::debug!(%error, ?class, ?stage, again = ticket.again, "a call to the token failed");
        if let Some(class) = counted(class, stage) {
            instruments().token_error(class);
        }
        match class {
            ErrorClass::Session if !ticket.again => {
                return Some(Leave::Reopen(Some(retry(ticket))));
            }
            ErrorClass::Login if !ticket.again => {
                return match self.device().token.restore_login() {
                    Ok(()) => Some(Leave::Reopen(Some(retry(ticket)))),
                    Err(why) => Some(self.lose(ticket, &why.to_string())),
                };
            }
            ErrorClass::StaleHandle if !ticket.again => {
                if self.opened.len() > 0 {
                    // Perhaps all of them are stale, as after a logout; another session gets rid
                    // of the rest.
                    return match self.device().token.restore_login() {
                        Ok(()) => Some(Leave::Reopen(Some(retry(ticket)))),
                        Err(why) => Some(self.lose(ticket, &why.to_string())),
                    };
                }
                self.handles.clear();
                self.opened.forget_tools();
                return self.handle(retry(ticket));
            }
            ErrorClass::Login | ErrorClass::Session | ErrorClass::StaleHandle => {
                return Some(self.doubt(ticket, &error.to_string()));
            }
            ErrorClass::Device | ErrorClass::Pin => {
                return Some(self.lose(ticket, &error.to_string()));
            }
            ErrorClass::Caller | ErrorClass::Internal if stage == Stage::After => {
                self.finish(ticket, Err(Error::internal(error)));
                return None;
            }
            ErrorClass::Ambiguous | ErrorClass::Caller | ErrorClass::Internal => {}
        }
        let Some(key) = ticket.job.key().cloned() else {
            instruments().token_error("transient");
            return Some(self.doubt(ticket, &error.to_string()));
        };
        self.suspect(ticket, key, stage, error);
        None
    }

    /// The token is down.
    fn lose(&self, ticket: Box<Ticket>, why: &str) -> Leave {
        self.device().lose(self.generation, why);
        self.finish(ticket, Err(Error::unavailable(why)));
        Leave::Reopen(None)
    }

    /// Something is down, perhaps the token.
    fn doubt(&self, ticket: Box<Ticket>, why: &str) -> Leave {
        if let Err(lost) = self.device().check() {
            return self.lose(ticket, &lost);
        }
        self.finish(ticket, Err(Error::unavailable(why)));
        Leave::Reopen(None)
    }

    /// Lets a failure wait for a canary; the first of its key books it.
    fn suspect(&mut self, ticket: Box<Ticket>, key: Arc<Key>, stage: Stage, error: Cryptoki) {
        if self.suspects.len() >= self.worker.max_suspects {
            instruments().not_done(MANAGER, "busy");
            self.finish(ticket, Err(Error::Busy));
            return;
        }
        let booked = self.suspects.iter().find(|suspect| Arc::ptr_eq(&suspect.key, &key));
        let due = booked.map_or_else(|| key.canary.book(Instant::now()), |suspect| suspect.due);
        self.suspects.push(Suspect { ticket: *ticket, key, stage, error, due });
    }

    fn judge_due(&mut self) -> Option<Leave> {
        let now = Instant::now();
        let due = self.suspects.iter().find(|suspect| suspect.due <= now)?;
        let key = Arc::clone(&due.key);
        self.worker.stats().canaries.fetch_add(1, Ordering::Relaxed);
        let verdict = catch_unwind(AssertUnwindSafe(|| self.canary(&key)));
        self.count_objects();
        match verdict {
            Ok(Ok(())) => {
                self.settle(&key, None);
                None
            }
            Ok(Err(fault)) => Some(self.condemn(&key, fault)),
            Err(_panic) => Some(Leave::Reopen(None)),
        }
    }

    /// A failed canary: not the caller's fault, and more than one caller's trouble.
    fn condemn(&mut self, key: &Arc<Key>, fault: Fault) -> Leave {
        let why = match fault {
            Fault::Answer(error) => error.to_string(),
            Fault::Call(error, _) => error.to_string(),
            Fault::ShortKey => SHORT.to_owned(),
        };
        tracing::warn!(kid = %key.kid, why, "a sound data key does not unwrap; the token is down");
        self.device().lose(self.generation, &why);
        self.settle(key, Some(&why));
        Leave::Reopen(None)
    }

    /// Answers all failures of `key` that wait.
    fn settle(&mut self, key: &Arc<Key>, down: Option<&str>) {
        for suspect in self.suspects.extract_if(.., |suspect| Arc::ptr_eq(&suspect.key, key)) {
            let (class, error) = match (down, suspect.stage) {
                (Some(why), _) => ("gone", Error::unavailable(why)),
                (None, Stage::Unwrap) => ("caller", Error::Decrypt),
                (None, Stage::After) => ("fatal", Error::internal(suspect.error)),
            };
            instruments().token_error(class);
            self.worker.stats().done.fetch_add(1, Ordering::Relaxed);
            suspect.ticket.answer(Err(error));
        }
    }

    /// A genuine unwrap is as good as a canary.
    fn acquit(&mut self, job: &Job) {
        if self.suspects.is_empty() {
            return;
        }
        if let Some(key) = job.key() {
            self.settle(key, None);
        }
    }
}

/// How a failed call is counted; `None` where a canary, or what comes after it, decides that.
fn counted(class: ErrorClass, stage: Stage) -> Option<&'static str> {
    match class {
        ErrorClass::Login | ErrorClass::Session | ErrorClass::StaleHandle => Some("transient"),
        ErrorClass::Device => Some("gone"),
        ErrorClass::Pin => Some("fatal"),
        ErrorClass::Caller | ErrorClass::Internal if stage == Stage::After => Some("fatal"),
        ErrorClass::Ambiguous | ErrorClass::Caller | ErrorClass::Internal => None,
    }
}

fn retry(mut ticket: Box<Ticket>) -> Box<Ticket> {
    ticket.again = true;
    ticket
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
