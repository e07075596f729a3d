//! The clock of guests' CPU time: a thread that moves the engine's epoch on while guests run, and sleeps while none does.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use wasmtime::EngineWeak;

/// Between two steps of the epoch. A guest is looked at that often at most.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The thread goes on so long without a guest, so that a steady trickle of requests doesn't wake it for each.
const LINGER: Duration = Duration::from_millis(50);

/// Counts running guests and keeps the clock going for them.
pub(crate) struct Ticker(Arc<Shared>);

struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    /// Whether the engine is gone.
    gate: Mutex<bool>,
    wake: Condvar,
}

/// A running guest; it has stopped when this is dropped.
pub(crate) struct Running<'a>(&'a Shared);

impl Ticker {
    /// Starts the thread. It ends when the engine is dropped.
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            gate: Mutex::default(),
            wake: Condvar::new(),
        });
        let clock = shared.clone();
        std::thread::Builder::new()
            .name("wws-clock".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut last_guest = Instant::now();
                loop {
                    std::thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else {
                        return;
                    };
                    engine.increment_epoch();
                    drop(engine);
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

    /// A guest starts to run.
    pub(crate) fn run(&self) -> Running<'_> {
        // SeqCst on both sides: either the guest sees the sleeper, or the sleeper sees the guest.
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst) {
            let _gate = self.0.gate();
            self.0.wake.notify_one();
        }
        Running(&self.0)
    }
}

impl Shared {
    /// Waits for a guest. Says whether there will be none any more.
    fn sleep(&self) -> bool {
        let mut gone = self.gate();
        self.asleep.store(true, Ordering::SeqCst);
        while !*gone && self.running.load(Ordering::SeqCst) == 0 {
            // Without a time limit: an idle server has no reason to wake up.
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

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Waits a few seconds for it.
    fn soon(condition: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            condition()
        })
    }

    #[test]
    fn the_clock_sleeps_without_guests_wakes_for_one_and_ends_with_its_engine() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(engine.weak()).unwrap();
        let shared = Arc::downgrade(&ticker.0);
        let asleep = || ticker.0.asleep.load(Ordering::SeqCst);
        assert!(soon(asleep));
        let guest = ticker.run();
        assert!(soon(|| !asleep()));
        drop(guest);
        assert!(soon(asleep));
        drop(ticker);
        assert!(soon(|| shared.strong_count() == 0));
    }
}
