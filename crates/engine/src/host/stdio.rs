//! Standard input of commands: known when the instance is made, or awaited by a prestarted one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::oneshot;

use crate::host::report::CallTrace;
use crate::memory::account::Charge;

/// What a prestarted instance receives with its request.
pub(crate) struct PrestartInput {
    pub(crate) stdin: Vec<u8>,
    pub(crate) charge: Charge,
    pub(crate) request_id: String,
    pub(crate) trace: Option<CallTrace>,
}

/// A prestarted instance's side of waiting for its request.
pub(crate) struct AwaitedInput {
    pub(crate) input: oneshot::Receiver<PrestartInput>,
    /// Set when the instance waits.
    pub(crate) waits: Arc<AtomicBool>,
}

/// Standard input of one call.
#[derive(Default)]
pub(crate) struct Stdin {
    bytes: Vec<u8>,
    read: usize,
    awaited: Option<AwaitedInput>,
    /// Whether the instance has no request yet.
    pub(crate) is_prestarted: bool,
    /// Charged for input that came after the instance was made.
    _charge: Option<Charge>,
}

impl Stdin {
    /// Input that is known.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Input that comes later.
    pub(crate) fn awaited(input: AwaitedInput) -> Self {
        Self {
            awaited: Some(input),
            is_prestarted: true,
            ..Self::default()
        }
    }

    /// Whether the guest has to wait before it can read.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.is_some()
    }

    /// Takes what the guest has to wait for before it can read, if anything.
    pub(crate) fn take_awaited(&mut self) -> Option<AwaitedInput> {
        self.awaited.take()
    }

    /// The awaited input came.
    pub(crate) fn supply(&mut self, bytes: Vec<u8>, charge: Charge) {
        self.bytes = bytes;
        self.is_prestarted = false;
        self._charge = Some(charge);
    }

    /// Copies what comes next to the start of `to`. Returns the number of bytes.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> usize {
        let from = &self.bytes[self.read..];
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        self.read += count;
        count
    }
}
