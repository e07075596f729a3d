//! Two lanes: calls start on the thread that serves their request; long ones move to other threads.
//!
//! Most guests finish within a millisecond, and moving them to another thread would cost more than
//! they do. A guest that computes for longer would delay the requests behind it, so it continues in
//! the slow lane, whose threads run when no other thread wants the CPU ([`priority`]). If others
//! always do, the call moves once more, to threads that get a small part of each CPU.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::schedule::cpu::CpuUsage;
use crate::schedule::priority;
use crate::schedule::ticker::TICK;

/// Whether a guest's calls are usually long. Such calls start in the slow lane: each would take a
/// tick from short calls before it moves.
#[derive(Default)]
pub(crate) struct CallHabit(AtomicU32);

impl CallHabit {
    /// The surplus of long calls over short ones from which calls start in the slow lane.
    const LONG: u32 = 4;
    const MAX: u32 = 2 * Self::LONG;

    fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::LONG
    }

    fn learn(&self, usage: &CpuUsage) {
        let before = self.0.load(Ordering::Relaxed);
        // Only the slow lane measures a whole call.
        let long = usage.is_in_slow_lane() && usage.cpu() >= TICK;
        let after = if long {
            (before + 1).min(Self::MAX)
        } else {
            before.saturating_sub(1)
        };
        // Two calls that end at the same time may count as one.
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

/// The threads of the slow lane.
#[derive(Default)]
pub(crate) struct SlowLane {
    /// Run while no thread of the fast lane wants the CPU.
    idle: LaneThreads,
    /// For calls that starve there: these threads get a part of each CPU, however busy the fast
    /// lane is.
    fair: LaneThreads,
}

/// A set of threads, started when first needed.
#[derive(Default)]
struct LaneThreads {
    runtime: OnceLock<Runtime>,
    /// Locked while threads are started. Whether a failure was logged.
    starting: Mutex<bool>,
}

impl LaneThreads {
    /// Returns `None` if threads cannot be started, as in a container with a low limit of
    /// processes.
    fn runtime(&self, name: &'static str, on_start: fn()) -> Option<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Some(runtime);
        }
        let mut reported = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = self.runtime.get() {
            return Some(runtime);
        }
        // tokio panics if it cannot start its first thread, and loses calls if it cannot start
        // others.
        let started = can_start_threads(thread::available_parallelism().map_or(1, usize::from))
            .and_then(|()| {
                tokio::runtime::Builder::new_multi_thread()
                    // Calls that moved here may still wait for timers and sockets.
                    .enable_all()
                    .thread_name(name)
                    .on_thread_start(on_start)
                    .build()
            });
        match started {
            Ok(runtime) => Some(self.runtime.get_or_init(|| runtime)),
            Err(error) => {
                if !std::mem::replace(&mut *reported, true) {
                    tracing::error!("no threads {name} for long calls: {error}");
                }
                None
            }
        }
    }
}

/// Checks that `count` more threads can run at once.
fn can_start_threads(count: usize) -> io::Result<()> {
    const STACK: usize = 16 * 1024;
    let gate = Mutex::new(());
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let start = |_| {
            let wait = || drop(gate.lock());
            let started = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, wait);
            started.map(drop)
        };
        let all = (0..count).try_for_each(start);
        drop(closed);
        all
    })
}

impl SlowLane {
    fn idle(&self) -> Option<&Runtime> {
        self.idle.runtime("wws-slow", priority::run_when_idle)
    }

    fn fair(&self) -> Option<&Runtime> {
        self.fair.runtime("wws-fair", priority::give_way)
    }

    /// Runs a task in the background. Returns `false` if there are no threads.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.fair().map(|runtime| runtime.spawn(task)).is_some()
    }
}

impl Drop for LaneThreads {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which an asynchronous caller must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A call that runs in the lane that suits it.
pub(crate) struct LanedCall<T> {
    call: Option<BoxFuture<'static, T>>,
    moved: Option<JoinHandle<SlowRun<T>>>,
    usage: Arc<CpuUsage>,
    lane: Arc<SlowLane>,
    habit: Arc<CallHabit>,
}

impl<T: Send + 'static> LanedCall<T> {
    pub(crate) fn new(
        call: BoxFuture<'static, T>,
        usage: Arc<CpuUsage>,
        lane: Arc<SlowLane>,
        habit: Arc<CallHabit>,
    ) -> Self {
        let mut laned = Self {
            call: Some(call),
            moved: None,
            usage,
            lane,
            habit,
        };
        if laned.habit.is_long() {
            laned.move_over();
        }
        laned
    }

    /// Moves the call to the slow lane, if the lane has threads.
    fn move_over(&mut self) {
        if let Some(runtime) = self.lane.idle()
            && let Some(call) = self.call.take()
        {
            self.usage.enter_slow_lane();
            let call = MeasuredCall::new(call, self.usage.clone(), true);
            self.moved = Some(runtime.spawn(call));
        }
    }

    /// Moves a call that starved to threads on which it does not.
    fn move_on(&mut self, call: BoxFuture<'static, T>) {
        // If these cannot be started, the call continues where it was.
        if let Some(runtime) = self.lane.fair().or_else(|| self.lane.idle()) {
            let call = MeasuredCall::new(call, self.usage.clone(), false);
            self.moved = Some(runtime.spawn(call));
        }
    }
}

