//! Lines of the access log. They look like those of other events and are formatted into a buffer of
//! the thread: a `tracing` event costs several times as much, and a server may write one for each
//! request.

use std::cell::RefCell;
use std::io::Write;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use wws_image::rfc3339;
use wws_project::LogFormat;
use wws_telemetry::AccessLine;

use super::escape::escape_controls;
use super::writer::Writer;

/// The capacity that a thread keeps for its next line, in bytes.
const KEPT: usize = 4 << 10;

thread_local! {
    static BUFFER: RefCell<LineBuffer> = const { RefCell::new(LineBuffer::new()) };
}

/// Formats a line and passes it to the writer.
pub(crate) fn write(writer: &Writer, format: LogFormat, line: &AccessLine<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    BUFFER.with_borrow_mut(|buffer| {
        buffer.begin(now.as_secs());
        match format {
            LogFormat::Text => buffer.text(now.subsec_micros(), line),
            LogFormat::Json => buffer.json(now.subsec_micros(), line),
        }
        match format {
            LogFormat::Text if !buffer.is_plain => writer.append(&escape_controls(&buffer.bytes)),
            _ => writer.append(&buffer.bytes),
        }
        buffer.bytes.clear();
        buffer.bytes.shrink_to(KEPT);
    });
}

/// A line, and the second in which the last one was written.
struct LineBuffer {
    second: u64,
    /// The second as text, without a time zone.
    date: String,
    bytes: Vec<u8>,
    /// Whether all texts of the line are printable ASCII.
    is_plain: bool,
}

impl LineBuffer {
    const fn new() -> Self {
        Self {
            second: 0,
            date: String::new(),
            bytes: Vec::new(),
            is_plain: true,
        }
    }

    fn begin(&mut self, second: u64) {
        self.is_plain = true;
        if self.second != second || self.date.is_empty() {
            self.second = second;
            self.date = rfc3339(second);
            self.date.truncate(self.date.len() - 1);
        }
    }

    fn text(&mut self, micros: u32, line: &AccessLine<'_>) {
        self.time(micros);
        self.raw(b"  INFO access: method=");
        self.quoted_text(line.method);
        self.raw(b" path=");
        self.quoted_text(line.path);
        self.raw(b" status=");
        self.number(line.status.into());
        self.raw(b" bytes=");
        self.number(line.bytes);
        self.raw(b" ms=");
        self.milliseconds(line);
        if let Some(client) = line.client {
            self.raw(b" client=");
            self.address(client);
        }
        if let Some(worker) = line.worker {
            self.raw(b" worker=");
            self.quoted_text(worker);
        }
        self.raw(b" request_id=");
        self.quoted_text(line.request_id);
        if let Some(trace) = line.trace {
            let header = trace.header();
            self.raw(b" trace_id=");
            self.raw(&header[3..35]);
            self.raw(b" span_id=");
            self.raw(&header[36..52]);
        }
        if let Some(by) = line.aborted_by {
            self.raw(b" aborted_by=");
            self.quoted_text(by);
        }
        self.raw(b"\n");
    }

