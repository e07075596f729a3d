//! The shim's own log: lines in containerd's format, written to the FIFO `log` of the bundle, which
//! containerd copies into its own log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::OFlags;

use crate::sys::time;

static OUT: OnceLock<File> = OnceLock::new();
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// The length of the longest line, in bytes: a pipe takes it in one write.
const MAX_LINE: usize = 4000;

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Details for debugging.
    Debug,
    /// What happens.
    Info,
    /// What is unusual.
    Warning,
    /// What is broken.
    Error,
}

impl Level {
    /// All levels, the most verbose first.
    const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    /// Returns the level that is nearest to a number of containerd's
    /// (`containerd.runtime.bootstrap.v1.LogLevel`), the more verbose one of two.
    pub(crate) fn from_number(number: i32) -> Self {
        match number {
            ..=-2 => Self::Debug,
            -1..=2 => Self::Info,
            3..=6 => Self::Warning,
            7.. => Self::Error,
        }
    }

    /// Returns the level of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Returns the name, as in lines of the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Opens the FIFO for lines that are at least as important as `level`. Without a FIFO, lines are
/// dropped: the log must not make the shim fail.
pub(crate) fn open(fifo: &Path, level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
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

/// Writes one line, if it is important enough.
pub(crate) fn line(level: Level, message: &str) {
    if level as u8 >= LEVEL.load(Ordering::Relaxed) {
        write(level, message);
    }
}

/// Writes one line.
pub(crate) fn write(level: Level, message: &str) {
    if let Some(mut out) = OUT.get() {
        let line = format_line(&time::rfc3339(&time::now()), level.name(), message);
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
    ($($part:tt)*) => {
        $crate::sys::log::line($crate::sys::log::Level::Error, &format!($($part)*))
    }
}
/// Logs that something is unusual.
macro_rules! warning {
    ($($part:tt)*) => {
        $crate::sys::log::line($crate::sys::log::Level::Warning, &format!($($part)*))
    }
}
/// Logs what happens.
macro_rules! info {
    ($($part:tt)*) => {
        $crate::sys::log::line($crate::sys::log::Level::Info, &format!($($part)*))
    }
}
/// Logs what an operator asked for, whatever the level is.
macro_rules! report {
    ($($part:tt)*) => {
        $crate::sys::log::write($crate::sys::log::Level::Info, &format!($($part)*))
    }
}
/// Logs details for debugging.
macro_rules! debug {
    ($($part:tt)*) => {
        $crate::sys::log::line($crate::sys::log::Level::Debug, &format!($($part)*))
    }
}
pub(crate) use {debug, error, info, report, warning};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_level_of_containerd() {
        let numbers = [
            // Those of the bootstrap protocol: trace, debug, info, warn, error, fatal, panic.
            (Level::Debug, [-8, -4].as_slice()),
            (Level::Info, &[0]),
            (Level::Warning, &[4]),
            (Level::Error, &[8, 10, 12]),
            // Those of a release to come.
            (Level::Debug, &[i32::MIN, -5, -3, -2]),
            (Level::Info, &[-1, 1, 2]),
            (Level::Warning, &[3, 5, 6]),
            (Level::Error, &[7, 9, i32::MAX]),
        ];
        for (level, numbers) in numbers {
            for number in numbers {
                assert_eq!(Level::from_number(*number), level, "{number}");
            }
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("loud"), None);
        assert!(Level::ALL.is_sorted());
    }

    #[test]
    fn keeps_a_message_on_one_line_of_bounded_length() {
        let line = format_line("T", "error", &format!("a\nb \"c\" {}", "ü".repeat(5000)));
        assert!(line.starts_with("time=\"T\" level=error msg=\"a\\nb \\\"c\\\" "));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() <= MAX_LINE + 1);
    }
}
