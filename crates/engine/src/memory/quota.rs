//! The memory that one call may hold: the guest's own, and what the host keeps for it.

use wasmtime::ResourceLimiter;

use crate::error::MemoryRefusal;
use crate::memory::account::{Account, Charge, SharedCharge};

/// Most tables of an instance.
pub(crate) const MAX_TABLES: usize = 16;

/// Bytes of one element of a table, as wasmtime keeps it.
const TABLE_ELEMENT: u64 = 8;

/// Bytes of output that are part of the fixed cost of a call.
pub(crate) const FREE_OUTPUT: u64 = 16 << 10;

/// Bytes of linear memory and tables by which a guest may grow while only the memory that is kept
/// for new calls is left: most programs grow by less to answer a small request.
pub(crate) const FREE_GROWTH: u64 = 1 << 20;

/// What an instance may consist of.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    instances: usize,
    memories: usize,
    tables: usize,
}

impl Parts {
    /// An instance of one module.
    pub(crate) const MODULE: Self = Self {
        instances: 1,
        memories: 1,
        tables: MAX_TABLES,
    };

    /// An instance of a component and of the modules in it.
    pub(crate) const COMPONENT: Self = Self {
        instances: 100,
        memories: 20,
        tables: 100,
    };
}

/// The memory of one call.
pub(crate) struct Quota {
    /// Charged for the call, without its buffers.
    charge: SharedCharge,
    /// Charged in advance for the instance itself, its stack and its input.
    fixed: u64,
    /// Bytes of linear memory.
    linear: u64,
    /// Bytes of tables.
    tables: u64,
    memory_limit: u64,
    table_elements: u32,
    parts: Parts,
    account: Account,
    buffers_limit: u64,
    /// What the host keeps for the call (output, messages, contents of files), once there is any.
    buffers: Option<Account>,
    output: Option<Charge>,
    /// The last refusal, for the log: the guest's own error does not name the limit.
    pub(crate) refused: Option<MemoryRefusal>,
}

/// Bounds of one call's memory.
pub(crate) struct QuotaLimits {
    /// Bytes of linear memory.
    pub(crate) memory: u64,
    /// Elements of a table.
    pub(crate) table_elements: u32,
    /// Bytes of what the host keeps for the call.
    pub(crate) buffers: u64,
    pub(crate) parts: Parts,
}

impl Quota {
    /// Creates the quota of an instance. All but `memory` bytes of `charge` are for the host. What
    /// the instance takes later is charged to `account`.
    pub(crate) fn new(
        account: &Account,
        charge: Charge,
        memory: u64,
        limits: &QuotaLimits,
    ) -> Self {
        Self {
            fixed: charge.bytes().saturating_sub(memory),
            charge: charge.shared(FREE_GROWTH, account),
            linear: 0,
            tables: 0,
            memory_limit: limits.memory,
            table_elements: limits.table_elements,
            parts: limits.parts,
            account: account.clone(),
            buffers_limit: limits.buffers,
            buffers: None,
            output: None,
            refused: None,
        }
    }

    /// Bytes of linear memory. Memory never shrinks, so that this is the most so far.
    pub(crate) fn linear(&self) -> u64 {
        self.linear
    }

    /// The charge for the instance, which its memory holds as well.
    pub(crate) fn charge(&self) -> &SharedCharge {
        &self.charge
    }

    pub(crate) fn buffers(&mut self) -> &Account {
        self.buffers
            .get_or_insert_with(|| self.account.part(self.buffers_limit))
    }

    /// Charges what the host keeps for the call to an account that others of the call use as well.
    pub(crate) fn share_buffers(&mut self, account: Account) {
        self.buffers = Some(account);
    }

    /// Charges bytes that the host is about to keep for the call.
    pub(crate) fn hold(&mut self, bytes: u64) -> Option<Charge> {
        let charge = self.buffers().charge(bytes);
        if charge.is_none() {
            self.refused = Some(MemoryRefusal::Buffers);
        }
        charge
    }

