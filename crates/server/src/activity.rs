//! What a connection is doing, as its socket, its requests and its driver see it.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

/// A connection that has waited for its client for less time than this makes no room for others, in milliseconds.
const LEAST_WAIT: u64 = 1000;

/// A client that has sent so many bytes more of a body is not waited for since before, in bytes.
const UPLOAD_STEP: u64 = 64 << 10;

/// Milliseconds since some moment.
fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Shared by the parts of one connection, which all run in one task: most atomics are for the compiler only. Who looks for a
/// connection to close reads how long this one has waited.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests whose response is not wholly handed over.
    busy: AtomicU32,
    /// Requests that came, counted from 0.
    requests: AtomicU64,
    /// A head has begun to arrive.
    in_head: AtomicBool,
    /// The first request with contradicting framing.
    conflict: AtomicU64,
    /// The client doesn't take what is sent to it.
    stalled: AtomicBool,
    /// Bytes that were sent.
    sent: AtomicU64,
    /// Those of them that the client has taken, as of the last time that it didn't take more.
    taken: AtomicU64,
    /// Bytes of an answer in memory that is being sent.
    held: AtomicU64,
    /// What the client sends is not taken for want of memory.
    refused: AtomicBool,
    /// Since when, by [`clock`], the connection waits for its client to send or to take anything; `u64::MAX` where it doesn't.
    waits_since: AtomicU64,
    /// How long it may wait, in milliseconds.
    waits_for: AtomicU64,
    evicted: AtomicBool,
    task: AtomicWaker,
    /// A request's body was not read to its end.
    abandoned: AtomicBool,
    /// A request's body is being read.
    uploading: AtomicBool,
    /// Bytes of it that came since its last whole [`UPLOAD_STEP`].
    came: AtomicU64,
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            busy: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            in_head: AtomicBool::new(false),
            conflict: AtomicU64::new(u64::MAX),
            stalled: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            held: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            waits_since: AtomicU64::new(u64::MAX),
            waits_for: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
            task: AtomicWaker::new(),
            abandoned: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            came: AtomicU64::new(0),
        })
    }

    /// A request came. Returns its number too.
    pub(crate) fn request(self: &Arc<Self>) -> (Busy, u64) {
        self.busy.fetch_add(1, Relaxed);
        (Busy(self.clone()), self.requests.fetch_add(1, Relaxed))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(crate) fn set_head(&self, in_head: bool, conflict: Option<u64>) {
        self.in_head.store(in_head, Relaxed);
        if let Some(conflict) = conflict {
            self.conflict.store(conflict, Relaxed);
        }
    }

    pub(crate) fn in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    pub(crate) fn conflicts(&self, request: u64) -> bool {
        self.conflict.load(Relaxed) == request
    }

    /// The client doesn't take more; `waiting` bytes of what was sent are still on their way.
    pub(crate) fn write_stalled(&self, waiting: u64) {
        self.stalled.store(true, Relaxed);
        let taken = self.sent.load(Relaxed).saturating_sub(waiting);
        self.taken.fetch_max(taken, Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.stalled.store(false, Relaxed);
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Bytes that the client has taken, as far as is known while it is stalled.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// An answer of so many bytes in memory is being sent.
    pub(crate) fn set_held(&self, bytes: u64) {
        self.held.store(bytes, Relaxed);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// No memory is left for what the client sends.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// From now on the connection waits for its client to send or to take anything, for so long at most; `None`: it does something else.
    pub(crate) fn waits(&self, time: Option<Duration>) {
        let Some(time) = time else {
            self.waits_since.store(u64::MAX, Relaxed);
            return;
        };
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.waits_for.store(time, Relaxed);
        self.waits_since.store(clock(), Relaxed);
    }

    /// The connection waits for a request's body, or no longer.
    pub(crate) fn set_uploading(&self, uploading: bool) {
        self.came.store(0, Relaxed);
        self.uploading.store(uploading, Relaxed);
    }

    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading.load(Relaxed)
    }

    /// So many bytes came.
    pub(crate) fn read(&self, bytes: usize) {
        if !self.is_uploading() {
            return;
        }
        let came = self.came.load(Relaxed) + bytes as u64;
        self.came.store(came % UPLOAD_STEP, Relaxed);
        if came >= UPLOAD_STEP && self.waits_since.load(Relaxed) != u64::MAX {
            self.waits_since.store(clock(), Relaxed);
        }
    }

    /// How much of the time was used that the connection may wait for its client, in thousandths. `None` where it doesn't wait, or
    /// has only begun.
    pub(crate) fn used_time(&self) -> Option<u64> {
        let waited = clock().checked_sub(self.waits_since.load(Relaxed))?;
        let time = self.waits_for.load(Relaxed).max(1);
        (waited >= LEAST_WAIT).then(|| waited.saturating_mul(1000) / time)
    }

    /// Notes the connection's task.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Has the connection closed, if it still waits when it notes this.
    pub(crate) fn evict(&self) {
        self.evicted.store(true, Relaxed);
        self.task.wake();
    }

    /// It was to be closed.
    pub(crate) fn take_evicted(&self) -> bool {
        self.evicted.load(Relaxed) && self.evicted.swap(false, Relaxed)
    }

    pub(crate) fn set_abandoned(&self, abandoned: bool) {
        self.abandoned.store(abandoned, Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }
}
