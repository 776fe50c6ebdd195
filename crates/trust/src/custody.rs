use std::{fmt, str::FromStr};

/// Where a data key was while it was re-encrypted, and what says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Custody {
    /// The level reached.
    pub level: CustodyLevel,
    /// Whether the key's own attributes enforce that level, or only our use of it does.
    pub enforced_by_key: bool,
    /// What separates the private key from this process's memory.
    pub boundary: Boundary,
}

/// How close a data key came to host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CustodyLevel {
    /// The data key, or a secret it follows from, was in host memory for the length of the call.
    Transient,
    /// The data key existed only as a token object.
    Sealed,
}

/// What separates a private key from this process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// None: a software token in our own address space protects against mistakes, not against a
    /// memory reader.
    SameProcess,
    /// Another process.
    Process,
    /// A hardware device.
    Hardware,
}

/// What a provider configuration demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CustodyPolicy {
    /// Transient custody, even where the token could do better.
    Transient,
    /// Sealed where the token can, transient elsewhere.
    PreferSealed,
    /// Sealed, or the request fails; an RSA key must also enforce it by its own attributes.
    RequireSealed,
}

impl Custody {
    /// Custody of a data key handled in this process's memory.
    pub const SOFTWARE: Self = Self {
        level: CustodyLevel::Transient,
        enforced_by_key: false,
        boundary: Boundary::SameProcess,
    };
}

impl CustodyLevel {
    /// `sealed` or `transient`, as on the wire and in audit events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Sealed => "sealed",
        }
    }
}

impl Boundary {
    /// `same-process`, `process` or `hardware`, as in audit events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameProcess => "same-process",
            Self::Process => "process",
            Self::Hardware => "hardware",
        }
    }
}

impl CustodyPolicy {
    /// The word in a provider configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::PreferSealed => "prefer-sealed",
            Self::RequireSealed => "require-sealed",
        }
    }
}

impl FromStr for CustodyPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Transient, Self::PreferSealed, Self::RequireSealed]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or("expected `require-sealed`, `prefer-sealed` or `transient`")
    }
}

impl fmt::Display for CustodyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
