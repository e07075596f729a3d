//! Folders of the host that a guest sees, for guests that have no WASI files of their own: paths never leave their folder.
//!
//! All of this blocks: call it from a thread that may.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read, Result, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// The folders of one guest. Cheap to clone.
#[derive(Clone, Default)]
pub struct Folders(Arc<[(OwnedFd, String)]>);

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileStat {
    /// In bytes.
    pub size: u64,
    /// It is a folder.
    pub is_folder: bool,
    /// It is a regular file.
    pub is_file: bool,
    /// It is a symbolic link, which [`Folders::stat_link`] alone sees.
    pub is_link: bool,
    /// When its content changed, in milliseconds since 1970.
    pub modified: i64,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The new content takes the old one's place.
    Replace,
    /// The new content follows the old one.
    Append,
    /// The file must not be there yet.
    New,
}

/// Where a path leads: a folder that was opened, and a path beneath it.
struct Place<'a> {
    folder: &'a OwnedFd,
    path: &'a str,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl Place<'_> {
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = if self.path.is_empty() { "." } else { self.path };
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::from_raw_mode(0o666)
        } else {
            Mode::empty()
        };
        Ok(rustix::fs::openat2(
            self.folder,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            BENEATH,
        )?)
    }

    /// The folder that the path's last part lies in, and that part. A folder that the guest was given lies in none: for it,
    /// the error is of the kind `of_root`.
    fn parent(&self, of_root: ErrorKind) -> Result<(OwnedFd, &str)> {
        let path = self.path.trim_end_matches('/');
        if path.is_empty() {
            return Err(of_root.into());
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(ErrorKind::InvalidInput.into());
        }
        let parent = Place {
            folder: self.folder,
            path: parent,
        };
        Ok((parent.open(OFlags::PATH | OFlags::DIRECTORY)?, name))
    }
}

impl Folders {
    /// Opened folders, and where the guest sees them (absolute).
    #[must_use]
    pub fn new(folders: Vec<(OwnedFd, String)>) -> Self {
        Self(folders.into())
    }

    /// The guest sees no folder.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place<'a>(&'a self, path: &'a str) -> Result<Place<'a>> {
        self.0
            .iter()
            .filter_map(|(folder, to)| {
                let rest = path.strip_prefix(to.trim_end_matches('/'))?;
                let path = match rest.strip_prefix('/') {
                    Some(path) => path.trim_start_matches('/'),
                    None if rest.is_empty() => "",
                    None => return None,
                };
                Some((to.len(), Place { folder, path }))
            })
            .max_by_key(|(len, _)| *len)
            .map(|(_, place)| place)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Reads a file of `limit` bytes at most.
    ///
    /// # Errors
    /// The file's, or `FileTooLarge`.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        // Without O_NONBLOCK, opening a FIFO waits for a writer.
        let file = File::from(self.place(path)?.open(OFlags::RDONLY | OFlags::NONBLOCK)?);
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// Writes a file, which is made where there is none.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &str, bytes: &[u8], mode: WriteMode) -> Result<()> {
        let how = match mode {
            WriteMode::Replace => OFlags::TRUNC,
            WriteMode::Append => OFlags::APPEND,
            WriteMode::New => OFlags::EXCL,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | how;
        File::from(self.place(path)?.open(flags)?).write_all(bytes)
    }

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// The folder's, or there are more than `limit` names.
    pub fn list(&self, path: &str, limit: usize) -> Result<Vec<String>> {
        let folder = self.place(path)?.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(folder)? {
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

    /// Whether a path lies in one of the folders; it need not be there.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.place(path).is_ok()
    }

    /// What is known of a file or folder, or of what a symbolic link leads to.
    ///
    /// # Errors
    /// The file's.
    pub fn stat(&self, path: &str) -> Result<FileStat> {
        self.stat_with(path, OFlags::empty())
    }

    /// What is known of a file, a folder or a symbolic link itself.
    ///
    /// # Errors
    /// The file's.
    pub fn stat_link(&self, path: &str) -> Result<FileStat> {
        self.stat_with(path, OFlags::NOFOLLOW)
    }

    fn stat_with(&self, path: &str, flags: OFlags) -> Result<FileStat> {
        let file = self.place(path)?.open(OFlags::PATH | flags)?;
        let stat = rustix::fs::statat(file.as_fd(), "", AtFlags::EMPTY_PATH)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        Ok(FileStat {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            is_folder: kind.is_dir(),
            is_file: kind.is_file(),
            is_link: kind.is_symlink(),
            modified: stat.st_mtime.saturating_mul(1000)
                + i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0),
        })
    }

