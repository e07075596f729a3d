//! Opened destinations of the output of a process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use tokio::net::unix::pipe::{self, Sender};

use super::pipe::descriptor_path;
use super::target::OutputTarget;
use crate::error::{Error, PathContext, Result};
use crate::sys::log;

/// An opened destination of output.
#[derive(Debug)]
pub(crate) enum OutputSink {
    /// Drops all output.
    Null,
    /// Writes to a FIFO or a pipe.
    Pipe(Sender),
    /// Writes to a file.
    File(LogFile),
}

/// A file that takes output.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: String,
    /// Whether the last write failed; only the first failure is logged.
    failing: bool,
}

impl OutputSink {
    /// Opens `target`. A log program is started elsewhere, and `program` is the pipe to it.
    ///
    /// # Errors
    /// A file is missing or cannot be opened.
    pub(crate) fn open(target: &OutputTarget, program: Option<OwnedFd>) -> Result<Self> {
        match target {
            OutputTarget::Null => Ok(Self::Null),
            OutputTarget::File(path) => Ok(Self::file(create(path)?, path)),
            OutputTarget::Program(..) => program.map_or(Ok(Self::Null), |pipe| {
                Sender::from_owned_fd(pipe)
                    .map(Self::Pipe)
                    .map_err(|error| Error::io("open the log program's pipe", error))
            }),
            OutputTarget::Path(text) => {
                let path = Path::new(text);
                if !is_fifo(path)? {
                    return Ok(Self::file(open_existing(path)?, text));
                }
                // Also for reading: the opening neither waits for a reader nor fails without one.
                let mut both = pipe::OpenOptions::new();
                let sender = both
                    .read_write(true)
                    .open_sender(path)
                    .with_path("open", path)?;
                Ok(Self::Pipe(sender))
            }
        }
    }

    fn file(file: File, path: &str) -> Self {
        Self::File(LogFile {
            file,
            path: path.to_owned(),
            failing: false,
        })
    }

    /// Waits until something can be written.
    pub(super) async fn writable(&self) {
        if let Self::Pipe(pipe) = self {
            // The next write reports the error.
            let _ = pipe.writable().await;
        }
    }

    /// Writes what there is room for, and returns how many bytes that was. Output for a full disk
    /// or a vanished reader is dropped: the process must not wait forever.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Null => {}
            Self::File(file) => file.write(bytes),
            Self::Pipe(pipe) => match pipe.try_write(bytes) {
                Ok(written) => return written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                Err(_) => *self = Self::Null,
            },
        }
        bytes.len()
    }

    /// Writes all of `bytes`, however long the reader takes.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self.try_write(bytes);
            bytes = &bytes[written..];
            if !bytes.is_empty() {
                self.writable().await;
            }
        }
    }

    /// Stops holding a FIFO open for reading, so that a vanished reader is noticed.
    pub(super) fn need_reader(&mut self) {
        if let Self::Pipe(pipe) = self
            && let Ok(writer) = pipe::OpenOptions::new().open_sender(descriptor_path(&*pipe))
        {
            *pipe = writer;
        }
    }
}

impl LogFile {
    fn write(&mut self, bytes: &[u8]) {
        let written = self.file.write_all(bytes);
        if let Err(error) = &written
            && !self.failing
        {
            // Later writes may succeed again.
            log::warning!("output is dropped: write {}: {error}", self.path);
        }
        self.failing = written.is_err();
    }
}

pub(super) fn is_fifo(path: &Path) -> Result<bool> {
    Ok(fs::metadata(path)
        .with_path("open", path)?
        .file_type()
        .is_fifo())
}

/// Opens a file that exists.
fn open_existing(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        // A device must not make the shim wait.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .with_path("open", path)
}

/// Opens a log file, and creates it and its directory if they are missing.
fn create(path: &str) -> Result<File> {
    let path = Path::new(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_path("create", directory)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .with_path("open", path)
}
