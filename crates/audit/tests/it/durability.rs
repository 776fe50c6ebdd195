//! What a receipt promises, on a sink that injects faults.

use std::{
    io,
    pin::pin,
    sync::{Arc, Condvar, Mutex},
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, poll};
use kasbah_audit::{
    AuditLog, CloseError, Durability, FileSettings, FileSink, Head, NotKept, Opened, Settings,
    Sink, SinkError,
};

use crate::common::{
    DURABILITIES, LONG, LinesOf, Place, append, event, fine, ids, json_lines, keep, open,
};

/// A real file behind faults: calls that wait until they may go on, and calls that fail.
#[derive(Debug, Clone)]
struct Faulty {
    state: Arc<(Mutex<State>, Condvar)>,
    file: Arc<Mutex<FileSink>>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<&'static str>,
    /// The call that has to wait.
    held: Option<&'static str>,
    /// The call that fails, leaving half of its work.
    failing: Option<&'static str>,
}

impl Faulty {
    fn new(place: &Place) -> Self {
        let file = FileSink::new(FileSettings::new(place.log()));
        Self { state: Arc::default(), file: Arc::new(Mutex::new(file)) }
    }

    fn hold(&self, call: &'static str) {
        self.state.0.lock().unwrap().held = Some(call);
    }

    fn release(&self) {
        self.state.0.lock().unwrap().held = None;
        self.state.1.notify_all();
    }

    fn fail(&self, call: Option<&'static str>) {
        self.state.0.lock().unwrap().failing = call;
    }

    fn calls(&self) -> Vec<&'static str> {
        self.state.0.lock().unwrap().calls.clone()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|made| **made == call).count()
    }

    /// Waits until the call has been made so many times.
    fn reached(&self, call: &str, times: usize) {
        until(|| self.count(call) >= times);
    }

    /// Whether the call fails.
    fn pass(&self, call: &'static str) -> bool {
        let mut state = self.state.0.lock().unwrap();
        state.calls.push(call);
        state = self.state.1.wait_while(state, |state| state.held == Some(call)).unwrap();
        state.failing == Some(call)
    }
}

impl Sink for Faulty {
    fn open(&mut self) -> Result<Opened, SinkError> {
        self.file.lock().unwrap().open()
    }

    fn write(&mut self, lines: &[u8], first: u64) -> io::Result<()> {
        let fails = self.pass("write");
        let part = if fails { lines.len() / 2 } else { lines.len() };
        self.file.lock().unwrap().write(&lines[..part], first)?;
        if fails { Err(injected()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.pass("sync") { Err(injected()) } else { self.file.lock().unwrap().sync() }
    }

    fn reopen(&mut self, head: &Head) -> io::Result<()> {
        if self.pass("reopen") { Err(injected()) } else { self.file.lock().unwrap().reopen(head) }
    }
}

fn injected() -> io::Error {
    io::Error::other("injected")
}

fn until(mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < limit, "not within a minute");
        thread::sleep(Duration::from_millis(2));
    }
}

fn start(place: &Place, durability: Durability) -> (Faulty, AuditLog) {
    let sink = Faulty::new(place);
    let settings = Settings { sink: Box::new(sink.clone()), durability, ..place.settings() };
    (sink, open(settings))
}

#[tokio::test]
async fn buffered_is_answered_before_it_is_written() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Buffered);
    sink.hold("write");
    assert_eq!(log.append(event(0)).wait().now_or_never(), Some(Ok(())));
    sink.reached("write", 1);
    assert_eq!(std::fs::read(place.log()).unwrap(), b"");
    sink.release();
    log.close(LONG).unwrap();
    place.fine();
}

#[tokio::test]
async fn written_is_answered_after_the_write_and_without_a_sync() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Written);
    sink.hold("write");
    let mut receipt = pin!(log.append(event(0)).wait());
    sink.reached("write", 1);
    assert_eq!(poll!(&mut receipt), Poll::Pending);
    sink.release();
    assert_eq!(receipt.await, Ok(()));
    assert_eq!(ids(&std::fs::read(place.log()).unwrap()), [0]);
    assert_eq!(sink.calls(), ["write"]);
}

#[tokio::test]
async fn synced_is_answered_after_the_sync() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Synced);
    sink.hold("sync");
    let mut receipt = pin!(log.append(event(0)).wait());
    sink.reached("sync", 1);
    assert_eq!(ids(&std::fs::read(place.log()).unwrap()), [0]);
    assert_eq!(poll!(&mut receipt), Poll::Pending);
    sink.release();
    assert_eq!(receipt.await, Ok(()));
    assert_eq!(sink.calls(), ["write", "sync"]);
}

