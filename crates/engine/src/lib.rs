//! Calls guests: one wasmtime engine, memory slots, limits, and the interfaces of guests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

/// The Wasm engine of a process. Cheap to clone.
#[derive(Clone)]
pub struct Engine;

/// What an [`Engine`] is made with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Linear memory that all guests may use at once, in bytes.
    pub memory: u64,
    /// Guests that may run at once.
    pub concurrency: u32,
}

/// A compiled Wasm module.
#[derive(Clone)]
pub struct Module;

/// What a guest is given, beside its code.
pub struct GuestSpec {
    /// Name in logs.
    pub name: String,
    /// WASI environment.
    pub env: Vec<(String, String)>,
    /// WASI arguments; the first is the program's name.
    pub args: Vec<String>,
    /// Folders that the guest sees.
    pub folders: Vec<PreopenedFolder>,
    /// Key/value store and the namespace in it.
    pub kv: Option<(Arc<dyn wws_kv::Store>, String)>,
    /// Outgoing HTTP: the policy and the client, or none.
    pub http: Option<(wws_outbound::Policy, wws_outbound::Client)>,
    /// Bounds of one call.
    pub limits: GuestLimits,
}

/// A folder of the host that a guest sees.
pub struct PreopenedFolder {
    /// The opened folder.
    pub dir: std::fs::File,
    /// Where the guest sees it; absolute.
    pub to: String,
}

/// Bounds of one call.
#[derive(Clone, Debug)]
pub struct GuestLimits {
    /// Linear memory in bytes.
    pub memory: u64,
    /// Elements of a table.
    pub table_elements: u32,
    /// CPU time.
    pub cpu_time: Duration,
    /// Wall-clock time.
    pub wall_time: Duration,
    /// Bytes of standard output.
    pub output: u64,
    /// Bytes of standard error that reach the log.
    pub log: u64,
    /// Outgoing HTTP requests.
    pub http_calls: u32,
}

/// A module linked with what it was given: ready to be called.
#[derive(Clone)]
pub struct Guest;

/// One call of a guest.
pub struct Call {
    /// The request; its URI is the full URL.
    pub request: http::Request<Bytes>,
    /// Parameters of the route.
    pub params: Vec<(String, String)>,
    /// For logs.
    pub request_id: String,
}

/// The process' engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(String);

/// A module cannot be a guest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

/// A call failed. `Display` is the operator's text: never send it to a caller.
#[derive(Debug, thiserror::Error)]
#[error("call failed")]
pub struct CallError;

impl CallError {
    /// The call ran out of time.
    pub fn is_timeout(&self) -> bool {
        false
    }
    /// There was no room for another guest: try again later.
    pub fn is_overload(&self) -> bool {
        false
    }
}

impl Engine {
    /// Makes the engine.
    pub fn new(_options: &EngineOptions) -> Result<Self, EngineError> {
        Ok(Self)
    }
    /// Compiles a module; uses all cores. Blocking.
    pub fn compile(&self, _wasm: &[u8]) -> Result<Module, LoadError> {
        Ok(Module)
    }
    /// Links a module with what it is given.
    pub fn guest(&self, _module: &Module, _spec: GuestSpec) -> Result<Guest, LoadError> {
        Ok(Guest)
    }
}

impl Guest {
    /// Calls the guest in a fresh instance. Dropping the future ends the call.
    pub async fn call(&self, _call: Call) -> Result<http::Response<Bytes>, CallError> {
        Err(CallError)
    }
}
