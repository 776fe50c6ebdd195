use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When a service that does not answer is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRules {
    /// Failures in a row after which it is not asked any more, at least 1.
    pub failures: u32,
    /// For how long.
    pub open_for: Duration,
}

/// Whether a service is asked, and what went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionState {
    /// Whether questions fail without being asked, since the service did not answer so often.
    pub open: bool,
    /// What was wrong with the last answer; `None` when nothing was, or before the first one.
    pub last_error: Option<Arc<str>>,
}

/// A circuit breaker: after some failures in a row nobody asks for a while, then one tries.
#[derive(Debug)]
pub(crate) struct Breaker {
    rules: BreakerRules,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Since when nobody asks.
    opened: Option<Instant>,
    /// Whether one is trying.
    on_trial: bool,
    last_error: Option<Arc<str>>,
}

/// Nobody asks now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Until somebody may try; zero while somebody tries.
    pub(crate) wait: Duration,
    pub(crate) last_error: Arc<str>,
}

/// Leave to ask once. Dropped without a verdict, it says nothing of the service.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    pub(crate) fn new(rules: BreakerRules) -> Self {
        Self { rules, state: Mutex::default() }
    }

    pub(crate) fn admit(&self) -> Result<Pass<'_>, Open> {
        let mut state = self.lock();
        let Some(opened) = state.opened else {
            return Ok(Pass { breaker: self, is_trial: false });
        };
        let wait = self.rules.open_for.saturating_sub(opened.elapsed());
        if state.on_trial || !wait.is_zero() {
            let last_error = state.last_error.clone().unwrap_or_default();
            return Err(Open { wait, last_error });
        }
        state.on_trial = true;
        Ok(Pass { breaker: self, is_trial: true })
    }

    pub(crate) fn state(&self) -> DecisionState {
        let state = self.lock();
        DecisionState { open: state.opened.is_some(), last_error: state.last_error.clone() }
    }

    /// No code that can panic runs while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The service answered, be it that it refuses. Whether it is asked again from now on.
    pub(crate) fn answered(self, error: Option<Arc<str>>) -> bool {
        let mut state = self.breaker.lock();
        state.failures = 0;
        state.last_error = error;
        state.opened.take().is_some()
    }

    /// The service did not answer. Whether it is left alone from now on.
    pub(crate) fn failed(self, error: Arc<str>) -> bool {
        let mut state = self.breaker.lock();
        // Who asked before it was left alone says nothing new.
        if state.opened.is_some() && !self.is_trial {
            return false;
        }
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error);
        let opens = self.is_trial || state.failures >= self.breaker.rules.failures;
        if opens {
            state.opened = Some(Instant::now());
        }
        opens
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.lock().on_trial = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        Breaker::new(BreakerRules { failures: 3, open_for: OPEN_FOR })
    }

    fn fail(breaker: &Breaker, text: &str) -> bool {
        breaker.admit().unwrap().failed(text.into())
    }

    fn opened() -> Breaker {
        let breaker = breaker();
        let opens: Vec<_> = ["a", "b", "c"].map(|text| fail(&breaker, text)).into();
        assert_eq!(opens, [false, false, true]);
        breaker
    }

    fn wait(breaker: &Breaker) -> Duration {
        breaker.admit().unwrap_err().wait
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_in_a_row_open_it() {
        let breaker = breaker();
        for _ in 0..3 {
            assert!(!fail(&breaker, "a") && !fail(&breaker, "b"));
            assert!(!breaker.admit().unwrap().answered(None));
        }
        assert_eq!(breaker.state(), DecisionState { open: false, last_error: None });
        assert!(!fail(&breaker, "a") && !fail(&breaker, "b") && fail(&breaker, "c"));
        let last_error = Some("c".into());
        assert_eq!(breaker.state(), DecisionState { open: true, last_error });
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_of_the_service_counts_for_nothing() {
        let breaker = breaker();
        assert!(!fail(&breaker, "a") && !fail(&breaker, "b"));
        drop(breaker.admit().unwrap());
        assert!(fail(&breaker, "c"), "a question that was given up is no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_open_for_its_time_to_the_millisecond() {
        let breaker = opened();
        assert_eq!(breaker.admit().unwrap_err(), Open { wait: OPEN_FOR, last_error: "c".into() });
        advance(OPEN_FOR.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(wait(&breaker), Duration::from_millis(1));
        advance(Duration::from_millis(1)).await;
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tries_and_closes_it() {
        let breaker = opened();
        advance(OPEN_FOR).await;
        let trial = breaker.admit().unwrap();
        assert_eq!(wait(&breaker), Duration::ZERO);
        assert!(breaker.state().open);
        assert!(trial.answered(Some("refused".into())), "a refusal is an answer");
        let last_error = Some("refused".into());
        assert_eq!(breaker.state(), DecisionState { open: false, last_error });
        let (one, two) = (breaker.admit(), breaker.admit());
        assert!(one.is_ok() && two.is_ok());
        assert!(!fail(&breaker, "a"), "it counts anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_fails_opens_it_for_the_whole_time() {
        let breaker = opened();
        advance(OPEN_FOR).await;
        assert!(fail(&breaker, "d"));
        assert_eq!(breaker.admit().unwrap_err(), Open { wait: OPEN_FOR, last_error: "d".into() });
        advance(OPEN_FOR).await;
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_given_up_leaves_it_to_the_next() {
        let breaker = opened();
        advance(OPEN_FOR).await;
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().unwrap().answered(None));
    }

    #[tokio::test(start_paused = true)]
    async fn late_failures_do_not_prolong_it_and_a_late_answer_closes_it() {
        let breaker = breaker();
        let late: Vec<_> = (0..4).map(|_| breaker.admit().unwrap()).collect();
        assert!(["a", "b", "c"].map(|text| fail(&breaker, text))[2]);
        advance(OPEN_FOR / 2).await;
        let mut late = late.into_iter();
        assert!(!late.next().unwrap().failed("late".into()));
        assert_eq!(wait(&breaker), OPEN_FOR / 2);
        advance(OPEN_FOR / 2).await;
        let trial = breaker.admit().unwrap();
        assert!(!late.next().unwrap().failed("late".into()));
        drop(late.next());
        assert_eq!(wait(&breaker), Duration::ZERO, "the trial is still under way");
        assert!(late.next().unwrap().answered(None));
        assert!(!trial.answered(None), "it was closed already");
    }
}
