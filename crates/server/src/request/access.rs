//! The record of a request: a line of the access log and its counters, however it ends.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode, Uri};
use wws_telemetry::{AccessLine, AnsweredRequest, WorkerSeries};

use crate::request::trace::{RequestEnd, RequestTrace};

/// The logged status of a request whose client went away before the response.
const CLIENT_GONE: u16 = 499;

/// What the access log and the counters say of a request.
pub(crate) struct AccessRecord {
    enabled: bool,
    /// Whether this record has not been taken over by another one.
    counts: bool,
    start: Instant,
    /// The time to the head of the response.
    head: Option<Duration>,
    method: Method,
    target: Uri,
    /// The trace that it belongs to.
    pub(crate) trace: RequestTrace,
    /// The client, once it is known.
    pub(crate) client: Option<IpAddr>,
    status: u16,
    bytes: u64,
    /// Who ended the response before its end.
    aborted_by: Option<AbortedBy>,
}

/// Who ended a response before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbortedBy {
    /// The client went away, took too little or was disconnected for another one.
    Client,
    /// The worker failed or met a limit.
    Worker,
    /// The server stopped.
    Shutdown,
}

impl AbortedBy {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Shutdown => "shutdown",
        }
    }
}

impl AccessRecord {
    /// Begins the record of a request, which is logged only if `enabled`.
    pub(crate) fn new(enabled: bool, method: &Method, target: &Uri) -> Self {
        Self {
            enabled,
            counts: true,
            start: Instant::now(),
            head: None,
            method: method.clone(),
            target: target.clone(),
            trace: RequestTrace::default(),
            client: None,
            status: CLIENT_GONE,
            bytes: 0,
            aborted_by: None,
        }
    }

    /// The time to the head of the response; for a request without one, the time until now.
    pub(crate) fn time(&self) -> Duration {
        self.head.unwrap_or_else(|| self.start.elapsed())
    }

    /// Records the response.
    pub(crate) fn responded(&mut self, status: StatusCode, bytes: u64) {
        self.status = status.as_u16();
        self.bytes = bytes;
        self.head = Some(self.start.elapsed());
    }

    /// Counts the request, whose response was passed on or streamed, writes the line, and queues
    /// the span.
    pub(crate) fn end(
        &mut self,
        total: Duration,
        series: &WorkerSeries,
        request_id: &str,
        worker: Option<&str>,
    ) {
        if self.counts {
            series.answered(AnsweredRequest {
                method: wws_telemetry::Method::new(self.method.as_str()),
                status: self.status,
                head: self.head,
                total,
            });
        }
        let is_gone = self.status == CLIENT_GONE && self.head.is_none();
        self.trace.end(
            series,
            &RequestEnd {
                method: &self.method,
                target: &self.target,
                status: (!is_gone).then_some(self.status),
                aborted_by: match is_gone {
                    true => Some(AbortedBy::Client.name()),
                    false => self.aborted_by.map(AbortedBy::name),
                },
                is_clients: is_gone || self.aborted_by == Some(AbortedBy::Client),
                client: self.client,
                request_id,
                time: total,
            },
        );
        if !self.enabled {
            return;
        }
        let line = AccessLine {
            method: self.method.as_str(),
            // Queries may hold secrets.
            path: self.target.path(),
            status: self.status,
            bytes: self.bytes,
            time: total,
            client: self.client,
            worker,
            request_id,
            trace: self.trace.context(),
            aborted_by: self.aborted_by.map(AbortedBy::name),
        };
        if !series.access_log().write(&line) {
            access_event(&line);
        }
    }
}

/// Logs a line as an event, for programs without a writer of the access log.
pub fn access_event(line: &AccessLine<'_>) {
    tracing::info!(
        target: "access",
        method = line.method,
        path = line.path,
        status = line.status,
        bytes = line.bytes,
        ms = line.time.as_micros() as f64 / 1000.0,
        client = line.client.map(tracing::field::display),
        worker = line.worker,
        request_id = line.request_id,
        trace_id = line.trace.map(|trace| tracing::field::display(trace.trace_hex())),
        span_id = line.trace.map(|trace| tracing::field::display(trace.span_hex())),
        aborted_by = line.aborted_by,
    );
}

/// The record of a request whose response is streamed: it ends when this is dropped.
pub(crate) struct StreamRecord {
    record: AccessRecord,
    pub(crate) series: Arc<WorkerSeries>,
    pub(crate) request_id: String,
    pub(crate) worker: String,
}

impl StreamRecord {
    /// Takes a record over, which is neither logged nor counted elsewhere then.
    pub(crate) fn new(
        record: &mut AccessRecord,
        series: Arc<WorkerSeries>,
        status: StatusCode,
        request_id: &str,
        worker: &str,
    ) -> Self {
        series.stream_began();
        Self {
            series,
            record: AccessRecord {
                enabled: std::mem::take(&mut record.enabled),
                counts: std::mem::take(&mut record.counts),
                start: record.start,
                head: Some(record.start.elapsed()),
                method: record.method.clone(),
                target: record.target.clone(),
                trace: record.trace.hand_over(),
                client: record.client,
                status: status.as_u16(),
                bytes: 0,
                aborted_by: None,
            },
            request_id: request_id.to_owned(),
            worker: worker.to_owned(),
        }
    }

    /// The trace that the request belongs to.
    pub(crate) fn trace(&self) -> &RequestTrace {
        &self.record.trace
    }

    /// Counts bytes that are sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }

    /// Records that the response has ended as it should.
    pub(crate) fn completed(&mut self) {
        self.record.aborted_by = None;
    }

    /// Records who ends the response before its end.
    pub(crate) fn aborted(&mut self, by: AbortedBy) {
        self.record.aborted_by = Some(by);
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        self.series.stream_ended();
        let total = self.record.start.elapsed();
        let worker = Some(self.worker.as_str());
        self.record
            .end(total, &self.series, &self.request_id, worker);
    }
}
