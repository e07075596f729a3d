//! Two lanes: calls start on the thread that serves their request; long ones move to other threads.
//!
//! Most guests finish within a millisecond, and moving them to another thread would cost more than
//! they do. A guest that computes for longer would delay the requests behind it, so it continues in
//! the slow lane, whose threads run when no other thread wants the CPU ([`priority`]). If others
//! always do, calls move once more, to threads that get a small part of each CPU: both those that
//! run and those that wait for their turn, since one call that gets no CPU holds up all behind it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::schedule::cpu::{CpuUsage, moment_nanos, nanos};
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
    /// Until when calls avoid the idle threads, as [`moment_nanos`].
    avoided: AtomicU64,
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

    /// The runtimes that were started.
    pub(crate) fn started(&self) -> Vec<Handle> {
        [&self.idle, &self.fair]
            .iter()
            .filter_map(|threads| threads.runtime.get())
            .map(|runtime| runtime.handle().clone())
            .collect()
    }

    /// Records that an idle thread got next to nothing of the CPU.
    fn starved(&self) {
        let until = moment_nanos(Instant::now() + AVOIDANCE);
        self.avoided.store(until, Ordering::Relaxed);
    }

    /// Whether a call on the idle threads would get next to nothing of the CPU.
    fn is_starving(&self) -> bool {
        moment_nanos(Instant::now()) < self.avoided.load(Ordering::Relaxed)
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
    moved: Option<MovedCall<T>>,
    usage: Arc<CpuUsage>,
    lane: Arc<SlowLane>,
    habit: Arc<CallHabit>,
}

/// A call in the slow lane.
struct MovedCall<T> {
    task: JoinHandle<SlowRun<T>>,
    /// `None` on the fair threads, where a call stays.
    idle: Option<IdleCall<T>>,
}

/// A call on the idle threads.
struct IdleCall<T> {
    call: Arc<TakenCall<T>>,
    /// When it is looked at next.
    look: Pin<Box<Sleep>>,
}

/// A call that another thread can take while no thread runs it.
struct TakenCall<T> {
    /// `None` once the call is done or was taken.
    call: Mutex<Option<BoxFuture<'static, T>>>,
    /// Since when a thread runs the call, as [`moment_nanos`]; 0 if none does.
    polled_since: AtomicU64,
}

impl<T> TakenCall<T> {
    fn new(call: BoxFuture<'static, T>) -> Arc<Self> {
        Arc::new(Self {
            call: Mutex::new(Some(call)),
            polled_since: AtomicU64::new(0),
        })
    }

    /// Takes the call, unless a thread runs it.
    fn take(&self) -> Option<BoxFuture<'static, T>> {
        self.call.try_lock().ok()?.take()
    }

    /// Whether a thread has run the call for so long that it cannot have had a CPU: a call yields
    /// at each tick.
    fn is_stuck(&self) -> bool {
        let since = self.polled_since.load(Ordering::Relaxed);
        since > 0 && moment_nanos(Instant::now()).saturating_sub(since) >= nanos(STARVATION)
    }
}

/// A call starves if it waited at least this long for a CPU while it could run. It gets more on the
/// fair threads.
const STARVATION: Duration = Duration::from_millis(50);

/// What waits this many times as long as it runs starves, too.
const STARVING_PART: u32 = 12;

