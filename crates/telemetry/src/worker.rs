//! What is counted of one worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::access::AccessLog;
use crate::exports::Exports;
use crate::histogram::{Buckets, Histogram, SIZES, TIMES, nanoseconds};
use crate::label::{Failure, Limit, Method, Outgoing, StatusClass};
use crate::queue::ExportQueue;
use crate::span::Span;
use crate::stripe::Striped;

const METHODS: usize = Method::ALL.len();
const CLASSES: usize = StatusClass::ALL.len();

/// The series of one route: of a worker, of all assets, of requests that nothing answers, or of
/// all workers beyond [`MAX_WORKERS`](crate::MAX_WORKERS).
///
/// What each request counts goes to a stripe of its thread, by relaxed atomics; the rest, which is
/// rare or costs a call of another server, is shared.
pub struct WorkerSeries {
    route: Box<str>,
    exports: Arc<Exports>,
    stripes: Striped<Stripe>,
    peak_memory: AtomicU64,
    failures: [AtomicU64; Failure::ALL.len()],
    limits: [AtomicU64; Limit::ALL.len()],
    outgoing: [AtomicU64; Outgoing::ALL.len()],
    outgoing_times: Buckets<{ TIMES.len() }>,
    lines_left_out: AtomicU64,
    streams: AtomicI64,
}

/// What each request counts.
#[derive(Default)]
struct Stripe {
    requests: [[AtomicU64; CLASSES]; METHODS],
    head: Buckets<{ TIMES.len() }>,
    total: Buckets<{ TIMES.len() }>,
    cpu: AtomicU64,
    memory: Buckets<{ SIZES.len() }>,
    /// Calls that began on a thread may end on another one: only the sum has a meaning.
    running: AtomicI64,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredRequest {
    /// Its method.
    pub method: Method,
    /// The status of the response; 499 if the client went away before.
    pub status: u16,
    /// The time to the head of the response; `None` if there was none.
    pub head: Option<Duration>,
    /// The time to the end of the response, as far as the server made it.
    pub total: Duration,
}

impl WorkerSeries {
    pub(crate) fn new(route: &str, exports: Arc<Exports>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            route: route.into(),
            exports,
            stripes: Striped::new(),
            peak_memory: zero(),
            failures: std::array::from_fn(|_| zero()),
            limits: std::array::from_fn(|_| zero()),
            outgoing: std::array::from_fn(|_| zero()),
            outgoing_times: Buckets::default(),
            lines_left_out: zero(),
            streams: AtomicI64::new(0),
        }
    }

    /// The value of the label `worker`.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Where spans wait to be exported.
    #[must_use]
    pub fn spans(&self) -> &ExportQueue<Span> {
        &self.exports.spans
    }

    /// The access log.
    #[must_use]
    pub fn access_log(&self) -> &AccessLog {
        &self.exports.access
    }

    /// Counts a request that was answered.
    pub fn answered(&self, request: AnsweredRequest) {
        let stripe = self.stripes.own();
        let class = StatusClass::new(request.status);
        stripe.requests[request.method.index()][class.index()].fetch_add(1, Relaxed);
        if let Some(head) = request.head {
            stripe.head.add_time(head);
        }
        stripe.total.add_time(request.total);
        self.exports.changes.touch();
    }

