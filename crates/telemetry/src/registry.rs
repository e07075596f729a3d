//! The counters of a process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::access::AccessLog;
use crate::exports::{Changes, Exports};
use crate::histogram::{Histogram, SIZES, TIMES};
use crate::label::{
    CodeSource, Failure, KvOperation, KvStore, Limit, Method, Outgoing, Refusal, StatusClass,
};
use crate::queue::ExportQueue;
use crate::sink::{Sink, counter, gauge, histogram, single};
use crate::span::{LogRecord, Span};
use crate::tail::LogTail;
use crate::worker::{WorkerSeries, WorkerState};

/// Most workers with series of their own. Further ones share the series [`OVERFLOW`].
pub const MAX_WORKERS: usize = 512;

/// The label of workers beyond [`MAX_WORKERS`]. Routes begin with `/`.
pub const OVERFLOW: &str = "_other";

/// The label of assets.
pub const ASSETS: &str = "_assets";

/// The label of requests that nothing answers.
pub const UNROUTED: &str = "_none";

/// All counters of a process. Cheap to clone; clones count together, so they last when a project is
/// loaded again.
#[derive(Clone)]
pub struct Telemetry(Arc<Registry>);

struct Registry {
    version: &'static str,
    exports: Arc<Exports>,
    tail: LogTail,
    started: SystemTime,
    workers: Mutex<BTreeMap<String, Arc<WorkerSeries>>>,
    overflow: Arc<WorkerSeries>,
    assets: Arc<WorkerSeries>,
    unrouted: Arc<WorkerSeries>,
    refusals: [AtomicU64; Refusal::ALL.len()],
    kv: [[[AtomicU64; 2]; KvOperation::ALL.len()]; KvStore::ALL.len()],
    code: [AtomicU64; CodeSource::ALL.len()],
    reloads: [AtomicU64; 2],
    /// Seconds since 1970 of the last reload that succeeded; 0 if there was none.
    reloaded_at: AtomicU64,
    /// Whether the last reload failed.
    reload_failed: AtomicBool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"))
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Counters of a program with this version.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let zero = || AtomicU64::new(0);
        let exports = Arc::<Exports>::default();
        let series = |route| Arc::new(WorkerSeries::new(route, exports.clone()));
        Self(Arc::new(Registry {
            version,
            started: SystemTime::now(),
            workers: Mutex::default(),
            overflow: series(OVERFLOW),
            assets: series(ASSETS),
            unrouted: series(UNROUTED),
            refusals: std::array::from_fn(|_| zero()),
            kv: std::array::from_fn(|_| std::array::from_fn(|_| [zero(), zero()])),
            code: std::array::from_fn(|_| zero()),
            reloads: [zero(), zero()],
            reloaded_at: zero(),
            reload_failed: AtomicBool::new(false),
            exports,
            tail: LogTail::default(),
        }))
    }

    /// The version of the program.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.0.version
    }

    /// When the counters began.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// The last lines of the log.
    #[must_use]
    pub fn tail(&self) -> &LogTail {
        &self.0.tail
    }

    /// The access log.
    #[must_use]
    pub fn access_log(&self) -> &AccessLog {
        &self.0.exports.access
    }

    /// Where spans wait to be exported.
    #[must_use]
    pub fn spans(&self) -> &ExportQueue<Span> {
        &self.0.exports.spans
    }

    /// Where lines of the log wait to be exported.
    #[must_use]
    pub fn logs(&self) -> &ExportQueue<LogRecord> {
        &self.0.exports.logs
    }

    /// Word that metrics have changed.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.0.exports.changes
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<WorkerSeries>>> {
        self.0
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The series of the worker at a route. Taken when a project is loaded, not for each request.
    #[must_use]
    pub fn worker(&self, route: &str) -> Arc<WorkerSeries> {
        let mut workers = self.workers();
        if let Some(series) = workers.get(route) {
            return series.clone();
        }
        if workers.len() >= MAX_WORKERS {
            return self.0.overflow.clone();
        }
        let series = Arc::new(WorkerSeries::new(route, self.0.exports.clone()));
        workers.insert(route.to_owned(), series.clone());
        series
    }

    /// The series of assets.
    #[must_use]
    pub fn assets(&self) -> &Arc<WorkerSeries> {
        &self.0.assets
    }

    /// The series of requests that nothing answers.
    #[must_use]
    pub fn unrouted(&self) -> &Arc<WorkerSeries> {
        &self.0.unrouted
    }

    /// Counts a request that no worker answered.
    pub fn refused(&self, refusal: Refusal) {
        self.0.refusals[refusal.index()].fetch_add(1, Relaxed);
        self.changes().touch();
    }

    /// Requests that no worker answered, by cause, without causes that never occurred.
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        let all = Refusal::ALL.iter();
        let counts = all.map(|cause| (cause.text(), self.0.refusals[cause.index()].load(Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Counts an operation of a key/value store.
    pub fn kv(&self, store: KvStore, operation: KvOperation, succeeded: bool) {
        let counts = &self.0.kv[store.index()][operation.index()];
        counts[usize::from(succeeded)].fetch_add(1, Relaxed);
        self.changes().touch();
    }

    /// Counts code that was loaded.
    pub fn code(&self, source: CodeSource) {
        self.0.code[source.index()].fetch_add(1, Relaxed);
        self.changes().touch();
    }

    /// Counts a reload of the project.
    pub fn reloaded(&self, succeeded: bool) {
        self.0.reloads[usize::from(succeeded)].fetch_add(1, Relaxed);
        self.0.reload_failed.store(!succeeded, Relaxed);
        if succeeded {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.0
                .reloaded_at
                .store(now.unwrap_or_default().as_secs(), Relaxed);
        }
        self.changes().touch();
    }

    /// The reloads so far.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        let [failed, succeeded] = &self.0.reloads;
        let at = self.0.reloaded_at.load(Relaxed);
        Reloads {
            succeeded: succeeded.load(Relaxed),
            failed: failed.load(Relaxed),
            last_failed: self.0.reload_failed.load(Relaxed),
            last: (at > 0).then(|| UNIX_EPOCH + Duration::from_secs(at)),
        }
    }

    /// All series: of workers by their routes, then the shared ones.
    fn series(&self) -> Vec<Arc<WorkerSeries>> {
        let shared = [&self.0.assets, &self.0.unrouted, &self.0.overflow];
        let mut all: Vec<_> = self.workers().values().cloned().collect();
        all.extend(shared.map(Clone::clone));
        all
    }

    /// Passes on all counters.
    pub fn collect(&self, sink: &mut dyn Sink) {
        let series = self.series();
        let states: Vec<(&str, WorkerState)> = series
            .iter()
            .map(|series| (series.route(), series.read()))
            .collect();
        requests(sink, &states);
        calls(sink, &states);
        self.totals(sink);
    }

    /// What is not counted by worker.
    fn totals(&self, sink: &mut dyn Sink) {
        let Registry {
            refusals, kv, code, ..
        } = &*self.0;
        sink.family(counter(
            "wws_refusals_total",
            "Requests that were refused before a worker ran, by cause.",
        ));
        for cause in Refusal::ALL {
            let count = refusals[cause.index()].load(Relaxed);
            sink.number(&[("cause", cause.text())], count as f64);
        }
        sink.family(counter(
            "wws_kv_operations_total",
            "Operations of key/value stores.",
        ));
        for store in KvStore::ALL {
            let counts = &kv[store.index()];
            let is_used = counts.iter().flatten().any(|count| count.load(Relaxed) > 0);
            if *store != KvStore::Memory && !is_used {
                continue;
            }
            for operation in KvOperation::ALL {
                for (outcome, index) in [("ok", 1), ("error", 0)] {
                    let labels = [
                        ("store", store.text()),
                        ("operation", operation.text()),
                        ("outcome", outcome),
                    ];
                    let count = counts[operation.index()][index].load(Relaxed);
                    sink.number(&labels, count as f64);
                }
            }
        }
        sink.family(counter(
            "wws_code_loads_total",
            "Modules and interpreters that were loaded, by the source of their code.",
        ));
        for source in CodeSource::ALL {
            let count = code[source.index()].load(Relaxed);
            sink.number(&[("source", source.text())], count as f64);
        }
        self.dropped(sink);
        let reloads = self.reloads();
        sink.family(counter("wws_reloads_total", "Reloads of the project."));
        sink.number(&[("outcome", "ok")], reloads.succeeded as f64);
        sink.number(&[("outcome", "error")], reloads.failed as f64);
        let failed = gauge(
            "wws_last_reload_failed",
            "Whether the last reload failed, so that an older generation is served.",
        );
        single(sink, failed, f64::from(u8::from(reloads.last_failed)));
        let last = gauge(
            "wws_last_reload_seconds",
            "The last reload that succeeded, in seconds since 1970; 0 without any.",
        );
        single(sink, last, self.0.reloaded_at.load(Relaxed) as f64);
        sink.family(gauge("wws_build_info", "The version of the server."));
        sink.number(&[("version", self.0.version)], 1.0);
        let start = self.0.started.duration_since(UNIX_EPOCH);
        let start = start.unwrap_or_default().as_secs_f64();
        let family = gauge(
            "wws_start_time_seconds",
            "The start, in seconds since 1970.",
        );
        single(sink, family, start);
    }
}

impl Telemetry {
    /// What an exporter could not export, if there is one.
    fn dropped(&self, sink: &mut dyn Sink) {
        let Exports { spans, logs, .. } = &*self.0.exports;
        let queues = [
            ("traces", spans.is_enabled(), spans.dropped()),
            ("logs", logs.is_enabled(), logs.dropped()),
        ];
        if queues.iter().all(|(_, enabled, _)| !enabled) {
            return;
        }
        sink.family(counter(
            "wws_export_dropped_total",
            "Spans and log lines that were not exported.",
        ));
        for (signal, _, dropped) in queues.iter().filter(|(_, enabled, _)| *enabled) {
            sink.number(&[("signal", signal)], *dropped as f64);
        }
    }
}

/// The reloads of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloads {
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Whether the last one failed.
    pub last_failed: bool,
    /// When the last one that succeeded did.
    pub last: Option<SystemTime>,
}

fn requests(sink: &mut dyn Sink, states: &[(&str, WorkerState)]) {
    sink.family(counter(
        "wws_requests_total",
        "Requests that were answered, by the route of the worker.",
    ));
    for (route, state) in states {
        for method in Method::ALL {
            for class in StatusClass::ALL {
                let count = state.requests[method.index()][class.index()];
                // Most combinations never happen.
                if count > 0 {
                    let labels = [
                        ("worker", *route),
                        ("method", method.text()),
                        ("status", class.text()),
                    ];
                    sink.number(&labels, count as f64);
                }
            }
        }
    }
    let head = histogram(
        "wws_response_head_seconds",
        "Time from the head of a request to the head of its response.",
    );
    times(sink, head, states, |state| &state.head);
    let total = histogram(
        "wws_response_seconds",
        "Time from the head of a request to the end of its response, as far as the worker makes \
         it.",
    );
    times(sink, total, states, |state| &state.total);
    sink.family(gauge(
        "wws_streams",
        "Responses that are being streamed, and open WebSockets.",
    ));
    for (route, state) in states {
        sink.number(&[("worker", route)], state.streams as f64);
    }
}

/// Passes on a histogram of times of each worker that has one.
fn times(
    sink: &mut dyn Sink,
    family: crate::sink::Family,
    states: &[(&str, WorkerState)],
    of: fn(&WorkerState) -> &Histogram,
) {
    let bounds = TIMES.map(|bound| bound as f64 / 1e9);
    sink.family(family);
    for (route, state) in states {
        let histogram = of(state);
        if histogram.count() > 0 {
            let sum = histogram.sum as f64 / 1e9;
            sink.histogram(&[("worker", route)], &bounds, &histogram.buckets, sum);
        }
    }
}

fn calls(sink: &mut dyn Sink, states: &[(&str, WorkerState)]) {
    sink.family(gauge("wws_calls_running", "Calls of workers that run now."));
    for (route, state) in states {
        sink.number(&[("worker", route)], state.running as f64);
    }
    sink.family(counter(
        "wws_worker_cpu_seconds_total",
        "CPU time of calls of workers.",
    ));
    for (route, state) in states {
        sink.number(&[("worker", route)], state.cpu as f64 / 1e9);
    }
    let bounds = SIZES.map(|bound| bound as f64);
    sink.family(histogram(
        "wws_worker_memory_bytes",
        "Memory of a call at its peak.",
    ));
    for (route, state) in states {
        if state.memory.count() > 0 {
            let sum = state.memory.sum as f64;
            sink.histogram(&[("worker", route)], &bounds, &state.memory.buckets, sum);
        }
    }
    sink.family(gauge(
        "wws_worker_memory_peak_bytes",
        "Memory of the largest call since the start.",
    ));
    for (route, state) in states {
        sink.number(&[("worker", route)], state.peak_memory as f64);
    }
    let failure = Failure::ALL.iter().map(|failure| failure.text()).collect();
    let limit = Limit::ALL.iter().map(|limit| limit.text()).collect();
    let outcome = Outgoing::ALL.iter().map(|outcome| outcome.text()).collect();
    let by = |sink: &mut dyn Sink, label, names: Vec<&str>, of: fn(&WorkerState) -> &[u64]| {
        for (route, state) in states {
            for (name, count) in names.iter().zip(of(state)).filter(|(_, count)| **count > 0) {
                sink.number(&[("worker", route), (label, name)], *count as f64);
            }
        }
    };
    sink.family(counter(
        "wws_worker_failures_total",
        "Calls that failed, by kind.",
    ));
    by(sink, "kind", failure, |state| &state.failures);
    sink.family(counter("wws_limits_met_total", "Limits that calls met."));
    by(sink, "limit", limit, |state| &state.limits);
    sink.family(counter(
        "wws_outgoing_requests_total",
        "Outgoing requests of workers.",
    ));
    by(sink, "outcome", outcome, |state| &state.outgoing);
    let sent = histogram(
        "wws_outgoing_request_seconds",
        "Time of an outgoing request to the head of its response, or to its failure.",
    );
    times(sink, sent, states, |state| &state.outgoing_times);
    sink.family(counter(
        "wws_log_lines_left_out_total",
        "Lines of workers that were left out of the log.",
    ));
    for (route, state) in states {
        sink.number(&[("worker", route)], state.lines_left_out as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{TextFormat, TextSink};
    use crate::worker::AnsweredRequest;

    fn text(telemetry: &Telemetry) -> String {
        let mut sink = TextSink::new(TextFormat::Prometheus);
        telemetry.collect(&mut sink);
        sink.finish()
    }

    #[test]
    fn workers_beyond_the_bound_share_their_series() {
        let telemetry = Telemetry::default();
        for number in 0..10_000 {
            telemetry
                .worker(&format!("/{number}"))
                .answered(AnsweredRequest {
                    method: Method::Get,
                    status: 200,
                    head: None,
                    total: Duration::ZERO,
                });
        }
        let text = text(&telemetry);
        let lines = text
            .lines()
            .filter(|line| line.starts_with("wws_requests_total{"));
        assert_eq!(lines.count(), MAX_WORKERS + 1);
        let rest = 10_000 - MAX_WORKERS;
        let shared = format!(
            "wws_requests_total{{worker=\"{OVERFLOW}\",method=\"GET\",status=\"2xx\"}} {rest}\n"
        );
        assert!(text.contains(&shared), "{shared}");
        // A route that has its own series keeps it.
        assert_eq!(telemetry.worker("/1").summary().requests, 1);
    }

    #[test]
    fn shows_everything_that_was_counted() {
        let telemetry = Telemetry::new("1.2.3");
        let worker = telemetry.worker("/api/[id]");
        worker.sent(Outgoing::Timeout, Duration::from_secs(1));
        worker.limit_met(Limit::Memory);
        worker.failed(Failure::Limit);
        worker.stream_began();
        worker.left_out(7);
        telemetry.refused(Refusal::QueueFull);
        telemetry.kv(KvStore::Memory, KvOperation::Get, true);
        telemetry.kv(KvStore::File, KvOperation::Get, false);
        telemetry.code(CodeSource::Cached);
        telemetry.reloaded(true);
        telemetry.reloaded(false);
        let text = text(&telemetry);
        for line in [
            "wws_outgoing_requests_total{worker=\"/api/[id]\",outcome=\"timeout\"} 1",
            "wws_outgoing_request_seconds_count{worker=\"/api/[id]\"} 1",
            "wws_limits_met_total{worker=\"/api/[id]\",limit=\"memory\"} 1",
            "wws_worker_failures_total{worker=\"/api/[id]\",kind=\"limit\"} 1",
            "wws_streams{worker=\"/api/[id]\"} 1",
            "wws_log_lines_left_out_total{worker=\"/api/[id]\"} 7",
            "wws_refusals_total{cause=\"queue_full\"} 1",
            "wws_kv_operations_total{store=\"memory\",operation=\"get\",outcome=\"ok\"} 1",
            "wws_kv_operations_total{store=\"file\",operation=\"get\",outcome=\"error\"} 1",
            "wws_code_loads_total{source=\"cached\"} 1",
            "wws_reloads_total{outcome=\"error\"} 1",
            "wws_last_reload_failed 1",
            "wws_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(telemetry.reloads().last.is_some());
    }
}
