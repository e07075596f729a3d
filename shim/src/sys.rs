//! What the operating system provides: threads, child processes, time and the log.

pub(crate) mod child;
pub(crate) mod log;
pub(crate) mod reaper;
pub(crate) mod thread;
pub(crate) mod time;
