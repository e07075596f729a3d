//! Files in the directories that a guest sees, for guests that do not use WASI's files. No path
//! leaves its directory.
//!
//! All functions block the thread.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read, Result, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::host::beneath::open_beneath;
use crate::host::load_trace::{FileAccess, FileContents, LoadTrace};

/// The directories of one guest. Cheap to clone.
#[derive(Clone, Default)]
pub struct Directories {
    /// With the absolute paths at which the guest sees them.
    opened: Arc<[(OwnedFd, String)]>,
    /// What was read, if it is recorded.
    trace: Option<Arc<LoadTrace>>,
}

/// The status of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileStat {
    /// Size in bytes.
    pub size: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a symbolic link. Only [`Directories::stat_link`] reports links.
    pub is_link: bool,
    /// Time of the last change of the contents, in milliseconds since 1970.
    pub modified: i64,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Replaces the file's contents.
    Replace,
    /// Appends to the file's contents.
    Append,
    /// Creates the file, which must not exist.
    New,
}

/// A path beneath a directory that was opened.
struct ResolvedPath<'a> {
    directory: &'a OwnedFd,
    path: &'a str,
}

impl ResolvedPath<'_> {
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = if self.path.is_empty() { "." } else { self.path };
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::from_raw_mode(0o666)
        } else {
            Mode::empty()
        };
        Ok(open_beneath(self.directory, path, flags, mode)?)
    }

    /// Opens the directory of the path's last part, and returns it with that part. For a directory
    /// that the guest was given, which has no parent, the error has the kind `of_root`.
    fn parent(&self, of_root: ErrorKind) -> Result<(OwnedFd, &str)> {
        let path = self.path.trim_end_matches('/');
        if path.is_empty() {
            return Err(of_root.into());
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(ErrorKind::InvalidInput.into());
        }
        let parent = ResolvedPath {
            directory: self.directory,
            path: parent,
        };
        Ok((parent.open(OFlags::PATH | OFlags::DIRECTORY)?, name))
    }
}

impl Directories {
    /// Creates the set of opened directories with the absolute paths at which the guest sees them.
    #[must_use]
    pub fn new(directories: Vec<(OwnedFd, String)>) -> Self {
        Self {
            opened: directories.into(),
            trace: None,
        }
    }

