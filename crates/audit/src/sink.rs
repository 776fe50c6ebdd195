//! Where lines go.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use crate::line::Head;

/// Where the lines of a log go. One thread uses it; it may block.
pub trait Sink: fmt::Debug + Send + 'static {
    /// Gets ready and looks at what is there. Called once, before anything else.
    ///
    /// # Errors
    /// When nothing can be written there, or what is there is no log.
    fn open(&mut self) -> Result<Opened, SinkError>;

    /// Writes lines, each with its end; `first` is the sequence of the first of them. An error may leave
    /// any part of them behind.
    ///
    /// # Errors
    /// When not all of it could be written.
    fn write(&mut self, lines: &[u8], first: u64) -> io::Result<()>;

    /// Makes what was written survive a power failure, where that can be had.
    ///
    /// # Errors
    /// When that is uncertain.
    fn sync(&mut self) -> io::Result<()>;

    /// Opens anew after a failed [`Sink::write`], or after a [`Sink::sync`] that failed after the last
    /// write: takes back what that write left, so that the line of `head` is the last one.
    ///
    /// # Errors
    /// When it still does not work.
    fn reopen(&mut self, head: &Head) -> io::Result<()>;

    /// Whether it is time to begin another file.
    fn is_rotation_due(&self) -> bool {
        false
    }

    /// Begins another file. When it fails, writing goes on where it was.
    ///
    /// # Errors
    /// When there is none.
    fn rotate(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a sink found.
#[derive(Debug, Default)]
pub struct Opened {
    /// The last line; `None` when there is none.
    pub head: Option<Head>,
    /// Node of the last line.
    pub node: Option<String>,
    /// Whether that line is a checkpoint.
    pub ends_with_checkpoint: bool,
    /// What had to be put right, in words for the log.
    pub repaired: Option<String>,
}

/// A sink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried with which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("{0} is being written by another process")]
    InUse(String),
    /// The last line is no line of such a log.
    #[error("the last line of {0} is no line of an audit log; move the file aside")]
    NotALog(String),
}

impl SinkError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Standard error. Knows nothing of earlier runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct StderrSink;

impl Sink for StderrSink {
    fn open(&mut self) -> Result<Opened, SinkError> {
        Ok(Opened::default())
    }

    fn write(&mut self, lines: &[u8], _first: u64) -> io::Result<()> {
        io::stderr().lock().write_all(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What a failed write has left cannot be taken back; an end is put behind it.
    fn reopen(&mut self, _head: &Head) -> io::Result<()> {
        io::stderr().lock().write_all(b"\n")
    }
}

/// Keeps lines in memory without bound; for tests. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemorySink(Arc<Mutex<Vec<u8>>>);

impl MemorySink {
    /// The lines so far, each with its end.
    pub fn lines(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for MemorySink {
    fn open(&mut self) -> Result<Opened, SinkError> {
        Ok(Opened::default())
    }

    fn write(&mut self, lines: &[u8], _first: u64) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(lines);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reopen(&mut self, _head: &Head) -> io::Result<()> {
        Ok(())
    }
}
