//! CPU time of calls: measured at ticks, between waits, and for work of the host.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::schedule::steady::{Steadiness, SteadyPlaces};
use crate::schedule::ticker::TICK;

/// The CPU time of a call.
#[derive(Default)]
pub(crate) struct CpuUsage {
    /// CPU time in nanoseconds.
    cpu: AtomicU64,
    /// Whether the call yielded at the end of a tick, or is to move to the slow lane.
    yielded: AtomicBool,
    /// Ticks at which the call yielded.
    ticks: AtomicU64,
    slow: AtomicBool,
    /// How often the call was polled after it first waited: its CPU time is measured at each of
    /// these then ([`MeasuredPolls`]).
    polls: AtomicU32,
    /// Within a poll that is measured: the thread's CPU time in nanoseconds at its start. Zero
    /// otherwise.
    poll_start: AtomicU64,
    /// When a poll began whose start is not exact, as [`moment_nanos`]. Zero otherwise.
    poll_began: AtomicU64,
}

/// Polls that take less time count with that time, although other threads may have run in it.
const SHORT_POLL: Duration = Duration::from_micros(100);

thread_local! {
    /// When this thread's CPU time was read, and what it was.
    static LAST_READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// This thread's CPU time at a moment of the last tick: reading it is a system call.
fn recent_thread_time(now: Instant) -> Duration {
    if let Some((at, time)) = LAST_READ.get()
        && now.saturating_duration_since(at) < TICK
    {
        return time;
    }
    let time = thread_time();
    LAST_READ.set(Some((now, time)));
    time
}

/// A moment in nanoseconds since a moment that is the same for the whole process, so that an
/// atomic can hold it. At least 1: zero stands for no moment.
pub(crate) fn moment_nanos(moment: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    nanos(moment.saturating_duration_since(first)).max(1)
}

impl CpuUsage {
    /// Runs `poll` and counts its CPU time, which is returned.
    pub(crate) fn measure_poll<R>(&self, poll: impl FnOnce() -> R) -> (R, Duration) {
        let start = thread_time();
        self.poll_start.store(nanos(start), Ordering::Relaxed);
        let result = poll();
        self.poll_start.store(0, Ordering::Relaxed);
        let time = thread_time().saturating_sub(start);
        self.add(time);
        (result, time)
    }

    /// [`Self::measure_poll`] for a poll that most likely is short. Its CPU time may be counted as
    /// up to a tick more where other threads interrupted it.
    fn measure_short_poll<R>(&self, poll: impl FnOnce() -> R) -> (R, Duration) {
        let began = Instant::now();
        let start = recent_thread_time(began);
        self.poll_start
            .store(nanos(start).max(1), Ordering::Relaxed);
        self.poll_began
            .store(moment_nanos(began), Ordering::Relaxed);
        let result = poll();
        self.poll_start.store(0, Ordering::Relaxed);
        self.poll_began.store(0, Ordering::Relaxed);
        let mut time = began.elapsed();
        if time >= SHORT_POLL {
            let now = thread_time();
            LAST_READ.set(Some((Instant::now(), now)));
            time = time.min(now.saturating_sub(start));
        }
        self.add(time);
        (result, time)
    }

    /// CPU time of the poll that is being measured, so far.
    fn time_in_poll(&self) -> Option<Duration> {
        let start = match self.poll_start.load(Ordering::Relaxed) {
            0 => return None,
            start => Duration::from_nanos(start),
        };
        let time = thread_time().saturating_sub(start);
        Some(match self.poll_began.load(Ordering::Relaxed) {
            0 => time,
            began => {
                let elapsed = moment_nanos(Instant::now()).saturating_sub(began);
                time.min(Duration::from_nanos(elapsed))
            }
        })
    }

    /// Records that a tick found the guest running. Returns whether the guest yields.
    ///
    /// On the thread that serves its request, a guest yields when two ticks found it running and it
    /// ran for most of the time between: the system may have interrupted it for other threads.
    pub(crate) fn tick(&self, last: &mut LastMeasured) -> bool {
        if !self.is_in_slow_lane() {
            let (thread, now) = thread_and_time();
            let polls = self.polls.load(Ordering::Relaxed);
            match last.0 {
                Some((same, before)) if same == thread && last.1 == polls => {
                    let ran = now.saturating_sub(before);
                    if ran < TICK / 2 {
                        return false;
                    }
                    // Adds the tick before the guest was first found.
                    if polls == 0 {
                        self.add(if self.ticks() == 0 { ran + TICK } else { ran });
                    }
                    last.0 = Some((thread, now));
                }
                _ => {
                    *last = LastMeasured(Some((thread, now)), polls);
                    return false;
                }
            }
        }
        self.yielded.store(true, Ordering::Relaxed);
        self.ticks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Ticks at which the call yielded.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Records that the guest ran for `time` between two ticks. Returns its CPU time so far.
    pub(crate) fn count(&self, time: Duration) -> Duration {
        if !self.is_in_slow_lane() {
            self.add(time);
        }
        self.cpu()
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// Resets the CPU time to zero.
    pub(crate) fn reset(&self) {
        self.cpu.store(0, Ordering::Relaxed);
        self.yielded.store(false, Ordering::Relaxed);
    }

    /// Whether the call yielded, so that it belongs to the slow lane.
    pub(crate) fn has_yielded(&self) -> bool {
        self.yielded.load(Ordering::Relaxed)
    }

    /// Records that the call continues in the slow lane, which measures all of its CPU time.
    pub(crate) fn enter_slow_lane(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_in_slow_lane(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, time: Duration) {
        self.cpu.fetch_add(nanos(time), Ordering::Relaxed);
    }
}

/// A time in nanoseconds, or the most that fit.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The thread on which a guest was last measured, and that thread's CPU time; and in which poll of
/// the call.
#[derive(Default)]
pub(crate) struct LastMeasured(Option<(ThreadId, Duration)>, u32);

/// A call whose guest waits in functions that do not measure it, as those of components: once it
/// has waited, each of its polls is measured.
pub(crate) struct MeasuredPolls<F> {
    call: Pin<Box<F>>,
    usage: Arc<CpuUsage>,
    start: Instant,
    steadiness: Steadiness,
}

/// A call whose polls use less than this part of the time may go on beside other requests, however
/// long it lasts. So may a few that use more, if each poll is short ([`Steadiness`]).
const BUSY_PART: u32 = 20;

impl<F> MeasuredPolls<F> {
    pub(crate) fn new(call: F, usage: Arc<CpuUsage>, places: Arc<SteadyPlaces>) -> Self {
        Self {
            call: Box::pin(call),
            usage,
            start: Instant::now(),
            steadiness: Steadiness::new(places),
        }
    }
}

impl<F: Future> Future for MeasuredPolls<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let has_waited = this.usage.polls.load(Ordering::Relaxed) > 0;
        // The slow lane measures all of a call.
        if !has_waited || this.usage.is_in_slow_lane() {
            this.steadiness.rests();
            let polled = this.call.as_mut().poll(context);
            if polled.is_pending() {
                this.usage.polls.fetch_add(1, Ordering::Relaxed);
            }
            return polled;
        }
        this.usage.polls.fetch_add(1, Ordering::Relaxed);
        let call = this.call.as_mut();
        let (polled, time) = this.usage.measure_short_poll(|| call.poll(context));
        this.steadiness.polled(time);
        // Many short runs count as a long one.
        let cpu = this.usage.cpu();
        if cpu < 2 * TICK || cpu * BUSY_PART < this.start.elapsed() {
            this.steadiness.rests();
        } else if !this.steadiness.may_stay() {
            this.usage.yielded.store(true, Ordering::Relaxed);
        }
        polled
    }
}

/// Measures the CPU time of one instance, at ticks and between its waits, against its limit.
pub(crate) struct CpuMeter {
    usage: Arc<CpuUsage>,
    last: LastMeasured,
    limit: Duration,
    /// The CPU time at which an instance that has several calls must have taken its turn among
    /// them again.
    turn: Option<Duration>,
}

impl CpuMeter {
    pub(crate) fn new(usage: Arc<CpuUsage>, limit: Duration) -> Self {
        Self {
            usage,
            last: LastMeasured::default(),
            limit,
            turn: None,
        }
    }

    /// The instance may run for `time` without a turn: what it does until then is of one call.
    pub(crate) fn begin_turn(&mut self, time: Duration) {
        self.turn = Some(self.usage.cpu().saturating_add(time));
    }

    /// Lets the instance use `time` more for another call: at most that time for each of the
    /// `calls` that it has.
    pub(crate) fn extend(&mut self, time: Duration, calls: u32) {
        let most = time.saturating_mul(calls);
        let most = self.usage.cpu().saturating_add(most);
        self.limit = self.limit.saturating_add(time).min(most);
    }

    /// Records that a tick found the guest running. Returns whether the guest yields.
    pub(crate) fn tick(&mut self) -> bool {
        self.usage.tick(&mut self.last)
    }

    /// Starts a new measurement.
    pub(crate) fn restart(&mut self) {
        self.last = LastMeasured::default();
    }

    /// The CPU time that the call used until now. `ran`: the time in which it did not wait, which
    /// is more exact for a short call. Called on the thread that runs the guest, or after its end.
    pub(crate) fn used(&self, ran: Duration) -> Duration {
        let measured = self.usage.cpu();
        if ran < 2 * TICK {
            return measured.max(ran);
        }
        if let Some(time) = self.usage.time_in_poll() {
            return measured + time;
        }
        // Each poll since the first wait was measured.
        if self.usage.polls.load(Ordering::Relaxed) > 0 {
            return measured;
        }
        let (thread, now) = thread_and_time();
        match self.last.0 {
            Some((same, from)) if same == thread => measured + now.saturating_sub(from),
            // No tick found the guest, as where the ticks come late.
            None => measured.max(ran),
            Some(_) => measured,
        }
    }

    /// Whether the guest used more CPU time than it may.
    pub(crate) fn is_over(&self) -> bool {
        let limit = self.turn.map_or(self.limit, |turn| turn.min(self.limit));
        self.usage.cpu() > limit
    }

    /// Records that the guest waited. Its thread did other work meanwhile.
    pub(crate) fn waited(&mut self, wait: &Wait) {
        if self.usage.is_in_slow_lane() {
            return;
        }
        self.add_until(wait.began_at);
        self.last.0 = Some(thread_and_time());
    }

    /// Moves the call to the slow lane when it next waits.
    pub(crate) fn move_to_slow_lane(&self) {
        self.usage.yielded.store(true, Ordering::Relaxed);
    }

    /// Counts work of the host for the guest as the guest's CPU time.
    pub(crate) fn worked(&mut self) {
        if !self.usage.is_in_slow_lane() {
            let now = thread_and_time();
            self.add_until(now);
            self.last.0 = Some(now);
        }
    }

    fn add_until(&mut self, (thread, until): (ThreadId, Duration)) {
        // Each poll is measured then.
        if self.usage.polls.load(Ordering::Relaxed) > 0 {
            return;
        }
        if let Some((same, from)) = self.last.0
            && same == thread
        {
            self.usage.add(until.saturating_sub(from));
            // Many short runs count as a long one.
            if self.usage.cpu() >= 2 * TICK {
                self.usage.yielded.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// A time in which a guest waited for the host.
pub(crate) struct Wait {
    pub(crate) time: Duration,
    /// The thread on which the wait began, and that thread's CPU time then.
    began_at: (ThreadId, Duration),
}

/// Runs `future`, and returns how long it waited, if it did.
pub(crate) async fn measure_wait<F: Future>(future: F) -> (F::Output, Option<Wait>) {
    let mut future = pin!(future);
    // A future that is ready at once is not measured.
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

/// The CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn interrupted_call_does_not_yield() {
        let (usage, mut last) = (CpuUsage::default(), LastMeasured::default());
        for _ in 0..5 {
            assert!(!usage.tick(&mut last));
            std::thread::sleep(TICK);
        }
        assert_eq!(usage.cpu(), Duration::ZERO);
    }

    fn compute(time: Duration) {
        let start = thread_time();
        while thread_time() - start < time {}
    }

    #[tokio::test]
    async fn does_not_count_cpu_time_of_others_during_a_wait() {
        let usage = Arc::new(CpuUsage::default());
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
    fn polls_count_their_cpu_time_and_not_their_waits() {
        let usage = CpuUsage::default();
        let began = thread_time();
        usage.measure_short_poll(|| compute(5 * TICK));
        let used = thread_time() - began;
        assert!(usage.cpu() >= 5 * TICK, "{:?}", usage.cpu());
        assert!(usage.cpu() <= used + TICK, "{:?}", usage.cpu());
        let before = usage.cpu();
        usage.measure_short_poll(|| std::thread::sleep(20 * TICK));
        assert!(usage.cpu() - before <= 2 * TICK, "{:?}", usage.cpu());
        let before = usage.cpu();
        for _ in 0..100 {
            usage.measure_short_poll(|| compute(SHORT_POLL / 2));
        }
        assert!(usage.cpu() - before >= 50 * SHORT_POLL);
        let meter = CpuMeter::new(Arc::new(usage), Duration::MAX);
        let before = meter.usage.cpu();
        let (reported, _) = meter.usage.measure_short_poll(|| {
            compute(5 * TICK);
            meter.used(5 * TICK)
        });
        assert!(reported >= before + 5 * TICK, "{reported:?}");
    }

    #[test]
    fn calls_at_once_share_their_cpu_time() {
        let usage = Arc::new(CpuUsage::default());
        let second = Duration::from_secs(1);
        let mut meter = CpuMeter::new(usage.clone(), second);
        meter.extend(second, 2);
        usage.add(second * 2);
        assert!(!meter.is_over());
        usage.add(Duration::from_millis(1));
        assert!(meter.is_over());
        // The next ones come after those.
        for _ in 0..5 {
            meter.extend(second, 1);
        }
        assert!(!meter.is_over());
        usage.add(second + Duration::from_millis(1));
        assert!(meter.is_over());
        // One call does not use what others have left.
        meter.extend(second, 3);
        meter.extend(second, 3);
        meter.begin_turn(second);
        assert!(!meter.is_over());
        usage.add(second + Duration::from_millis(1));
        assert!(meter.is_over());
        meter.begin_turn(second);
        assert!(!meter.is_over());
    }

    #[test]
    fn reports_cpu_time_before_the_end_of_a_poll() {
        let usage = Arc::new(CpuUsage::default());
        let meter = CpuMeter::new(usage.clone(), Duration::MAX);
        usage.enter_slow_lane();
        let ran = 5 * TICK;
        let (reported, _) = usage.measure_poll(|| {
            compute(ran);
            meter.used(ran)
        });
        assert!(reported >= ran, "{reported:?}");
        assert!(meter.used(ran) >= reported);
    }

    #[test]
    fn reports_cpu_time_of_a_run_that_no_tick_found() {
        let usage = Arc::new(CpuUsage::default());
        let mut meter = CpuMeter::new(usage, Duration::MAX);
        assert_eq!(meter.used(5 * TICK), 5 * TICK);
        assert!(!meter.tick());
        compute(3 * TICK);
        assert!(meter.used(5 * TICK) >= 3 * TICK);
    }
}
