//! The clocks of a call: one source for every function that tells a guest the time or waits for a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// A clock's step, as guests are told: the operating system counts nanoseconds.
pub(crate) const RESOLUTION: Duration = Duration::from_nanos(1);

/// A clock that WASI preview 1 names.
#[derive(Clone, Copy)]
pub(crate) enum ClockId {
    Realtime,
    Monotonic,
    /// CPU time of the process, or of the thread: a guest has one of each.
    Cpu,
}

impl ClockId {
    /// `None`: WASI has no such clock.
    pub(crate) fn new(id: i32) -> Option<Self> {
        match id {
            0 => Some(Self::Realtime),
            1 => Some(Self::Monotonic),
            2 | 3 => Some(Self::Cpu),
            _ => None,
        }
    }
}

/// When the clocks of a call were zero.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    start: Instant,
    /// Moved on by the time that the guest waits.
    cpu_start: Instant,
}

/// Where the clocks of a snapshot stood: its calls go on from there.
#[derive(Clone, Copy)]
pub(crate) struct SavedClocks {
    start: Instant,
    cpu: Duration,
}

impl Clocks {
    /// All clocks are at zero now.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            cpu_start: now,
        }
    }

    /// Goes on where a snapshot's clocks stood. What passed since is monotonic time, but no CPU time.
    pub(crate) fn resume(&mut self, saved: SavedClocks) {
        self.start = saved.start;
        self.cpu_start = self.cpu_start.checked_sub(saved.cpu).unwrap_or(saved.start);
    }

    pub(crate) fn save(&self) -> SavedClocks {
        SavedClocks {
            start: self.start,
            cpu: self.cpu_start.elapsed(),
        }
    }

    /// The guest waited for `time`, which is no CPU time.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.cpu_start += time;
    }

    /// Time since the call began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// What a clock shows.
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
        nanoseconds(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanoseconds(self.elapsed())
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

/// A time as WASI preview 1 has it.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
