//! Writes a guest's standard error to the log, line by line.

use std::sync::Arc;

/// Longest line, in bytes. Longer ones are split.
const MAX_LINE: usize = 8 * 1024;

/// Longest context of a message, in bytes. Longer ones are cut.
const MAX_CONTEXT: usize = 128;

/// Collects the lines of one call.
pub(crate) struct GuestLog {
    worker: Arc<str>,
    request_id: String,
    line: Vec<u8>,
    left: u64,
    dropped: u64,
}

impl GuestLog {
    /// A log that takes `limit` bytes.
    pub(crate) fn new(worker: Arc<str>, request_id: String, limit: u64) -> Self {
        Self {
            worker,
            request_id,
            line: Vec::new(),
            left: limit,
            dropped: 0,
        }
    }

    /// Sets the request to which later lines belong.
    pub(crate) fn set_request(&mut self, request_id: String) {
        self.request_id = request_id;
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
    pub(crate) fn write_at(&mut self, level: tracing::Level, text: &str) {
        self.write_message(level, "", text);
    }

    /// Writes whole lines at a level, and names the context that the guest gave.
    pub(crate) fn write_message(&mut self, level: tracing::Level, context: &str, text: &str) {
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
                macro_rules! event {
                    ($level:ident) => {
                        tracing::event!(target: "guest", tracing::Level::$level, worker = &*self.worker,
                            request_id = self.request_id, context, "{part}")
                    };
                }
                match level {
                    tracing::Level::ERROR => event!(ERROR),
                    tracing::Level::WARN => event!(WARN),
                    tracing::Level::INFO => event!(INFO),
                    tracing::Level::DEBUG => event!(DEBUG),
                    tracing::Level::TRACE => event!(TRACE),
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches(['\n', '\r']);
        if !line.is_empty() {
            tracing::info!(target: "guest", worker = &*self.worker, request_id = self.request_id, "{line}");
        }
        self.line.clear();
    }
}

impl Drop for GuestLog {
    fn drop(&mut self) {
        self.flush();
        if self.dropped > 0 {
            tracing::warn!(target: "guest", worker = &*self.worker, request_id = self.request_id,
                "{} more bytes of log dropped (`limits.log`)", self.dropped);
        }
    }
}