impl<T: Send + 'static> Future for LanedCall<T> {
    /// `None` if the call panicked.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(call) = &mut this.call {
            if let Poll::Ready(result) = call.as_mut().poll(context) {
                this.call = None;
                return Poll::Ready(Some(result));
            }
            if !this.usage.has_yielded() {
                return Poll::Pending;
            }
            this.move_over();
        }
        while let Some(moved) = &mut this.moved {
            match ready!(Pin::new(moved).poll(context)) {
                Ok(SlowRun::Done(result)) => return Poll::Ready(Some(result)),
                Ok(SlowRun::Starved(call)) => {
                    this.moved = None;
                    this.move_on(call);
                }
                Err(_) => return Poll::Ready(None),
            }
        }
        match this.call {
            Some(_) => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for LanedCall<T> {
    fn drop(&mut self) {
        self.habit.learn(&self.usage);
        if let Some(moved) = &self.moved {
            moved.abort();
        }
    }
}

/// How a call left a thread of the slow lane.
enum SlowRun<T> {
    Done(T),
    /// The call got next to nothing of the CPU.
    Starved(BoxFuture<'static, T>),
}

/// Counts the CPU time of a call in the slow lane.
struct MeasuredCall<T> {
    /// `None` once the call is done or moved on.
    call: Option<BoxFuture<'static, T>>,
    usage: Arc<CpuUsage>,
    /// CPU time on this thread, and time in which the call could run and did not; `None` if the
    /// call stays on this thread.
    hunger: Option<(Duration, Duration)>,
}

/// A call starves if it waited at least this long for a CPU, and this many times as long as it ran.
/// It gets more on the fair threads.
const STARVATION: (Duration, u32) = (Duration::from_millis(100), 12);

impl<T> MeasuredCall<T> {
    fn new(call: BoxFuture<'static, T>, usage: Arc<CpuUsage>, may_leave: bool) -> Self {
        Self {
            call: Some(call),
            usage,
            hunger: may_leave.then_some((Duration::ZERO, Duration::ZERO)),
        }
    }
}

impl<T> Future for MeasuredCall<T> {
    type Output = SlowRun<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<SlowRun<T>> {
        let this = &mut *self;
        let Some(call) = &mut this.call else {
            return Poll::Pending;
        };
        let began = Instant::now();
        let (polled, used) = this.usage.measure_poll(|| call.as_mut().poll(context));
        if let Poll::Ready(result) = polled {
            this.call = None;
            return Poll::Ready(SlowRun::Done(result));
        }
        if let Some((ran, waited)) = &mut this.hunger {
            *ran += used;
            *waited += began.elapsed().saturating_sub(used);
            let (least, times) = STARVATION;
            if *waited >= least
                && *waited > *ran * times
                && let Some(call) = this.call.take()
            {
                return Poll::Ready(SlowRun::Starved(call));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::schedule::cpu::{CpuMeter, LastMeasured, thread_time};

    /// A call that computes for `left` ticks.
    struct Yields {
        left: u32,
        usage: Arc<CpuUsage>,
        last: LastMeasured,
        threads: Vec<String>,
    }

    impl Future for Yields {
        type Output = Vec<String>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<String>> {
            let this = &mut *self;
            let name = std::thread::current().name().unwrap_or("").to_owned();
            this.threads.push(name);
            while this.left > 0 {
                this.left -= 1;
                if this.usage.tick(&mut this.last) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let start = thread_time();
                while thread_time() - start < TICK {}
            }
            Poll::Ready(std::mem::take(&mut this.threads))
        }
    }

    fn is_slow(thread: &String) -> bool {
        // A busy machine may starve the call.
        thread == "wws-slow" || thread == "wws-fair"
    }

    fn run(left: u32, habit: &Arc<CallHabit>) -> Vec<String> {
        let lane = Arc::default();
        let usage = Arc::new(CpuUsage::default());
        let call = Box::pin(Yields {
            left,
            usage: usage.clone(),
            last: LastMeasured::default(),
            threads: Vec::new(),
        });
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(LanedCall::new(call, usage, lane, habit.clone()))
            .unwrap()
    }

    #[test]
    fn moves_long_calls_only() {
        let habit = Arc::default();
        assert!(!run(0, &habit).iter().any(is_slow));
        let threads = run(4, &habit);
        assert!(!is_slow(&threads[0]) && threads.len() == 4, "{threads:?}");
        assert!(threads[1..].iter().all(is_slow), "{threads:?}");
    }

    #[test]
    fn starving_call_moves_to_fair_threads() {
        let stop = AtomicBool::new(false);
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..2 * cpus {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let (lane, habit) = (Arc::default(), Arc::default());
            let usage = Arc::new(CpuUsage::default());
            CpuMeter::new(usage.clone(), Duration::MAX).move_to_slow_lane();
            let mut threads: Vec<String> = Vec::new();
            let call = poll_fn(move |context| {
                threads.push(thread::current().name().unwrap_or("").to_owned());
                if threads.len() > 3000 || threads.last().is_some_and(|name| name == "wws-fair") {
                    return Poll::Ready(std::mem::take(&mut threads));
                }
                let start = thread_time();
                while thread_time() - start < TICK {}
                context.waker().wake_by_ref();
                Poll::Pending
            });
            let threads = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(LanedCall::new(Box::pin(call), usage, lane, habit))
                .unwrap();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(threads.last().unwrap(), "wws-fair");
            assert!(threads.iter().any(|thread| thread == "wws-slow"));
        });
    }

    #[test]
    fn usually_long_calls_start_in_the_slow_lane() {
        let habit = Arc::default();
        for _ in 0..10 {
            run(4, &habit);
        }
        assert!(run(4, &habit).iter().all(is_slow));
        for _ in 0..10 {
            run(0, &habit);
        }
        assert!(!run(0, &habit).iter().any(is_slow));
    }
}
