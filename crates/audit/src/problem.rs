//! What can be wrong with a log, in words.

use std::fmt;

use crate::line::MAX_LINE;

/// The first thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line in that file, counted from 1; `None` when it is about the whole.
    pub line: Option<u64>,
    /// What is wrong.
    pub finding: Finding,
}

/// What is wrong. Sequences are those of the chain; lines are lines of a file, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// No JSON, or without a chain.
    #[error("is no line of an audit log")]
    NotALine,
    /// Longer than any line is.
    #[error("is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Has no end: what a crash leaves, or a cut.
    #[error("has no end: it was cut short")]
    Torn,
    /// Of the chain of another node.
    #[error("is of the chain of node `{found}`, not `{node}`")]
    OtherNode {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        node: String,
    },
    /// The next line carries the hash of something else.
    #[error("was changed, or {next} was: the hash does not match")]
    Changed {
        /// Where the next line is.
        next: String,
    },
    /// The first line of a chain does not carry what each chain begins with.
    #[error("was changed: it does not begin the chain of node `{0}`")]
    NotTheBeginning(String),
    /// Sequences that should come before this line are nowhere.
    #[error("{} missing before it", lines(*.from, *.to))]
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// Sequences that should come before this line come after it.
    #[error(
        "has sequence {found} where {expected} is due, which comes later: the order was changed"
    )]
    Reordered {
        /// What it has.
        found: u64,
        /// What is due.
        expected: u64,
    },
    /// A sequence that was there before.
    #[error(
        "has sequence {found} again where {expected} is due: it was inserted, or is a duplicate"
    )]
    Duplicate {
        /// What it has.
        found: u64,
        /// What is due.
        expected: u64,
    },
    /// The first line is another one than was said.
    #[error(
        "has sequence {found}, but the log must begin with {expected}: lines are missing before it"
    )]
    Begins {
        /// What it has.
        found: u64,
        /// What was said.
        expected: u64,
    },
    /// The log begins between two checkpoints.
    #[error(
        "has sequence {0}, and no checkpoint stands right before it, as one does where a file was begun: \
         lines are missing before it"
    )]
    BeginsBetween(u64),
    /// A checkpoint of the log does not speak of the line before it, or its line was changed.
    #[error("is a checkpoint that was changed: it does not speak of the line before it")]
    CheckpointChanged,
    /// A checkpoint that none of the keys signed.
    #[error("is a checkpoint with a wrong signature, or by an unknown key ({0})")]
    Signature(String),
    /// The line is not the one that an exported checkpoint vouches for.
    #[error(
        "is not what the checkpoint of {time} over sequence {sequence} vouches for: it was changed, or \
         the chain was computed anew"
    )]
    Recomputed {
        /// When the checkpoint was made.
        time: String,
        /// What it vouches for.
        sequence: u64,
    },
    /// The line of an exported checkpoint is another one.
    #[error(
        "should be the checkpoint of {time} over sequence {sequence}: it was changed or removed"
    )]
    CheckpointMissing {
        /// When the checkpoint was made.
        time: String,
        /// What it vouches for.
        sequence: u64,
    },
    /// The log ends before an exported checkpoint.
    #[error("the log was cut off: {}, a checkpoint of {time} says {sequence}", ends(*.end))]
    CutOff {
        /// The last sequence of the log.
        end: u64,
        /// When the checkpoint was made.
        time: String,
        /// What it vouches for.
        sequence: u64,
    },
    /// An exported checkpoint is none.
    #[error("is no checkpoint")]
    NotACheckpoint,
    /// Exported checkpoints are not in their order.
    #[error("is a checkpoint over sequence {0}, which does not come after the one before it")]
    CheckpointOrder(u64),
    /// Lines at the end that no signed checkpoint vouches for, where that was asked for.
    #[error("no signed checkpoint vouches for {}", last_lines(*.0))]
    UnsignedEnd(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}: line {line}: {}", self.file, self.finding),
            None if self.file.is_empty() => self.finding.fmt(f),
            None => write!(f, "{}: {}", self.file, self.finding),
        }
    }
}

fn lines(from: u64, to: u64) -> String {
    if from == to { format!("line {from} is") } else { format!("lines {from} to {to} are") }
}

fn ends(end: u64) -> String {
    if end == 0 { "it has no lines".to_owned() } else { format!("it ends at {end}") }
}

fn last_lines(count: u64) -> String {
    match count {
        0 => "anything: the log has no lines".to_owned(),
        1 => "the last line".to_owned(),
        count => format!("the last {count} lines"),
    }
}
