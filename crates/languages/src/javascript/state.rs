//! What the host keeps for one call.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    future::{AbortHandle, BoxFuture},
    stream::FuturesUnordered,
};
use tokio::{sync::Semaphore, time::Instant};
use wws_engine::{Charge, Directories, Host, wasmtime};

use super::{encoding::TextDecoder, exports::Exports};

/// Outgoing requests of one call that run at once; more wait.
const FETCHES: usize = 6;

/// File operations of one call that run at once; more wait.
const FILES: usize = 2;

/// What was started and has not ended, at most.
pub(super) const PENDING: usize = 10_000;

/// Decoders that were fed a part of a text and not the rest, at most.
pub(super) const DECODERS: usize = 1000;

/// An operation that ended: its number, and what it gave or how it failed; nothing if it was cancelled.
pub(super) struct Done {
    pub(super) id: u64,
    pub(super) result: Option<Result<Ended, String>>,
    /// For what it kept, until the guest has it.
    pub(super) _charge: Charge,
}

/// Functions of the kit.
#[derive(Clone, Copy)]
pub(super) struct KitFunctions {
    /// Is told of promises that were rejected and are not handled, or are handled now.
    pub(super) rejection: u32,
    /// Makes an error of `name:message`.
    pub(super) error: u32,
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
    pub(super) outcome: Option<Result<(String, Bytes), String>>,
    pub(super) pending: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Operations that ended while others were started.
    pub(super) ended: VecDeque<Done>,
    /// What cancels the operations that are pending.
    pub(super) cancel: HashMap<u64, AbortHandle>,
    /// When the kit's first timer is due.
    pub(super) wake: Option<Instant>,
    /// The last event was a timer: if an operation ended as well, it is the next.
    pub(super) was_timer: bool,
    /// Decoders that wait for the rest of a text, by the kit's numbers.
    pub(super) decoders: HashMap<u64, TextDecoder>,
    /// Functions of the kit that functions of the host call, once they are there.
    pub(super) kit: Option<KitFunctions>,
    /// The kit was told of promises that were rejected.
    pub(super) has_rejections: bool,
    pub(super) fetches: Arc<Semaphore>,
    pub(super) files: Arc<Semaphore>,
    /// Where modules are read.
    pub(super) modules: Directories,
    /// What could not be imported, in words better than the interpreter's.
    pub(super) import_problem: Option<String>,
}

impl State {
    pub(super) fn new(exports: Exports, scratch: u32, modules: Directories) -> Self {
        Self {
            exports: Arc::new(exports),
            scratch,
            loading: true,
            body: Bytes::new(),
            outcome: None,
            pending: FuturesUnordered::new(),
            ended: VecDeque::new(),
            cancel: HashMap::new(),
            wake: None,
            was_timer: false,
            decoders: HashMap::new(),
            kit: None,
            has_rejections: false,
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
