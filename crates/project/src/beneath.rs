//! Opens files beneath the root of a project, whatever their path and symbolic links say.
//!
//! Only regular files and directories are opened: opening a device makes its driver act (a watchdog
//! starts to count), and an image may contain device nodes. So the path is first opened with
//! `O_PATH`, which does not involve a driver.
//!
//! Source: `openat2(2)`, `open(2)` on `O_PATH`.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat},
    io::Errno,
};

/// Flags for opening files: for reading, and without blocking.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// The opened root of a project.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    directory: OwnedFd,
    resolve: ResolveFlags,
}

/// How often a path is resolved that contains `..`: a rename or a mount anywhere on the machine
/// disturbs it.
const MAX_TRIES: usize = 128;

impl Root {
    /// Opens the root.
    ///
    /// # Errors
    /// It does not exist or is not a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        // Nothing is outside `/`: absolute links may be followed there, which openat2 rejects
        // beneath a root.
        let resolve = if path == Path::new("/") {
            ResolveFlags::IN_ROOT
        } else {
            ResolveFlags::BENEATH
        };
        Ok(Self {
            path: path.to_path_buf(),
            directory: rustix::fs::open(path, flags, Mode::empty())?,
            resolve: resolve | ResolveFlags::NO_MAGICLINKS,
        })
    }

    /// The real path, after symbolic links, relative to the root. `None` if it is not beneath the
    /// root.
    pub(crate) fn real_path(&self, path: &Path) -> Option<PathBuf> {
        let (root, real) = (
            self.path.canonicalize().ok()?,
            self.path.join(path).canonicalize().ok()?,
        );
        real.strip_prefix(root).ok().map(Path::to_path_buf)
    }

    /// The absolute path, after symbolic links, of what may not exist yet. `None` if it is not
    /// beneath the root.
    pub(crate) fn real_path_of_new(&self, path: &Path) -> Option<PathBuf> {
        let (mut existing, mut rest) = (path, PathBuf::new());
        loop {
            // A link whose target does not exist is none of those that may be created.
            if self.path.join(existing).symlink_metadata().is_ok() {
                let real = self
                    .path
                    .canonicalize()
                    .ok()?
                    .join(self.real_path(existing)?);
                // `join` of nothing would add a slash.
                return Some(real.components().chain(rest.components()).collect());
            }
            rest = Path::new(existing.file_name()?).join(rest);
            existing = existing.parent()?;
        }
    }

    fn at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let (directory, flags) = (self.directory.as_fd(), flags | OFlags::CLOEXEC);
        let open = || rustix::fs::openat2(directory, path, flags, Mode::empty(), self.resolve);
        for _ in 1..MAX_TRIES {
            match open() {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                opened => return Ok(opened?),
            }
        }
        Ok(open()?)
    }

    /// Opens a regular file beneath the root.
    ///
    /// # Errors
    /// `EXDEV` if the path or a link in it leaves the root; an error if it is not a regular file;
    /// and the usual errors.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let handle = self.at(path, OFlags::PATH)?;
        let met = fstat(&handle)?;
        if FileType::from_raw_mode(met.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        match reopen(&handle) {
            Ok(file) if same(&fstat(&file)?, &met) => Ok(File::from(file)),
            // Without a real `/proc`, as a container may be, the path is opened again. It may be
            // another file by now.
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

    /// Opens a directory beneath the root.
    ///
    /// # Errors
    /// As for [`Self::file`].
    pub fn directory(&self, path: &Path) -> io::Result<File> {
        Ok(File::from(
            self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?,
        ))
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As for [`Self::file`]; or the file is larger than `limit`.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let (_, bytes) = self.open_and_read(path, limit)?;
        Ok(bytes)
    }

    /// Reads a file of at most `limit` bytes, and returns it with its contents.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn open_and_read(&self, path: &Path, limit: u64) -> io::Result<(File, Vec<u8>)> {
        let too_large = || io::Error::other(format!("larger than {limit} bytes"));
        let file = self.file(path)?;
        let size = file.metadata()?.len();
        // Reading up to the limit may take more memory than there is.
        if size > limit {
            return Err(too_large());
        }
        // Allocated once: interpreters are large.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
        (&file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
        Ok((file, bytes))
    }
}

/// Opens the file of a handle, whatever its path names by now.
fn reopen(handle: &OwnedFd) -> Result<OwnedFd, Errno> {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::open(link, READ | OFlags::CLOEXEC, Mode::empty())
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Whether an error says that a path leaves the root.
#[must_use]
pub fn leaves_root(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
}

/// Joins paths without looking at the file system; `None` if the result is above the root.
pub(crate) fn normalize(directory: &Path, path: &Path) -> Option<PathBuf> {
    let mut joined = directory.to_path_buf();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, makedev, mknodat};
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn files_are_read_and_nothing_else_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        // Opening it for reading fails with ENXIO, before its type can be checked.
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
        let mut refused = vec!["directory", "socket", "fifo"];
        if rustix::process::geteuid().is_root() {
            // A device number without a driver: opening it fails with another error.
            let free = makedev(240, 255);
            mknodat(CWD, at("device"), FileType::CharacterDevice, mode, free).unwrap();
            mknodat(CWD, at("disk"), FileType::BlockDevice, mode, free).unwrap();
            refused.extend(["device", "disk"]);
        }
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.read(Path::new("file"), 10).unwrap(), b"text");
        assert_eq!(root.read(Path::new("link"), 10).unwrap(), b"text");
        for name in refused {
            let error = root.read(Path::new(name), 10).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{name}");
        }
    }

    #[test]
    fn links_to_parents_are_followed_while_files_are_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("in")).unwrap();
        fs::write(at("file"), "text").unwrap();
        fs::write(at("a"), "").unwrap();
        let target = "../in/".repeat(20) + "../file";
        std::os::unix::fs::symlink(target, at("in/link")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        std::thread::scope(|scope| {
            let renaming = scope.spawn(|| {
                for _ in 0..20_000 {
                    fs::rename(at("a"), at("b")).unwrap();
                    fs::rename(at("b"), at("a")).unwrap();
                }
            });
            while !renaming.is_finished() {
                root.read(Path::new("in/link"), 10).unwrap();
            }
        });
    }

    #[test]
    fn rejects_a_file_over_the_limit_before_reading_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        let root = Root::open(directory.path()).unwrap();
        // So much could not even be allocated.
        let limit = 1 << 39;
        let error = root.read(Path::new("sparse"), limit).unwrap_err();
        assert_eq!(error.to_string(), format!("larger than {limit} bytes"));
    }
}