    /// Records what is read and looked up from now on, until [`Self::end_trace`].
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.trace = Some(Arc::default());
        self
    }

    /// Ends the record.
    pub fn end_trace(&self) {
        if let Some(trace) = &self.trace {
            trace.end();
        }
    }

    /// Whether everything that was recorded is still the same. False if not everything was
    /// recorded.
    #[must_use]
    pub fn is_as_traced(&self) -> bool {
        let Some(trace) = &self.trace else {
            return false;
        };
        trace.holds(|path, before| match before {
            FileAccess::Read(before) => match self.open_to_read(path) {
                Ok(mut file) => {
                    let before = before.as_ref();
                    before.is_some_and(|before| before.is_same(&mut file))
                }
                Err(_) => before.is_none(),
            },
            FileAccess::LookedUp(before) => {
                let found = self.stat_with(path, OFlags::empty()).ok();
                found.map(|stat| stat.is_directory) == *before
            }
        })
    }

    fn record(&self, path: &str, access: impl FnOnce() -> FileAccess) {
        if let Some(trace) = &self.trace {
            trace.record(path, access);
        }
    }

    /// Whether the guest sees no directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }

    fn resolve<'a>(&'a self, path: &'a str) -> Result<ResolvedPath<'a>> {
        self.opened
            .iter()
            .filter_map(|(directory, to)| {
                let rest = path.strip_prefix(to.trim_end_matches('/'))?;
                let path = match rest.strip_prefix('/') {
                    Some(path) => path.trim_start_matches('/'),
                    None if rest.is_empty() => "",
                    None => return None,
                };
                Some((to.len(), ResolvedPath { directory, path }))
            })
            .max_by_key(|(len, _)| *len)
            .map(|(_, resolved)| resolved)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// Returns the system's error, or `FileTooLarge`.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let file = match self.open_to_read(path) {
            Ok(file) => file,
            Err(error) => {
                self.record(path, || FileAccess::Read(None));
                return Err(error);
            }
        };
        let mut bytes = Vec::new();
        (&file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
        self.record(path, || {
            FileAccess::Read(FileContents::new(&file, Sha256::digest(&bytes).into()).ok())
        });
        if bytes.len() as u64 > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn open_to_read(&self, path: &str) -> Result<File> {
        // Without O_NONBLOCK, opening a FIFO waits for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        Ok(File::from(self.resolve(path)?.open(flags)?))
    }

    /// Writes a file, which is created if it does not exist.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn write(&self, path: &str, bytes: &[u8], mode: WriteMode) -> Result<()> {
        let how = match mode {
            WriteMode::Replace => OFlags::TRUNC,
            WriteMode::Append => OFlags::APPEND,
            WriteMode::New => OFlags::EXCL,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | how;
        File::from(self.resolve(path)?.open(flags)?).write_all(bytes)
    }

    /// Returns the names in a directory, sorted.
    ///
    /// # Errors
    /// Returns the system's error, or an error if there are more than `limit` names.
    pub fn list(&self, path: &str, limit: usize) -> Result<Vec<String>> {
        let directory = self
            .resolve(path)?
            .open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == limit {
                return Err(Error::other("too many names"));
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether a path lies in one of the directories. The file need not exist.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.resolve(path).is_ok()
    }

    /// Returns the status of a file, following symbolic links.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn stat(&self, path: &str) -> Result<FileStat> {
        let stat = self.stat_with(path, OFlags::empty());
        self.record(path, || {
            let found = stat.as_ref().ok();
            FileAccess::LookedUp(found.map(|stat| stat.is_directory))
        });
        stat
    }

    /// Returns the status of a file, without following a symbolic link in the last part.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn stat_link(&self, path: &str) -> Result<FileStat> {
        self.stat_with(path, OFlags::NOFOLLOW)
    }

    fn stat_with(&self, path: &str, flags: OFlags) -> Result<FileStat> {
        let file = self.resolve(path)?.open(OFlags::PATH | flags)?;
        let stat = rustix::fs::statat(file.as_fd(), "", AtFlags::EMPTY_PATH)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        Ok(FileStat {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            is_directory: kind.is_dir(),
            is_file: kind.is_file(),
            is_link: kind.is_symlink(),
            modified: stat.st_mtime.saturating_mul(1000)
                + i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0),
        })
    }

    /// Creates a directory in an existing one.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn create(&self, path: &str) -> Result<()> {
        let resolved = self.resolve(path)?;
        let (parent, name) = resolved.parent(ErrorKind::AlreadyExists)?;
        Ok(rustix::fs::mkdirat(
            parent,
            name,
            Mode::from_raw_mode(0o777),
        )?)
    }

    /// Removes a file or a symbolic link.
    ///
    /// # Errors
    /// Returns the system's error; `IsADirectory` for a directory.
    pub fn remove_file(&self, path: &str) -> Result<()> {
        let resolved = self.resolve(path)?;
        let (parent, name) = resolved.parent(ErrorKind::IsADirectory)?;
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Returns the system's error; `NotADirectory` for a file.
    pub fn remove_directory(&self, path: &str) -> Result<()> {
        let resolved = self.resolve(path)?;
        let (parent, name) = resolved.parent(ErrorKind::ResourceBusy)?;
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Renames a file or directory.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        let (from, name) = from.parent(ErrorKind::ResourceBusy)?;
        let (to, new) = to.parent(ErrorKind::ResourceBusy)?;
        Ok(rustix::fs::renameat(from, name, to, new)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn directories() -> (tempfile::TempDir, Directories) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("in/link")).unwrap();
        let fd = File::open(dir.path().join("in")).unwrap().into();
        (dir, Directories::new(vec![(fd, "/data".into())]))
    }

    #[test]
    fn writes_reads_lists_renames_and_removes_files() {
        let (_dir, directories) = directories();
        directories.create("/data/a").unwrap();
        directories
            .write("/data/a/x", b"12", WriteMode::Replace)
            .unwrap();
        directories
            .write("/data/a/x", b"3", WriteMode::Append)
            .unwrap();
        assert_eq!(directories.read("/data/a/x", 3).unwrap(), b"123");
        assert_eq!(
            directories.read("/data/a/x", 2).unwrap_err().kind(),
            ErrorKind::FileTooLarge
        );
        assert_eq!(directories.stat("/data/a/x").unwrap().size, 3);
        assert!(directories.stat("/data/a").unwrap().is_directory);
        directories.rename("/data/a/x", "/data/y").unwrap();
        assert_eq!(directories.list("/data", 10).unwrap(), ["a", "link", "y"]);
        let busy = |result: Result<()>| result.unwrap_err().kind();
        assert_eq!(
            busy(directories.remove_file("/data/a")),
            ErrorKind::IsADirectory
        );
        assert_eq!(
            busy(directories.remove_directory("/data/y")),
            ErrorKind::NotADirectory
        );
        directories.remove_directory("/data/a").unwrap();
        directories.remove_file("/data/y").unwrap();
        assert_eq!(directories.list("/data", 10).unwrap(), ["link"]);
    }

    #[test]
    fn given_directory_exists_and_cannot_be_removed() {
        let (_dir, directories) = directories();
        for root in ["/data", "/data/"] {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert!(directories.stat(root).unwrap().is_directory);
            assert_eq!(kind(directories.create(root)), ErrorKind::AlreadyExists);
            assert_eq!(kind(directories.remove_file(root)), ErrorKind::IsADirectory);
            assert_eq!(
                kind(directories.remove_directory(root)),
                ErrorKind::ResourceBusy
            );
            assert_eq!(
                kind(directories.rename(root, "/data/x")),
                ErrorKind::ResourceBusy
            );
        }
    }

    #[test]
    fn new_file_does_not_replace_another() {
        let (_dir, directories) = directories();
        directories
            .write("/data/lock", b"1", WriteMode::New)
            .unwrap();
        let error = directories.write("/data/lock", b"2", WriteMode::New);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(directories.read("/data/lock", 9).unwrap(), b"1");
        assert!(directories.stat_link("/data/link").unwrap().is_link);
    }

    #[test]
    fn notices_changes_of_what_was_read_and_looked_up() {
        let (dir, directories) = directories();
        let at = |name: &str| dir.path().join("in").join(name);
        std::fs::write(at("a"), "one").unwrap();
        assert!(!directories.is_as_traced(), "nothing is recorded");
        let traced = || {
            let directories = directories.clone().traced();
            directories.read("/data/a", 10).unwrap();
            assert!(directories.read("/data/missing", 10).is_err());
            assert!(directories.stat("/data/b").is_err());
            directories.end_trace();
            // Not recorded.
            let _ = directories.read("/data/later", 10);
            directories
        };
        let before = traced();
        assert!(before.is_as_traced());
        std::fs::write(at("later"), "").unwrap();
        std::fs::write(at("a"), "one").unwrap();
        assert!(before.is_as_traced(), "written again with the same text");
        std::fs::write(at("a"), "two").unwrap();
        assert!(!before.is_as_traced(), "another text of the same size");
        let before = traced();
        std::fs::create_dir(at("b")).unwrap();
        assert!(!before.is_as_traced(), "found now");
        std::fs::remove_dir(at("b")).unwrap();
        let before = traced();
        std::fs::write(at("missing"), "").unwrap();
        assert!(!before.is_as_traced(), "readable now");
        std::fs::remove_file(at("missing")).unwrap();
        let before = traced();
        std::fs::remove_file(at("a")).unwrap();
        assert!(!before.is_as_traced(), "removed");
    }

    #[test]
    fn rejects_paths_that_leave_their_directory() {
        let (_dir, directories) = directories();
        for path in [
            "/data/../secret",
            "/data/link",
            "/secret",
            "/database",
            "secret",
            "/data/a/../../secret",
            "/etc/passwd",
        ] {
            assert!(directories.read(path, 100).is_err(), "{path}");
            assert!(
                directories.write(path, b"x", WriteMode::Replace).is_err(),
                "{path}"
            );
        }
    }
}
