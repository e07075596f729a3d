//! Threads for work that may wait for a disk.
//!
//! tokio's own pool panics where the host provides no thread, and a panic would end the whole shim
//! with all containers of a pod.

use std::fmt::Display;
use std::io;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};

/// Limits how many threads run at once; further work waits.
static FREE_THREADS: Semaphore = Semaphore::const_new(4);

/// The stack size of one thread, in bytes.
const STACK_SIZE: usize = 256 * 1024;

/// Runs `work` on its own thread, to completion even if the caller is gone.
///
/// # Errors
/// That of `work`; the host has no process left for a thread.
pub(crate) async fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = || Error::unknown("the thread of an operation stopped");
    let permit = FREE_THREADS.acquire().await.map_err(|_| stopped())?;
    let (sender, result) = oneshot::channel();
    let run = move || {
        // The receiver may be gone.
        let _ = sender.send(work());
        drop(permit);
    };
    builder()
        .spawn(run)
        .map_err(|error| spawn_error("start a thread", error))?;
    result.await.unwrap_or_else(|_| Err(stopped()))
}

/// Starts a thread of `scope`.
///
/// # Errors
/// The host has no process left for it.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    builder()
        .spawn_scoped(scope, work)
        .map_err(|error| spawn_error("start a thread", error))
}

fn builder() -> Builder {
    Builder::new()
        .name("wws-work".to_owned())
        .stack_size(STACK_SIZE)
}

/// Explains why a thread or process could not be started. The kernel's own text (`Resource
/// temporarily unavailable`) does not name the resource.
pub(crate) fn spawn_error(context: impl Display, error: io::Error) -> Error {
    let explanation = match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "the host is out of processes (see `pids.max` of the shim's cgroup, and \
             `kernel.pid_max`)"
        }
        Some(libc::ENOMEM) => "the host is out of memory",
        _ => return Error::io(context, error),
    };
    Error::io(explanation, error).context(context)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn returns_the_result_of_the_work() {
        assert_eq!(spawn_blocking(|| Ok(7)).await.unwrap(), 7);
        let failed = spawn_blocking(|| Err::<(), _>(Error::not_found("x"))).await;
        assert_eq!(failed.unwrap_err().code(), ErrorCode::NotFound);
    }

    #[tokio::test]
    async fn limits_the_threads_that_run_at_once() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        let spawn = || {
            let work = || {
                let others = RUNNING.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                RUNNING.fetch_sub(1, Ordering::SeqCst);
                Ok(others)
            };
            tokio::spawn(spawn_blocking(work))
        };
        let all: Vec<_> = (0..20).map(|_| spawn()).collect();
        for work in all {
            assert!(work.await.unwrap().unwrap() < 4);
        }
    }

    #[test]
    fn names_the_resource_that_the_host_lacks() {
        let text = |code| {
            let error = spawn_error("start x", io::Error::from_raw_os_error(code));
            format!("{error:#}")
        };
        let processes = text(libc::EAGAIN);
        assert!(
            processes.starts_with("start x: the host is out of processes"),
            "{processes}"
        );
        assert!(!text(libc::ENOENT).contains("out of"));
    }
}
