//! Calls guests: WebAssembly modules that answer one request each, in a fresh instance that nobody shares.
//!
//! * [`Engine`]: one for a process; compiles modules and holds what all guests share.
//! * [`Guest`]: a module with what it was given (variables, folders, a key/value namespace, outgoing HTTP), ready to be called.
//! * [`Guest::call`]: a request in, a response out, within [`GuestLimits`].
//!
//! `docs/design/engine.md` says how an instance costs so little, and why it is safe.

mod budget;
mod code_cache;
mod engine;
mod error;
mod guest;
mod guest_log;
mod host;
mod http_import;
mod image_of;
mod lane;
mod memory;
mod protocol;
mod stack;
mod ticker;
mod wasi;

pub use code_cache::{CodeCache, CodeKey};
pub use engine::{Code, Engine, EngineOptions, Module};
pub use error::{CallError, EngineError, LoadError};
pub use guest::{Call, Guest, GuestLimits, GuestSpec, PreopenedFolder};
