//! Turns among all processes that share a store: one compiles an entry while the others wait for it, and not more at once than the
//! machine has processors.
//!
//! A turn is a lock on a file (`flock(2)`), so it ends with its process, however that ends. The files stay: as many as there are numbers.
//! Who compiles takes the entry's turn first and then one of the processors', and holds one of each at most, so no two wait for each other.

use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{CodeCache, CodeKey};

/// How often a turn is asked for again: there is no lock with a limit of time.
const AGAIN: Duration = Duration::from_millis(5);

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// Its lock goes with it.
    _file: File,
}

impl CodeCache {
    /// The turn to compile an entry; `None` if it did not come in time. Entries whose names begin alike share one.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn turn(&self, key: &CodeKey, until: Instant) -> io::Result<Option<Turn>> {
        let start = key.0.get(..2).unwrap_or_default();
        wait(&[self.lock(&format!("{start}.turn"))?], until)
    }

    /// The turn to use the processors; `None` if it did not come in time.
    ///
    /// # Errors
    /// As of [`Self::turn`].
    pub fn processor(&self, until: Instant) -> io::Result<Option<Turn>> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let locks = (0..processors).map(|number| self.lock(&format!("{number}.processor")));
        wait(&locks.collect::<io::Result<Vec<_>>>()?, until)
    }

    fn lock(&self, name: &str) -> io::Result<File> {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(name))
    }
}

/// Waits for the first of some locks that is free.
fn wait(locks: &[File], until: Instant) -> io::Result<Option<Turn>> {
    loop {
        for file in locks {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let file = file.try_clone()?;
                    return Ok(Some(Turn { _file: file }));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(AGAIN);
    }
}
