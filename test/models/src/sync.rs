//! Takes the place of `crate::sync` of the engine and of the server.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use shuttle::rand::Rng;

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
pub(crate) use tokio::sync::oneshot;

pub(crate) mod thread {
    pub(crate) use shuttle::thread::{JoinHandle, spawn, yield_now};

    /// Lets others run. (shuttle's own may go on at once, always.)
    pub(crate) fn sleep(_time: std::time::Duration) {
        yield_now();
    }

    /// A thread whose name and stack are the model's.
    pub(crate) struct Builder;

    impl Builder {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn name(self, _name: String) -> Self {
            self
        }

        pub(crate) fn stack_size(self, _size: usize) -> Self {
            self
        }

        pub(crate) fn spawn<T: 'static + Send>(
            self,
            run: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            Ok(spawn(run))
        }
    }
}

/// A time of which some or much has passed whenever it is asked.
pub(crate) struct Instant;

impl Instant {
    pub(crate) fn now() -> Self {
        Self
    }

    pub(crate) fn elapsed(&self) -> Duration {
        if shuttle::rand::thread_rng().gen_bool(0.5) {
            Duration::ZERO
        } else {
            Duration::MAX
        }
    }
}

/// The time of a [`timeout`] was over.
pub(crate) struct Elapsed;

/// Half of these end at some time, unless their time is [`Duration::MAX`].
pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let ends = time != Duration::MAX && shuttle::rand::thread_rng().gen_bool(0.5);
    let mut timer = pin!(Timer {
        state: Arc::new(AtomicBool::new(false)),
        started: !ends,
    });
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        timer.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}

/// Ends after the threads that run meanwhile took some steps.
struct Timer {
    state: Arc<AtomicBool>,
    started: bool,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.state.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        if !self.started {
            self.started = true;
            let (state, waker) = (self.state.clone(), context.waker().clone());
            thread::spawn(move || {
                thread::yield_now();
                state.store(true, Ordering::SeqCst);
                waker.wake();
            });
        }
        Poll::Pending
    }
}