/// For how long calls avoid the idle threads once one of them has starved. The next ones try again,
/// and as many as there are threads may starve.
const AVOIDANCE: Duration = Duration::from_secs(10);

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
        let Some(runtime) = self.lane.idle() else {
            return;
        };
        let Some(call) = self.call.take() else {
            return;
        };
        self.usage.enter_slow_lane();
        if self.lane.is_starving() {
            self.move_on(call);
            return;
        }
        let call = TakenCall::new(call);
        let run = MeasuredCall::new(call.clone(), self.usage.clone(), Some(self.lane.clone()));
        self.moved = Some(MovedCall {
            task: runtime.spawn(run),
            idle: Some(IdleCall {
                call,
                look: Box::pin(tokio::time::sleep(STARVATION)),
            }),
        });
    }

    /// Moves a call to threads on which it does not starve.
    fn move_on(&mut self, call: BoxFuture<'static, T>) {
        // If these cannot be started, the call continues where it was.
        if let Some(runtime) = self.lane.fair().or_else(|| self.lane.idle()) {
            let call = MeasuredCall::new(TakenCall::new(call), self.usage.clone(), None);
            self.moved = Some(MovedCall {
                task: runtime.spawn(call),
                idle: None,
            });
        }
    }

    /// Looks whether the call starves on the idle threads, now and then. Returns it if it is to
    /// leave them.
    fn poll_starved(&mut self, context: &mut Context<'_>) -> Poll<BoxFuture<'static, T>> {
        let Some(MovedCall {
            task,
            idle: Some(idle),
        }) = &mut self.moved
        else {
            return Poll::Pending;
        };
        loop {
            ready!(idle.look.as_mut().poll(context));
            if idle.call.is_stuck() {
                self.lane.starved();
            }
            if self.lane.is_starving()
                && let Some(call) = idle.call.take()
            {
                task.abort();
                return Poll::Ready(call);
            }
            idle.look
                .as_mut()
                .reset(tokio::time::Instant::now() + STARVATION);
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
            let starved = match Pin::new(&mut moved.task).poll(context) {
                Poll::Ready(Ok(SlowRun::Done(result))) => return Poll::Ready(Some(result)),
                Poll::Ready(Ok(SlowRun::Starved(call))) => call,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => ready!(this.poll_starved(context)),
            };
            this.moved = None;
            this.move_on(starved);
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
            moved.task.abort();
            // The thread that drops the task may have to wait for a CPU.
            if let Some(idle) = &moved.idle {
                drop(idle.call.take());
            }
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
    call: Arc<TakenCall<T>>,
    usage: Arc<CpuUsage>,
    /// The lane whose idle threads run the call; `None` if it stays on its thread.
    lane: Option<Arc<SlowLane>>,
    /// CPU time on this thread, and time in which the call could run and did not.
    hunger: (Duration, Duration),
}

impl<T> MeasuredCall<T> {
    fn new(call: Arc<TakenCall<T>>, usage: Arc<CpuUsage>, lane: Option<Arc<SlowLane>>) -> Self {
        Self {
            call,
            usage,
            lane,
            hunger: (Duration::ZERO, Duration::ZERO),
        }
    }
}

impl<T> Future for MeasuredCall<T> {
    type Output = SlowRun<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<SlowRun<T>> {
        let this = &mut *self;
        let mut place = this
            .call
            .call
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The call was taken, and the task is aborted.
        let Some(call) = &mut *place else {
            return Poll::Pending;
        };
        let began = Instant::now();
        this.call
            .polled_since
            .store(moment_nanos(began), Ordering::Relaxed);
        let (polled, used) = this.usage.measure_poll(|| call.as_mut().poll(context));
        this.call.polled_since.store(0, Ordering::Relaxed);
        if let Poll::Ready(result) = polled {
            *place = None;
            return Poll::Ready(SlowRun::Done(result));
        }
        if let Some(lane) = &this.lane {
            let waited = began.elapsed().saturating_sub(used);
            let (all_used, all_waited) = &mut this.hunger;
            *all_used += used;
            *all_waited += waited;
            // Many short waits are a long one.
            if waited >= STARVATION
                || *all_waited >= STARVATION && *all_waited > *all_used * STARVING_PART
            {
                lane.starved();
            }
            if lane.is_starving()
                && let Some(call) = place.take()
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
        block_on(async { LanedCall::new(call, usage, lane, habit.clone()).await }).unwrap()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Runs `test` while threads of normal priority keep all CPUs busy.
    fn on_busy_cpus<T>(test: impl FnOnce() -> T) -> T {
        struct StopOnDrop<'a>(&'a AtomicBool);
        impl Drop for StopOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
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
            let _stop = StopOnDrop(&stop);
            test()
        })
    }

    #[test]
    fn moves_long_calls_only() {
        let habit = Arc::default();
        assert!(!run(0, &habit).iter().any(is_slow));
        let threads = run(4, &habit);
        assert!(!is_slow(&threads[0]) && threads.len() == 4, "{threads:?}");
        assert!(threads[1..].iter().all(is_slow), "{threads:?}");
    }

    /// A call that computes for `ticks` polls of a tick each, or until it is on a fair thread.
    /// Returns the threads.
    fn computing(ticks: usize) -> BoxFuture<'static, Vec<String>> {
        let mut threads: Vec<String> = Vec::new();
        Box::pin(poll_fn(move |context| {
            let is_fair = threads.last().is_some_and(|name| name == "wws-fair");
            if threads.len() > ticks || is_fair {
                return Poll::Ready(std::mem::take(&mut threads));
            }
            threads.push(thread::current().name().unwrap_or("").to_owned());
            let start = thread_time();
            while thread_time() - start < TICK {}
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    /// A call that is to move to the slow lane.
    fn slow(call: BoxFuture<'static, Vec<String>>, lane: &Arc<SlowLane>) -> LanedCall<Vec<String>> {
        let usage = Arc::new(CpuUsage::default());
        CpuMeter::new(usage.clone(), Duration::MAX).move_to_slow_lane();
        LanedCall::new(call, usage, lane.clone(), Arc::default())
    }

    #[test]
    fn starving_call_moves_to_fair_threads() {
        on_busy_cpus(|| {
            let lane = Arc::default();
            let threads = block_on(async { slow(computing(3000), &lane).await }).unwrap();
            assert_eq!(threads.last().unwrap(), "wws-fair");
            assert!(threads.iter().any(|thread| thread == "wws-slow"));
            // The next one does not try.
            let threads = block_on(async { slow(computing(3000), &lane).await }).unwrap();
            assert!(!threads.iter().any(|thread| thread == "wws-slow"));
        });
    }

    #[test]
    fn calls_behind_a_starving_one_do_not_starve() {
        on_busy_cpus(|| {
            let lane = Arc::default();
            let began = Instant::now();
            let longest = block_on(async {
                let calls = (0..64).map(|_| async {
                    slow(computing(2), &lane).await.unwrap();
                    began.elapsed()
                });
                futures_util::future::join_all(calls).await
            });
            let longest = longest.into_iter().max().unwrap();
            // The idle threads alone would take more than a minute.
            assert!(longest < Duration::from_secs(20), "{longest:?}");
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
