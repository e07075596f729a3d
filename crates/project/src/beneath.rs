//! Files of a project are opened beneath its root, whatever their path and its links say.
//!
//! Nothing but regular files and folders is ever opened: to open a device is to make its driver do something (a watchdog starts to
//! count), and an image may hold nodes of any device. So a mere handle comes first (`O_PATH`), which wakes no driver.
//!
//! Source: `openat2(2)`, `open(2)` on `O_PATH`.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat},
    io::Errno,
};

/// How files are opened: to be read, and none may block the start.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// The root of a project, opened.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
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
            path: path.to_path_buf(),
            folder: rustix::fs::open(path, flags, Mode::empty())?,
            resolve: resolve | ResolveFlags::NO_MAGICLINKS,
        })
    }

    /// The path of what a path leads to over its links, relative to the root. None where that is not beneath the root.
    pub(crate) fn real_path(&self, path: &Path) -> Option<PathBuf> {
        let (root, real) = (
            self.path.canonicalize().ok()?,
            self.path.join(path).canonicalize().ok()?,
        );
        real.strip_prefix(root).ok().map(Path::to_path_buf)
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
        let handle = self.at(path, OFlags::PATH)?;
        let met = fstat(&handle)?;
        if FileType::from_raw_mode(met.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        match reopen(&handle) {
            Ok(file) if same(&fstat(&file)?, &met) => Ok(File::from(file)),
            // No `/proc`, or no true one, as a container may be made: by its path again. It may be another file by now.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let file = self.at(path, READ)?;
                if !same(&fstat(&file)?, &met) {
                    return Err(io::Error::other("changed while it was opened"));
                }
                Ok(File::from(file))
            }
            Err(error) => Err(error.into()),
        }
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
        let size = file.metadata()?.len().min(limit);
        // Without growing on the way: interpreters are large.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(bytes)
    }
}

/// Opens what a handle is of, whatever its path names by now.
fn reopen(handle: &OwnedFd) -> Result<OwnedFd, Errno> {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::open(link, READ | OFlags::CLOEXEC, Mode::empty())
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The error of a path that leaves the root.
#[must_use]
pub fn leaves_root(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, makedev, mknodat};
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn files_are_read_and_nothing_else_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        // Who opens it for reading gets ENXIO, before anything can be said about what it is.
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
        let mut refused = vec!["folder", "socket", "fifo"];
        if rustix::process::geteuid().is_root() {
            // A number that is kept free of drivers: to open it is an error of its own too.
            let free = makedev(240, 255);
            mknodat(CWD, at("device"), FileType::CharacterDevice, mode, free).unwrap();
            mknodat(CWD, at("disk"), FileType::BlockDevice, mode, free).unwrap();
            refused.extend(["device", "disk"]);
        }
        let root = Root::open(folder.path()).unwrap();
        assert_eq!(root.read(Path::new("file"), 10).unwrap(), b"text");
        assert_eq!(root.read(Path::new("link"), 10).unwrap(), b"text");
        for name in refused {
            let error = root.read(Path::new(name), 10).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{name}");
        }
    }
}
