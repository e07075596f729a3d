//! What the host keeps for one call.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::Semaphore;
use wws_engine::{Folders, Host, wasmtime};

use super::exports::Exports;

/// Outgoing requests of one call that run at once; more wait.
const FETCHES: usize = 6;

/// File operations of one call that run at once; more wait.
const FILES: usize = 2;

/// What was started and has not ended, at most.
pub(super) const PENDING: usize = 10_000;

/// An operation that ended: its number, and what it gave or how it failed.
pub(super) struct Done {
    pub(super) id: f64,
    pub(super) result: Result<Ended, String>,
}

/// What an operation gave.
#[derive(Default)]
pub(super) struct Ended {
    pub(super) text: String,
    pub(super) bytes: Option<Bytes>,
    /// A key of the store and its value now.
    pub(super) learned: Option<(String, String)>,
}

/// State of one call.
pub(super) struct State {
    pub(super) exports: Arc<Exports>,
    /// Guest memory for the host's use.
    pub(super) scratch: u32,
    /// The worker is being loaded: there is no request yet.
    pub(super) loading: bool,
    pub(super) body: Bytes,
    /// What the kit gave: status and headers, and a body; or how the worker failed.
    pub(super) outcome: Option<Result<(String, Vec<u8>), String>>,
    pub(super) pending: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) fetches: Arc<Semaphore>,
    pub(super) files: Arc<Semaphore>,
    /// Where modules are read.
    pub(super) modules: Folders,
    /// What could not be imported, in words better than the interpreter's.
    pub(super) import_problem: Option<String>,
}

impl State {
    pub(super) fn new(exports: Exports, scratch: u32, modules: Folders) -> Self {
        Self {
            exports: Arc::new(exports),
            scratch,
            loading: true,
            body: Bytes::new(),
            outcome: None,
            pending: FuturesUnordered::new(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            files: Arc::new(Semaphore::new(FILES)),
            modules,
            import_problem: None,
        }
    }

    /// The state of a call.
    pub(super) fn of(host: &mut Host) -> wasmtime::Result<&mut Self> {
        host.state()
            .ok_or_else(|| wasmtime::Error::msg("the interpreter has no state"))
    }
}
