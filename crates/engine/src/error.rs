//! Errors of guests. `Display` is the operator's text, on one line and with its causes; `source`
//! has the causes as values.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use wws_telemetry::{Failure, Limit};

use crate::body::BodyError;

/// The cause of an error.
pub type Cause = Box<dyn Error + Send + Sync>;

/// The process' engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the Wasm engine: {0}")]
pub struct EngineError(#[source] Cause);

impl EngineError {
    pub(crate) fn new(cause: impl Into<Cause>) -> Self {
        Self(cause.into())
    }
}

/// A position in a worker's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePos {
    /// The file, as the worker's error names it.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, where it is known.
    pub column: Option<u32>,
}

impl fmt::Display for SourcePos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)?;
        match self.column {
            Some(column) => write!(f, ":{column}"),
            None => Ok(()),
        }
    }
}

/// Why something cannot be a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadErrorKind {
    /// It is not WebAssembly, or not a core module.
    NotAModule,
    /// It does not validate.
    InvalidModule,
    /// It is a module, but not one that can answer requests.
    Unsupported,
    /// It needs more than its limits, or the engine's, allow.
    Limit,
    /// The program failed while it was initialised.
    Program,
    /// The program was executed and has left nothing that answers requests.
    NoHandler,
    /// The host has no memory, thread or file for it.
    Host,
    /// Compiling it takes more memory than there is.
    CompileMemory,
}

/// An entry of a code cache that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DamagedCode(Cause);

impl DamagedCode {
    pub(crate) fn new(cause: impl Into<Cause>) -> Self {
        Self(cause.into())
    }
}

/// Something cannot be a guest. The text says why and, where there is one, the remedy.
#[derive(Debug)]
pub struct LoadError {
    kind: LoadErrorKind,
    pos: Option<SourcePos>,
    message: String,
    cause: Option<Cause>,
}

impl LoadError {
    /// An error of a kind, with a text.
    #[must_use]
    pub fn new(kind: LoadErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            pos: None,
            message: message.into(),
            cause: None,
        }
    }

    /// The error with its cause.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The error with the position that it is about.
    #[must_use]
    pub fn at(mut self, pos: Option<SourcePos>) -> Self {
        self.pos = pos;
        self
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> LoadErrorKind {
        self.kind
    }

    /// The position that the error is about, if it is about one.
    #[must_use]
    pub fn pos(&self) -> Option<&SourcePos> {
        self.pos.as_ref()
    }

    /// The text without the position, with the causes.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.message),
            None => self.message.clone(),
        }
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(LoadErrorKind::Unsupported, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(LoadErrorKind::Limit, message)
    }

    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self::new(LoadErrorKind::Host, message)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pos) = &self.pos {
            write!(f, "{pos}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for LoadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.cause.as_ref()?)
    }
}

/// The failure of a worker's program, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFailure {
    /// Where in the worker's source it arose, if that is known.
    pub pos: Option<SourcePos>,
    /// The operator's text.
    pub message: String,
}

impl ProgramFailure {
    /// A failure whose position is not known.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            pos: None,
            message: message.into(),
        }
    }
}

impl From<ProgramFailure> for LoadError {
    fn from(failure: ProgramFailure) -> Self {
        Self::new(LoadErrorKind::Program, failure.message).at(failure.pos)
    }
}

impl fmt::Display for ProgramFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pos) = &self.pos {
            write!(f, "{pos}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The limit because of which a guest was refused memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryRefusal {
    /// The guest's own memory.
    #[error("out of memory (`limits.memory`)")]
    Limit,
    /// The memory of all guests together.
    #[error("out of memory (`server.memory`)")]
    Budget,
    /// The elements of a table.
    #[error("table too large (`limits.table_elements`)")]
    Table,
    /// What the host keeps for the call.
    #[error("no memory to keep more for the call (`limits.buffers`)")]
    Buffers,
}

fn prefix(refused: &Option<MemoryRefusal>) -> RefusalPrefix {
    RefusalPrefix(*refused)
}

/// A refusal as the start of a line.
struct RefusalPrefix(Option<MemoryRefusal>);

impl fmt::Display for RefusalPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(refusal) => write!(f, "{refusal}: "),
            None => Ok(()),
        }
    }
}

/// An error of wasmtime, on one line and without its backtrace's line breaks.
#[derive(Debug)]
pub struct WasmError(Cause, String);

impl WasmError {
    pub(crate) fn new(error: wasmtime::Error) -> Self {
        let text = one_line(&error);
        Self(error.into(), text)
    }

    /// The same with the causes in their order, for errors without a backtrace.
    pub(crate) fn in_order(error: wasmtime::Error) -> Self {
        let text = format!("{error:#}");
        Self(error.into(), text)
    }
}

impl fmt::Display for WasmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl Error for WasmError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Why what a guest answered is not a valid response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The guest printed nothing.
    #[error("nothing was printed")]
    Empty,
    /// The guest printed something else than a response.
    #[error("{source}; it begins with {start:?}")]
    Json {
        /// What the guest printed first.
        start: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The guest answers as workers of Wasm Workers Server 0.x did.
    #[error(
        "it has `body` and no `data`: workers of Wasm Workers Server 0.x print that; build the \
         worker with a kit of 1.x or of this server"
    )]
    OldProtocol,
    /// The body is not base64, as the response says.
    #[error("`data` is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// No response has this status.
    #[error("status {0} is not from 200 to 599")]
    Status(i64),
    /// No header has this name.
    #[error("{0:?} is not the name of a header")]
    HeaderName(String),
    /// The header's value cannot be sent.
    #[error("the value of header {0} has a line break or another control character")]
    HeaderValue(HeaderName),
    /// There are too many headers, or they are too long.
    #[error("more than {count} headers, or than {bytes} bytes of them")]
    TooManyHeaders {
        /// Headers that a response can have.
        count: usize,
        /// Bytes of names and values that a response can have.
        bytes: usize,
    },
}

