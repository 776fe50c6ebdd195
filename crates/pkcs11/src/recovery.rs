//! A token that goes away and comes back.
//!
//! Every session belongs to a *generation* of the token. Whoever finds that the token is down ends
//! the generation; all workers then close their sessions, because handles mean nothing afterwards
//! and a module may be restarted only without sessions. The next job tries to get the token back,
//! one worker at a time and with growing pauses.

use std::{
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use cryptoki::error::Error as Cryptoki;
use tokio::sync::Semaphore;

use crate::{
    error::Error,
    module::lock,
    selftest::Abilities,
    token::{Token, TokenSession},
    worker::{Control, Stats},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a restart waits for the other workers to close their sessions.
const PARKING: Duration = Duration::from_millis(250);

/// A token as the workers of one manager share it.
#[derive(Debug)]
pub(crate) struct Device {
    /// Which manager this is, of all in the process.
    pub(crate) manager: u64,
    pub(crate) token: Arc<Token>,
    pub(crate) abilities: Abilities,
    /// A place for each session key of a response.
    pub(crate) recipients: Arc<Semaphore>,
    pub(crate) stats: Arc<Stats>,
    controls: Vec<Sender<Control>>,
    generation: AtomicU64,
    state: Mutex<State>,
    /// Held by the one worker who tries to get the token back.
    restoring: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    why: String,
    attempts: u32,
    not_before: Instant,
}

impl Device {
    pub(crate) fn new(
        token: Arc<Token>,
        abilities: Abilities,
        recipients: usize,
        controls: Vec<Sender<Control>>,
    ) -> Self {
        static MANAGERS: AtomicU64 = AtomicU64::new(0);
        Self {
            manager: MANAGERS.fetch_add(1, Ordering::Relaxed),
            token,
            abilities,
            recipients: Arc::new(Semaphore::new(recipients)),
            stats: Arc::default(),
            controls,
            generation: AtomicU64::new(0),
            state: Mutex::default(),
            restoring: Mutex::default(),
        }
    }

    /// Which life of the token this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Why the token is down, if it is known to be.
    pub(crate) fn lost(&self) -> Option<String> {
        lock(&self.state).lost.as_ref().map(|lost| lost.why.clone())
    }

    /// Ends `generation`, unless somebody did.
    pub(crate) fn lose(&self, generation: u64, why: &str) {
        let mut state = lock(&self.state);
        if self.generation() != generation {
            return;
        }
        self.generation.store(generation + 1, Ordering::Release);
        let attempts = 0;
        state.lost = Some(Lost { why: why.to_owned(), attempts, not_before: Instant::now() });
        tracing::error!(token = self.token.label(), why, "the token is down");
        for control in &self.controls {
            // A full channel belongs to a worker that has such an order already.
            let _ = control.try_send(Control::Park);
        }
    }

    /// Whether the token is where it was: a search that finds nothing looks the same whether a key
    /// or the whole token is missing.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(crate) fn check(&self) -> Result<(), String> {
        let slot = self.token.slot().map_err(|error| error.to_string())?;
        match self.token.module().context().get_token_info(slot) {
            Ok(info) if info.label() == self.token.label() => Ok(()),
            Ok(info) => Err(format!(
                "token {} is gone: its slot now has {:?}",
                self.token.label(),
                info.label()
            )),
            Err(error @ Cryptoki::Pkcs11(..)) => {
                Err(format!("token {} does not answer: {error}", self.token.label()))
            }
            // Some tokens announce a clock and leave the time blank.
            Err(_) => Ok(()),
        }
    }

    /// A session, and the generation it belongs to.
    ///
    /// # Errors
    /// Why there is none, for operators.
    pub(crate) fn open_session(&self) -> Result<(TokenSession, u64), String> {
        if self.lost().is_some() {
            self.restore()?;
        }
        let generation = self.generation();
        match self.token.open_session() {
            Ok(session) => Ok((session, generation)),
            Err(error) => {
                let why = error.to_string();
                self.lose(generation, &why);
                Err(why)
            }
        }
    }

    fn restore(&self) -> Result<(), String> {
        let _alone = match self.restoring.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(self.lost().unwrap_or_default()),
        };
        match &lock(&self.state).lost {
            None => return Ok(()),
            Some(lost) if Instant::now() < lost.not_before => return Err(lost.why.clone()),
            Some(_) => {}
        }
        let outcome = self.restart();
        let mut state = lock(&self.state);
        match (&outcome, &mut state.lost) {
            (Ok(()), lost) => {
                *lost = None;
                tracing::info!(token = self.token.label(), "the token is back");
            }
            (Err(why), Some(lost)) => {
                lost.attempts += 1;
                lost.not_before = Instant::now() + pause(lost.attempts);
                lost.why.clone_from(why);
            }
            (Err(_), None) => {}
        }
        outcome
    }

    /// Restarts the module when nobody has a session in it, which gets most lost tokens back, and
    /// logs in again.
    fn restart(&self) -> Result<(), String> {
        let started = Instant::now();
        let restarted = loop {
            match self.token.module().restart() {
                Err(Error::InUse { .. }) if started.elapsed() < PARKING => {
                    thread::sleep(Duration::from_millis(5));
                }
                outcome => break outcome,
            }
        };
        match restarted {
            Ok(()) => {}
            // Other managers use the module; the token may be back all the same.
            Err(Error::InUse { .. }) => self.token.restore_login().map_err(|e| e.to_string())?,
            Err(error) => return Err(error.to_string()),
        }
        self.token.open_session().map_err(|error| error.to_string())?;
        self.check()
    }
}

/// Doubles with every attempt; spread a little, so that many nodes do not ask at once.
fn pause(attempts: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(10)).min(LONGEST_PAUSE);
    let mut spread = [0];
    // Without randomness nothing is spread, which is no reason not to try.
    let _ = aws_lc_rs::rand::fill(&mut spread);
    pause + pause * u32::from(spread[0]) / 1024
}
