//! A thread that writes lines, so that a stalled reader never blocks a worker: lines without room
//! are dropped and counted. It also reports how many lines the rate limit suppressed.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::fmt::{MakeWriter, format, time::FormatTime};

use wws_project::LogFormat;

use super::{
    LogStyle,
    escape::escape_controls,
    rate_limit::{RateLimit, Suppressed},
};

/// The maximum size of waiting lines, in bytes.
const ROOM: usize = 1 << 20;

/// A line that comes alone is written at once. Those that follow within this time are written
/// together: waking up for each took 2.5 % of a busy server's CPU time.
const GATHER: Duration = Duration::from_millis(40);

/// So many bytes of lines are written earlier.
const ENOUGH: usize = 128 << 10;

/// Bytes of the buffer that stay while no lines come.
const KEPT: usize = 16 << 10;

/// Passes lines to the thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer(Arc<SharedWriter>);

struct SharedWriter {
    state: Mutex<PendingLines>,
    wake: Condvar,
    done: Condvar,
    style: LogStyle,
    limit: Arc<RateLimit>,
}

#[derive(Default)]
struct PendingLines {
    lines: Vec<u8>,
    dropped: u64,
    /// The thread waits for a line.
    asleep: bool,
    /// The thread waits for more lines.
    gathering: bool,
    writing: bool,
    /// Suppressed lines are reported now, whether their window is over or not.
    last: bool,
}

impl Writer {
    /// Starts the thread, which also reports the lines that `limit` suppresses.
    pub(crate) fn start(style: LogStyle, limit: Arc<RateLimit>) -> io::Result<Self> {
        Self::to(io::stderr(), style, limit)
    }

    fn to(
        out: impl AsFd + Send + 'static,
        style: LogStyle,
        limit: Arc<RateLimit>,
    ) -> io::Result<Self> {
        let shared = Arc::new(SharedWriter {
            state: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            style,
            limit,
        });
        let writer = Self(shared.clone());
        std::thread::Builder::new()
            .name("wws-log".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.write(&out))?;
        Ok(writer)
    }

    /// Passes a line on, unless there is no room for it.
    pub(crate) fn append(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.lines.len() + line.len() > ROOM {
            state.dropped += 1;
            return;
        }
        state.lines.extend_from_slice(line);
        let is_enough = state.gathering && state.lines.len() >= ENOUGH;
        if std::mem::take(&mut state.asleep) || is_enough {
            state.gathering = false;
            self.0.wake.notify_one();
        }
    }

    /// Lets the thread check for suppressed lines.
    pub(crate) fn wake(&self) {
        if std::mem::take(&mut self.0.lock().asleep) {
            self.0.wake.notify_one();
        }
    }

    /// Waits until all lines are written, or for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        state.last = true;
        state.gathering = false;
        self.0.wake.notify_one();
        while !state.lines.is_empty() || state.dropped > 0 || state.writing || state.last {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .0
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl SharedWriter {
    fn lock(&self) -> MutexGuard<'_, PendingLines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for more lines after some were written. `spare` is the buffer that takes the place of
    /// that of the lines.
    fn gather(&self, spare: &mut Vec<u8>) -> MutexGuard<'_, PendingLines> {
        let mut state = self.lock();
        let was_writing = std::mem::take(&mut state.writing);
        if was_writing && state.dropped == 0 && !state.last && state.lines.len() < ENOUGH {
            state.gathering = true;
            let wait = self
                .wake
                .wait_timeout_while(state, GATHER, |state| state.gathering);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            state.gathering = false;
        }
        if state.lines.is_empty() {
            // After a burst. Buffers that are in use are not made anew.
            state.lines.shrink_to(KEPT);
            spare.shrink_to(KEPT);
        }
        state
    }

    fn write(&self, out: &impl AsFd) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.gather(&mut lines);
            let suppressed = loop {
                let suppressed = self.limit.take(state.last);
                if !state.lines.is_empty() || state.dropped > 0 || !suppressed.is_empty() {
                    break suppressed;
                }
                state.last = false;
                self.done.notify_all();
                state.asleep = true;
                state = match self.limit.due() {
                    None => self
                        .wake
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                    Some(due) => {
                        self.wake
                            .wait_timeout(state, due.saturating_duration_since(Instant::now()))
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                };
            };
            state.asleep = false;
            state.writing = true;
            std::mem::swap(&mut state.lines, &mut lines);
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            write_all(out, &lines);
            lines.clear();
            if dropped > 0 {
                write_all(out, dropped_line(dropped, self.style).as_bytes());
            }
            // Reports are lines like others.
            suppressed.iter().for_each(Suppressed::log);
        }
    }
}

