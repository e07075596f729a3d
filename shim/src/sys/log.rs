//! The shim's own log: lines in containerd's format, written to the FIFO `log` of the bundle, which
//! containerd copies into its own log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::sys::time;

static OUT: OnceLock<File> = OnceLock::new();
static DEBUG: AtomicBool = AtomicBool::new(false);

/// The length of the longest line, in bytes: a pipe takes it in one write.
const MAX_LINE: usize = 4000;

/// Opens the FIFO. Without a FIFO, lines are dropped: the log must not make the shim fail.
pub(crate) fn open(fifo: &Path, debug: bool) {
    DEBUG.store(debug, Ordering::Relaxed);
    // Also for reading: then neither the opening nor a restart of containerd blocks or breaks
    // the pipe. Lines are dropped while it is full.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    if let Ok(file) = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(fifo)
    {
        drop(OUT.set(file));
    }
}

/// Writes one line.
pub(crate) fn line(level: &str, message: &str) {
    if level == "debug" && !DEBUG.load(Ordering::Relaxed) {
        return;
    }
    if let Some(mut out) = OUT.get() {
        let line = format_line(&time::rfc3339(&time::now()), level, message);
        // Full or closed: the line is dropped.
        drop(out.write_all(line.as_bytes()));
    }
}

fn format_line(time: &str, level: &str, message: &str) -> String {
    let mut line =
        format!("time=\"{time}\" level={level} msg={message:?} runtime=io.containerd.wws.v1");
    if line.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|at| line.is_char_boundary(*at));
        line.truncate(end.unwrap_or(0));
    }
    line.push('\n');
    line
}

/// Logs that something is broken.
macro_rules! error {
    ($($part:tt)*) => { $crate::sys::log::line("error", &format!($($part)*)) }
}
/// Logs that something is unusual.
macro_rules! warning {
    ($($part:tt)*) => { $crate::sys::log::line("warning", &format!($($part)*)) }
}
/// Logs what an operator asked for.
macro_rules! info {
    ($($part:tt)*) => { $crate::sys::log::line("info", &format!($($part)*)) }
}
/// Logs details for debugging.
macro_rules! debug {
    ($($part:tt)*) => { $crate::sys::log::line("debug", &format!($($part)*)) }
}
pub(crate) use {debug, error, info, warning};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_message_on_one_line_of_bounded_length() {
        let line = format_line("T", "error", &format!("a\nb \"c\" {}", "ü".repeat(5000)));
        assert!(line.starts_with("time=\"T\" level=error msg=\"a\\nb \\\"c\\\" "));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() <= MAX_LINE + 1);
    }
}
