//! How an interpreter's kit talks to the host where its module imports nothing but WASI: positional writes to standard output are
//! messages, positional reads of standard input their replies. Nothing else can use either: a stream has no positions (`ESPIPE`).

use std::sync::Arc;

use wasmtime::Result;

use crate::{Host, error::Stop, snapshot::Boxed};

/// What answers an interpreter's kit.
pub trait Channel: Send + Sync + 'static {
    /// The kit wrote `bytes`: a message, or a part of one. What the kit waits for is waited for here.
    fn written<'a>(&'a self, host: &'a mut Host, bytes: Vec<u8>) -> Boxed<'a, Result<()>>;

    /// Gives the kit bytes of the reply. Returns how many; none when there are none left.
    fn read(&self, host: &mut Host, to: &mut [u8]) -> usize;
}

impl Host {
    /// Answers the guest's kit from now on.
    pub fn set_channel(&mut self, channel: Arc<dyn Channel>) {
        self.channel = Some(channel);
    }

    /// Ends the run of the instance at its next look at a clock, within the call that looks. Its memory and globals stay as they
    /// are then, and its functions can be called on top of what was going on; see [`is_suspended`].
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The error of a guest that gave more than `limits.output`.
    #[must_use]
    pub fn too_much_output() -> wasmtime::Error {
        wasmtime::Error::new(Stop::Output)
    }
}

/// Whether a call ended because of [`Host::suspend`].
#[must_use]
pub fn is_suspended(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(Stop::Suspended))
}
