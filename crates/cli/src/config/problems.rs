use std::fmt;

/// Something in a configuration that is wrong, or worth a look.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    /// Where: `keyring[0].kid`.
    pub(crate) path: String,
    /// What, and what to do; never the value of a secret.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// What the sections have found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What keeps the configuration from being used.
    pub(crate) problems: Vec<Problem>,
    /// What does not.
    pub(crate) warnings: Vec<Problem>,
}

impl Findings {
    /// Notes what keeps the configuration from being used. The result is always `None`, so that a
    /// check can end with it.
    pub(crate) fn problem<T>(
        &mut self,
        path: impl fmt::Display,
        message: impl fmt::Display,
    ) -> Option<T> {
        self.problems.push(Problem { path: path.to_string(), message: message.to_string() });
        None
    }

    /// Notes what is worth a look.
    pub(crate) fn warn(&mut self, path: impl fmt::Display, message: impl fmt::Display) {
        self.warnings.push(Problem { path: path.to_string(), message: message.to_string() });
    }

    /// Whether a section has problems, so that what refers to it may fail for that reason alone.
    pub(super) fn is_doubtful(&self, section: &str) -> bool {
        self.problems.iter().any(|problem| {
            let rest = problem.path.strip_prefix(section);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Notes that `path` names something that is not there; `sections` decide what is.
    pub(crate) fn unknown_name<T>(
        &mut self,
        path: impl fmt::Display,
        sections: &[&str],
        message: impl fmt::Display,
    ) -> Option<T> {
        // What it names may be what is wrong there.
        if sections.iter().any(|section| self.is_doubtful(section)) {
            return None;
        }
        self.problem(path, message)
    }
}
