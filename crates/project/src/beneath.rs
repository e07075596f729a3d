//! Files of a project are opened beneath its root, whatever their path and its links say.
//!
//! Source: `openat2(2)`.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The root of a project, opened.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
    resolve: ResolveFlags,
}

impl Root {
    /// Opens the root.
    ///
    /// # Errors
    /// It isn't there, or is no folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        // Nothing is outside `/`: an absolute link is as good as another there, and openat2 refuses it beneath other roots only.
        let resolve = if path == Path::new("/") {
            ResolveFlags::IN_ROOT
        } else {
            ResolveFlags::BENEATH
        };
        Ok(Self {
            folder: rustix::fs::open(path, flags, Mode::empty())?,
            resolve: resolve | ResolveFlags::NO_MAGICLINKS,
        })
    }

    fn at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Ok(rustix::fs::openat2(
            self.folder.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            self.resolve,
        )?)
    }

    /// Opens a regular file beneath the root.
    ///
    /// # Errors
    /// `EXDEV` when the path or a link in it leaves the root; that it is no regular file; and the usual ones.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        // A FIFO must not block the start.
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(file)
    }

    /// Opens a folder beneath the root.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn folder(&self, path: &Path) -> io::Result<File> {
        Ok(File::from(
            self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?,
        ))
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::file`]; or the file is larger.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.file(path)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(bytes)
    }
}

/// The error of a path that leaves the root.
#[must_use]
pub fn leaves_root(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
}
