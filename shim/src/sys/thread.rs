//! Work that may wait for a disk, on threads of its own. tokio's own pool panics where the host gives it no thread, and a panic
//! would end the whole shim, with all containers of a pod.

use std::io;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};

/// How many there may be at once; more work waits.
static FREE: Semaphore = Semaphore::const_new(4);

/// What one needs of a stack, in bytes.
const STACK: usize = 256 * 1024;

/// Runs `work` beside everything else, to its end even if nobody waits for it any more.
///
/// # Errors
/// As of `work`; the host has no process left for a thread.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = || Error::Other("the thread of an operation stopped".to_owned());
    let place = FREE.acquire().await.map_err(|_| stopped())?;
    let (sender, result) = oneshot::channel();
    let run = move || {
        // Nobody may want to know any more.
        let _ = sender.send(work());
        drop(place);
    };
    named().spawn(run).map_err(|error| none(&error))?;
    result.await.unwrap_or_else(|_| Err(stopped()))
}

/// Starts a thread of `scope`.
///
/// # Errors
/// The host has no process left for it.
pub(crate) fn within<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    named()
        .spawn_scoped(scope, work)
        .map_err(|error| none(&error))
}

fn named() -> Builder {
    Builder::new().name("wws-work".to_owned()).stack_size(STACK)
}

fn none(error: &io::Error) -> Error {
    Error::Other(format!("start a thread: {}", explain(error)))
}

/// An error of starting a thread or a process; what it says by itself (`Resource temporarily unavailable`) helps nobody.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => format!(
            "the host is out of processes: {error}; see `pids.max` of the shim's control group, and `kernel.pid_max`"
        ),
        Some(libc::ENOMEM) => format!("the host is out of memory: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn work_is_done_and_its_error_told() {
        assert_eq!(beside(|| Ok(7)).await, Ok(7));
        let error = Error::NotFound("x".to_owned());
        let failed = error.clone();
        assert_eq!(beside(move || Err::<(), _>(failed)).await, Err(error));
    }

    #[tokio::test]
    async fn no_more_threads_than_a_few_run_at_once() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        let one = || {
            let work = || {
                let others = NOW.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                NOW.fetch_sub(1, Ordering::SeqCst);
                Ok(others)
            };
            tokio::spawn(beside(work))
        };
        let all: Vec<_> = (0..20).map(|_| one()).collect();
        for work in all {
            assert!(work.await.unwrap().unwrap() < 4);
        }
    }

    #[test]
    fn a_host_without_processes_is_called_so() {
        let text = explain(&io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(text.starts_with("the host is out of processes: "), "{text}");
        let text = explain(&io::Error::from_raw_os_error(libc::ENOENT));
        assert!(!text.contains("out of"), "{text}");
    }
}
