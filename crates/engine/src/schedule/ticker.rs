//! The clock by which CPU time is measured: a thread that increments the engine's epoch while
//! guests run, and sleeps while none does.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use crate::sync::{
    Arc, AtomicBool, AtomicUsize, Condvar, Instant, Mutex, MutexGuard, Ordering, PoisonError,
    thread,
};

/// Time between two increments of the epoch, at each of which running guests are measured.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Time for which the thread stays awake without guests, so that not every request wakes it.
const LINGER: Duration = Duration::from_millis(50);

/// Counts running guests, and runs the clock for them.
pub(crate) struct Ticker(Arc<TickerState>);

struct TickerState {
    running: AtomicUsize,
    asleep: AtomicBool,
    /// Whether the engine is gone.
    gate: Mutex<bool>,
    wake: Condvar,
}

/// Counts as a running guest until it is dropped.
pub(crate) struct RunningGuest<'a>(&'a TickerState);

impl Ticker {
    /// Starts the thread. `advance` increments the epoch, and returns false once the engine is
    /// gone; then the thread exits.
    pub(crate) fn start(
        mut advance: impl FnMut() -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(TickerState {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            gate: Mutex::default(),
            wake: Condvar::new(),
        });
        let clock = shared.clone();
        thread::Builder::new()
            .name("wws-clock".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut last_guest = Instant::now();
                loop {
                    thread::sleep(TICK);
                    if !advance() {
                        return;
                    }
                    if clock.running.load(Ordering::Relaxed) > 0 {
                        last_guest = Instant::now();
                    } else if last_guest.elapsed() > LINGER {
                        if clock.sleep() {
                            return;
                        }
                        last_guest = Instant::now();
                    }
                }
            })?;
        Ok(Self(shared))
    }

    /// Counts a guest that starts to run, and wakes the clock.
    pub(crate) fn run(&self) -> RunningGuest<'_> {
        // SeqCst on both sides: either the guest sees the sleeper, or the sleeper sees the guest.
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst) {
            let _gate = self.0.gate();
            self.0.wake.notify_one();
        }
        RunningGuest(&self.0)
    }

    /// Counts a guest as running whenever it is polled: while all guests wait, the clock sleeps.
    pub(crate) async fn while_polled<F: Future>(&self, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        poll_fn(|context| {
            let _running = self.run();
            guest.as_mut().poll(context)
        })
        .await
    }
}

impl TickerState {
    /// Waits for a guest. Returns whether the engine is gone.
    fn sleep(&self) -> bool {
        let mut gone = self.gate();
        self.asleep.store(true, Ordering::SeqCst);
        while !*gone && self.running.load(Ordering::SeqCst) == 0 {
            // No timeout: an idle server has no reason to wake up.
            gone = self.wake.wait(gone).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.store(false, Ordering::SeqCst);
        *gone
    }

    fn gate(&self) -> MutexGuard<'_, bool> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.0.gate() = true;
        self.0.wake.notify_one();
    }
}

impl Drop for RunningGuest<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Waits a few seconds for a condition.
    fn soon(condition: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            condition()
        })
    }

    #[test]
    fn clock_sleeps_without_guests_and_exits_with_its_engine() {
        let engine = wasmtime::Engine::default();
        let weak = engine.weak();
        let ticker = Ticker::start(move || weak.upgrade().is_some()).unwrap();
        let shared = Arc::downgrade(&ticker.0);
        let asleep = || ticker.0.asleep.load(Ordering::SeqCst);
        assert!(soon(asleep));
        let guest = ticker.run();
        assert!(soon(|| !asleep()));
        drop(guest);
        assert!(soon(asleep));
        // A guest that waits does not keep it awake.
        let mut waiting = Box::pin(ticker.while_polled(std::future::pending::<()>()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(soon(asleep));
        drop(waiting);
        drop(ticker);
        assert!(soon(|| shared.strong_count() == 0));
    }
}
