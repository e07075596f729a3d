//! What the resources of `wasi:http` of a component hold.

use std::collections::HashMap;

use crate::host::no_memory::NoMemory;
use crate::memory::account::Charge;

/// Bytes of all that a component's resources of `wasi:http` hold, by the resource's number. What a
/// resource held that was passed on counts until the end of the call.
pub(super) struct HeldBytes {
    charge: Charge,
    total: u64,
    of: HashMap<u32, u64>,
}

impl HeldBytes {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            charge,
            total: 0,
            of: HashMap::new(),
        }
    }

    /// Begins another call of the same instance: what was passed on in the last one is gone, but
    /// not what its resources hold, and `more`. Returns whether so much may be held.
    pub(super) fn renew(&mut self, more: u64) -> bool {
        self.total = self.of.values().sum::<u64>() + more;
        self.charge.shrink_to(self.total);
        self.charge.grow_to(self.total)
    }

    /// Charges bytes that no resource holds yet.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), NoMemory> {
        if !self.charge.grow_to(self.total + bytes) {
            return Err(NoMemory(bytes));
        }
        self.total += bytes;
        Ok(())
    }

    /// Records that a new resource holds bytes that were taken.
    pub(super) fn created(&mut self, rep: u32, bytes: u64) {
        self.of.insert(rep, bytes);
    }

    /// Charges more bytes of a resource.
    pub(super) fn grow(&mut self, rep: u32, bytes: u64) -> Result<(), NoMemory> {
        self.take(bytes)?;
        *self.of.entry(rep).or_default() += bytes;
        Ok(())
    }

    /// Records that what a resource held is now held by another.
    pub(super) fn moved(&mut self, from: u32) -> u64 {
        self.of.remove(&from).unwrap_or(0)
    }

    /// Releases what a resource held.
    pub(super) fn dropped(&mut self, rep: u32) {
        self.release(self.of.get(&rep).copied().unwrap_or(0));
        self.of.remove(&rep);
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.total -= bytes;
        self.charge.shrink_to(self.total);
    }
}