    /// Makes a folder in one that is there.
    ///
    /// # Errors
    /// The folder's.
    pub fn make(&self, path: &str) -> Result<()> {
        let place = self.place(path)?;
        let (parent, name) = place.parent(ErrorKind::AlreadyExists)?;
        Ok(rustix::fs::mkdirat(
            parent,
            name,
            Mode::from_raw_mode(0o777),
        )?)
    }

    /// Removes a file, or a symbolic link itself.
    ///
    /// # Errors
    /// The file's; `IsADirectory` for a folder.
    pub fn remove_file(&self, path: &str) -> Result<()> {
        let place = self.place(path)?;
        let (parent, name) = place.parent(ErrorKind::IsADirectory)?;
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The folder's; `NotADirectory` for a file.
    pub fn remove_folder(&self, path: &str) -> Result<()> {
        let place = self.place(path)?;
        let (parent, name) = place.parent(ErrorKind::ResourceBusy)?;
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Gives a file or folder another place.
    ///
    /// # Errors
    /// The file's.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let (from, name) = from.parent(ErrorKind::ResourceBusy)?;
        let (to, new) = to.parent(ErrorKind::ResourceBusy)?;
        Ok(rustix::fs::renameat(from, name, to, new)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn folders() -> (tempfile::TempDir, Folders) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("in/link")).unwrap();
        let fd = File::open(dir.path().join("in")).unwrap().into();
        (dir, Folders::new(vec![(fd, "/data".into())]))
    }

    #[test]
    fn files_are_written_read_listed_moved_and_removed() {
        let (_dir, folders) = folders();
        folders.make("/data/a").unwrap();
        folders
            .write("/data/a/x", b"12", WriteMode::Replace)
            .unwrap();
        folders.write("/data/a/x", b"3", WriteMode::Append).unwrap();
        assert_eq!(folders.read("/data/a/x", 3).unwrap(), b"123");
        assert_eq!(
            folders.read("/data/a/x", 2).unwrap_err().kind(),
            ErrorKind::FileTooLarge
        );
        assert_eq!(folders.stat("/data/a/x").unwrap().size, 3);
        assert!(folders.stat("/data/a").unwrap().is_folder);
        folders.rename("/data/a/x", "/data/y").unwrap();
        assert_eq!(folders.list("/data", 10).unwrap(), ["a", "link", "y"]);
        let busy = |result: Result<()>| result.unwrap_err().kind();
        assert_eq!(
            busy(folders.remove_file("/data/a")),
            ErrorKind::IsADirectory
        );
        assert_eq!(
            busy(folders.remove_folder("/data/y")),
            ErrorKind::NotADirectory
        );
        folders.remove_folder("/data/a").unwrap();
        folders.remove_file("/data/y").unwrap();
        assert_eq!(folders.list("/data", 10).unwrap(), ["link"]);
    }

    #[test]
    fn a_given_folder_itself_is_there_and_stays() {
        let (_dir, folders) = folders();
        for root in ["/data", "/data/"] {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert!(folders.stat(root).unwrap().is_folder);
            assert_eq!(kind(folders.make(root)), ErrorKind::AlreadyExists);
            assert_eq!(kind(folders.remove_file(root)), ErrorKind::IsADirectory);
            assert_eq!(kind(folders.remove_folder(root)), ErrorKind::ResourceBusy);
            assert_eq!(
                kind(folders.rename(root, "/data/x")),
                ErrorKind::ResourceBusy
            );
        }
    }

    #[test]
    fn a_new_file_takes_no_others_place() {
        let (_dir, folders) = folders();
        folders.write("/data/lock", b"1", WriteMode::New).unwrap();
        let error = folders.write("/data/lock", b"2", WriteMode::New);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(folders.read("/data/lock", 9).unwrap(), b"1");
        assert!(folders.stat_link("/data/link").unwrap().is_link);
    }

    #[test]
    fn no_path_leaves_its_folder() {
        let (_dir, folders) = folders();
        for path in [
            "/data/../secret",
            "/data/link",
            "/secret",
            "/database",
            "secret",
            "/data/a/../../secret",
            "/etc/passwd",
        ] {
            assert!(folders.read(path, 100).is_err(), "{path}");
            assert!(
                folders.write(path, b"x", WriteMode::Replace).is_err(),
                "{path}"
            );
        }
    }
}
