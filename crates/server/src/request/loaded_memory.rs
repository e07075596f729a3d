//! The memory of what is loaded: compiled code, snapshots and memory images.

use std::sync::{Mutex, PoisonError};

use wws_engine::{Charge, Engine};

use crate::memory;

/// Charges what loading has taken, so that it is not promised to guests.
pub(crate) struct LoadedMemory {
    /// Bytes that the process may use; `None` if the operator has set the memory of guests.
    available: Option<u64>,
    charge: Mutex<Option<Charge>>,
}

impl LoadedMemory {
    pub(crate) fn new(available: Option<u64>) -> Self {
        Self {
            available,
            charge: Mutex::default(),
        }
    }

    /// Charges what is loaded now. What guests and clients hold is charged already.
    pub(crate) fn charge(&self, engine: &Engine) {
        /// Kept for the kernel's buffers and the allocator, in bytes.
        const SLACK: u64 = 8 << 20;
        let Some(available) = self.available else {
            return;
        };
        let mut charge = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        let charge = charge.get_or_insert_with(|| engine.account().nothing());
        let total = engine.memory();
        let used = total.saturating_sub(engine.free_memory() + charge.bytes());
        let loaded = memory::held().saturating_sub(used);
        let slack = SLACK.max(available / 16) + engine.idle_memory();
        let room = available.saturating_sub(loaded + slack);
        // At most half of the account, so that workers can run.
        let beyond = total.saturating_sub(room.max(total / 2));
        // What is in use now cannot be charged; it is tried again when the server is idle.
        let _ = charge.grow_to(beyond);
        charge.shrink_to(beyond);
    }
}
