//! Accounts of memory. What guests use, and what the host holds for guests and clients, is charged
//! before it is allocated, and released when it is freed or sent.
//!
//! An [`Account`] has a size; a [`Charge`] is a part of it that is in use. [`Account::part`]
//! creates an account within another, whose charges count in both: it bounds one use of the memory
//! without reserving memory for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a unit in which memory is charged: a page. Counts of units fit a semaphore's permits.
const UNIT: u64 = 4 << 10;

/// An amount of memory that may be in use at once. Cheap to clone.
#[derive(Clone)]
pub struct Account(Arc<AccountState>);

struct AccountState {
    units: Arc<Semaphore>,
    total: u32,
    parent: Option<Account>,
}

impl Account {
    /// Creates an account of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self::within(bytes, None)
    }

    /// Creates an account of at most `bytes` within this one. Its charges count in both.
    #[must_use]
    pub fn part(&self, bytes: u64) -> Self {
        Self::within(bytes.min(self.total()), Some(self.clone()))
    }

    fn within(bytes: u64, parent: Option<Self>) -> Self {
        // A count of permits is a u32; more units than that exceed the address space.
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self(Arc::new(AccountState {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
            parent,
        }))
    }

    /// The size of the account, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::from(self.0.total) * UNIT
    }

    /// Makes the account smaller by `bytes`, or by as many as are free. Returns how many.
    pub(crate) fn shrink(&self, bytes: u64) -> u64 {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
        self.0.units.forget_permits(units) as u64 * UNIT
    }

    /// Bytes of the account that are not in use.
    #[must_use]
    pub fn free(&self) -> u64 {
        let own = self.0.units.available_permits() as u64 * UNIT;
        match &self.0.parent {
            Some(parent) => own.min(parent.free()),
            None => own,
        }
    }

    /// Whether less than an eighth of the account, or of one that it lies within, is free.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let own = self.0.units.available_permits() < self.0.total as usize / 8;
        own || self.0.parent.as_ref().is_some_and(Self::is_short)
    }

    /// Waits until `bytes` are free, and charges them, in the order of the calls. Returns `None` if
    /// the account is smaller than that.
    pub async fn reserve(&self, bytes: u64) -> Option<Charge> {
        let units = units(bytes)?;
        let mut charge = self.nothing();
        let mut account = Some(self);
        while let Some(this) = account {
            if units > this.0.total {
                return None;
            }
            let permit = match this.0.units.clone().try_acquire_many_owned(units) {
                Ok(permit) => permit,
                Err(_) => this.0.units.clone().acquire_many_owned(units).await.ok()?,
            };
            charge.add(permit);
            account = this.0.parent.as_ref();
        }
        Some(charge)
    }

    /// Charges `bytes`, if they are free now.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> Option<Charge> {
        let mut charge = self.nothing();
        charge.grow_to(bytes).then_some(charge)
    }

    /// Creates a charge of no bytes, which can grow.
    #[must_use]
    pub fn nothing(&self) -> Charge {
        Charge {
            account: self.clone(),
            permits: [None, None, None],
        }
    }
}

fn units(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.div_ceil(UNIT)).ok()
}

/// Memory in use, released when dropped.
pub struct Charge {
    account: Account,
    /// Permits of the account, of its parent, and of the parent's parent, all of the same size.
    permits: [Option<OwnedSemaphorePermit>; 3],
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Charge").field(&self.bytes()).finish()
    }
}

/// A charge that several parts of a call hold, released when the last one is dropped. Cheap to
/// clone.
#[derive(Clone)]
pub(crate) struct SharedCharge(Arc<Mutex<CallCharge>>);

/// What a call was admitted with, and what it took since.
struct CallCharge {
    /// Grows up to `small` bytes.
    own: Charge,
    small: u64,
    /// What the call holds beyond that, of the account that leaves room for new calls.
    beyond: Charge,
}

impl SharedCharge {
    /// Grows as [`Charge::grow_to`] does.
    pub(crate) fn grow_to(&self, bytes: u64) -> bool {
        let mut charge = self.lock();
        let small = charge.small;
        if bytes <= small {
            return charge.own.grow_to(bytes);
        }
        let before = charge.own.bytes();
        if !charge.own.grow_to(small) {
            return false;
        }
        let grown = charge.beyond.grow_to(bytes - small);
        if !grown {
            charge.own.shrink_to(before);
        }
        grown
    }

    fn lock(&self) -> MutexGuard<'_, CallCharge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge {
    /// Shares the charge of a call. What it grows by beyond `free_growth` bytes is charged to
    /// `account`.
    pub(crate) fn shared(self, free_growth: u64, account: &Account) -> SharedCharge {
        SharedCharge(Arc::new(Mutex::new(CallCharge {
            small: self.bytes() + free_growth,
            own: self,
            beyond: account.nothing(),
        })))
    }

