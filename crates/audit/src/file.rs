//! The log in files: locked, rotated, put right after a crash.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    line::{Head, Line},
    sink::{Opened, Sink, SinkError},
    tail::{Tail, first_line},
};

/// Which file, and when to begin another.
#[derive(Debug, Clone)]
pub struct FileSettings {
    /// The file that is written; made with mode 0600 if it is not there.
    ///
    /// Beside it stand `NAME.SEQUENCE`, earlier files named after their first line (12 digits and
    /// more), `NAME-lock`, and `NAME-torn-SEQUENCE`, lines that a crash has cut short.
    pub path: PathBuf,
    /// Begin another file when this one has so many bytes; it may get a batch more than that.
    pub max_bytes: Option<u64>,
    /// Begin another file when the first line of this one is so old and another is written.
    pub max_age: Option<Duration>,
    /// How many earlier files to keep, the newest of them; `None` keeps all.
    pub keep: Option<usize>,
}

impl FileSettings {
    /// One file that is never rotated.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: None, max_age: None, keep: None }
    }
}

/// Writes a file, and continues the chain of the last line in it.
#[derive(Debug)]
pub struct FileSink {
    settings: FileSettings,
    /// Held as long as the sink is.
    lock: Option<File>,
    current: Option<Current>,
    /// A rotation failed; not before this time again.
    rotate_after: Option<Instant>,
}

/// The file that is written.
#[derive(Debug)]
struct Current {
    file: File,
    length: u64,
    /// What it had before the last write.
    kept: u64,
    /// Sequence of its first line.
    first: Option<u64>,
    since: SystemTime,
}

/// What stands at the end of a file.
struct Last {
    head: Head,
    node: String,
    is_checkpoint: bool,
}

impl FileSink {
    /// A sink for this file, which is opened with the log.
    pub fn new(settings: FileSettings) -> Self {
        Self { settings, lock: None, current: None, rotate_after: None }
    }

    fn lock(&mut self) -> Result<(), SinkError> {
        let path = beside(&self.settings.path, "-lock");
        let file = new_file(&path).map_err(SinkError::io(format!("opening {}", path.display())))?;
        lock(&file, &self.settings.path)?;
        self.lock = Some(file);
        Ok(())
    }

    /// Opens the file, moves a torn line aside, and reads the last whole one.
    fn open_file(&self) -> Result<(Current, Option<Last>, Option<String>), SinkError> {
        let path = &self.settings.path;
        let failed = || SinkError::io(format!("opening {}", path.display()));
        let file = new_file(path).map_err(failed())?;
        sync_directory(path).map_err(failed())?;
        let tail = Tail::of(&file).map_err(failed())?;
        let last = tail.last.as_deref().map(|line| last(line, path)).transpose()?;
        let repaired = match &tail.torn[..] {
            [] => None,
            torn => {
                let before = match &last {
                    Some(last) => last.head.sequence,
                    None => self.last_of_earlier()?.map_or(0, |last| last.head.sequence),
                };
                Some(move_aside(torn, path, before.saturating_add(1)).map_err(failed())?)
            }
        };
        if repaired.is_some() {
            file.set_len(tail.whole).and_then(|()| file.sync_all()).map_err(failed())?;
        }
        let first = first_line(&file, tail.whole).map_err(failed())?;
        let first = first.as_deref().and_then(Line::read);
        let since = first.as_ref().and_then(|line| line.time.as_deref());
        let since = since.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
        let current = Current {
            file,
            length: tail.whole,
            kept: tail.whole,
            first: first.map(|line| line.link.sequence),
            since: since.map_or_else(SystemTime::now, SystemTime::from),
        };
        Ok((current, last, repaired))
    }

