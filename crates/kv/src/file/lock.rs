//! The lock that keeps a store to one process.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::OpenError;

/// How long a store is waited for whose process is about to end.
const WAIT: Duration = Duration::from_secs(1);

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Most bytes that are read about who has a store.
const MAX_HOLDER: u64 = 256;

/// A file with a lock that the kernel releases with the process. Its text says who has it.
pub(super) struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock of a database. Blocks the thread for a moment if another process has it.
    pub(super) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = lock_path(database);
        let failed = |source: io::Error| OpenError::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let started = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if started.elapsed() < WAIT => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    return Err(OpenError::InUse {
                        path: database.to_owned(),
                        holder: holder(&mut file),
                    });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(own_name().as_bytes()).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing it releases the lock as well; without its text it names nobody who has left.
        let _ = self.file.set_len(0);
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Who has a store, in the words of who took it.
fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(MAX_HOLDER).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    match read {
        Ok(_) if !line.is_empty() => line,
        _ => "another process".into(),
    }
}

/// This program, its process id and its machine or container.
fn own_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default();
    let host = rustix::system::uname();
    format!(
        "{} (process {} on {})\n",
        program.to_string_lossy(),
        std::process::id(),
        host.nodename().to_string_lossy(),
    )
}