    fn json(&mut self, micros: u32, line: &AccessLine<'_>) {
        self.raw(b"{\"timestamp\":\"");
        self.time(micros);
        self.raw(b"\",\"level\":\"INFO\",\"method\":");
        self.quoted_json(line.method);
        self.raw(b",\"path\":");
        self.quoted_json(line.path);
        self.raw(b",\"status\":");
        self.number(line.status.into());
        self.raw(b",\"bytes\":");
        self.number(line.bytes);
        self.raw(b",\"ms\":");
        self.milliseconds(line);
        if let Some(client) = line.client {
            self.raw(b",\"client\":\"");
            self.address(client);
            self.raw(b"\"");
        }
        if let Some(worker) = line.worker {
            self.raw(b",\"worker\":");
            self.quoted_json(worker);
        }
        self.raw(b",\"request_id\":");
        self.quoted_json(line.request_id);
        if let Some(trace) = line.trace {
            let header = trace.header();
            self.raw(b",\"trace_id\":\"");
            self.raw(&header[3..35]);
            self.raw(b"\",\"span_id\":\"");
            self.raw(&header[36..52]);
            self.raw(b"\"");
        }
        if let Some(by) = line.aborted_by {
            self.raw(b",\"aborted_by\":");
            self.quoted_json(by);
        }
        self.raw(b",\"target\":\"access\"}\n");
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn time(&mut self, micros: u32) {
        self.bytes.extend_from_slice(self.date.as_bytes());
        self.bytes.push(b'.');
        self.digits(micros, 100_000);
        self.bytes.push(b'Z');
    }

    /// Appends as many digits as `highest` has.
    fn digits(&mut self, value: u32, mut highest: u32) {
        while highest > 0 {
            // A digit is less than 10.
            self.bytes.push(b'0' + (value / highest % 10) as u8);
            highest /= 10;
        }
    }

    fn number(&mut self, mut value: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.raw(&digits[at..]);
    }

    /// Milliseconds with at least one and at most three decimal places.
    fn milliseconds(&mut self, line: &AccessLine<'_>) {
        let micros = u64::try_from(line.time.as_micros()).unwrap_or(u64::MAX);
        self.number(micros / 1000);
        self.bytes.push(b'.');
        self.digits((micros % 1000) as u32, 100);
        for _ in 0..2 {
            self.bytes.pop_if(|last| *last == b'0');
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                for (index, octet) in address.octets().into_iter().enumerate() {
                    if index > 0 {
                        self.bytes.push(b'.');
                    }
                    self.number(octet.into());
                }
            }
            // Writing to a vector cannot fail.
            IpAddr::V6(address) => drop(write!(self.bytes, "{address}")),
        }
    }

    /// Appends a text in quotes as Rust's debug format has it.
    fn quoted_text(&mut self, text: &str) {
        if is_plain(text) {
            self.quoted_plain(text);
        } else {
            self.is_plain = false;
            drop(write!(self.bytes, "{text:?}"));
        }
    }

    fn quoted_json(&mut self, text: &str) {
        if is_plain(text) {
            self.quoted_plain(text);
        } else {
            // Serializing a string to a vector cannot fail.
            drop(serde_json::to_writer(&mut self.bytes, text));
        }
    }

    fn quoted_plain(&mut self, text: &str) {
        self.bytes.push(b'"');
        self.raw(text.as_bytes());
        self.bytes.push(b'"');
    }
}

/// Whether a text is the same in quotes.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::captured::CapturedLines;
    use std::time::Duration;
    use tracing_subscriber::{Layer, fmt, layer::SubscriberExt};
    use wws_telemetry::TraceContext;

    /// The line of an event with the same fields.
    fn event(format: LogFormat, line: &AccessLine<'_>) -> String {
        let lines = CapturedLines::default();
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone());
        let layer = match format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .boxed(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            wws_server::access_event(line);
        });
        lines.text()
    }

    /// A line with another time in place of its own.
    fn at(line: &str, time: &str) -> String {
        let year = line.find("20").unwrap();
        format!("{}{time}{}", &line[..year], &line[year + time.len()..])
    }

    #[test]
    fn writes_one_line_per_event() {
        const TIME: &str = "2026-01-01T00:00:00.000123Z";
        let plain = AccessLine {
            method: "GET",
            path: "/a/b",
            status: 200,
            bytes: 0,
            time: Duration::from_micros(1_234_500),
            client: Some([127, 0, 0, 1].into()),
            worker: Some("a/b.wasm"),
            request_id: "7d-1",
            trace: Some(TraceContext::root(true)),
            aborted_by: Some("worker"),
        };
        let lines = [
            AccessLine {
                path: "/\"\\\u{e9}\u{202e}",
                bytes: u64::MAX,
                time: Duration::from_micros(7),
                client: Some([0, 0, 0, 0, 0, 0, 0, 1].into()),
                worker: Some("w\u{1b}\n"),
                trace: None,
                aborted_by: None,
                ..plain
            },
            AccessLine {
                time: Duration::ZERO,
                client: None,
                worker: None,
                ..plain
            },
            AccessLine {
                time: Duration::from_micros(20_050),
                ..plain
            },
            plain,
        ];
        for line in lines {
            for format in [LogFormat::Text, LogFormat::Json] {
                let mut buffer = LineBuffer::new();
                buffer.begin(1_767_225_600);
                match format {
                    LogFormat::Text => buffer.text(123, &line),
                    LogFormat::Json => buffer.json(123, &line),
                }
                let own = String::from_utf8(buffer.bytes).unwrap();
                assert!(own.contains(TIME), "{own}");
                assert_eq!(own, at(&event(format, &line), TIME));
            }
        }
    }
}
