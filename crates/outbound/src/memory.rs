//! Memory for bodies: charged before a buffer grows, released when the buffer is freed.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

/// The minimum size of a growing buffer, in bytes.
const SMALLEST: usize = 4 << 10;

/// The memory of a request's sender, which the response is charged to. Dropping it releases
/// everything.
pub trait MemoryCharge: Send {
    /// Grows the charge to at least `bytes`. Returns `false` if not enough is free; the charge is
    /// then unchanged.
    fn grow_to(&mut self, bytes: u64) -> bool;

    /// Shrinks the charge to `bytes`.
    fn shrink_to(&mut self, bytes: u64);
}

/// Bytes that all requests of a client may hold together.
pub(crate) struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            limit,
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let sum = used.checked_add(bytes)?;
                (sum <= self.limit).then_some(sum)
            });
        taken.is_ok()
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The memory of one request, from the client's budget and its sender's memory.
#[derive(Clone)]
pub(crate) struct Memory(Arc<MemoryAccount>);

struct MemoryAccount {
    budget: Arc<Budget>,
    sender: Mutex<Sender>,
}

struct Sender {
    charge: Option<Box<dyn MemoryCharge>>,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(budget: Arc<Budget>, charge: Option<Box<dyn MemoryCharge>>) -> Self {
        let sender = Mutex::new(Sender { charge, bytes: 0 });
        Self(Arc::new(MemoryAccount { budget, sender }))
    }

    fn sender(&self) -> MutexGuard<'_, Sender> {
        // Only numbers, which are consistent even after a panic.
        self.0.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of no bytes.
    pub(crate) fn part(&self) -> MemoryPart {
        MemoryPart {
            memory: self.clone(),
            bytes: 0,
        }
    }
}

/// Memory in use; released when dropped.
pub(crate) struct MemoryPart {
    memory: Memory,
    bytes: u64,
}

impl MemoryPart {
    /// Grows the part to at least `bytes`, if enough is free.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        if !self.memory.0.budget.take(more) {
            return false;
        }
        let mut sender = self.memory.sender();
        let sum = sender.bytes + more;
        if let Some(charge) = &mut sender.charge
            && !charge.grow_to(sum)
        {
            self.memory.0.budget.release(more);
            return false;
        }
        sender.bytes = sum;
        drop(sender);
        self.bytes = bytes;
        true
    }

    /// Shrinks the part to `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        if less == 0 {
            return;
        }
        self.bytes = bytes;
        self.memory.0.budget.release(less);
        let mut sender = self.memory.sender();
        sender.bytes -= less;
        let rest = sender.bytes;
        if let Some(charge) = &mut sender.charge {
            charge.shrink_to(rest);
        }
    }

    /// Bytes that keep the part until the last of their clones is dropped.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        struct ChargedBytes(
            Bytes,
            #[allow(dead_code, reason = "dropped with the bytes")] MemoryPart,
        );
        impl AsRef<[u8]> for ChargedBytes {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if bytes.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(ChargedBytes(bytes, self))
    }
}

impl Drop for MemoryPart {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// A buffer that is charged before it grows.
pub(crate) struct Buffer {
    data: Vec<u8>,
    part: MemoryPart,
}

impl Buffer {
    pub(crate) fn new(memory: &Memory) -> Self {
        Self {
            data: Vec::new(),
            part: memory.part(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// Makes room for `more` bytes, and for at most `limit` in total unless these need it. Returns
    /// `false` without memory.
    pub(crate) fn reserve(&mut self, more: usize, limit: u64) -> bool {
        let Some(needed) = self.data.len().checked_add(more) else {
            return false;
        };
        let capacity = self.data.capacity();
        if needed <= capacity {
            return true;
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let wanted = capacity.saturating_mul(2).max(SMALLEST);
        let wanted = wanted.min(limit).max(needed);
        [wanted, needed].into_iter().any(|size| {
            self.part.grow_to(size as u64)
                && self.data.try_reserve_exact(size - self.data.len()).is_ok()
        })
    }

    /// Appends bytes, for which there must be room.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    /// The bytes, which stay charged until they are dropped.
    pub(crate) fn freeze(mut self) -> Bytes {
        if self.data.capacity() - self.data.len() > self.data.len() / 8 {
            self.data.shrink_to_fit();
        }
        self.part.shrink_to(self.data.capacity() as u64);
        self.part.hold(self.data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Account(Arc<AtomicU64>, u64);

    impl MemoryCharge for Account {
        fn grow_to(&mut self, bytes: u64) -> bool {
            let fits = bytes <= self.1;
            if fits {
                self.0.store(bytes, Ordering::Relaxed);
            }
            fits
        }

        fn shrink_to(&mut self, bytes: u64) {
            self.0.fetch_min(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn buffer_is_charged_until_its_last_bytes_are_dropped() {
        let budget = Arc::new(Budget::new(100 << 10));
        let used = Arc::new(AtomicU64::new(0));
        let memory = Memory::new(
            budget.clone(),
            Some(Box::new(Account(used.clone(), 50 << 10))),
        );
        let both = || {
            (
                budget.used.load(Ordering::Relaxed),
                used.load(Ordering::Relaxed),
            )
        };
        let mut buffer = Buffer::new(&memory);
        assert!(buffer.reserve(10, 1 << 20));
        buffer.extend(b"0123456789");
        assert_eq!(both(), (4 << 10, 4 << 10));
        assert!(buffer.reserve(40 << 10, 1 << 20));
        assert!(buffer.reserve(48 << 10, 1 << 20), "if not twice as much");
        assert!(!buffer.reserve(60 << 10, 1 << 20), "beyond the account");
        let mut other = Buffer::new(&Memory::new(budget.clone(), None));
        assert!(other.reserve(50 << 10, 1 << 20));
        assert!(!other.reserve(70 << 10, 1 << 20), "beyond the budget");
        drop(other);
        let bytes = buffer.freeze();
        let part = bytes.slice(2..4);
        drop(bytes);
        assert_eq!((&part[..], both()), (&b"23"[..], (10, 10)));
        drop((part, memory));
        assert_eq!(both(), (0, 0));
    }

    #[test]
    fn a_buffer_has_no_more_room_than_its_limit() {
        let memory = Memory::new(Arc::new(Budget::new(u64::MAX)), None);
        let mut buffer = Buffer::new(&memory);
        for _ in 0..5 {
            assert!(buffer.reserve(1000, 5000));
            buffer.extend(&[0; 1000]);
        }
        assert_eq!((buffer.len(), buffer.data.capacity()), (5000, 5000));
    }
}
