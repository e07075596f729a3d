//! State of one connection that its socket, its requests and its driver share.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

/// A connection that has waited for its client for less than this many milliseconds is not evicted.
const MIN_WAIT: u64 = 1000;

/// One whose client has not sent the head of a request: usually it comes with the connection. A
/// client that holds thousands of such connections would keep the others waiting, as each takes its
/// turn.
const MIN_WAIT_FOR_HEAD: u64 = 200;

/// A client that has sent this many bytes of a body restarts its wait.
const UPLOAD_STEP: u64 = 64 << 10;

/// Milliseconds since an arbitrary moment.
fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// All parts of a connection of HTTP/1 run in one task, so most atomics exist for the compiler
/// only. Other tasks read how long the connection has waited and may evict it. Each request of
/// HTTP/2 is a task with an activity of its own.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) requests: Requests,
    pub(crate) reading: Reading,
    pub(crate) sending: Sending,
    pub(crate) waiting: Waiting,
    /// The connection, if this is one of its streams: a request of HTTP/2.
    connection: Option<Arc<Activity>>,
}

/// A request that has begun.
pub(crate) struct BegunRequest {
    /// Counts the request as in progress until it is dropped.
    pub(crate) in_progress: RequestInProgress,
    pub(crate) framing: RequestFraming,
}

/// Whether the framing of a request can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestFraming {
    Consistent,
    /// The request has both `Content-Length` and `Transfer-Encoding`, or an invalid length.
    Conflicting,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The activity of one request of HTTP/2, whose connection has its own.
    pub(crate) fn of_stream(connection: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            connection: Some(connection.clone()),
            ..Self::default()
        })
    }

    /// Whether this is a stream of a connection.
    pub(crate) fn is_stream(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether the server stops.
    pub(crate) fn is_stopping(&self) -> bool {
        let connection = self.connection.as_deref().unwrap_or(self);
        connection.sending.is_stopping()
    }

    /// Records that one of the connection's requests waits for the client.
    pub(crate) fn await_client(self: &Arc<Self>) -> AwaitedClient {
        self.requests.awaiting.fetch_add(1, Relaxed);
        // The connection may have to wait now.
        self.waiting.wake();
        AwaitedClient(self.clone())
    }

    /// Records that bytes have arrived.
    pub(crate) fn received(&self, bytes: usize) {
        if self.reading.is_next_upload_step(bytes) {
            self.waiting.restart();
        }
    }

    /// Begins a call that streams.
    pub(crate) fn begin_stream(self: &Arc<Self>) -> StreamInProgress {
        self.requests.streams.fetch_add(1, Relaxed);
        StreamInProgress(self.clone())
    }

    /// Begins a request whose head hyper has parsed.
    pub(crate) fn begin_request(self: &Arc<Self>) -> BegunRequest {
        let number = self.requests.count.fetch_add(1, Relaxed);
        self.requests.in_progress.fetch_add(1, Relaxed);
        BegunRequest {
            in_progress: RequestInProgress(self.clone()),
            framing: self.reading.framing_of(number),
        }
    }
}

/// A request that is in progress until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestInProgress(Arc<Activity>);

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.requests.in_progress.fetch_sub(1, Relaxed);
    }
}

/// A request that waits for its client until this is dropped.
#[derive(Debug)]
pub(crate) struct AwaitedClient(Arc<Activity>);

impl Drop for AwaitedClient {
    fn drop(&mut self) {
        self.0.requests.awaiting.fetch_sub(1, Relaxed);
    }
}

/// The requests of a connection.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Requests whose response has not been passed on completely.
    in_progress: AtomicU32,
    /// Requests that have begun.
    count: AtomicU64,
    /// The body of a request was not read to its end.
    body_unread: AtomicBool,
    /// Calls of workers that stream: they hold a place until they end.
    streams: AtomicU32,
    /// Requests of HTTP/2 that wait for the client.
    awaiting: AtomicU32,
}

/// A call that streams, until this is dropped.
#[derive(Debug)]
pub(crate) struct StreamInProgress(Arc<Activity>);

impl Drop for StreamInProgress {
    fn drop(&mut self) {
        self.0.requests.streams.fetch_sub(1, Relaxed);
    }
}

