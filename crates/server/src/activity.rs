//! What a connection is doing, as its socket, its requests and its driver see it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Shared by the parts of one connection, which all run in one task: atomics are for the compiler only.
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
    /// A request's body was not read to its end.
    abandoned: AtomicBool,
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
            abandoned: AtomicBool::new(false),
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

    pub(crate) fn write_stalled(&self) {
        self.stalled.store(true, Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.stalled.store(false, Relaxed);
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn set_abandoned(&self, abandoned: bool) {
        self.abandoned.store(abandoned, Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }
}
