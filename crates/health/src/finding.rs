use std::borrow::Cow;

/// How it stands with something that a server needs. The later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It works.
    Up,
    /// Requests are served, but not all of them, or not for much longer.
    Degraded,
    /// Nobody has looked yet.
    Unknown,
    /// No request can be served.
    Down,
}

impl State {
    /// Whether requests are served.
    pub fn is_ready(self) -> bool {
        self <= Self::Degraded
    }

    /// Its name: `up`, `degraded`, `unknown`, `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Down => "down",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub(crate) state: State,
    pub(crate) detail: Cow<'static, str>,
    pub(crate) reason: String,
}

impl Finding {
    /// It works.
    pub fn up() -> Self {
        Self { state: State::Up, detail: Cow::Borrowed(""), reason: String::new() }
    }

    /// Requests are served, but not all of them, or not for much longer. `detail` is told to
    /// everybody who asks, so there is nothing in it but the kind of failure, in words; `reason` is
    /// for the log.
    pub fn degraded(detail: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self { state: State::Degraded, detail: detail.into(), reason: reason.into() }
    }

    /// No request can be served; `detail` and `reason` as in [`Finding::degraded`].
    pub fn down(detail: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self { state: State::Down, detail: detail.into(), reason: reason.into() }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What everybody is told.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the log is told.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
