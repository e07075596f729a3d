//! Returns memory to the OS when the server is idle. No timer runs while it stays idle.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify};

/// A thread of the runtime waits for the others no longer than this.
const MAX_BARRIER_WAIT: Duration = Duration::from_millis(20);

/// The longest wait for the threads of a runtime. Those that had no CPU run their work later.
const MAX_RUN: Duration = Duration::from_secs(2);

/// Wakes the task that watches for idleness.
#[derive(Default)]
pub(crate) struct Idle {
    asleep: AtomicBool,
    wake: Notify,
}

impl Idle {
    /// Records that a request came or a connection closed.
    pub(crate) fn touch(&self) {
        if self.asleep.load(Relaxed) && self.asleep.swap(false, Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Runs `trim` whenever `count` has not changed for `quiet`, once after the start and once
    /// after each change.
    pub(crate) async fn watch<F: Future<Output = ()>>(
        &self,
        quiet: Duration,
        count: impl Fn() -> u64,
        trim: impl Fn() -> F,
    ) {
        loop {
            loop {
                let before = count();
                tokio::time::sleep(quiet).await;
                if count() == before {
                    break;
                }
            }
            trim().await;
            self.asleep.store(true, Relaxed);
            self.wake.notified().await;
        }
    }
}

/// Runs `work` on each thread of a runtime: the allocator keeps what a thread freed for that
/// thread, so each thread has to return its own memory. Nothing else runs while the server is idle.
pub(crate) async fn run_on_each_thread(runtime: &Handle, work: fn()) {
    let threads = runtime.metrics().num_workers();
    let barrier = Arc::new(Barrier::new(threads));
    let tasks = (0..threads).map(|_| {
        let barrier = barrier.clone();
        runtime.spawn(async move {
            work();
            barrier.wait(MAX_BARRIER_WAIT);
        })
    });
    let tasks = tasks.collect::<Vec<_>>();
    let all = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    // Threads of the slow lane run when no other program of the machine wants the CPU.
    let _ = tokio::time::timeout(MAX_RUN, all).await;
}

/// Holds each thread until all have arrived, so that each thread runs one of as many tasks.
struct Barrier {
    missing: Mutex<usize>,
    all_arrived: Condvar,
}

impl Barrier {
    fn new(threads: usize) -> Self {
        Self {
            missing: Mutex::new(threads),
            all_arrived: Condvar::new(),
        }
    }

    fn wait(&self, limit: Duration) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *missing = missing.saturating_sub(1);
        self.all_arrived.notify_all();
        // A thread may be busy with a request that has just come.
        let _ = self
            .all_arrived
            .wait_timeout_while(missing, limit, |missing| *missing > 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{cell::Cell, pin::pin};

    const QUIET: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn trims_once_after_the_start_and_after_each_burst() {
        let (idle, count, trims) = (Idle::default(), Cell::new(0), Cell::new(0));
        let mut watch = pin!(idle.watch(
            QUIET,
            || count.get(),
            || {
                trims.set(trims.get() + 1);
                std::future::ready(())
            }
        ));
        let mut pass = async |time: Duration| {
            let _ = tokio::time::timeout(time, watch.as_mut()).await;
        };
        pass(QUIET * 3).await;
        assert_eq!(trims.get(), 1);
        for rush in 2..=3 {
            for _ in 0..5 {
                count.set(count.get() + 1);
                idle.touch();
                pass(QUIET / 40).await;
            }
            assert_eq!(trims.get(), rush - 1);
            pass(QUIET * 3).await;
            assert_eq!(trims.get(), rush);
        }
    }

    #[tokio::test]
    async fn runs_on_each_thread_of_another_runtime() {
        static THREADS: Mutex<Vec<std::thread::ThreadId>> = Mutex::new(Vec::new());
        let remember = || {
            let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
            threads.push(std::thread::current().id());
        };
        let other = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .build()
            .unwrap();
        let distinct = || {
            let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
            let distinct: std::collections::HashSet<_> = threads.iter().collect();
            assert!(!distinct.contains(&std::thread::current().id()));
            distinct.len()
        };
        // On a busy machine a thread may be late, and another one runs its work.
        for _ in 0..100 {
            run_on_each_thread(other.handle(), remember).await;
            if distinct() == 3 {
                break;
            }
        }
        assert_eq!(distinct(), 3);
        other.shutdown_background();
    }

    #[test]
    fn waits_for_the_other_threads_for_a_bounded_time() {
        let barrier = Barrier::new(2);
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| barrier.wait(Duration::from_secs(60)));
            barrier.wait(Duration::from_secs(60));
            assert!(first.join().is_ok());
        });
        assert!(start.elapsed() < Duration::from_secs(30));
        Barrier::new(2).wait(Duration::from_millis(20));
    }
}
