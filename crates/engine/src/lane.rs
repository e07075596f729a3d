//! Two lanes: a call runs where its request is served; one that goes on for long moves to threads of its own.
//!
//! Most guests end within a millisecond, and handing them to another thread would cost more than they do. One that computes for
//! longer would keep the requests behind it waiting: it goes on in the slow lane, whose threads run when no other thread wants to
//! (`priority`). Where others always want to, it moves once more, to threads that get a small part of each CPU.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{host::Host, priority, ticker::TICK};

/// How a call uses the processor.
#[derive(Default)]
pub(crate) struct Usage {
    /// CPU time in nanoseconds.
    cpu: AtomicU64,
    /// It gave way at the end of a tick.
    yielded: AtomicBool,
    /// Ticks at which it did.
    ticks: AtomicU64,
    slow: AtomicBool,
}

impl Usage {
    /// A tick of the clock found the guest running. Says whether it gives way.
    ///
    /// A guest that the system had interrupted for others has done nothing for it: in the thread that serves its request it gives way
    /// when it was found twice and ran for most of the time between.
    pub(crate) fn tick(&self, looks: &mut Looks) -> bool {
        if !self.slow.load(Ordering::Relaxed) {
            let (thread, now) = thread_and_time();
            match looks.0 {
                Some((same, before)) if same == thread => {
                    let ran = now.saturating_sub(before);
                    if ran < TICK / 2 {
                        return false;
                    }
                    // And before it was first found.
                    self.add(if self.ticks() == 0 { ran + TICK } else { ran });
                    looks.0 = Some((thread, now));
                }
                _ => {
                    looks.0 = Some((thread, now));
                    return false;
                }
            }
        }
        self.yielded.store(true, Ordering::Relaxed);
        self.ticks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Ticks at which it gave way.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// The guest ran for `time` between two ticks. Returns its CPU time so far.
    pub(crate) fn count(&self, time: Duration) -> Duration {
        if !self.slow.load(Ordering::Relaxed) {
            self.add(time);
        }
        self.cpu()
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Duration {
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

/// Where and when a guest was last measured: its thread, and that thread's CPU time.
#[derive(Default)]
pub(crate) struct Looks(Option<(ThreadId, Duration)>);

/// Measures the CPU time of one instance, at ticks and between its waits, against its limit.
pub(crate) struct CpuMeter {
    usage: Arc<Usage>,
    looks: Looks,
    limit: Duration,
}

impl CpuMeter {
    pub(crate) fn new(usage: Arc<Usage>, limit: Duration) -> Self {
        Self {
            usage,
            looks: Looks::default(),
            limit,
        }
    }

    /// A tick of the clock found the guest running. Says whether it gives way.
    pub(crate) fn tick(&mut self) -> bool {
        self.usage.tick(&mut self.looks)
    }

    /// What was measured until now does not count.
    pub(crate) fn restart(&mut self) {
        self.looks = Looks::default();
    }

    /// The guest used more CPU time than it may.
    pub(crate) fn is_over(&self) -> bool {
        self.usage.cpu() > self.limit
    }

    /// The guest waited. What its thread did meanwhile was done for others.
    pub(crate) fn waited(&mut self, wait: &Wait) {
        if self.usage.slow.load(Ordering::Relaxed) {
            return;
        }
        self.add_until(wait.began_at);
        self.looks.0 = Some(thread_and_time());
    }

    /// The guest gives way when it waits for the next time.
    pub(crate) fn move_to_slow_lane(&self) {
        self.usage.yielded.store(true, Ordering::Relaxed);
    }

    /// The host did something for the guest, which counts as the guest's CPU time.
    pub(crate) fn worked(&mut self) {
        if !self.usage.slow.load(Ordering::Relaxed) {
            let now = thread_and_time();
            self.add_until(now);
            self.looks.0 = Some(now);
        }
    }

    fn add_until(&mut self, (thread, until): (ThreadId, Duration)) {
        if let Some((same, from)) = self.looks.0
            && same == thread
        {
            self.usage.add(until.saturating_sub(from));
            // Many short runs are a long one.
            if self.usage.cpu() >= 2 * TICK {
                self.usage.yielded.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// A time in which a guest waited for something outside of it.
pub(crate) struct Wait {
    pub(crate) time: Duration,
    /// The thread that it left, and that thread's CPU time then.
    began_at: (ThreadId, Duration),
}

/// Runs `future` and says how long it waited; `None`: it did not.
pub(crate) async fn measure_wait<F: Future>(future: F) -> (F::Output, Option<Wait>) {
    let mut future = pin!(future);
    // What is there already costs nothing.
    let first = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(output) = first {
        return (output, None);
    }
    let (began, began_at) = (Instant::now(), thread_and_time());
    let output = future.await;
    let time = began.elapsed();
    (output, Some(Wait { time, began_at }))
}

fn thread_and_time() -> (ThreadId, Duration) {
    (std::thread::current().id(), thread_time())
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The pieces of a host function's work that is as long as its guest says: between two of them the guest gives way, and stops
/// when it has used its CPU time.
pub(crate) struct Pieces {
    since: Duration,
}

impl Pieces {
    pub(crate) fn new(host: &mut Host) -> Self {
        // The work is measured from here.
        host.cpu.worked();
        Self {
            since: thread_time(),
        }
    }

    /// To be called after each piece.
    ///
    /// # Errors
    /// The guest has used its CPU time.
    pub(crate) async fn next(&mut self, host: &mut Host) -> wasmtime::Result<()> {
        if thread_time().saturating_sub(self.since) >= TICK {
            host.give_way().await?;
            // Perhaps in another thread.
            self.since = thread_time();
        }
        Ok(())
    }
}

/// Whether a guest's calls are long ones. Then they begin in the slow lane: each would take a tick from short calls before it moves.
#[derive(Default)]
pub(crate) struct Habit(AtomicU32);

impl Habit {
    /// So many long calls more than short ones make it a habit.
    const LONG: u32 = 4;
    const MAX: u32 = 2 * Self::LONG;

    fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::LONG
    }

    fn learn(&self, usage: &Usage) {
        let before = self.0.load(Ordering::Relaxed);
        // Only in the slow lane is it known how long it was.
        let long = usage.slow.load(Ordering::Relaxed) && usage.cpu() >= TICK;
        let after = if long {
            (before + 1).min(Self::MAX)
        } else {
            before.saturating_sub(1)
        };
        // Two calls that end at once may count as one.
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

/// The slow lane's threads.
#[derive(Default)]
pub(crate) struct SlowLane {
    /// Run whenever no thread of the fast lane wants to.
    idle: Threads,
    /// For calls that these starve: they get a part of each CPU, however busy the fast lane is.
    fair: Threads,
}

/// A set of threads, started when first needed.
#[derive(Default)]
struct Threads {
    runtime: OnceLock<Runtime>,
    /// Held while they are started. Whether it was reported that they could not be.
    starting: Mutex<bool>,
}

impl Threads {
    /// `None`: there are too few threads for now, as of a container with a low limit of processes.
    fn runtime(&self, name: &'static str, on_start: fn()) -> Option<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Some(runtime);
        }
        let mut reported = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = self.runtime.get() {
            return Some(runtime);
        }
        // tokio panics where it cannot start its first thread, and loses calls where it cannot
        // start another.
        let started = can_start_threads(thread::available_parallelism().map_or(1, usize::from))
            .and_then(|()| {
                tokio::runtime::Builder::new_multi_thread()
                    // A call that moved here may still wait for time and sockets.
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

/// Whether so many more threads can run at once.
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

    /// Runs something that nobody waits for. `false`: there are no threads.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.fair().map(|runtime| runtime.spawn(task)).is_some()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which an asynchronous caller must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a call in the lane that fits it.
pub(crate) struct Laned<'a, T> {
    call: Option<Boxed<T>>,
    moved: Option<JoinHandle<Slow<T>>>,
    usage: &'a Arc<Usage>,
    lane: &'a SlowLane,
    habit: &'a Habit,
}

impl<'a, T: Send + 'static> Laned<'a, T> {
    pub(crate) fn new(
        call: Boxed<T>,
        usage: &'a Arc<Usage>,
        lane: &'a SlowLane,
        habit: &'a Habit,
    ) -> Self {
        let mut laned = Self {
            call: Some(call),
            moved: None,
            usage,
            lane,
            habit,
        };
        if habit.is_long() {
            laned.move_over();
        }
        laned
    }

    /// Moves the call to the slow lane, if that has threads.
    fn move_over(&mut self) {
        if let Some(runtime) = self.lane.idle()
            && let Some(call) = self.call.take()
        {
            self.usage.slow.store(true, Ordering::Relaxed);
            let call = Measured::new(call, self.usage.clone(), true);
            self.moved = Some(runtime.spawn(call));
        }
    }

    /// Moves a call that starved to where it cannot.
    fn move_on(&mut self, call: Boxed<T>) {
        // Without other threads it goes on where it was.
        if let Some(runtime) = self.lane.fair().or_else(|| self.lane.idle()) {
            let call = Measured::new(call, self.usage.clone(), false);
            self.moved = Some(runtime.spawn(call));
        }
    }
}

impl<T: Send + 'static> Future for Laned<'_, T> {
    /// `None`: the call panicked.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(call) = &mut this.call {
            if let Poll::Ready(result) = call.as_mut().poll(context) {
                this.call = None;
                return Poll::Ready(Some(result));
            }
            if !this.usage.yielded.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            this.move_over();
        }
        while let Some(moved) = &mut this.moved {
            match ready!(Pin::new(moved).poll(context)) {
                Ok(Slow::Done(result)) => return Poll::Ready(Some(result)),
                Ok(Slow::Starved(call)) => {
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

impl<T> Drop for Laned<'_, T> {
    fn drop(&mut self) {
        self.habit.learn(self.usage);
        if let Some(moved) = &self.moved {
            moved.abort();
        }
    }
}

/// How a call left a thread of the slow lane.
enum Slow<T> {
    Done(T),
    /// It got next to nothing of the CPU.
    Starved(Boxed<T>),
}

/// Counts the CPU time of a call in the slow lane.
struct Measured<T> {
    /// There until it is done.
    call: Option<Boxed<T>>,
    usage: Arc<Usage>,
    /// CPU time here, and time in which it could run and did not; `None`: it stays here.
    hunger: Option<(Duration, Duration)>,
}

/// A call starves when it waited so long for a CPU and for so many times what it got of it: it
/// gets more among the fair threads.
const STARVED: (Duration, u32) = (Duration::from_millis(100), 12);

impl<T> Measured<T> {
    fn new(call: Boxed<T>, usage: Arc<Usage>, may_leave: bool) -> Self {
        Self {
            call: Some(call),
            usage,
            hunger: may_leave.then_some((Duration::ZERO, Duration::ZERO)),
        }
    }
}

impl<T> Future for Measured<T> {
    type Output = Slow<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Slow<T>> {
        let this = &mut *self;
        let Some(call) = &mut this.call else {
            return Poll::Pending;
        };
        let (began, start) = (Instant::now(), thread_time());
        let polled = call.as_mut().poll(context);
        let used = thread_time().saturating_sub(start);
        this.usage.add(used);
        if let Poll::Ready(result) = polled {
            this.call = None;
            return Poll::Ready(Slow::Done(result));
        }
        if let Some((ran, waited)) = &mut this.hunger {
            *ran += used;
            *waited += began.elapsed().saturating_sub(used);
            let (least, times) = STARVED;
            if *waited >= least
                && *waited > *ran * times
                && let Some(call) = this.call.take()
            {
                return Poll::Ready(Slow::Starved(call));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A call that computes for `left` ticks.
    struct Yields {
        left: u32,
        usage: Arc<Usage>,
        looks: Looks,
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
                if this.usage.tick(&mut this.looks) {
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
        // A busy machine may starve it.
        thread == "wws-slow" || thread == "wws-fair"
    }

    fn run(left: u32, habit: &Habit) -> Vec<String> {
        let lane = SlowLane::default();
        let usage = Arc::new(Usage::default());
        let call = Box::pin(Yields {
            left,
            usage: usage.clone(),
            looks: Looks::default(),
            threads: Vec::new(),
        });
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(Laned::new(call, &usage, &lane, habit))
            .unwrap()
    }

    #[test]
    fn a_short_call_stays_and_a_long_one_moves() {
        let habit = Habit::default();
        assert!(!run(0, &habit).iter().any(is_slow));
        let threads = run(4, &habit);
        assert!(!is_slow(&threads[0]) && threads.len() == 4, "{threads:?}");
        assert!(threads[1..].iter().all(is_slow), "{threads:?}");
    }

    #[test]
    fn a_call_that_others_starve_moves_to_threads_that_get_their_part() {
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
            let (lane, habit) = (SlowLane::default(), Habit::default());
            let usage = Arc::new(Usage::default());
            usage.yielded.store(true, Ordering::Relaxed);
            let mut threads: Vec<String> = Vec::new();
            let call = poll_fn(move |context| {
                threads.push(thread::current().name().unwrap_or("").to_owned());
                if threads.len() > 3000 || threads.last().is_some_and(|name| name == "wws-fair") {
                    return Poll::Ready(std::mem::take(&mut threads));
                }
                compute(TICK);
                context.waker().wake_by_ref();
                Poll::Pending
            });
            let threads = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(Laned::new(Box::pin(call), &usage, &lane, &habit))
                .unwrap();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(threads.last().unwrap(), "wws-fair");
            assert!(threads.iter().any(|thread| thread == "wws-slow"));
        });
    }

    #[test]
    fn a_call_that_was_interrupted_does_not_give_way() {
        let (usage, mut looks) = (Usage::default(), Looks::default());
        for _ in 0..5 {
            assert!(!usage.tick(&mut looks));
            std::thread::sleep(TICK);
        }
        assert_eq!(usage.cpu(), Duration::ZERO);
    }

    fn compute(time: Duration) {
        let start = thread_time();
        while thread_time() - start < time {}
    }

    #[tokio::test]
    async fn time_of_others_during_a_wait_is_not_counted() {
        let usage = Arc::new(Usage::default());
        let mut meter = CpuMeter::new(usage.clone(), Duration::from_millis(100));
        assert!(!meter.tick());
        compute(2 * TICK);
        let mut polled = false;
        let ((), wait) = measure_wait(poll_fn(|context| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }))
        .await;
        let wait = wait.unwrap();
        compute(Duration::from_millis(200));
        meter.waited(&wait);
        assert!(usage.cpu() < Duration::from_millis(50), "{:?}", usage.cpu());
        assert!(!meter.is_over());
        assert!(usage.yielded.load(Ordering::Relaxed));
    }

    #[test]
    fn a_guest_that_is_always_long_begins_in_the_slow_lane_until_it_is_short_again() {
        let habit = Habit::default();
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
