//! Charges the memory of the key/value store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wws_engine::{Account, Charge};
use wws_kv::MemoryMeter;

/// Charges what the key/value store in memory holds.
pub(crate) struct KvMeter(Mutex<(u64, Charge)>);

impl KvMeter {
    /// A meter for a store that may hold a quarter of the account.
    pub(crate) fn new(account: &Account) -> Arc<Self> {
        let charge = account.part(account.total() / 4).nothing();
        Arc::new(Self(Mutex::new((0, charge))))
    }

    fn held(&self) -> MutexGuard<'_, (u64, Charge)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryMeter for KvMeter {
    fn grow(&self, bytes: usize) -> bool {
        let (held, charge) = &mut *self.held();
        let more = *held + bytes as u64;
        let grown = charge.grow_to(more);
        if grown {
            *held = more;
        }
        grown
    }

    fn shrink(&self, bytes: usize) {
        let (held, charge) = &mut *self.held();
        *held = held.saturating_sub(bytes as u64);
        charge.shrink_to(*held);
    }
}
