//! The host's state of one call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::{
    future::{AbortHandle, BoxFuture},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};
use wws_engine::{BodySender, Charge, Directories, Host, ProgramFailure, wasmtime, websocket::End};

use super::{encoding::TextDecoder, exception::KitException, exports::Exports};
use crate::incoming::IncomingBody;

/// Concurrent outgoing requests of one call; more wait.
const FETCHES: usize = 6;

/// Concurrent file operations of one call; more wait.
const FILES: usize = 2;

/// The maximum number of operations that have not ended.
pub(super) const PENDING: usize = 10_000;

/// The maximum number of decoders that wait for the rest of a text.
pub(super) const DECODERS: usize = 1000;

/// An operation that has ended: its number, and its result; none if it was cancelled.
pub(super) struct FinishedOperation {
    pub(super) id: u64,
    pub(super) result: Option<Result<OperationOutput, KitException>>,
    /// Covers what it keeps, until the guest has it.
    pub(super) _charge: Charge,
}

/// Functions of the kit.
#[derive(Clone, Copy)]
pub(super) struct KitFunctions {
    /// Gets rejected promises that are not handled, or are handled now.
    pub(super) rejection: u32,
    /// Creates an error from `name:message`.
    pub(super) error: u32,
}

/// What was thrown.
pub(super) struct Thrown {
    /// The error with its frames, for the log.
    pub(super) text: String,
    /// The interpreter's frames.
    pub(super) stack: String,
}

impl Thrown {
    pub(super) fn without_stack(text: String) -> Self {
        Self {
            text,
            stack: String::new(),
        }
    }
}

/// The result of an operation.
#[derive(Default)]
pub(super) struct OperationOutput {
    pub(super) text: String,
    pub(super) bytes: Option<Bytes>,
    /// A key of the key/value store and its current value.
    pub(super) learned: Option<(String, Option<String>)>,
}

/// What a call has come to.
pub(super) enum Outcome {
    /// A response: status and headers, and a body.
    Whole(String, Bytes),
    /// The end of a response that was sent piece by piece; the worker may go on after it.
    Ended { goes_on: bool },
    /// A failure of the worker.
    Failed(Thrown),
}

/// The worker's end of a socket, once it is open.
pub(super) type SocketSlot = Arc<OnceLock<End>>;

/// A body that is read piece by piece. `None`: it was read as a whole.
pub(super) type Incoming = Arc<Mutex<Option<IncomingBody>>>;

/// The state of one call.
pub(super) struct CallState {
    pub(super) exports: Arc<Exports>,
    /// Guest memory for the host's use.
    pub(super) scratch: u32,
    /// The worker is being loaded: there is no request yet.
    pub(super) loading: bool,
    pub(super) body: Bytes,
    /// What the worker has come to, if it has.
    pub(super) outcome: Option<Outcome>,
    /// Bodies that the worker reads piece by piece, by the kit's numbers.
    pub(super) incoming: HashMap<u64, Incoming>,
    /// Bodies that the worker sends piece by piece; the response's has the number 0.
    pub(super) outgoing: HashMap<u64, Arc<BodySender>>,
    /// The worker's ends of sockets, by the kit's numbers; the one of the response has the number
    /// 0.
    pub(super) sockets: HashMap<u64, SocketSlot>,
    pub(super) pending: FuturesUnordered<BoxFuture<'static, FinishedOperation>>,
    /// Operations that ended while others were started.
    pub(super) ended: VecDeque<FinishedOperation>,
    /// Handles that cancel pending operations.
    pub(super) cancel: HashMap<u64, AbortHandle>,
    /// When the kit's first timer is due.
    pub(super) wake: Option<Instant>,
    /// The last event was a timer: if an operation has ended as well, it is next.
    pub(super) was_timer: bool,
    /// Decoders that wait for the rest of a text, by the kit's numbers.
    pub(super) decoders: HashMap<u64, TextDecoder>,
    /// Functions of the kit that the host calls, once it is loaded.
    pub(super) kit: Option<KitFunctions>,
    /// The kit has got rejected promises.
    pub(super) has_rejections: bool,
    pub(super) fetches: Arc<Semaphore>,
    pub(super) files: Arc<Semaphore>,
    /// Where modules are read.
    pub(super) modules: Directories,
    /// Why a module could not be imported, in more detail than the interpreter's error.
    pub(super) import_problem: Option<ProgramFailure>,
}

impl CallState {
    pub(super) fn new(exports: Exports, scratch: u32, modules: Directories) -> Self {
        Self {
            exports: Arc::new(exports),
            scratch,
            loading: true,
            body: Bytes::new(),
            outcome: None,
            incoming: HashMap::new(),
            outgoing: HashMap::new(),
            sockets: HashMap::new(),
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
