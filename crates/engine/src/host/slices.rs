//! Slices the work of host functions whose length a guest decides.

use std::time::Duration;

use crate::host::state::Host;
use crate::schedule::cpu::thread_time;
use crate::schedule::ticker::TICK;

/// Slices of a host function's work. Between two slices the guest yields to others, and stops if it
/// has used its CPU time.
pub(crate) struct WorkSlices {
    since: Duration,
}

impl WorkSlices {
    pub(crate) fn new(host: &mut Host) -> Self {
        // The work is measured from here.
        host.cpu.worked();
        Self {
            since: thread_time(),
        }
    }

    /// Ends a slice.
    ///
    /// # Errors
    /// Returns an error if the guest has used its CPU time.
    pub(crate) async fn next(&mut self, host: &mut Host) -> wasmtime::Result<()> {
        if thread_time().saturating_sub(self.since) >= TICK {
            host.give_way().await?;
            // Perhaps on another thread.
            self.since = thread_time();
        }
        Ok(())
    }
}
