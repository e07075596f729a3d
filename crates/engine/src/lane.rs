//! Two lanes: a call runs where its request is served; one that goes on for long moves to threads of its own.
//!
//! Most guests end within a millisecond, and handing them to another thread would cost more than they do. One that computes for
//! longer would keep the requests behind it waiting: it goes on in the slow lane, whose threads have a lower priority, so that the
//! operating system shares the processors fairly.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::ticker::TICK;

/// Nice value of the slow lane's threads.
const NICE: i32 = 10;

/// How a call uses the processor.
#[derive(Default)]
pub(crate) struct Usage {
    /// CPU time in nanoseconds.
    cpu: AtomicU64,
    /// It gave way at the end of a tick.
    yielded: AtomicBool,
    /// Ticks that found it running.
    ticks: AtomicU64,
    slow: AtomicBool,
}

impl Usage {
    /// A tick of the clock found the guest running. Returns its CPU time so far.
    pub(crate) fn tick(&self) -> Duration {
        self.yielded.store(true, Ordering::Relaxed);
        self.ticks.fetch_add(1, Ordering::Relaxed);
        if !self.slow.load(Ordering::Relaxed) {
            self.add(TICK);
        }
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// Ticks that found the guest running.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// The guest ran for `time` between two ticks. Returns its CPU time so far.
    pub(crate) fn count(&self, time: Duration) -> Duration {
        if !self.slow.load(Ordering::Relaxed) {
            self.add(time);
        }
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// What was used until now does not count.
    pub(crate) fn reset(&self) {
        self.cpu.store(0, Ordering::Relaxed);
        self.yielded.store(false, Ordering::Relaxed);
    }

    fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.cpu.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The slow lane's threads, started when first needed.
#[derive(Default)]
pub(crate) struct SlowLane(OnceLock<Option<Runtime>>);

impl SlowLane {
    fn runtime(&self) -> Option<&Runtime> {
        self.0
            .get_or_init(|| {
                tokio::runtime::Builder::new_multi_thread()
                    // A call that moved here may still wait for time and sockets.
                    .enable_all()
                    .thread_name("wws-slow")
                    .on_thread_start(|| {
                        // On Linux this is the thread's own value. Without it the lane is only less polite.
                        let _ = rustix::process::setpriority_process(None, NICE);
                    })
                    .build()
                    .inspect_err(|error| tracing::error!("no threads for long calls: {error}"))
                    .ok()
            })
            .as_ref()
    }
}

impl SlowLane {
    /// Runs something that nobody waits for. `false`: there are no threads.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.runtime().map(|runtime| runtime.spawn(task)).is_some()
    }
}

impl Drop for SlowLane {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which an asynchronous caller must not.
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a call in the lane that fits it.
pub(crate) struct Laned<'a, T> {
    call: Option<Boxed<T>>,
    moved: Option<JoinHandle<T>>,
    usage: &'a Usage,
    lane: &'a SlowLane,
    shared: std::sync::Arc<Usage>,
}

impl<'a, T> Laned<'a, T> {
    pub(crate) fn new(
        call: Boxed<T>,
        usage: &'a std::sync::Arc<Usage>,
        lane: &'a SlowLane,
    ) -> Self {
        Self {
            call: Some(call),
            moved: None,
            usage,
            lane,
            shared: usage.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Laned<'_, T> {
    /// `None`: the call panicked.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(call) = &mut self.call {
            if let Poll::Ready(result) = call.as_mut().poll(context) {
                self.call = None;
                return Poll::Ready(Some(result));
            }
            if !self.usage.yielded.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            let Some(runtime) = self.lane.runtime() else {
                return Poll::Pending;
            };
            if let Some(call) = self.call.take() {
                self.usage.slow.store(true, Ordering::Relaxed);
                self.moved = Some(runtime.spawn(Measured {
                    call,
                    usage: self.shared.clone(),
                }));
            }
        }
        match &mut self.moved {
            Some(moved) => Pin::new(moved).poll(context).map(Result::ok),
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Laned<'_, T> {
    fn drop(&mut self) {
        if let Some(moved) = &self.moved {
            moved.abort();
        }
    }
}

/// Counts the CPU time of a call.
struct Measured<T> {
    call: Boxed<T>,
    usage: std::sync::Arc<Usage>,
}

impl<T> Future for Measured<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let now = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(
                u64::try_from(time.tv_sec).unwrap_or(0),
                u32::try_from(time.tv_nsec).unwrap_or(0),
            )
        };
        let start = now();
        let polled = self.call.as_mut().poll(context);
        self.usage.add(now().saturating_sub(start));
        polled
    }
}
