use tokio::sync::oneshot;

/// Says when an event is kept as durably as the log promises.
#[derive(Debug)]
#[must_use = "what an event is about must not happen before the event is kept"]
pub struct Receipt(State);

#[derive(Debug)]
enum State {
    Done(Result<(), NotKept>),
    Waiting(oneshot::Receiver<Result<(), NotKept>>),
}

/// An event is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// More events come in than can be written.
    #[error("the audit log has more events to write than it can hold")]
    Full,
    /// Writing failed, or the log has ended.
    #[error("the audit log cannot be written")]
    Failed,
}

impl Receipt {
    /// The event is kept.
    pub fn kept() -> Self {
        Self(State::Done(Ok(())))
    }

    /// The event is not, and will not be.
    pub fn not_kept(reason: NotKept) -> Self {
        Self(State::Done(Err(reason)))
    }

    /// Whoever holds the other end will say.
    pub fn pending(answer: oneshot::Receiver<Result<(), NotKept>>) -> Self {
        Self(State::Waiting(answer))
    }

    /// Waits until the event is kept.
    ///
    /// # Errors
    /// When it will not be.
    pub async fn wait(self) -> Result<(), NotKept> {
        match self.0 {
            State::Done(result) => result,
            State::Waiting(answer) => answer.await.unwrap_or(Err(NotKept::Failed)),
        }
    }
}
