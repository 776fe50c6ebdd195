use std::borrow::Cow;

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Finding, State};

/// What is known of a server.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// It was told to stop.
    pub(crate) draining: bool,
    pub(crate) parts: Vec<Part>,
}

/// What is known of one dependency.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    /// Since when it is in that state.
    pub(crate) since: OffsetDateTime,
    pub(crate) detail: Cow<'static, str>,
}

/// What somebody asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Whether the server is alive.
    Alive,
    /// Whether it is ready.
    Ready,
    /// One dependency, by its place.
    Part(usize),
}

impl Report {
    /// Nobody has looked at anything.
    pub(crate) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let since = OffsetDateTime::now_utc();
        let detail = Cow::Borrowed("nobody has looked yet");
        let part = |name| Part { name, state: State::Unknown, since, detail: detail.clone() };
        Self { draining: false, parts: names.map(part).collect() }
    }

    /// Takes on what was found; what there was before, if that was different.
    pub(crate) fn take_on(&mut self, place: usize, finding: &Finding) -> Option<State> {
        let part = self.parts.get_mut(place)?;
        let before = part.state;
        if before == finding.state && part.detail == finding.detail {
            return None;
        }
        if before != finding.state {
            part.since = OffsetDateTime::now_utc();
        }
        part.state = finding.state;
        part.detail.clone_from(&finding.detail);
        Some(before)
    }

    /// As its worst part.
    pub(crate) fn state(&self) -> State {
        self.parts.iter().map(|part| part.state).max().unwrap_or(State::Up)
    }

    pub(crate) fn is_serving(&self, asked: Asked) -> bool {
        match asked {
            Asked::Alive => true,
            Asked::Ready => !self.draining && self.state().is_ready(),
            Asked::Part(place) => self.parts.get(place).is_some_and(|part| part.state.is_ready()),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let status = if self.draining { "draining" } else { self.state().as_str() };
        let parts = self.parts.iter().map(|part| (part.name.to_owned(), part.json()));
        json!({ "status": status, "dependencies": parts.collect::<Map<_, _>>() })
    }
}

impl Part {
    fn json(&self) -> Value {
        // Times of this clock can always be written.
        let since = self.since.format(&Rfc3339).unwrap_or_default();
        let mut json = json!({ "status": self.state.as_str(), "since": since });
        if !self.detail.is_empty() {
            json["detail"] = self.detail.as_ref().into();
        }
        json
    }
}
