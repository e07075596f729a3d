//! The clock of guests' CPU time: a thread that moves the engine's epoch on while guests run, and sleeps while none does.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
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
#[derive(Clone)]
pub(crate) struct Ticker(Arc<Shared>);

struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    gate: Mutex<()>,
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
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("wws-clock".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut last_guest = Instant::now();
                loop {
                    std::thread::sleep(TICK);
                    let (Some(engine), Some(shared)) = (engine.upgrade(), weak.upgrade()) else {
                        return;
                    };
                    engine.increment_epoch();
                    drop(engine);
                    if shared.running.load(Ordering::Relaxed) > 0 {
                        last_guest = Instant::now();
                    } else if last_guest.elapsed() > LINGER {
                        shared.sleep();
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
            let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.wake.notify_one();
        }
        Running(&self.0)
    }
}

impl Shared {
    fn sleep(&self) {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 {
            // The engine may be dropped meanwhile; looking once a minute is no load.
            let (guard, timeout) = self
                .wake
                .wait_timeout(gate, Duration::from_secs(60))
                .unwrap_or_else(PoisonError::into_inner);
            gate = guard;
            if timeout.timed_out() {
                break;
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
