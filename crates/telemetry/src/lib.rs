//! What a server reports of itself: counters and histograms with a bounded number of series, and
//! the text formats in which they are read.
//!
//! A request counts by relaxed atomics of its thread's stripe ([`WorkerSeries`]): without a lock,
//! an allocation, or a cache line that other threads write to. Sums are made when somebody reads
//! them. The values of labels are closed sets; routes are at most [`MAX_WORKERS`].

#![forbid(unsafe_code)]

mod access;
mod exports;
mod histogram;
mod label;
mod queue;
mod registry;
mod sink;
mod span;
mod stripe;
mod tail;
mod text;
mod trace;
mod worker;

pub use access::{AccessLine, AccessLog};
pub use exports::Changes;
pub use label::{
    CodeSource, Failure, KvOperation, KvStore, Limit, Method, Outgoing, Refusal, StatusClass,
};
pub use queue::{ExportQueue, MAX_QUEUED, Queued};
pub use registry::{ASSETS, MAX_WORKERS, OVERFLOW, Reloads, Telemetry, UNROUTED};
pub use sink::{Family, Labels, MetricKind, Sink, counter, gauge, histogram, single};
pub use span::{Attributes, LogRecord, Severity, Span, SpanKind, Value};
pub use tail::{LogLine, LogTail};
pub use text::{TextFormat, TextSink};
pub use trace::{Hex, RootSampler, Sampler, TRACEPARENT, TRACESTATE, TraceContext};
pub use worker::{AnsweredRequest, WorkerSeries, WorkerSummary};
