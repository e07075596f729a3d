//! A private directory for what is served and not kept: an unpacked image, a clone. A process that
//! was killed leaves its directory: the next one removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tempfile::TempDir;

const PREFIX: &str = "wws-run-";

/// The file that is locked while the directory is in use.
const LOCK: &str = "lock";

/// The most entries of the temporary directory that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Why there is no private directory.
#[derive(Debug, thiserror::Error)]
#[error("no private directory in {}: {source}", .base.display())]
pub(crate) struct ScratchError {
    base: PathBuf,
    #[source]
    source: io::Error,
}

/// A private directory, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: PathBuf,
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    /// Creates a directory among the temporary ones, after removing those whose processes are gone.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub(crate) fn new() -> Result<Self, ScratchError> {
        let base = std::env::temp_dir();
        Self::new_in(&base).map_err(|source| ScratchError { base, source })
    }

    fn new_in(base: &Path) -> io::Result<Self> {
        remove_abandoned(base);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        let root = directory.path().join("root");
        fs::create_dir(&root)?;
        let lock = directory.path().join(LOCK);
        // Locked before it has its name: an unlocked one is abandoned.
        let file = tempfile::NamedTempFile::new_in(directory.path())?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let lock = file.persist(lock).map_err(|error| error.error)?;
        Ok(Self {
            root,
            directory,
            _lock: lock,
        })
    }

    /// The empty directory for what is served.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Another directory, which does not exist yet.
    pub(crate) fn other(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn remove_abandoned(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    let me = rustix::process::geteuid().as_raw();
    for entry in entries.take(MAX_ENTRIES).flatten() {
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Of the entry itself, which may be anybody's link.
        let is_own = || {
            entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == me)
        };
        if is_named && is_own() && is_abandoned(&entry.path()) {
            // Another process may be removing it, too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(directory: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // One without a lock is being created.
    rustix::fs::open(directory.join(LOCK), flags, Mode::empty())
        .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn removes_directories_of_dead_processes_only() {
        let base = tempfile::tempdir().unwrap();
        let used = Scratch::new_in(base.path()).unwrap();
        let dead = base.path().join("wws-run-dead");
        fs::create_dir_all(dead.join("root")).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let starting = base.path().join("wws-run-starting");
        fs::create_dir(&starting).unwrap();
        let other = base.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        let own = Scratch::new_in(base.path()).unwrap();
        assert!(used.root().exists() && own.root().exists());
        assert!(!dead.exists());
        assert!(starting.exists() && other.exists());
        let path = own.root().to_owned();
        drop(own);
        assert!(!path.parent().unwrap().exists());
    }
}
