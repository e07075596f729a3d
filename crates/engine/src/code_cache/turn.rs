//! Turns among all processes that share a cache: one process compiles an entry while the others
//! wait, and no more compile at once than the machine has CPUs and memory for.
//!
//! A turn is a lock on a file, so it ends with its process. The files stay: one per CPU, and two
//! more. A process takes the entry's turn before a CPU's, and holds at most one of each, so no two
//! wait for each other.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::code_cache::cache::{CodeCache, CodeKey};

/// Time between two attempts: there is no lock with a timeout.
const AGAIN: Duration = Duration::from_millis(5);

/// The file whose bytes are locked for entries, one byte each. None is ever written.
const ENTRIES: &str = "entries.turn";

/// The turn that is reserved for small modules.
const SMALL: &str = "small.cpu";

/// All compilations together may take this part (1/n) of the machine's free memory.
const MEMORY_SHARE: u64 = 4;

/// A turn, held until it is dropped.
#[derive(Debug)]
pub struct CompileTurn {
    /// Closing the file releases the lock.
    _file: File,
}

/// The cost of a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileWork {
    /// Most memory that the compilation may take, in bytes.
    pub memory: u64,
    /// The compilation is short: it may use the turn that is reserved for small modules.
    pub small: bool,
}

impl CodeCache {
    /// Waits for the turn to compile an entry; returns `None` at `until`.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn turn(&self, key: &CodeKey, until: Instant) -> io::Result<Option<CompileTurn>> {
        let file = self.lock(ENTRIES)?;
        // The key is a hash in hex. 60 of its bits are a position in a file.
        let place = key
            .0
            .get(..15)
            .and_then(|start| i64::from_str_radix(start, 16).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        wait(until, || {
            Ok(lock_byte(&file, place)?.then(|| file.try_clone()))
        })
    }

    /// Waits for the turn to use a CPU and memory; returns `None` at `until`.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn cpu(&self, work: CompileWork, until: Instant) -> io::Result<Option<CompileTurn>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let numbered =
            (0..turns(cpus, available_memory(), work.memory)).map(|number| format!("{number}.cpu"));
        let kept = work.small.then(|| SMALL.to_owned());
        let locks: Vec<File> = numbered
            .chain(kept)
            .map(|name| self.lock(&name))
            .collect::<io::Result<_>>()?;
        wait(until, || {
            for file in &locks {
                match flock(file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(Some(file.try_clone())),
                    Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(None)
        })
    }

    fn lock(&self, name: &str) -> io::Result<File> {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.directory.join(name))
    }
}

/// How many processes may compile at once: as many as have room in a part of the free memory, but
/// at least one.
fn turns(cpus: usize, available: Option<u64>, memory: u64) -> usize {
    let Some(available) = available else {
        return cpus;
    };
    let room = available / MEMORY_SHARE / memory.max(1);
    usize::try_from(room).unwrap_or(cpus).clamp(1, cpus)
}

/// The machine's memory that is available without swapping, in bytes.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Tries to lock one byte of a file for this open file; returns whether it succeeded.
fn lock_byte(file: &File, place: i64) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place,
        l_len: 1,
        // Must be 0 for locks of open files.
        l_pid: 0,
    };
    // SAFETY: `fcntl` asks for the argument of its command. `F_OFD_SETLK` reads a `struct flock`,
    // which outlives the call.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if locked == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(false),
        _ => Err(error),
    }
}

/// Tries to get a turn until it succeeds, or until `until`.
fn wait(
    until: Instant,
    ask: impl Fn() -> io::Result<Option<io::Result<File>>>,
) -> io::Result<Option<CompileTurn>> {
    loop {
        if let Some(file) = ask()? {
            return Ok(Some(CompileTurn { _file: file? }));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LARGE: CompileWork = CompileWork {
        memory: 1,
        small: false,
    };
    const SMALL: CompileWork = CompileWork {
        small: true,
        ..LARGE
    };

    fn cache(directory: &std::path::Path) -> CodeCache {
        CodeCache::open(directory, 1).unwrap()
    }

    #[test]
    fn each_entry_has_its_own_turn() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let key = |number: u64| CodeKey(format!("ab{number:013x}{:049}", 0));
        let now = Instant::now();
        let held = cache.turn(&key(0), now).unwrap();
        assert!(held.is_some());
        assert!(cache.turn(&key(0), now).unwrap().is_none());
        // The names have the same start.
        let others: Vec<_> = (1..300)
            .map(|n| cache.turn(&key(n), now).unwrap())
            .collect();
        assert!(others.iter().all(Option::is_some));
        drop(held);
        assert!(cache.turn(&key(0), now).unwrap().is_some());
        assert!(cache.turn(&key(1), now).unwrap().is_none());
    }

    #[test]
    fn small_module_does_not_wait_for_large_ones() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let now = Instant::now();
        let mut held = Vec::new();
        while let Some(turn) = cache.cpu(LARGE, now).unwrap() {
            held.push(turn);
        }
        let cpus = std::thread::available_parallelism().unwrap().get();
        assert_eq!(held.len(), cpus);
        let small = cache.cpu(SMALL, now).unwrap();
        assert!(small.is_some());
        let started = Instant::now();
        let soon = started + Duration::from_millis(50);
        assert!(cache.cpu(SMALL, soon).unwrap().is_none());
        assert!(started.elapsed() >= Duration::from_millis(50));
        drop(small);
        // Small modules also use other free turns.
        drop(held.pop());
        let both = [
            cache.cpu(SMALL, now).unwrap(),
            cache.cpu(SMALL, now).unwrap(),
        ];
        assert!(both.iter().all(Option::is_some));
    }

    #[test]
    fn memory_bounds_concurrent_compilations() {
        const GIB: u64 = 1 << 30;
        assert_eq!(turns(64, Some(256 * GIB), 2 * GIB), 32);
        assert_eq!(turns(64, Some(16 * GIB), 2 * GIB), 2);
        assert_eq!(turns(2, Some(256 * GIB), 2 * GIB), 2);
        assert_eq!(turns(2, Some(GIB), 2 * GIB), 1);
        assert_eq!(turns(2, None, 2 * GIB), 2);
        assert!(available_memory().unwrap() > 64 << 20);
    }
}
