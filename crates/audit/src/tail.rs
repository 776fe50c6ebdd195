//! The end of a file of lines.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::line::MAX_LINE;

/// The end of a file of lines.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Bytes up to the end of the last whole line.
    pub(crate) whole: u64,
    /// The last whole line without its end.
    pub(crate) last: Option<Vec<u8>>,
    /// What comes after it: a line that was not written to its end.
    pub(crate) torn: Vec<u8>,
}

impl Tail {
    /// Reads back from the end of `file`.
    ///
    /// # Errors
    /// Of kind `InvalidData` when a line is longer than [`MAX_LINE`].
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let end = last_line_end(file, length)?;
        let torn = read(file, end, length)?;
        if end == 0 {
            return Ok(Self { whole: 0, last: None, torn });
        }
        let start = last_line_end(file, end - 1)?;
        let last = Some(read(file, start, end - 1)?);
        Ok(Self { whole: end, last, torn })
    }
}

/// The first line of `file` without its end; `None` when there is no whole line.
pub(crate) fn first_line(file: &File, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut at = 0;
    while at < length && line.len() <= MAX_LINE {
        let block = read(file, at, length.min(at + BLOCK))?;
        if let Some(end) = block.iter().position(|byte| *byte == b'\n') {
            line.extend(&block[..end]);
            return Ok(Some(line));
        }
        at += block.len() as u64;
        line.extend(block);
    }
    Ok(None)
}

/// Where the last line that ends before `from` ends: right after its line feed, or 0.
fn last_line_end(file: &File, from: u64) -> io::Result<u64> {
    let mut end = from;
    while end > 0 {
        if from - end > MAX_LINE as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        let start = end.saturating_sub(BLOCK);
        let block = read(file, start, end)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn read(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

const BLOCK: u64 = 64 * 1024;
