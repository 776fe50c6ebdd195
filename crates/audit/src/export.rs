//! The second place: a file that checkpoints are appended to.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use crate::{
    checkpoint::Checkpoint,
    file::{lock, new_file, sync_directory},
    sink::SinkError,
    tail::Tail,
};

/// Appends checkpoints, one JSON object per line.
#[derive(Debug)]
pub(crate) struct Exports {
    path: PathBuf,
    /// `None` after a failure.
    file: Option<File>,
    last: Option<Checkpoint>,
    /// In the log and not yet in the file.
    backlog: VecDeque<Checkpoint>,
}

impl Exports {
    pub(crate) fn open(path: PathBuf) -> Result<Self, SinkError> {
        let mut exports = Self { path, file: None, last: None, backlog: VecDeque::new() };
        exports.open_file()?;
        Ok(exports)
    }

    /// The last one in the file.
    pub(crate) fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// Has the checkpoint in the file, synced, and those that could not be written before it.
    pub(crate) fn export(&mut self, checkpoint: Checkpoint) -> Result<(), SinkError> {
        // The oldest say least: a later one vouches for all that they do.
        if self.backlog.len() >= MOST_WAITING {
            self.backlog.pop_front();
        }
        self.backlog.push_back(checkpoint);
        if self.file.is_none() {
            self.open_file()?;
        }
        let written = self.write_backlog();
        if written.is_err() {
            self.file = None;
        }
        let name = self.path.display();
        written.map_err(SinkError::io(format!("writing {name}")))?;
        self.last = self.backlog.drain(..).next_back().or(self.last.take());
        Ok(())
    }

    fn write_backlog(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::Error::other("it is not open")) };
        let mut lines = Vec::new();
        for checkpoint in &self.backlog {
            serde_json::to_writer(&mut lines, checkpoint)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_data()
    }

    /// Opens the file. A line that was cut short is removed: what it said is in the log.
    fn open_file(&mut self) -> Result<(), SinkError> {
        let path = &self.path;
        let failed = || SinkError::io(format!("opening {}", path.display()));
        let file = new_file(path).map_err(failed())?;
        lock(&file, path)?;
        sync_directory(path).map_err(failed())?;
        let tail = Tail::of(&file).map_err(failed())?;
        if !tail.torn.is_empty() {
            tracing::warn!(file = %path.display(), "removed a checkpoint that was cut short");
            file.set_len(tail.whole).map_err(failed())?;
        }
        let read = |line: &[u8]| serde_json::from_slice(line);
        let last = tail.last.as_deref().map(read).transpose();
        self.last = last.map_err(|_| SinkError::NotALog(path.display().to_string()))?;
        // Of a write that failed halfway, some may be there.
        let there = self.last.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
        self.backlog.retain(|checkpoint| checkpoint.sequence > there);
        self.file = Some(file);
        Ok(())
    }
}

const MOST_WAITING: usize = 1024;
