//! The environment of this process, which PKCS#11 libraries read their configuration from.

use std::{collections::BTreeMap, env};

/// Variables to set before any thread exists.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// A single variable.
    pub(crate) fn of(name: &str, value: &str) -> Self {
        Self(BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    /// Adds a variable; `false` when it is there with another value.
    pub(crate) fn insert(&mut self, name: &str, value: &str) -> bool {
        self.0.entry(name.to_owned()).or_insert_with(|| value.to_owned()) == value
    }

    /// Sets the variables. To be called once, in `main`, before anything starts a thread.
    #[expect(
        unsafe_code,
        clippy::disallowed_methods,
        reason = "PKCS#11 libraries take their configuration from the environment only"
    )]
    pub(crate) fn apply(&self) {
        for (name, value) in &self.0 {
            // SAFETY: `main` calls this before it builds the runtime or loads a library, so this
            // is the only thread and nobody else reads or writes the environment.
            unsafe { env::set_var(name, value) }
        }
    }
}