/// A call failed. The text names causes that no caller should see.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest used more CPU time than it may.
    #[error("ended after {0:?} of CPU time (`limits.cpu_time`)")]
    CpuTime(Duration),
    /// The guest took longer than it may.
    #[error("ended after {0:?} (`limits.wall_time`)")]
    WallTime(Duration),
    /// Nothing of a response's body came for too long.
    #[error("ended after {0:?} without a piece of the response (`limits.stream_idle`)")]
    StreamIdle(Duration),
    /// A response took longer than it may.
    #[error("ended after a response of {0:?} (`limits.stream_time`)")]
    StreamTime(Duration),
    /// The guest answered with an error of `wasi:http`.
    #[error("answered with the error {0}")]
    HttpError(String),
    /// The guest ended without a response.
    #[error("ended without a response")]
    NoResponse,
    /// The body of the request or of the response ended early.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The guest printed more than it may.
    #[error("printed more than {0} bytes (`limits.output`)")]
    TooMuchOutput(u64),
    /// The guest needs more memory than all guests together may use.
    #[error(
        "needs {needed} bytes of memory, all guests together may use {total} (`server.memory`)"
    )]
    NoRoom {
        /// Bytes that the guest starts with.
        needed: u64,
        /// Bytes for all guests.
        total: u64,
    },
    /// No memory for the call became free in time.
    #[error("no memory for the call within {0:?} (`server.queue_timeout`, `server.memory`)")]
    Busy(Duration),
    /// The host was to keep more for the call than it may.
    #[error(
        "the server keeps no more for the call: it has more than {buffers} bytes of output and \
         messages (`limits.buffers`), or all calls together use the memory that there is \
         (`server.memory`)"
    )]
    NoMemory {
        /// Bytes for one call.
        buffers: u64,
    },
    /// The guest trapped.
    #[error("trapped: {}{source}", prefix(.refused))]
    Trap {
        /// The memory that the guest was refused before.
        refused: Option<MemoryRefusal>,
        /// Where and why it trapped.
        source: WasmError,
    },
    /// The guest exited with an exit code other than 0.
    #[error("{}exited with code {code}", prefix(.refused))]
    Exit {
        /// The memory that the guest was refused before.
        refused: Option<MemoryRefusal>,
        /// The exit code.
        code: i32,
    },
    /// The worker's program failed.
    #[error("{}{failure}", prefix(.refused))]
    Program {
        /// The memory that the guest was refused before.
        refused: Option<MemoryRefusal>,
        /// The program's own words.
        failure: ProgramFailure,
    },
    /// What the guest printed is not a response.
    #[error("printed no valid response: {0}")]
    BadResponse(#[from] ResponseError),
    /// The key/value store failed.
    #[error("key/value store: {0}")]
    Kv(#[from] wws_kv::Error),
    /// The request cannot be passed to the guest.
    #[error("engine: {0}")]
    Encode(#[source] serde_json::Error),
    /// The instance, which answers several requests at once, has failed.
    #[error("{0}; with it fail all requests of its instance (`instances.concurrent`)")]
    Shared(#[source] Arc<CallError>),
    /// A defect of the engine.
    #[error("engine: {0}")]
    Engine(&'static str),
}

impl CallError {
    /// Whether the call ran out of time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::CpuTime(_) | Self::WallTime(_) | Self::StreamIdle(_) | Self::StreamTime(_) => {
                true
            }
            Self::Shared(error) => error.is_timeout(),
            _ => false,
        }
    }

    /// What kind of failure it is, for counters.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            _ if self.limit().is_some() => Failure::Limit,
            Self::Trap { .. } => Failure::Trap,
            Self::Exit { .. } => Failure::Exit,
            Self::Program { .. } => Failure::Program,
            Self::HttpError(_) | Self::NoResponse | Self::BadResponse(_) => Failure::Response,
            Self::Kv(_) => Failure::Kv,
            Self::Body(_) => Failure::Body,
            Self::Shared(error) => error.failure(),
            _ => Failure::Server,
        }
    }

    /// The limit that the call met, if that is why it failed.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        Some(match self {
            Self::CpuTime(_) => Limit::CpuTime,
            Self::WallTime(_) => Limit::WallTime,
            Self::StreamIdle(_) => Limit::StreamIdle,
            Self::StreamTime(_) => Limit::StreamTime,
            Self::Body(BodyError::TooLarge(_)) => Limit::StreamBytes,
            Self::TooMuchOutput(_) => Limit::Output,
            Self::NoRoom { .. } | Self::Busy(_) => Limit::ServerMemory,
            Self::NoMemory { .. } => Limit::Buffers,
            Self::Shared(error) => return error.limit(),
            Self::Trap { refused, .. }
            | Self::Exit { refused, .. }
            | Self::Program { refused, .. } => match (*refused)? {
                MemoryRefusal::Limit => Limit::Memory,
                MemoryRefusal::Budget => Limit::ServerMemory,
                MemoryRefusal::Table => Limit::TableElements,
                MemoryRefusal::Buffers => Limit::Buffers,
            },
            _ => return None,
        })
    }

    /// Whether there was no room for another guest: the caller may try again later.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Busy(_))
    }

    /// Whether the key/value store did not answer: the caller may try again later.
    #[must_use]
    pub fn is_store_away(&self) -> bool {
        matches!(self, Self::Kv(error) if error.is_temporary())
    }
}

/// Why the host stopped a guest; travels through wasmtime as an error.
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
fn one_line(error: &wasmtime::Error) -> String {
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
