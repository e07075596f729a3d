//! What the operating system provides: child processes, threads, time, the log and a directory.

pub(crate) mod child;
pub(crate) mod hex;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod reaper;
pub(crate) mod state;
pub(crate) mod thread;
pub(crate) mod time;