    /// Makes the charge of the guest's output at least `bytes` large.
    pub(crate) fn hold_output(&mut self, bytes: u64) -> bool {
        if bytes <= FREE_OUTPUT {
            return true;
        }
        let mut output = match self.output.take() {
            Some(output) => output,
            None => self.buffers().nothing(),
        };
        let held = output.grow_to(bytes);
        self.output = Some(output);
        if !held {
            self.refused = Some(MemoryRefusal::Buffers);
        }
        held
    }

    /// Takes the charge of the guest's output, and adds `more` bytes, for what is decoded from it.
    ///
    /// # Errors
    /// Returns an error if so much is not free.
    pub(crate) fn take_output(&mut self, more: u64) -> Result<Option<Charge>, MemoryRefusal> {
        let Some(mut output) = self.output.take() else {
            return Ok(None);
        };
        let bytes = output.bytes() + more;
        if output.grow_to(bytes) {
            return Ok(Some(output));
        }
        self.refused = Some(MemoryRefusal::Buffers);
        Err(MemoryRefusal::Buffers)
    }

    fn grow(&mut self, linear: u64, tables: u64) -> bool {
        if !self.charge.grow_to(self.fixed + linear + tables) {
            self.refused = Some(MemoryRefusal::Budget);
            return false;
        }
        (self.linear, self.tables) = (linear, tables);
        true
    }
}

impl ResourceLimiter for Quota {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A component has several memories.
        let linear = self.linear.saturating_sub(current as u64) + desired as u64;
        if linear > self.memory_limit {
            self.refused = Some(MemoryRefusal::Limit);
            return Ok(false);
        }
        Ok(self.grow(linear, self.tables))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_elements as usize {
            self.refused = Some(MemoryRefusal::Table);
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64 * TABLE_ELEMENT;
        Ok(self.grow(self.linear, self.tables + more))
    }

    fn instances(&self) -> usize {
        self.parts.instances
    }

    fn memories(&self) -> usize {
        self.parts.memories
    }

    fn tables(&self) -> usize {
        self.parts.tables
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KIB: u64 = 1 << 10;
    const LIMITS: QuotaLimits = QuotaLimits {
        memory: 64 * KIB,
        table_elements: 1000,
        buffers: 16 * KIB,
        parts: Parts::MODULE,
    };

    #[test]
    fn charges_memory_tables_and_output_to_one_account() {
        let account = Account::new(100 * KIB);
        let charge = account.charge(20 * KIB).unwrap();
        let mut quota = Quota::new(&account, charge, 16 * KIB, &LIMITS);
        assert!(quota.memory_growing(0, 16 << 10, None).unwrap());
        assert_eq!(account.free(), 80 * KIB);
        assert!(quota.memory_growing(16 << 10, 32 << 10, None).unwrap());
        assert!(quota.table_growing(0, 1000, None).unwrap());
        assert!(quota.table_growing(0, 1000, None).unwrap());
        assert_eq!(account.free(), 100 * KIB - (4 + 32 + 16) * KIB);
        assert!(quota.hold_output(16 * KIB));
        assert_eq!(account.free(), 100 * KIB - (4 + 32 + 16) * KIB);
        let _held = quota.hold(9 * KIB).unwrap();
        assert_eq!(account.free(), 100 * KIB - (4 + 32 + 16 + 12) * KIB);
        drop(quota);
        assert_eq!(account.free(), 88 * KIB);
    }

    #[test]
    fn records_which_limit_refused_memory() {
        let account = Account::new(60 * KIB);
        let charge = account.charge(4 * KIB).unwrap();
        let mut quota = Quota::new(&account, charge, 4 * KIB, &LIMITS);
        assert!(!quota.memory_growing(0, 65 << 10, None).unwrap());
        assert_eq!(quota.refused, Some(MemoryRefusal::Limit));
        assert!(!quota.memory_growing(0, 64 << 10, None).unwrap());
        assert_eq!(quota.refused, Some(MemoryRefusal::Budget));
        assert!(!quota.table_growing(0, 1001, None).unwrap());
        assert_eq!(quota.refused, Some(MemoryRefusal::Table));
        assert!(quota.hold(17 * KIB).is_none());
        assert!(!quota.hold_output(17 * KIB));
        assert_eq!(quota.refused, Some(MemoryRefusal::Buffers));
    }
}
