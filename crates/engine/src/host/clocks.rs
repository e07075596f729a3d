//! The clocks of a call, used by every function that returns a time to a guest or waits for one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

use crate::schedule::cpu::nanos;

/// The resolution that is reported to guests: the operating system counts nanoseconds.
pub(crate) const RESOLUTION: Duration = Duration::from_nanos(1);

/// A clock of WASI preview 1.
#[derive(Clone, Copy)]
pub(crate) enum ClockId {
    Realtime,
    Monotonic,
    /// CPU time of the process or of the thread, which are the same for a guest.
    Cpu,
}

impl ClockId {
    /// Returns `None` if WASI has no such clock.
    pub(crate) fn new(id: i32) -> Option<Self> {
        match id {
            0 => Some(Self::Realtime),
            1 => Some(Self::Monotonic),
            2 | 3 => Some(Self::Cpu),
            _ => None,
        }
    }
}

/// The instants at which the clocks of a call were zero.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    start: Instant,
    /// Moved forward by the time that the guest waits.
    cpu_start: Instant,
    /// CPU time of what the call continues: of a snapshot, and of earlier calls of the instance.
    earlier: Duration,
}

/// The clocks of a snapshot, from which its calls continue.
#[derive(Clone, Copy)]
pub(crate) struct SavedClocks {
    start: Instant,
    cpu: Duration,
}

impl Clocks {
    /// Creates clocks that are zero now.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            cpu_start: now,
            earlier: Duration::ZERO,
        }
    }

    /// Continues a snapshot's clocks. The time since then counts as monotonic time, not as CPU
    /// time.
    pub(crate) fn resume(&mut self, saved: SavedClocks) {
        self.start = saved.start;
        self.cpu_start = self.cpu_start.checked_sub(saved.cpu).unwrap_or(saved.start);
        self.earlier = saved.cpu;
    }

    pub(crate) fn save(&self) -> SavedClocks {
        SavedClocks {
            start: self.start,
            cpu: self.cpu_start.elapsed(),
        }
    }

    /// Records that the guest waited for `time`, which does not count as CPU time.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.cpu_start += time;
    }

    /// Begins another call of an instance that has waited for so long.
    pub(crate) fn begin_call(&mut self, waited: Duration) {
        self.waited(waited);
        self.earlier = self.cpu_start.elapsed();
    }

    /// Time of this call in which it did not wait.
    pub(crate) fn ran(&self) -> Duration {
        self.cpu_start.elapsed().saturating_sub(self.earlier)
    }

    /// Time since the call began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time of a clock.
    pub(crate) fn time(&self, id: ClockId) -> Duration {
        match id {
            ClockId::Realtime => wall_time(),
            ClockId::Monotonic => self.elapsed(),
            ClockId::Cpu => self.cpu_start.elapsed(),
        }
    }
}

fn wall_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl HostMonotonicClock for Clocks {
    fn resolution(&self) -> u64 {
        nanos(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanos(self.elapsed())
    }
}

impl HostWallClock for Clocks {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        wall_time()
    }
}
