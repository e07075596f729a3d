//! What goes wrong with guests, in the operator's words.

use std::time::Duration;

/// The process' engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the Wasm engine: {0}")]
pub struct EngineError(pub(crate) String);

/// A module cannot be a guest. The text says why and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub(crate) String);

impl LoadError {
    /// An error with this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A call failed. `Display` is the operator's text: it names causes that no caller should see.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest used more CPU than it may.
    #[error("ended after {0:?} of CPU time (`limits.cpu_time`)")]
    CpuTime(Duration),
    /// The guest took longer than it may.
    #[error("ended after {0:?} (`limits.wall_time`)")]
    WallTime(Duration),
    /// The guest printed more than it may.
    #[error("printed more than {0} bytes (`limits.output`)")]
    TooMuchOutput(u64),
    /// The guest needs more memory than all guests together may use.
    #[error(
        "needs {needed} bytes of memory, all guests together may use {total} (`server.memory`)"
    )]
    NoRoom {
        /// Bytes that it starts with.
        needed: u64,
        /// Bytes for all guests.
        total: u64,
    },
    /// No memory for the call became free in time.
    #[error("no memory for the call within {0:?} (`server.queue_timeout`, `server.memory`)")]
    Busy(Duration),
    /// The host was to keep more for the call than it may.
    #[error(
        "the server keeps no more for the call: it has more than {buffers} bytes of output and messages (`limits.buffers`), or all calls together use the memory that there is (`server.memory`)"
    )]
    NoMemory {
        /// Bytes for one call.
        buffers: u64,
    },
    /// The guest trapped.
    #[error("trapped: {0}")]
    Trap(String),
    /// The guest ended with an exit code other than 0.
    #[error("exited with code {0}")]
    Exit(i32),
    /// The user's program failed, in its own words.
    #[error("{0}")]
    Failed(String),
    /// What the guest printed is no response.
    #[error("printed no valid response: {0}")]
    BadResponse(String),
    /// The key/value store failed.
    #[error("key/value store: {0}")]
    Kv(#[from] wws_kv::Error),
    /// The engine's own failure.
    #[error("engine: {0}")]
    Engine(String),
}

impl CallError {
    /// The call ran out of time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::CpuTime(_) | Self::WallTime(_))
    }

    /// There was no room for another guest: try again later.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Busy(_))
    }
}

/// Why the host ended a guest; travels through wasmtime as an error.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("exit {0}")]
    Exit(i32),
    #[error("CPU time")]
    CpuTime,
    #[error("output")]
    Output,
    #[error("memory of the host")]
    Memory,
    #[error("suspended")]
    Suspended,
}

/// wasmtime's errors are a backtrace and a cause on lines of their own; a log line is one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    // The cause before the backtrace, which may be longer than a line of the log.
    let cause = error.root_cause().to_string();
    let text = format!("{error:#}");
    let text = match text.strip_suffix(cause.as_str()) {
        Some(rest) if !rest.is_empty() => format!("{cause}: {}", rest.trim_end_matches([':', ' '])),
        _ => text,
    };
    let mut line = String::with_capacity(text.len());
    for part in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(part);
    }
    line
}
