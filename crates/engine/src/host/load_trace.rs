//! What was read while a program was loaded: as long as nothing of it has changed, loading it again
//! has the same result.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Result},
    os::fd::AsFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::fstat;
use sha2::{Digest, Sha256};

/// The most paths that are recorded.
const MAX_PATHS: usize = 4096;

/// A file that was changed this short a time before it was read may change again without its
/// status showing it: file systems count time in steps.
const STEP: Duration = Duration::from_secs(3);

/// The status of a file. A file whose status is the same has the same contents, once
/// [it is settled](FileContents).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    /// The time of the last change of the contents, in seconds and nanoseconds.
    modified: (i64, u64),
    /// The time of the last change of the contents or the status, which no program can set.
    changed: (i64, u64),
}

impl FileVersion {
    fn of(file: impl AsFd) -> Result<Self> {
        let stat = fstat(file)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// Whether the last change is so long ago that another one would have another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::from_secs(seconds.saturating_add(1));
        now.duration_since(changed).is_ok_and(|ago| ago > STEP)
    }
}

/// The contents of a file when it was read.
#[derive(Debug)]
pub struct FileContents {
    sha256: [u8; 32],
    /// The last status with which it had these contents, and whether that status says so.
    known: Mutex<(FileVersion, bool)>,
}

impl FileContents {
    /// Describes an open file whose whole contents have this SHA-256.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn new(file: &File, sha256: [u8; 32]) -> Result<Self> {
        let version = FileVersion::of(file)?;
        let is_settled = version.is_settled(SystemTime::now());
        Ok(Self {
            sha256,
            known: Mutex::new((version, is_settled)),
        })
    }

    /// The SHA-256 of the contents.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Whether an open file has the same contents. Reads the file only if its status does not say
    /// so.
    #[must_use]
    pub fn is_same(&self, file: &mut File) -> bool {
        let Ok(version) = FileVersion::of(&*file) else {
            return false;
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == (version, true) {
            return true;
        }
        if version.size != known.0.size {
            return false;
        }
        let is_settled = version.is_settled(SystemTime::now());
        let mut hash = Sha256::new();
        let mut all = file.take(version.size.saturating_add(1));
        let is_same =
            std::io::copy(&mut all, &mut hash).is_ok() && hash.finalize()[..] == self.sha256;
        if is_same {
            *known = (version, is_settled);
        }
        is_same
    }
}

/// What was found at a path.
#[derive(Debug)]
pub(crate) enum FileAccess {
    /// The contents of the file; `None` if it could not be read.
    Read(Option<FileContents>),
    /// Whether it is a directory; `None` if it does not exist.
    LookedUp(Option<bool>),
}

/// What was read and looked up.
#[derive(Debug, Default)]
pub(crate) struct LoadTrace {
    has_ended: AtomicBool,
    accesses: Mutex<TracedPaths>,
}

#[derive(Debug, Default)]
struct TracedPaths {
    read: BTreeMap<String, FileAccess>,
    looked_up: BTreeMap<String, FileAccess>,
    has_overflowed: bool,
}

impl LoadTrace {
    fn accesses(&self) -> MutexGuard<'_, TracedPaths> {
        self.accesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what was found at a path, the first time that it was.
    pub(crate) fn record(&self, path: &str, access: impl FnOnce() -> FileAccess) {
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        let access = access();
        let mut all = self.accesses();
        if all.read.len() + all.looked_up.len() >= MAX_PATHS {
            all.has_overflowed = true;
            return;
        }
        let kind = match access {
            FileAccess::Read(_) => &mut all.read,
            FileAccess::LookedUp(_) => &mut all.looked_up,
        };
        if !kind.contains_key(path) {
            kind.insert(path.to_owned(), access);
        }
    }

    /// Records nothing from now on.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Whether everything was recorded, and is the same according to `is_same`.
    pub(crate) fn holds(&self, is_same: impl Fn(&str, &FileAccess) -> bool) -> bool {
        let all = self.accesses();
        let mut accesses = all.read.iter().chain(&all.looked_up);
        !all.has_overflowed && accesses.all(|(path, access)| is_same(path, access))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_recent_change_is_not_settled() {
        let version = |seconds| FileVersion {
            device: 1,
            inode: 1,
            size: 1,
            modified: (0, 0),
            changed: (seconds, 5),
        };
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert!(version(50).is_settled(now));
        assert!(!version(99).is_settled(now));
        assert!(!version(97).is_settled(now));
        assert!(!version(200).is_settled(now), "of another clock");
        assert!(!version(-1).is_settled(now));
    }

    #[test]
    fn a_settled_file_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let open = || File::open(&path).unwrap();
        let contents = FileContents::new(&open(), [0; 32]).unwrap();
        assert!(!contents.known.lock().unwrap().1);
        assert!(!contents.is_same(&mut open()));
        contents.known.lock().unwrap().1 = true;
        assert!(contents.is_same(&mut open()));
        // Its status has changed, and its contents have not.
        let contents = FileContents::new(&open(), Sha256::digest("text").into()).unwrap();
        std::fs::write(&path, "text").unwrap();
        assert!(contents.is_same(&mut open()));
        std::fs::write(&path, "more text").unwrap();
        assert!(!contents.is_same(&mut open()));
    }

    #[test]
    fn a_trace_with_too_many_paths_never_holds() {
        let trace = LoadTrace::default();
        for path in 0..MAX_PATHS {
            trace.record(&path.to_string(), || FileAccess::LookedUp(None));
        }
        assert!(trace.holds(|_, _| true));
        trace.record("one more", || FileAccess::LookedUp(None));
        assert!(!trace.holds(|_, _| true));
    }
}
