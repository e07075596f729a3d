//! Calls guests: WebAssembly modules that answer each request in a fresh instance.
//!
//! * [`Engine`]: one per process; compiles modules and holds what all guests share.
//! * [`Guest`]: a module with what it was given (variables, directories, a key/value namespace,
//!   outgoing HTTP), ready to be called.
//! * [`Guest::call`]: takes a request, returns a response, within [`GuestLimits`].
//! * [`Interpreter`] and [`Program`]: guests that are initialised once; each call starts from a
//!   snapshot of the initialised state.
//!
//! The rooms, from the top; each imports only from rooms below it:
//!
//! * `guest`: calls of commands and of restored snapshots, prestarted instances, the worker
//!   protocol.
//! * `interpreter`: interpreters, the programs that drive them, snapshots.
//! * `engine`: settings, and what all guests share.
//! * `module`: what is compiled, and how modules are changed before.
//! * `host`: what a guest can ask of the host, and what it was given.
//! * `memory` (accounts, slots, images, stacks), `schedule` (CPU time, lanes), `code_cache`.
//! * `error`, `spec`, `body`: plain values; `sync`: threads and locks.
//!
//! `docs/design/engine.md` explains how an instance costs so little and why it is safe,
//! `docs/design/snapshots.md` what a snapshot holds.

mod body;
mod code_cache;
mod engine;
mod error;
mod guest;
mod host;
mod interpreter;
mod memory;
mod module;
mod schedule;
mod spec;
mod sync;

pub use body::{BodyClosed, BodyError, BodySender, BodyStream, RequestBody};
pub use code_cache::cache::{CacheEntryState, CodeCache, CodeKey, CodeOrigin};
pub use code_cache::turn::{CompileTurn, CompileWork};
pub use code_cache::writing::EntryWriter;
pub use engine::{Engine, EngineOptions};
pub use error::{
    CallError, Cause, DamagedCode, EngineError, LoadError, LoadErrorKind, MemoryRefusal,
    ProgramFailure, ResponseError, SourcePos, WasmError,
};
pub use guest::Guest;
pub use guest::blocking::load_blocking;
pub use guest::protocol::build_response;
pub use guest::response::{ResponseBody, StreamedBody};
pub use guest::socket::GuestSocket;
pub use host::directories::{Directories, FileStat, WriteMode};
pub use host::kv::{KvHandle, KvView, Listing};
pub use host::load_trace::FileContents;
pub use host::no_memory::NoMemory;
pub use host::outgoing::HttpFailure;
pub use host::state::{Channel, Host, is_suspended, kv_value_in, wait_in};
pub use interpreter::vm::{Program, ProgramError, Vm};
pub use interpreter::{Interpreter, interpreter_module};
pub use memory::account::{Account, Charge};
pub use module::{Code, compile_memory};
pub use schedule::priority::give_way;
pub use spec::{
    Call, CallReport, GuestLimits, GuestSpec, KvGrant, PreopenedDirectory, StreamLimits,
};
pub use wasmtime;
pub use wws_outbound::{
    AnsweredBy, Decode, Error as FetchError, KeepRedirects, ResponseBody as FetchedBody, header_map,
};
pub use wws_websocket as websocket;
