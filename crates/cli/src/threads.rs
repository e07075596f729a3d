//! The number of threads that a server may have: containers and users have limits of processes,
//! which include threads. A thread that fails to start later causes a panic, or a server that
//! listens and never answers. The number is therefore tried before the start.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Threads that any server needs in addition to the main one: one each for requests, for files, for
/// loading the project, for the log, the clock, the compiler and the interpreters.
const LEAST: usize = 7;

/// Additional threads for each further CPU: for requests, for long calls, for loading and for
/// compiling.
const PER_CPU: usize = 4;

/// The stack of a thread that only waits.
const STACK: usize = 16 * 1024;

/// An idle thread for files ends after this time, unless threads are scarce.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The threads of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    /// The number of CPUs in use.
    cpus: usize,
    /// Fewer threads than wanted can be started: idle threads must be kept.
    scarce: bool,
}

/// There are too few for any server.
#[derive(Debug)]
pub(crate) struct TooFew {
    /// The limit of processes, this one included.
    possible: usize,
    /// Why there are no more.
    error: io::Error,
}

impl std::fmt::Display for TooFew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a server needs {} processes (threads count), {} can be started here ({}): raise the \
             limit of the container (`--pids-limit`) or of its user (`--ulimit nproc`)",
            LEAST + 1,
            self.possible,
            self.error
        )
    }
}

impl Threads {
    /// Finds out how many threads can be started.
    ///
    /// # Errors
    /// Too few for a server.
    pub(crate) fn plan() -> Result<Self, TooFew> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let (possible, error) = probe(LEAST + (cpus - 1) * PER_CPU);
        Self::of(cpus, possible).ok_or_else(|| TooFew {
            possible: possible + 1,
            error: error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()),
        })
    }

    fn of(cpus: usize, possible: usize) -> Option<Self> {
        let more = possible.checked_sub(LEAST)? / PER_CPU;
        Some(Self {
            cpus: cpus.min(1 + more),
            scarce: more + 1 < cpus,
        })
    }

    /// Creates the runtime of the server, and the compiler's pool.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn runtime(self) -> io::Result<tokio::runtime::Runtime> {
        // A test may have created one already.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(self.cpus)
            .build_global();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .thread_name("wws")
            .worker_threads(self.cpus)
            .max_blocking_threads(MAX_BLOCKING)
            .thread_keep_alive(KEEP_ALIVE)
            .enable_all();
        if self.scarce {
            builder
                .max_blocking_threads(1)
                .thread_keep_alive(Duration::from_secs(u64::from(u32::MAX)));
        }
        builder.build()
    }
}

/// Threads for work on files: however many files guests read at once, their threads take little
/// memory, and few processes of the container's.
const MAX_BLOCKING: usize = 64;

/// Starts up to `wanted` threads at once, and ends them. Returns the number that started, and why
/// not more did.
fn probe(wanted: usize) -> (usize, Option<io::Error>) {
    let gate = Mutex::new(());
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let mut error = None;
        let mut started = 0;
        while started < wanted {
            let wait = || drop(gate.lock());
            match thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, wait)
            {
                Ok(_) => started += 1,
                Err(failed) => {
                    error = Some(failed);
                    break;
                }
            }
        }
        drop(closed);
        (started, error)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uses_as_many_cpus_as_there_are_threads_for() {
        let of = |cpus, possible| Threads::of(cpus, possible).map(|plan| (plan.cpus, plan.scarce));
        assert_eq!(of(2, LEAST - 1), None);
        assert_eq!(of(1, LEAST), Some((1, false)));
        assert_eq!(of(2, LEAST), Some((1, true)));
        assert_eq!(of(2, LEAST + PER_CPU), Some((2, false)));
        assert_eq!(of(16, LEAST + 3 * PER_CPU), Some((4, true)));
        assert_eq!(of(2, 1000), Some((2, false)));
    }

    #[test]
    fn probe_starts_the_requested_number_of_threads() {
        let (started, error) = probe(20);
        assert_eq!(started, 20);
        assert!(error.is_none());
        assert!(Threads::plan().is_ok());
    }

    #[test]
    fn reports_needed_and_available_threads() {
        let text = TooFew {
            possible: 5,
            error: io::Error::from_raw_os_error(libc::EAGAIN),
        };
        let text = text.to_string();
        assert!(text.contains("needs 8 processes"), "{text}");
        assert!(text.contains(" 5 can be started"), "{text}");
    }
}
