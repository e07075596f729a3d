//! What the operating system provides: child processes, threads, time and the log.

pub(crate) mod child;
pub(crate) mod log;
pub(crate) mod reaper;
pub(crate) mod thread;
pub(crate) mod time;