/// Lines that cannot be written are lost: there is no other place to report them.
fn write_all(out: &impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Standard error was made non-blocking.
                let mut fds = [PollFd::new(out, PollFlags::OUT)];
                if poll(&mut fds, None).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn now() -> String {
    let mut time = String::new();
    // Writing to a string cannot fail.
    let _ =
        tracing_subscriber::fmt::time::SystemTime.format_time(&mut format::Writer::new(&mut time));
    time
}

fn dropped_line(count: u64, style: LogStyle) -> String {
    let time = now();
    if is_json(style) {
        format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{count} lines dropped: \
             the log's reader is too slow\",\"dropped\":{count},\"target\":\"wws\"}}\n"
        )
    } else {
        format!("{time}  WARN wws: {count} lines dropped: the log's reader is too slow\n")
    }
}

fn is_json(style: LogStyle) -> bool {
    matches!(style, LogStyle::Format(LogFormat::Json))
}

/// One event's line.
pub(crate) struct LineWriter<'w>(&'w Writer);

impl io::Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.0.style {
            LogStyle::Format(LogFormat::Text) => self.0.append(&escape_controls(line)),
            // Escaped already, as parts of a line.
            LogStyle::Format(LogFormat::Json) | LogStyle::Pretty { .. } => self.0.append(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Writer {
    type Writer = LineWriter<'w>;

    fn make_writer(&'w self) -> LineWriter<'w> {
        LineWriter(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufRead, BufReader};

    const TEXT: LogStyle = LogStyle::Format(LogFormat::Text);
    const JSON: LogStyle = LogStyle::Format(LogFormat::Json);

    #[test]
    fn drops_lines_of_a_stalled_reader_and_reports_their_number() {
        let (read, write) = io::pipe().unwrap();
        let writer = Writer::to(write, TEXT, Arc::default()).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let start = Instant::now();
        for _ in 0..10_000 {
            writer.append(&line);
        }
        assert!(start.elapsed() < Duration::from_secs(30));
        writer.flush(Duration::from_millis(50));
        // A writer that got the CPU meanwhile reports what was dropped until then, and again later.
        let (mut lines, mut dropped) = (0, 0);
        for line in BufReader::new(read).lines() {
            let line = line.unwrap();
            match line.split_once("WARN wws: ") {
                Some((_, rest)) => {
                    dropped += rest.split(' ').next().unwrap().parse::<u64>().unwrap()
                }
                None => {
                    assert_eq!(line.len(), 1023);
                    lines += 1;
                }
            }
            if lines + dropped >= 10_000 {
                break;
            }
        }
        assert_eq!(lines + dropped, 10_000);
        assert!(dropped > 0);
    }

    #[test]
    fn escapes_line_breaks_within_a_line() {
        use io::Write as _;
        let (read, write) = io::pipe().unwrap();
        let writer = Writer::to(write, TEXT, Arc::default()).unwrap();
        let line = "INFO guest: a\r2026-01-01 ERROR forged\0\u{202e}x\u{2028}y\nz\n";
        let _ = LineWriter(&writer).write(line.as_bytes()).unwrap();
        writer.flush(Duration::from_secs(60));
        let mut read = BufReader::new(read);
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        assert_eq!(
            line,
            "INFO guest: a\\r2026-01-01 ERROR forged\\0\\u{202e}x\\u{2028}y\\nz\n"
        );
    }

    #[test]
    fn flush_writes_lines_and_does_not_hang_without_a_reader() {
        let (read, write) = io::pipe().unwrap();
        let writer = Writer::to(write, JSON, Arc::default()).unwrap();
        writer.append(b"one\n");
        writer.flush(Duration::from_secs(60));
        let mut read = BufReader::new(read);
        let mut line = String::new();
        read.read_line(&mut line).unwrap();
        assert_eq!(line, "one\n");
        drop(read);
        writer.append(b"two\n");
        let start = Instant::now();
        writer.flush(Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(50));
    }
}
