//! The thread that loads projects: it alone may make compiled code executable. All other threads
//! are started without that right, see [`crate::sandbox`].

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Sender, channel},
    thread,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs on the loading thread, one after another. Cheap to clone; the thread ends with the
/// last clone.
#[derive(Clone)]
pub(crate) struct Loader(Sender<Job>);

impl Loader {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, received) = channel::<Job>();
        thread::Builder::new()
            .name("wws-load".into())
            .spawn(move || {
                for job in received {
                    job();
                }
            })?;
        Ok(Self(jobs))
    }

    /// Runs `job`. The receiver gets its result, or an error if it panicked.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, result) = oneshot::channel();
        // The thread ends with this process only.
        let _ = self.0.send(Box::new(move || {
            if let Ok(done) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = sender.send(done);
            }
        }));
        result
    }

    /// Lets later jobs give way to requests: the thread has a low priority, as the threads of long
    /// calls, and compiles alone.
    pub(crate) fn give_way(&self) {
        // Not waited for.
        drop(self.run(|| {
            wws_server::give_way();
            // The pool of this thread and no other. Without it, all threads of the common pool
            // compile.
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1);
            match alone.use_current_thread().build() {
                // Dropping it would end it.
                Ok(pool) => std::mem::forget(pool),
                Err(error) => tracing::debug!("cannot compile on one thread: {error}"),
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn runs_jobs_one_by_one_at_low_priority() {
        let loader = Loader::start().unwrap();
        let panicked = loader.run(|| panic!("a defect"));
        let _: Result<(), _> = panicked.blocking_recv();
        loader.give_way();
        let threads = loader.run(|| {
            let nice = rustix::process::getpriority_process(None).unwrap();
            (rayon::current_num_threads(), nice)
        });
        let (threads, nice) = threads.blocking_recv().unwrap();
        assert_eq!(threads, 1);
        assert!(nice > rustix::process::getpriority_process(None).unwrap());
    }
}