impl Requests {
    pub(crate) fn is_any_in_progress(&self) -> bool {
        self.in_progress.load(Relaxed) > 0
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Whether all requests of HTTP/2 wait for the client.
    pub(crate) fn are_all_awaiting(&self) -> bool {
        let awaiting = self.awaiting.load(Relaxed);
        awaiting > 0 && awaiting >= self.in_progress.load(Relaxed)
    }

    /// Whether a call streams.
    pub(crate) fn is_any_streaming(&self) -> bool {
        self.streams.load(Relaxed) > 0
    }

    pub(crate) fn set_body_unread(&self, unread: bool) {
        self.body_unread.store(unread, Relaxed);
    }

    pub(crate) fn is_body_unread(&self) -> bool {
        self.body_unread.load(Relaxed)
    }
}

/// What the client sends.
#[derive(Debug)]
pub(crate) struct Reading {
    /// A head has begun to arrive.
    in_head: AtomicBool,
    /// Number of the first request with conflicting framing; `u64::MAX` if there is none.
    conflict: AtomicU64,
    /// No memory is left for what the client sends.
    refused: AtomicBool,
    /// The body of a request is being read.
    uploading: AtomicBool,
    /// Bytes of the body that have arrived since the last whole [`UPLOAD_STEP`].
    uploaded: AtomicU64,
    /// The client speaks HTTP/2.
    http2: AtomicBool,
    /// How much work besides requests a client of HTTP/2 may still ask for.
    credit: AtomicI64,
}

/// The work besides requests that a client of HTTP/2 may ask for at first, and at most: that of so
/// many frames.
const MAX_CREDIT: i64 = 10_000;

/// The cost of a request that its client has cancelled.
const CANCELLED: i64 = 100;

/// What an answered request is worth.
const ANSWERED: i64 = 50;

/// What a part of a response is worth: clients say for each that they took it.
const PIECE: i64 = 4;

/// Bytes of a body that are worth a frame.
const BODY_PER_FRAME: u64 = 1 << 10;

impl Default for Reading {
    fn default() -> Self {
        Self {
            in_head: AtomicBool::new(false),
            conflict: AtomicU64::new(u64::MAX),
            refused: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            uploaded: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            credit: AtomicI64::new(MAX_CREDIT),
        }
    }
}

impl Reading {
    /// Records that the client speaks HTTP/2.
    pub(crate) fn set_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// Counts frames besides requests, and bytes of bodies.
    pub(crate) fn received_frames(&self, control: u32, body: u64) {
        let worth = i64::try_from(body.div_ceil(BODY_PER_FRAME)).unwrap_or(MAX_CREDIT);
        self.earn(worth.min(MAX_CREDIT) - i64::from(control));
    }

    /// Counts a part of a response.
    pub(crate) fn sent_piece(&self) {
        self.earn(PIECE);
    }

    /// Counts a request that was answered.
    pub(crate) fn answered(&self) {
        self.earn(ANSWERED);
    }

    /// Counts a request that its client has cancelled.
    pub(crate) fn cancelled(&self) {
        self.earn(-CANCELLED);
    }

    /// Adds to the credit. More than the maximum is of no use.
    fn earn(&self, worth: i64) {
        let credit = self.credit.load(Relaxed);
        // Several tasks may add at once, which is as if one had come later.
        self.credit.store((credit + worth).min(MAX_CREDIT), Relaxed);
    }

    /// Whether the client asks for too much work besides requests.
    pub(crate) fn is_flood(&self) -> bool {
        self.credit.load(Relaxed) < 0
    }

    /// Stores whether a head is incomplete, and the number of the first request in conflict.
    pub(crate) fn set_head(&self, in_head: bool, conflict: Option<u64>) {
        self.in_head.store(in_head, Relaxed);
        if let Some(conflict) = conflict {
            self.conflict.store(conflict, Relaxed);
        }
    }

    pub(crate) fn in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    fn framing_of(&self, request: u64) -> RequestFraming {
        if self.conflict.load(Relaxed) == request {
            RequestFraming::Conflicting
        } else {
            RequestFraming::Consistent
        }
    }

    /// Records that no memory is left for what the client sends.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    /// Records whether the connection waits for the body of a request.
    pub(crate) fn set_uploading(&self, uploading: bool) {
        self.uploaded.store(0, Relaxed);
        self.uploading.store(uploading, Relaxed);
    }

    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading.load(Relaxed)
    }