    /// Charged bytes, rounded up to whole units of 4 KiB.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let permit = self.permits[0].as_ref();
        permit.map_or(0, |permit| permit.num_permits() as u64 * UNIT)
    }

    /// Adds the permit of the next account.
    fn add(&mut self, permit: OwnedSemaphorePermit) {
        if let Some(free) = self.permits.iter_mut().find(|own| own.is_none()) {
            *free = Some(permit);
        }
    }

    /// Makes the charge at least `bytes` large, if so much is free. Otherwise it stays as it was.
    #[must_use]
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes()).filter(|more| *more > 0) else {
            return true;
        };
        let Some(units) = units(more) else {
            return false;
        };
        let mut taken = [None, None, None];
        let mut account = Some(&self.account);
        for slot in &mut taken {
            let Some(this) = account else { break };
            match this.0.units.clone().try_acquire_many_owned(units) {
                Ok(permit) => *slot = Some(permit),
                Err(_) => return false,
            }
            account = this.0.parent.as_ref();
        }
        for (own, more) in self.permits.iter_mut().zip(taken) {
            match (own.as_mut(), more) {
                (Some(own), Some(more)) => own.merge(more),
                (None, more) => *own = more,
                (Some(_), None) => {}
            }
        }
        true
    }

    /// Releases all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let keep = units(bytes).map_or(usize::MAX, |units| units as usize);
        for permit in self.permits.iter_mut().flatten() {
            let beyond = permit.num_permits().saturating_sub(keep);
            drop(permit.split(beyond));
        }
    }

    /// Takes the whole charge, and leaves one of no bytes.
    pub(crate) fn take(&mut self) -> Self {
        let nothing = self.account.nothing();
        std::mem::replace(self, nothing)
    }

    /// Attaches the charge to `bytes`, until their last clone is dropped, such as when they were
    /// sent.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        struct ChargedBytes(
            Bytes,
            #[allow(dead_code, reason = "dropped with the bytes")] Charge,
        );
        impl AsRef<[u8]> for ChargedBytes {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if bytes.is_empty() {
            return bytes;
        }
        Bytes::from_owner(ChargedBytes(bytes, self))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KIB: u64 = 1 << 10;

    #[tokio::test]
    async fn reserve_waits_until_enough_is_released() {
        let account = Account::new(40 * KIB);
        let first = account.reserve(32 * KIB).await.unwrap();
        let second = tokio::spawn({
            let account = account.clone();
            async move { account.reserve(20 * KIB).await.map(|charge| charge.bytes()) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap(), Some(20 * KIB));
        assert_eq!(account.free(), 40 * KIB);
    }

    #[tokio::test]
    async fn reserve_rejects_more_than_the_account() {
        assert!(Account::new(40 * KIB).reserve(41 * KIB).await.is_none());
        let part = Account::new(40 * KIB).part(8 * KIB);
        assert!(part.reserve(9 * KIB).await.is_none());
    }

    #[test]
    fn refused_growth_changes_nothing() {
        let account = Account::new(40 * KIB);
        let part = account.part(20 * KIB);
        let _other = account.charge(16 * KIB).unwrap();
        let mut charge = part.charge(8 * KIB).unwrap();
        assert!(charge.grow_to(12 * KIB));
        assert!(!charge.grow_to(24 * KIB), "beyond the part");
        assert_eq!((charge.bytes(), part.free()), (12 * KIB, 8 * KIB));
        let _rest = account.charge(8 * KIB).unwrap();
        assert!(!charge.grow_to(20 * KIB), "beyond the account");
        assert_eq!((part.free(), account.free()), (4 * KIB, 4 * KIB));
    }

    #[test]
    fn growing_call_leaves_what_is_kept_for_new_calls() {
        let all = Account::new(100 * KIB);
        let shared = all.part(60 * KIB);
        let large = all.charge(20 * KIB).unwrap().shared(4 * KIB, &shared);
        assert!(large.grow_to(84 * KIB));
        assert!(!large.grow_to(88 * KIB), "beyond its part");
        assert_eq!((all.free(), shared.free()), (16 * KIB, 0));
        let small = all.charge(8 * KIB).unwrap().shared(4 * KIB, &shared);
        assert!(small.grow_to(12 * KIB), "a little more than it began with");
        assert!(!small.grow_to(16 * KIB));
        assert_eq!(all.free(), 4 * KIB);
        drop((large, small));
        assert_eq!((all.free(), shared.free()), (100 * KIB, 60 * KIB));
    }

    #[test]
    fn refused_growth_of_a_call_changes_nothing() {
        let all = Account::new(100 * KIB);
        let shared = all.part(20 * KIB);
        let call = all.charge(8 * KIB).unwrap().shared(8 * KIB, &shared);
        assert!(!call.grow_to(40 * KIB));
        assert_eq!((all.free(), shared.free()), (92 * KIB, 20 * KIB));
    }

    #[test]
    fn shrinking_frees_in_all_accounts() {
        let account = Account::new(40 * KIB);
        let part = account.part(20 * KIB);
        let mut charge = part.charge(20 * KIB).unwrap();
        charge.shrink_to(5 * KIB);
        assert_eq!(charge.bytes(), 8 * KIB);
        assert_eq!((part.free(), account.free()), (12 * KIB, 32 * KIB));
        drop(charge);
        assert_eq!((part.free(), account.free()), (20 * KIB, 40 * KIB));
    }

    #[test]
    fn bytes_hold_their_charge_until_the_last_clone_is_dropped() {
        let account = Account::new(40 * KIB);
        let bytes = account
            .charge(8 * KIB)
            .unwrap()
            .hold(Bytes::from_static(b"hello"));
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((&*part, account.free()), (&b"el"[..], 32 * KIB));
        drop(part);
        assert_eq!(account.free(), 40 * KIB);
    }

    #[test]
    fn smaller_child_account_leaves_more_to_its_parent() {
        let all = Account::new(10 * UNIT);
        let part = all.part(8 * UNIT);
        let charge = part.charge(5 * UNIT);
        assert!(charge.is_some());
        // Only what is free.
        assert_eq!(part.shrink(4 * UNIT), 3 * UNIT);
        assert_eq!((part.free(), all.free()), (0, 5 * UNIT));
        drop(charge);
        assert_eq!((part.free(), all.free()), (5 * UNIT, 10 * UNIT));
    }

    #[test]
    fn account_is_short_when_its_parent_is() {
        let account = Account::new(64 * KIB);
        let part = account.part(32 * KIB);
        assert!(!part.is_short());
        let _most = account.charge(60 * KIB).unwrap();
        assert!(part.is_short());
    }
}
