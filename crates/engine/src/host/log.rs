//! Writes a guest's standard error to the log, line by line.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use tracing::Level;
use wws_telemetry::TraceContext;

use crate::host::grants::GuestGrants;

/// Longest line, in bytes. Longer ones are split.
const MAX_LINE: usize = 8 * 1024;

/// Longest context of a message, in bytes. Longer ones are cut.
const MAX_CONTEXT: usize = 128;

/// Logs a line of a call, with what it belongs to.
macro_rules! event {
    ($log:expr, $level:ident, $($rest:tt)+) => {
        tracing::event!(
            target: "guest",
            Level::$level,
            worker = &*$log.grants.name,
            request_id = $log.request(),
            trace_id = $log.trace.map(|trace| display(trace.trace_hex())),
            span_id = $log.trace.map(|trace| display(trace.span_hex())),
            $($rest)+
        )
    };
}

/// Seconds since an arbitrary moment.
fn second() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Not 0, with which counters begin.
    START.elapsed().as_secs() + 1
}

/// Collects the lines of one call.
pub(crate) struct GuestLog {
    grants: Arc<GuestGrants>,
    request_id: String,
    /// The trace of the request, if it has one.
    trace: Option<TraceContext>,
    line: Vec<u8>,
    left: u64,
    dropped: u64,
}

impl GuestLog {
    /// A log that takes `limit` bytes.
    pub(crate) fn new(grants: Arc<GuestGrants>, request_id: String, limit: u64) -> Self {
        Self {
            grants,
            request_id,
            trace: None,
            line: Vec::new(),
            left: limit,
            dropped: 0,
        }
    }

    /// The request to which lines belong, if it is one.
    fn request(&self) -> Option<&str> {
        (!self.request_id.is_empty()).then_some(&*self.request_id)
    }

    /// Sets the request to which later lines belong.
    pub(crate) fn set_request(&mut self, request_id: String) {
        self.request_id = request_id;
    }

    /// Sets the trace to which later lines belong.
    pub(crate) fn set_trace(&mut self, trace: Option<TraceContext>) {
        self.trace = trace;
    }

    /// Whether a line of a level is logged.
    fn admits(&self, level: Level) -> bool {
        let Some(report) = self.grants.report.get() else {
            return true;
        };
        if level > report.log_level {
            return false;
        }
        let second = second();
        self.report_left_out(report.rate.take_left_out(second));
        let admitted = report.rate.admits(report.log_rate, second);
        if !admitted {
            report.series.left_out(1);
        }
        admitted
    }

    fn report_left_out(&self, lines: u64) {
        if lines > 0 {
            tracing::warn!(target: "guest", worker = &*self.grants.name,
                "{lines} more lines left out (`log.rate`)");
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let take = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= take as u64;
        self.dropped += (bytes.len() - take) as u64;
        for part in bytes[..take].split_inclusive(|b| *b == b'\n') {
            for part in part.chunks(MAX_LINE) {
                self.line.extend_from_slice(part);
                if self.line.ends_with(b"\n") || self.line.len() >= MAX_LINE {
                    self.flush();
                }
            }
        }
    }

    /// Writes whole lines at a level.
    pub(crate) fn write_at(&mut self, level: Level, text: &str) {
        self.write_message(level, "", text);
    }

    /// Writes whole lines at a level, and names the context that the guest gave.
    pub(crate) fn write_message(&mut self, level: Level, context: &str, text: &str) {
        let context = &context[..context.floor_char_boundary(MAX_CONTEXT)];
        let context = (!context.is_empty()).then_some(context);
        let take = text
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= take as u64;
        self.dropped += (text.len() - take) as u64;
        let bytes = &text.as_bytes()[..take];
        for line in bytes.split(|b| *b == b'\n') {
            for part in line.chunks(MAX_LINE) {
                let part = String::from_utf8_lossy(part);
                let part = part.trim_end_matches('\r');
                if !self.admits(level) {
                    continue;
                }
                match level {
                    Level::ERROR => event!(self, ERROR, context, "{part}"),
                    Level::WARN => event!(self, WARN, context, "{part}"),
                    Level::INFO => event!(self, INFO, context, "{part}"),
                    Level::DEBUG => event!(self, DEBUG, context, "{part}"),
                    Level::TRACE => event!(self, TRACE, context, "{part}"),
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches(['\n', '\r']);
        if !line.is_empty() && self.admits(Level::INFO) {
            event!(self, INFO, "{line}");
        }
        self.line.clear();
    }
}

impl Drop for GuestLog {
    fn drop(&mut self) {
        self.flush();
        if let Some(report) = self.grants.report.get() {
            self.report_left_out(report.rate.take_left_out(second()));
        }
        if self.dropped > 0 {
            event!(
                self,
                WARN,
                "{} more bytes of log dropped (`limits.log`)",
                self.dropped
            );
        }
    }
}
