//! Where output goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use tokio::net::unix::pipe::{self, Sender};

use super::pipe::path_of;
use super::target::Target;
use crate::error::{Error, OnPath, Result};
use crate::sys::log;

/// Where output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Nowhere.
    Null,
    /// Into a FIFO or a pipe.
    Pipe(Sender),
    /// Into a file.
    File(LogFile),
}

/// A file that takes output.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: String,
    /// The last write failed, which was logged.
    failing: bool,
}

impl Sink {
    /// Opens it. A log program is started elsewhere and its pipe passed as `program`.
    ///
    /// # Errors
    /// The file is not there.
    pub(crate) fn open(target: &Target, program: Option<OwnedFd>) -> Result<Self> {
        match target {
            Target::Null => Ok(Self::Null),
            Target::File(path) => Ok(Self::file(create(path)?, path)),
            Target::Program(..) => program.map_or(Ok(Self::Null), |pipe| {
                Sender::from_owned_fd(pipe)
                    .map(Self::Pipe)
                    .map_err(|error| Error::io("open the log program's pipe", error))
            }),
            Target::Path(text) => {
                let path = Path::new(text);
                if !is_fifo(path)? {
                    return Ok(Self::file(open_existing(path)?, text));
                }
                // Reading too: neither waits for a reader nor fails without one.
                let mut both = pipe::OpenOptions::new();
                let sender = both.read_write(true).open_sender(path).on("open", path)?;
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
            // What is wrong, the writing says.
            let _ = pipe.writable().await;
        }
    }

    /// Writes what there is room for, and returns how much that was. What finds a full disk is lost, and so is all that follows
    /// the end of a reader: the process must not wait for ever.
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

    /// Writes all of it, however long the reader takes.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self.try_write(bytes);
            bytes = &bytes[written..];
            if !bytes.is_empty() {
                self.writable().await;
            }
        }
    }

    /// From now on a FIFO without a reader is known: it is not one of ours any more that keeps it open.
    pub(super) fn need_reader(&mut self) {
        if let Self::Pipe(pipe) = self
            && let Ok(writer) = pipe::OpenOptions::new().open_sender(path_of(&*pipe))
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
            // There may be room again.
            log::warning!("output is lost: write {}: {error}", self.path);
        }
        self.failing = written.is_err();
    }
}

pub(super) fn is_fifo(path: &Path) -> Result<bool> {
    Ok(fs::metadata(path).on("open", path)?.file_type().is_fifo())
}

/// Opens a file that is there.
fn open_existing(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        // No device makes the shim wait.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .on("open", path)
}

/// Opens a log file, making it and its directory where they are missing.
fn create(path: &str) -> Result<File> {
    let path = Path::new(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).on("create", directory)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .on("open", path)
}
