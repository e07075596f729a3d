//! Turns among all processes that share a cache: one compiles an entry while the others wait for it, and not more compile at once
//! than the machine has CPUs and memory for.
//!
//! A turn is a lock on a file, so it ends with its process, however that ends. The files stay: as many as there are CPUs, and two.
//! Whoever compiles takes the entry's turn first and then one of the CPUs', and holds one of each at most, so no two wait for each
//! other.

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

use super::{CodeCache, CodeKey};

/// How often a turn is asked for again: there is no lock with a limit of time.
const AGAIN: Duration = Duration::from_millis(5);

/// The file whose bytes are the entries' turns: one byte each, of which none is ever written.
const ENTRIES: &str = "entries.turn";

/// The turn that is kept for small modules.
const SMALL: &str = "small.cpu";

/// The part of the machine's free memory that all compilations together may take.
const MEMORY_SHARE: u64 = 4;

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// Its lock goes with it.
    _file: File,
}

/// What a compilation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The most memory that it may take, in bytes.
    pub memory: u64,
    /// It is short, and need not wait for those that are not: one turn is kept for its kind.
    pub small: bool,
}

impl CodeCache {
    /// The turn to compile an entry; `None` if it did not come in time.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn turn(&self, key: &CodeKey, until: Instant) -> io::Result<Option<Turn>> {
        let file = self.lock(ENTRIES)?;
        // The key is a hash in hex: 60 of its bits, which is a place in a file.
        let place = key
            .0
            .get(..15)
            .and_then(|start| i64::from_str_radix(start, 16).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        wait(until, || {
            Ok(lock_byte(&file, place)?.then(|| file.try_clone()))
        })
    }

    /// The turn to use a CPU, and memory; `None` if it did not come in time.
    ///
    /// # Errors
    /// As of [`Self::turn`].
    pub fn cpu(&self, work: Work, until: Instant) -> io::Result<Option<Turn>> {
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
            .open(self.folder.join(name))
    }
}

/// How many compile at once: all of them together may take a part of the memory that is free, and one always may.
fn turns(cpus: usize, available: Option<u64>, memory: u64) -> usize {
    let Some(available) = available else {
        return cpus;
    };
    let room = available / MEMORY_SHARE / memory.max(1);
    usize::try_from(room).unwrap_or(cpus).clamp(1, cpus)
}

/// The machine's memory that can be had without swapping, in bytes.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Locks one byte of a file for this open file alone; whether it could.
fn lock_byte(file: &File, place: i64) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place,
        l_len: 1,
        // Not of a process: of an open file, as it has to be here.
        l_pid: 0,
    };
    // SAFETY: the command reads a `struct flock`, which lives until then, and writes nothing.
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

/// Asks for a turn until there is one: the file that holds it.
fn wait(
    until: Instant,
    ask: impl Fn() -> io::Result<Option<io::Result<File>>>,
) -> io::Result<Option<Turn>> {
    loop {
        if let Some(file) = ask()? {
            return Ok(Some(Turn { _file: file? }));
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

    const LARGE: Work = Work {
        memory: 1,
        small: false,
    };
    const SMALL: Work = Work {
        small: true,
        ..LARGE
    };

    fn cache(folder: &std::path::Path) -> CodeCache {
        CodeCache::open(folder, 1).unwrap()
    }

    #[test]
    fn an_entry_has_one_turn_and_shares_it_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let key = |number: u64| CodeKey(format!("ab{number:013x}{:049}", 0));
        let now = Instant::now();
        let held = cache.turn(&key(0), now).unwrap();
        assert!(held.is_some());
        assert!(cache.turn(&key(0), now).unwrap().is_none());
        // Their names begin alike.
        let others: Vec<_> = (1..300)
            .map(|n| cache.turn(&key(n), now).unwrap())
            .collect();
        assert!(others.iter().all(Option::is_some));
        drop(held);
        assert!(cache.turn(&key(0), now).unwrap().is_some());
        assert!(cache.turn(&key(1), now).unwrap().is_none());
    }

    #[test]
    fn a_small_module_does_not_wait_for_large_ones() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
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
        // Where there is a CPU, small ones take it, too.
        drop(held.pop());
        let both = [
            cache.cpu(SMALL, now).unwrap(),
            cache.cpu(SMALL, now).unwrap(),
        ];
        assert!(both.iter().all(Option::is_some));
    }

    #[test]
    fn memory_bounds_how_many_compile_at_once() {
        const GIB: u64 = 1 << 30;
        assert_eq!(turns(64, Some(256 * GIB), 2 * GIB), 32);
        assert_eq!(turns(64, Some(16 * GIB), 2 * GIB), 2);
        assert_eq!(turns(2, Some(256 * GIB), 2 * GIB), 2);
        assert_eq!(turns(2, Some(GIB), 2 * GIB), 1);
        assert_eq!(turns(2, None, 2 * GIB), 2);
        assert!(available_memory().unwrap() > 64 << 20);
    }
}
