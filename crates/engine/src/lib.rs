//! Calls guests: WebAssembly modules that answer one request each, in a fresh instance that nobody shares.
//!
//! * [`Engine`]: one for a process; compiles modules and holds what all guests share.
//! * [`Guest`]: a module with what it was given (variables, folders, a key/value namespace, outgoing HTTP), ready to be called.
//! * [`Guest::call`]: a request in, a response out, within [`GuestLimits`].
//! * [`Interpreter`] and [`Program`]: guests that were initialised once; each call starts from the snapshot of that.
//!
//! `docs/design/engine.md` says how an instance costs so little, and why it is safe; `docs/design/snapshots.md` what a snapshot holds.

mod account;
mod ahead;
mod budget;
mod channel;
mod clocks;
mod code_cache;
mod engine;
mod error;
mod folders;
mod guest;
mod guest_log;
mod host;
mod http_import;
mod image_of;
mod instantiable;
mod kv_view;
mod lane;
mod memory;
mod open_files;
mod priority;
mod protocol;
mod random;
mod readdir;
mod snapshot;
mod stack;
mod state_of;
mod ticker;
mod wasi;

pub use account::{Account, Charge};
pub use channel::{Channel, is_suspended};
pub use code_cache::{CodeCache, CodeKey, EntryState, Turn, Work, Writing};
pub use engine::{Code, Engine, EngineOptions, Module};
pub use error::{CallError, EngineError, LoadError};
pub use folders::{FileStat, Folders, WriteMode};
pub use guest::{Call, Guest, GuestLimits, GuestSpec, PreopenedFolder};
pub use host::{Host, HttpFailure, NoMemory};
pub use kv_view::KvView;
pub use protocol::response;
pub use snapshot::{Boxed, Interpreter, Program, ProgramError, Vm, interpreter_module};
pub use wasmtime;
pub use wws_outbound::{AnsweredBy, Decode, KeepRedirects, header_map};
