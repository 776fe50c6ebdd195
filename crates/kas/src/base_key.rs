//! The key that clients wrap with when nothing else says with which, and how old it may be.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use kasbah_proto::policy::SimpleKasKey;
use kasbah_trust::{Deadline, Error, Result};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

/// How long the base key may take to be read, proof included.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// A source that failed is left alone for this long.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Where the base key of this KAS is written down.
#[async_trait]
pub trait BaseKey: fmt::Debug + Send + Sync + 'static {
    /// The base key; `None` if there is none, or clients may not have it because it is out of use, not
    /// proven, or not known to be this node's.
    ///
    /// # Errors
    /// Any when it cannot be read now.
    async fn base_key(&self, deadline: Deadline) -> Result<Option<SimpleKasKey>>;
}

/// A base key, read for everybody who waits for it at the same time, and remembered for when it cannot
/// be read.
#[derive(Debug)]
pub(crate) struct Remembered {
    source: Arc<dyn BaseKey>,
    stale_limit: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What was read last, and when that began.
    read: Option<(Instant, Option<SimpleKasKey>)>,
    /// When it last could not be read, if it could not be read since.
    failed: Option<Instant>,
}

impl Remembered {
    /// The base key of `source`; what was read is used for up to `stale_limit` when it cannot be
    /// read.
    pub(crate) fn new(source: Arc<dyn BaseKey>, stale_limit: Duration) -> Self {
        Self { source, stale_limit, known: Mutex::default() }
    }

    /// The base key as it is now, or was shortly before.
    ///
    /// # Errors
    /// When it cannot be read, and could not be for longer than the limit.
    pub(crate) async fn get(&self) -> Result<Option<SimpleKasKey>> {
        let asked = Instant::now();
        // Anybody may ask, so one at a time: who waited takes what was read meanwhile.
        let mut known = self.known.lock().await;
        if let Some((began, key)) = &known.read
            && *began > asked
        {
            return Ok(key.clone());
        }
        if known.failed.is_some_and(|failed| failed.elapsed() < BACK_OFF) {
            return known.earlier(self.stale_limit, unreadable("a moment ago"));
        }
        let began = Instant::now();
        let read = self.source.base_key(Deadline::after(READ_TIMEOUT));
        let read = time::timeout(READ_TIMEOUT, read).await;
        match read.unwrap_or_else(|_| Err(unreadable("it took too long"))) {
            Ok(key) => {
                *known = Known { read: Some((began, key.clone())), failed: None };
                Ok(key)
            }
            Err(error) => {
                let source = &error as &dyn std::error::Error;
                tracing::warn!(error = source, "the base key cannot be read");
                known.failed = Some(Instant::now());
                known.earlier(self.stale_limit, error)
            }
        }
    }
}

impl Known {
    /// What was read within `limit`.
    ///
    /// # Errors
    /// `otherwise`, when nothing was.
    fn earlier(&self, limit: Duration, otherwise: Error) -> Result<Option<SimpleKasKey>> {
        match &self.read {
            Some((began, key)) if began.elapsed() < limit => Ok(key.clone()),
            _ => Err(otherwise),
        }
    }
}

fn unreadable(why: &'static str) -> Error {
    Error::unavailable(format!("the base key cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::watch;

    use super::*;

    /// Answers as a test says, to inject faults; counts how often it was asked.
    #[derive(Debug)]
    struct Scripted {
        answer: watch::Sender<Answer>,
        asked: AtomicUsize,
    }

    #[derive(Debug, Clone, Copy)]
    enum Answer {
        Is(Option<&'static str>),
        Down,
        Silent,
        Slow,
    }

    #[async_trait]
    impl BaseKey for Scripted {
        async fn base_key(&self, _: Deadline) -> Result<Option<SimpleKasKey>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = *self.answer.borrow();
            match answer {
                Answer::Is(kid) => Ok(kid.map(key)),
                Answer::Down => Err(Error::unavailable("the test")),
                Answer::Silent => std::future::pending().await,
                Answer::Slow => {
                    time::sleep(Duration::from_secs(1)).await;
                    Ok(Some(key("slow")))
                }
            }
        }
    }

    fn key(kid: &str) -> SimpleKasKey {
        SimpleKasKey { kas_uri: kid.to_owned(), ..SimpleKasKey::default() }
    }

    fn set_up(answer: Answer) -> (Arc<Scripted>, Remembered) {
        let answer = watch::Sender::new(answer);
        let source = Arc::new(Scripted { answer, asked: AtomicUsize::new(0) });
        let remembered = Remembered::new(Arc::clone(&source) as _, Duration::from_mins(10));
        (source, remembered)
    }

    /// The kid, or that it cannot be read.
    async fn got(remembered: &Remembered) -> Result<Option<String>, ()> {
        let got = remembered.get().await;
        got.map(|key| key.map(|key| key.kas_uri)).map_err(drop)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_at_once() {
        let (source, remembered) = set_up(Answer::Is(None));
        assert_eq!(got(&remembered).await, Ok(None));
        for kid in ["r1", "r2"] {
            source.answer.send_replace(Answer::Is(Some(kid)));
            assert_eq!(got(&remembered).await, Ok(Some(kid.to_owned())));
        }
        source.answer.send_replace(Answer::Is(None));
        assert_eq!(got(&remembered).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_one_is_used_for_a_while_and_none_is_never_made_up() {
        let (source, remembered) = set_up(Answer::Down);
        assert_eq!(got(&remembered).await, Err(()));
        time::advance(BACK_OFF).await;
        source.answer.send_replace(Answer::Is(Some("r1")));
        assert_eq!(got(&remembered).await, Ok(Some("r1".to_owned())));
        source.answer.send_replace(Answer::Down);
        time::advance(Duration::from_secs(599)).await;
        assert_eq!(got(&remembered).await, Ok(Some("r1".to_owned())));
        time::advance(Duration::from_secs(2)).await;
        assert_eq!(got(&remembered).await, Err(()));
        source.answer.send_replace(Answer::Is(Some("r2")));
        assert_eq!(got(&remembered).await, Err(()), "it is left alone for a second");
        time::advance(BACK_OFF).await;
        assert_eq!(got(&remembered).await, Ok(Some("r2".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_down_is_not_asked_by_everybody() {
        let (source, remembered) = set_up(Answer::Down);
        for _ in 0..100 {
            assert_eq!(got(&remembered).await, Err(()));
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_does_not_answer_is_given_up() {
        let (source, remembered) = set_up(Answer::Silent);
        let all = join_all((0..100).map(|_| got(&remembered))).await;
        assert!(all.iter().all(|got| *got == Err(())));
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_it_is_read_does_not_read_it_each_for_himself() {
        let (source, remembered) = set_up(Answer::Slow);
        let all = join_all((0..100).map(|_| got(&remembered))).await;
        assert!(all.iter().all(|got| *got == Ok(Some("slow".to_owned()))));
        let asked = source.asked.load(Ordering::SeqCst);
        assert!(asked <= 2, "{asked}");
    }
}