#[tokio::test]
async fn many_events_share_a_sync() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Synced);
    sink.hold("sync");
    let first = log.append(event(0));
    sink.reached("sync", 1);
    let rest: Vec<_> = (1..101).map(|id| log.append(event(id))).collect();
    sink.release();
    first.wait().await.unwrap();
    for receipt in rest {
        receipt.wait().await.unwrap();
    }
    assert_eq!(sink.calls(), ["write", "sync", "write", "sync"]);
    assert_eq!(ids(&std::fs::read(place.log()).unwrap()), (0..101).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_queue_refuses_whatever_the_durability() {
    for durability in DURABILITIES {
        let place = Place::new();
        let sink = Faulty::new(&place);
        let sink_of_log = Box::new(sink.clone());
        let log = open(Settings { sink: sink_of_log, durability, queue: 2, ..place.settings() });
        sink.hold("write");
        let mut receipts = vec![log.append(event(0))];
        sink.reached("write", 1);
        receipts.extend([log.append(event(1)), log.append(event(2))]);
        for id in 3..6 {
            let refused = log.append(event(id)).wait().now_or_never();
            assert_eq!(refused, Some(Err(NotKept::Full)), "{durability:?}");
        }
        assert_eq!(log.stats().full, 3);
        sink.release();
        for receipt in receipts {
            receipt.wait().await.unwrap();
        }
        log.close(LONG).unwrap();
        assert_eq!(ids(&std::fs::read(place.log()).unwrap()), [0, 1, 2]);
        place.fine();
    }
}

/// A failure of `call` with this durability: all of the batch fails, nothing of it stays, the log tries
/// again a second later, and says what happened.
async fn fails_and_recovers(call: &'static str, durability: Durability) {
    let place = Place::new();
    let (sink, log) = start(&place, durability);
    keep(&log, 0..5).await;
    sink.hold("write");
    let one = log.append(event(5));
    sink.reached("write", sink.count("write") + 1);
    let batch: Vec<_> = (6..16).map(|id| log.append(event(id))).collect();
    sink.fail(Some(call));
    sink.release();
    assert_eq!(one.wait().await, Err(NotKept::Failed));
    for receipt in batch {
        assert_eq!(receipt.wait().await, Err(NotKept::Failed));
    }
    assert!(log.stats().failed);
    assert_eq!(sink.count("reopen"), 0, "it is not tried again at once");
    sink.fail(Some("reopen"));
    thread::sleep(Duration::from_millis(1100));
    for id in 16..20 {
        assert_eq!(log.append(event(id)).wait().await, Err(NotKept::Failed));
    }
    assert!(sink.count("reopen") >= 1);
    sink.fail(None);
    thread::sleep(Duration::from_millis(1100));
    keep(&log, 20..25).await;
    assert!(!log.stats().failed);
    assert_eq!(log.stats().lost, 15);
    log.close(LONG).unwrap();

    let bytes = std::fs::read(place.log()).unwrap();
    assert_eq!(ids(&bytes), [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]);
    let lines = json_lines(&bytes);
    assert_eq!(lines[5]["msg"], "audit recovery");
    let recovery = &lines[5]["audit"]["eventMetaData"]["kasbah"]["recovery"];
    assert_eq!(recovery["lost"], 15);
    assert!(recovery["reason"].as_str().unwrap().contains("injected"), "{recovery}");
    assert_eq!(place.fine().unvouched, 0);
}

#[tokio::test]
async fn a_failed_write_fails_the_batch() {
    fails_and_recovers("write", Durability::Written).await;
}

#[tokio::test]
async fn a_failed_sync_fails_the_batch() {
    fails_and_recovers("sync", Durability::Synced).await;
}

#[tokio::test]
async fn a_checkpoint_that_fails_takes_no_event_along() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Written);
    keep(&log, 0..5).await;
    sink.fail(Some("sync"));
    assert_eq!(log.close(LONG), Err(CloseError::Failed));
    let bytes = std::fs::read(place.log()).unwrap();
    assert_eq!(ids(&bytes), [0, 1, 2, 3, 4]);
    // The checkpoint was written, but nobody promised that it stays: it is not exported.
    assert_eq!(std::fs::read(place.checkpoints()).unwrap(), b"");
    fine(place.verify(&place.files()));
    drop(sink);
    let log = open(place.settings());
    keep(&log, 5..6).await;
    log.close(LONG).unwrap();
    place.fine();
}

#[tokio::test]
async fn a_checkpoint_is_exported_after_its_line_is_synced() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Written);
    keep(&log, 0..1).await;
    sink.hold("sync");
    let closing = thread::spawn(move || log.close(LONG));
    sink.reached("sync", 1);
    assert_eq!(std::fs::read(place.log()).unwrap().lines_of().count(), 2);
    assert_eq!(std::fs::read(place.checkpoints()).unwrap(), b"");
    sink.release();
    closing.join().unwrap().unwrap();
    assert_eq!(std::fs::read(place.checkpoints()).unwrap().lines_of().count(), 1);
}

#[tokio::test]
async fn closing_has_a_limit() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Written);
    sink.hold("write");
    let receipt = log.append(event(0));
    sink.reached("write", 1);
    assert_eq!(log.close(Duration::from_millis(20)), Err(CloseError::Late));
    sink.release();
    assert_eq!(log.close(LONG), Ok(()));
    assert_eq!(receipt.wait().await, Ok(()));
    place.fine();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_does_not_close_well() {
    let place = Place::new();
    let (sink, log) = start(&place, Durability::Written);
    sink.fail(Some("write"));
    assert_eq!(append(&log, 0..1).await, Err(NotKept::Failed));
    sink.fail(Some("reopen"));
    assert_eq!(log.close(LONG), Err(CloseError::Failed));
}