    /// Counts a call that begins.
    pub fn call_began(&self) {
        self.stripes.own().running.fetch_add(1, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts a call that ended.
    pub fn call_ended(&self) {
        self.stripes.own().running.fetch_sub(1, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts what a call used: CPU time, and the bytes of its linear memories at their peak.
    pub fn used(&self, cpu: Duration, memory: u64) {
        let stripe = self.stripes.own();
        stripe.cpu.fetch_add(nanoseconds(cpu), Relaxed);
        stripe.memory.add(&SIZES, memory);
        if self.peak_memory.load(Relaxed) < memory {
            self.peak_memory.fetch_max(memory, Relaxed);
        }
        self.exports.changes.touch();
    }

    /// Counts a failure.
    pub fn failed(&self, failure: Failure) {
        self.failures[failure.index()].fetch_add(1, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts a limit that was met.
    pub fn limit_met(&self, limit: Limit) {
        self.limits[limit.index()].fetch_add(1, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts an outgoing request, which took so long to the head of its response or to its
    /// failure.
    pub fn sent(&self, outcome: Outgoing, time: Duration) {
        self.outgoing[outcome.index()].fetch_add(1, Relaxed);
        self.outgoing_times.add_time(time);
        self.exports.changes.touch();
    }

    /// Counts lines of the worker's log that were left out.
    pub fn left_out(&self, lines: u64) {
        self.lines_left_out.fetch_add(lines, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts a response that is being streamed.
    pub fn stream_began(&self) {
        self.streams.fetch_add(1, Relaxed);
        self.exports.changes.touch();
    }

    /// Counts the end of a response that was being streamed.
    pub fn stream_ended(&self) {
        self.streams.fetch_sub(1, Relaxed);
        self.exports.changes.touch();
    }

    /// The present state of all counters.
    pub(crate) fn read(&self) -> WorkerState {
        let read = |all: &[AtomicU64]| all.iter().map(|count| count.load(Relaxed)).collect();
        let mut state = WorkerState {
            requests: [[0; CLASSES]; METHODS],
            head: Histogram::default(),
            total: Histogram::default(),
            cpu: 0,
            memory: Histogram::default(),
            running: 0,
            peak_memory: self.peak_memory.load(Relaxed),
            failures: read(&self.failures),
            limits: read(&self.limits),
            outgoing: read(&self.outgoing),
            outgoing_times: Histogram::default(),
            lines_left_out: self.lines_left_out.load(Relaxed),
            streams: self.streams.load(Relaxed).max(0),
        };
        self.outgoing_times.add_to(&mut state.outgoing_times);
        let mut running = 0;
        for stripe in self.stripes.all() {
            for (sums, counts) in state.requests.iter_mut().zip(&stripe.requests) {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count.load(Relaxed);
                }
            }
            stripe.head.add_to(&mut state.head);
            stripe.total.add_to(&mut state.total);
            stripe.memory.add_to(&mut state.memory);
            state.cpu += u128::from(stripe.cpu.load(Relaxed));
            running += stripe.running.load(Relaxed);
        }
        state.running = running.max(0);
        state
    }
}

/// The counters of a worker at one time.
pub(crate) struct WorkerState {
    pub(crate) requests: [[u64; CLASSES]; METHODS],
    pub(crate) head: Histogram,
    pub(crate) total: Histogram,
    /// Nanoseconds.
    pub(crate) cpu: u128,
    pub(crate) memory: Histogram,
    pub(crate) running: i64,
    /// The most bytes of linear memory that a call had.
    pub(crate) peak_memory: u64,
    pub(crate) failures: Vec<u64>,
    pub(crate) limits: Vec<u64>,
    pub(crate) outgoing: Vec<u64>,
    pub(crate) outgoing_times: Histogram,
    pub(crate) lines_left_out: u64,
    pub(crate) streams: i64,
}

/// What a page shows of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerSummary {
    /// Requests that were answered.
    pub requests: u64,
    /// Those with a status of 500 and more.
    pub errors: u64,
    /// Calls that run now.
    pub running: u64,
    /// Responses that are being streamed now, and open WebSockets.
    pub streams: u64,
    /// CPU time of all calls.
    pub cpu: Duration,
    /// Bytes of memory of the largest call.
    pub peak_memory: u64,
    /// The bound that half of the times to the head of a response do not exceed.
    pub median: Option<Duration>,
    /// The bound that 99 of 100 times to the head of a response do not exceed.
    pub p99: Option<Duration>,
}

impl WorkerSeries {
    /// A summary since the start.
    #[must_use]
    pub fn summary(&self) -> WorkerSummary {
        let state = self.read();
        let errors = StatusClass::ServerError.index();
        WorkerSummary {
            requests: state.requests.iter().flatten().sum(),
            errors: state.requests.iter().map(|classes| classes[errors]).sum(),
            running: u64::try_from(state.running).unwrap_or(0),
            streams: u64::try_from(state.streams).unwrap_or(0),
            cpu: Duration::from_nanos(u64::try_from(state.cpu).unwrap_or(u64::MAX)),
            peak_memory: state.peak_memory,
            median: quantile(&state.head, 50),
            p99: quantile(&state.head, 99),
        }
    }

    /// The failures and the limits that were met, by their labels, without those that never
    /// happened.
    #[must_use]
    pub fn troubles(&self) -> Vec<(&'static str, u64)> {
        let failures = Failure::ALL.iter().map(|failure| failure.text());
        let limits = Limit::ALL.iter().map(|limit| limit.text());
        let state = self.read();
        let failures = failures.zip(state.failures);
        failures
            // A limit has a name of its own.
            .filter(|(name, _)| *name != Failure::Limit.text())
            .chain(limits.zip(state.limits))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// The bound of the bucket in which the value at `percent` lies; `None` without values, or for one
/// beyond all bounds.
fn quantile(histogram: &Histogram, percent: u64) -> Option<Duration> {
    let wanted = (histogram.count() * percent).div_ceil(100);
    if wanted == 0 {
        return None;
    }
    let mut seen = 0;
    for (bound, count) in TIMES.iter().zip(&histogram.buckets) {
        seen += count;
        if seen >= wanted {
            return Some(Duration::from_nanos(*bound));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: u16, ms: u64) -> AnsweredRequest {
        AnsweredRequest {
            method: Method::Get,
            status,
            head: Some(Duration::from_millis(ms)),
            total: Duration::from_millis(2 * ms),
        }
    }

    #[test]
    fn sums_up_what_all_threads_counted() {
        let series = WorkerSeries::new("/a", Arc::default());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    series.call_began();
                    (0..99).for_each(|_| series.answered(request(200, 1)));
                    series.answered(request(503, 90));
                    series.used(Duration::from_millis(5), 3 << 20);
                    series.call_ended();
                });
            }
        });
        series.used(Duration::ZERO, 1 << 20);
        series.call_began();
        series.limit_met(Limit::CpuTime);
        series.failed(Failure::Limit);
        series.failed(Failure::Trap);
        let summary = series.summary();
        assert_eq!((summary.requests, summary.errors), (800, 8));
        assert_eq!((summary.running, summary.peak_memory), (1, 3 << 20));
        assert_eq!(summary.cpu, Duration::from_millis(40));
        assert_eq!(summary.median, Some(Duration::from_millis(1)));
        assert_eq!(summary.p99, Some(Duration::from_millis(1)));
        assert_eq!(series.troubles(), [("trap", 1), ("cpu_time", 1)]);
        let state = series.read();
        assert_eq!(state.total.count(), 800);
        assert_eq!(state.memory.count(), 9);
    }

    #[test]
    fn quantile_is_unknown_without_values_or_beyond_all_bounds() {
        let series = WorkerSeries::new("/a", Arc::default());
        assert_eq!(series.summary().median, None);
        series.answered(request(200, 60_000));
        assert_eq!(series.summary().median, None);
    }
}