    /// Earlier files and the sequence of their first line, the oldest first.
    fn earlier(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let path = &self.settings.path;
        let prefix = beside(Path::new(path.file_name().unwrap_or_default()), ".");
        let prefix = prefix.to_string_lossy().into_owned();
        let mut files = Vec::new();
        for entry in fs::read_dir(directory(path))? {
            let entry = entry?;
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            let digits = digits.filter(|text| text.len() >= DIGITS);
            if let Some(first) = digits.and_then(|text| text.parse().ok()) {
                files.push((first, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// The last line of the newest earlier file.
    fn last_of_earlier(&self) -> Result<Option<Last>, SinkError> {
        let path = &self.settings.path;
        let files = self
            .earlier()
            .map_err(SinkError::io(format!("looking for files beside {}", path.display())))?;
        let Some((_, path)) = files.last() else { return Ok(None) };
        let tail = File::open(path)
            .and_then(|file| Tail::of(&file))
            .map_err(SinkError::io(format!("reading {}", path.display())))?;
        match tail.last {
            Some(line) if tail.torn.is_empty() => last(&line, path).map(Some),
            _ => Err(SinkError::NotALog(path.display().to_string())),
        }
    }

    fn remove_old(&self) -> io::Result<()> {
        let Some(keep) = self.settings.keep else { return Ok(()) };
        let files = self.earlier()?;
        let surplus = files.len().saturating_sub(keep);
        files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// Moves the file away and begins another; moves it back when that fails.
    fn begin_another(&mut self, first: u64) -> io::Result<()> {
        let path = &self.settings.path;
        let earlier = beside(path, &format!(".{first:0DIGITS$}"));
        if earlier.exists() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists", earlier.display()),
            ));
        }
        fs::rename(path, &earlier)?;
        let file = match OpenOptions::new()
            .append(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
        {
            Ok(file) => file,
            Err(error) => {
                fs::rename(&earlier, path)?;
                return Err(error);
            }
        };
        self.current =
            Some(Current { file, length: 0, kept: 0, first: None, since: SystemTime::now() });
        sync_directory(path)
    }
}

impl Sink for FileSink {
    fn open(&mut self) -> Result<Opened, SinkError> {
        self.lock()?;
        let (current, last, repaired) = self.open_file()?;
        // A crash may have come between the rotation and the first line of the new file.
        let last = match last {
            None => self.last_of_earlier()?,
            last => last,
        };
        self.current = Some(current);
        let mut opened = Opened { repaired, ..Opened::default() };
        if let Some(last) = last {
            opened.head = Some(last.head);
            opened.node = Some(last.node);
            opened.ends_with_checkpoint = last.is_checkpoint;
        }
        Ok(opened)
    }

    fn write(&mut self, lines: &[u8], first: u64) -> io::Result<()> {
        let current = self.current.as_mut().ok_or_else(closed)?;
        current.kept = current.length;
        current.file.write_all(lines)?;
        current.length += lines.len() as u64;
        if current.first.is_none() {
            (current.first, current.since) = (Some(first), SystemTime::now());
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.current.as_mut().ok_or_else(closed)?.file.sync_data()
    }

    fn reopen(&mut self, head: &Head) -> io::Result<()> {
        if let Some(current) = &self.current
            && current.file.metadata()?.len() > current.kept
        {
            current.file.set_len(current.kept)?;
            current.file.sync_all()?;
        }
        let (current, last, _) = self.open_file().map_err(io::Error::other)?;
        // Without a line it is another file: somebody has moved ours away.
        if last.is_some_and(|last| last.head != *head) {
            return Err(io::Error::other("the file holds another log now"));
        }
        self.current = Some(current);
        Ok(())
    }

    fn is_rotation_due(&self) -> bool {
        let Some(current) = &self.current else { return false };
        if current.first.is_none() || self.rotate_after.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let FileSettings { max_bytes, max_age, .. } = self.settings;
        let age = current.since.elapsed().unwrap_or_default();
        max_bytes.is_some_and(|limit| current.length >= limit)
            || max_age.is_some_and(|limit| age >= limit)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let first = self.current.as_ref().and_then(|current| current.first);
        let first = first.ok_or_else(closed)?;
        let rotated = self.begin_another(first);
        self.rotate_after = rotated.is_err().then(|| Instant::now() + ROTATE_PAUSE);
        rotated?;
        self.remove_old()
    }
}

/// Opens a file for appending, for its owner only if it has to be made.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)
}

/// Takes the lock of a file; it is held until the file is closed.
pub(crate) fn lock(file: &File, named: &Path) -> Result<(), SinkError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(SinkError::InUse(named.display().to_string())),
        Err(TryLockError::Error(error)) => {
            Err(SinkError::io(format!("locking {}", named.display()))(error))
        }
    }
}

/// Makes a file that was just made or renamed be there after a power failure.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn last(line: &[u8], path: &Path) -> Result<Last, SinkError> {
    let not_a_log = || SinkError::NotALog(path.display().to_string());
    let read = Line::read(line).ok_or_else(not_a_log)?;
    let before = read.link.sequence.checked_sub(1).ok_or_else(not_a_log)?;
    let head = Head { sequence: before, hash: [0; 32] }.after(line);
    Ok(Last { head, node: read.link.node, is_checkpoint: read.checkpoint.is_some() })
}

/// Keeps a line that was cut short in a file of its own; says so.
fn move_aside(torn: &[u8], path: &Path, sequence: u64) -> io::Result<String> {
    let aside = beside(path, &format!("-torn-{sequence}"));
    let mut file = new_file(&aside)?;
    file.write_all(torn)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    sync_directory(&aside)?;
    let hash = hex::encode(crate::line::sha256(torn));
    let (bytes, aside) = (torn.len(), aside.display());
    Ok(format!(
        "line {sequence} was cut short by a crash: its {bytes} bytes (SHA-256 {hash}) were moved to {aside}"
    ))
}

fn closed() -> io::Error {
    io::Error::other("the file is not open")
}

/// Digits in the name of an earlier file, so that names sort like numbers.
const DIGITS: usize = 12;

const ROTATE_PAUSE: Duration = Duration::from_mins(1);
