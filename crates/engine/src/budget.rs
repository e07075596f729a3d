//! What one call may hold of the server's memory: the guest's own, and what the host keeps for it.

use wasmtime::ResourceLimiter;

use crate::account::{Account, Charge, SharedCharge};
use crate::instantiable::MAX_TABLES;

/// Bytes of one element of a table, as wasmtime keeps it.
const TABLE_ELEMENT: u64 = 8;

/// Output of so many bytes is part of the fixed cost of a call.
pub(crate) const FREE_OUTPUT: u64 = 16 << 10;

/// Linear memory and tables that a guest may grow by while only the memory that is kept for new calls is left, in bytes: what
/// most programs grow by to answer a small request.
pub(crate) const FREE_GROWTH: u64 = 1 << 20;

/// What a guest may take of the host's memory.
pub(crate) struct Quota {
    /// Everything of the call but its buffers.
    charge: SharedCharge,
    /// Charged for the instance itself, its stack and its input, before it was made.
    fixed: u64,
    /// Bytes of linear memory.
    linear: u64,
    /// Bytes of tables.
    tables: u64,
    memory_limit: u64,
    table_elements: u32,
    account: Account,
    buffers_limit: u64,
    /// What the host keeps for the call meanwhile (output, messages, contents of files), once there is any.
    buffers: Option<Account>,
    output: Option<Charge>,
    /// What was refused, for the log: a guest that gets no memory fails in its own words.
    pub(crate) refused: Option<Refused>,
}

/// Why memory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guest's own limit.
    Limit,
    /// The limit of all guests together.
    Budget,
    /// Too many table elements.
    Table,
    /// What the host keeps for the call.
    Buffers,
}

/// Bounds of one call's memory.
pub(crate) struct QuotaLimits {
    /// Bytes of linear memory.
    pub(crate) memory: u64,
    /// Elements of a table.
    pub(crate) table_elements: u32,
    /// Bytes of what the host keeps for the call.
    pub(crate) buffers: u64,
}

impl Quota {
    /// The quota of an instance, of whose `charge` all but `memory` bytes are the host's own. What it takes later is of `account`.
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
            account: account.clone(),
            buffers_limit: limits.buffers,
            buffers: None,
            output: None,
            refused: None,
        }
    }

    /// What is charged for the instance, to be held by its memory as well.
    pub(crate) fn charge(&self) -> &SharedCharge {
        &self.charge
    }

    pub(crate) fn buffers(&mut self) -> &Account {
        self.buffers
            .get_or_insert_with(|| self.account.part(self.buffers_limit))
    }

    /// Charges what the host is about to keep for the call.
    pub(crate) fn hold(&mut self, bytes: u64) -> Option<Charge> {
        let charge = self.buffers().charge(bytes);
        if charge.is_none() {
            self.refused = Some(Refused::Buffers);
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
            self.refused = Some(Refused::Buffers);
        }
        held
    }

    /// Takes the charge of the guest's output, and adds to it: for what is made of the output.
    ///
    /// # Errors
    /// So much is not free.
    pub(crate) fn take_output(&mut self, more: u64) -> Result<Option<Charge>, Refused> {
        let Some(mut output) = self.output.take() else {
            return Ok(None);
        };
        let bytes = output.bytes() + more;
        if output.grow_to(bytes) {
            return Ok(Some(output));
        }
        self.refused = Some(Refused::Buffers);
        Err(Refused::Buffers)
    }

    fn grow(&mut self, linear: u64, tables: u64) -> bool {
        if !self.charge.grow_to(self.fixed + linear + tables) {
            self.refused = Some(Refused::Budget);
            return false;
        }
        (self.linear, self.tables) = (linear, tables);
        true
    }
}

impl ResourceLimiter for Quota {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let desired = desired as u64;
        if desired > self.memory_limit {
            self.refused = Some(Refused::Limit);
            return Ok(false);
        }
        Ok(self.grow(desired, self.tables))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_elements as usize {
            self.refused = Some(Refused::Table);
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64 * TABLE_ELEMENT;
        Ok(self.grow(self.linear, self.tables + more))
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        MAX_TABLES
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
    };

    #[test]
    fn memory_tables_and_output_are_charged_to_one_account() {
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
    fn what_is_refused_says_which_limit_was_met() {
        let account = Account::new(60 * KIB);
        let charge = account.charge(4 * KIB).unwrap();
        let mut quota = Quota::new(&account, charge, 4 * KIB, &LIMITS);
        assert!(!quota.memory_growing(0, 65 << 10, None).unwrap());
        assert_eq!(quota.refused, Some(Refused::Limit));
        assert!(!quota.memory_growing(0, 64 << 10, None).unwrap());
        assert_eq!(quota.refused, Some(Refused::Budget));
        assert!(!quota.table_growing(0, 1001, None).unwrap());
        assert_eq!(quota.refused, Some(Refused::Table));
        assert!(quota.hold(17 * KIB).is_none());
        assert!(!quota.hold_output(17 * KIB));
        assert_eq!(quota.refused, Some(Refused::Buffers));
    }
}