    /// Counts bytes of a body. Returns whether they complete an [`UPLOAD_STEP`].
    fn is_next_upload_step(&self, bytes: usize) -> bool {
        if !self.is_uploading() {
            return false;
        }
        let uploaded = self.uploaded.load(Relaxed) + bytes as u64;
        self.uploaded.store(uploaded % UPLOAD_STEP, Relaxed);
        uploaded >= UPLOAD_STEP
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }
}

/// What is sent to the client.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// The client does not take what is sent.
    stalled: AtomicBool,
    /// Bytes written to the socket.
    sent: AtomicU64,
    /// Bytes that the client has taken, as of the last time it stalled.
    taken: AtomicU64,
    /// Bytes in memory of the response that is being sent.
    held: AtomicU64,
    /// The head of a response was sent, and its pieces are being made.
    streaming: AtomicBool,
    /// The end of the response is the end of the connection.
    until_close: AtomicBool,
    /// The server stops.
    stopping: AtomicBool,
}

impl Sending {
    /// Records that the client does not take more; `unsent` bytes of what was written are queued.
    pub(crate) fn stall(&self, unsent: u64) {
        self.stalled.store(true, Relaxed);
        let taken = self.sent.load(Relaxed).saturating_sub(unsent);
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

    /// Records whether a response is being sent whose pieces are made meanwhile.
    pub(crate) fn set_streaming(&self, streaming: bool) {
        self.streaming.store(streaming, Relaxed);
    }

    /// Records whether the response ends with the connection.
    pub(crate) fn set_until_close(&self, until_close: bool) {
        self.until_close.store(until_close, Relaxed);
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming.load(Relaxed)
    }

    /// Whether a response would look complete if the connection ended now.
    pub(crate) fn is_until_close(&self) -> bool {
        self.until_close.load(Relaxed)
    }

    /// Records that the server stops.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(crate) fn set_held(&self, bytes: u64) {
        self.held.store(bytes, Relaxed);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }
}

/// How long the connection waits for its client, and whether it is to be evicted meanwhile.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// When the wait began, by [`clock`]; `u64::MAX` if the connection does not wait.
    since: AtomicU64,
    /// How long it may wait, in milliseconds.
    limit: AtomicU64,
    /// For how long it waits at least, in milliseconds.
    min: AtomicU64,
    evicted: AtomicBool,
    task: AtomicWaker,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            since: AtomicU64::new(u64::MAX),
            limit: AtomicU64::new(0),
            min: AtomicU64::new(MIN_WAIT),
            evicted: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }
}

impl Waiting {
    /// Begins a wait for the client of at most `limit`; `None` ends it.
    pub(crate) fn begin(&self, limit: Option<Duration>) {
        self.begin_from(MIN_WAIT, limit);
    }

    /// Begins a wait for the head of a request.
    pub(crate) fn begin_head(&self, limit: Option<Duration>) {
        self.begin_from(MIN_WAIT_FOR_HEAD, limit);
    }

    fn begin_from(&self, min: u64, limit: Option<Duration>) {
        let Some(limit) = limit else {
            self.since.store(u64::MAX, Relaxed);
            return;
        };
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.limit.store(limit, Relaxed);
        self.min.store(min, Relaxed);
        self.since.store(clock(), Relaxed);
    }

    /// Restarts a wait that has begun.
    fn restart(&self) {
        if self.since.load(Relaxed) != u64::MAX {
            self.since.store(clock(), Relaxed);
        }
    }

    /// The part of the allowed wait that has passed, in thousandths. `None` if the connection does
    /// not wait, or has only begun to.
    pub(crate) fn used(&self) -> Option<u64> {
        let waited = clock().checked_sub(self.since.load(Relaxed))?;
        let limit = self.limit.load(Relaxed).max(1);
        (waited >= self.min.load(Relaxed)).then(|| waited.saturating_mul(1000) / limit)
    }

    /// Registers the connection's task, which [`Self::evict`] wakes.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Wakes the connection's task.
    pub(crate) fn wake(&self) {
        self.task.wake();
    }

    /// Asks the connection to close, if it still waits when its task runs.
    pub(crate) fn evict(&self) {
        self.evicted.store(true, Relaxed);
        self.task.wake();
    }

    /// Takes a request to close.
    pub(crate) fn take_evicted(&self) -> bool {
        self.evicted.load(Relaxed) && self.evicted.swap(false, Relaxed)
    }
}
