//! Native stacks of guests' calls, kept for the next call instead of mapped for each.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use wasmtime::{StackCreator, StackMemory};

use crate::memory::{PAGE, page_up};

/// How much of a waiting stack may stay resident: its top, which every call uses.
const KEEP: usize = 64 * 1024;

/// How often a stack is used before its lower part, which a deep call may have touched, goes back to the system.
const USES: u32 = 64;

/// The stacks of a process.
pub(crate) struct Stacks {
    idle: Arc<Mutex<Vec<Stack>>>,
    max_idle: usize,
}

impl Stacks {
    pub(crate) fn new(max_idle: usize) -> Self {
        Self {
            idle: Arc::default(),
            max_idle,
        }
    }
}

/// A mapping with a guard page at its low end.
struct Stack {
    base: *mut u8,
    total: usize,
    uses: u32,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Stack {}
// SAFETY: `&Stack` gives nothing but addresses.
unsafe impl Sync for Stack {}

impl Stack {
    fn new(size: usize) -> std::io::Result<Self> {
        let total = page_up(size) + PAGE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                total,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let stack = Self {
            base: base.cast(),
            total,
            uses: 0,
        };
        // A large page would be two mebibytes of memory for the little that most calls use.
        // SAFETY: all of our own new mapping; the system's refusal costs nothing but memory.
        let _ = unsafe { rustix::mm::madvise(base, total, Advice::LinuxNoHugepage) };
        // SAFETY: all of our own mapping but its first page, the guard.
        unsafe {
            rustix::mm::mprotect(
                stack.base.add(PAGE).cast(),
                total - PAGE,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }?;
        Ok(stack)
    }

    /// Gives the lower part back to the system.
    fn trim(&self) {
        let len = (self.total - PAGE).saturating_sub(KEEP);
        // SAFETY: our own mapping, above the guard, used by no call now.
        let _ =
            unsafe { rustix::mm::madvise(self.base.add(PAGE).cast(), len, Advice::LinuxDontNeed) };
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the call that ran on it is over, since it owned the stack.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.total) };
    }
}

// SAFETY: each stack is a mapping of its own with a guard page below it. It is not zeroed between calls; what is left in it is the
// host's own data and compiled code's, which no guest can address.
unsafe impl StackCreator for Stacks {
    fn new_stack(
        &self,
        size: usize,
        zeroed: bool,
    ) -> Result<Box<dyn StackMemory>, wasmtime::Error> {
        let idle = (!zeroed)
            .then(|| {
                self.idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop()
            })
            .flatten()
            .filter(|stack| stack.total == page_up(size) + PAGE);
        let stack = match idle {
            Some(stack) => stack,
            None => Stack::new(size)?,
        };
        Ok(Box::new(Used {
            stack: Some(stack),
            idle: self.idle.clone(),
            max_idle: self.max_idle,
        }))
    }
}

/// A stack in use.
struct Used {
    /// There until dropped.
    stack: Option<Stack>,
    idle: Arc<Mutex<Vec<Stack>>>,
    max_idle: usize,
}

impl Used {
    fn bounds(&self) -> (usize, usize) {
        self.stack
            .as_ref()
            .map_or((0, 0), |stack| (stack.base as usize, stack.total))
    }
}

// SAFETY: the ranges are those of the mapping: a guard page, then the stack.
unsafe impl StackMemory for Used {
    fn top(&self) -> *mut u8 {
        let (base, total) = self.bounds();
        std::ptr::with_exposed_provenance_mut(base + total)
    }

    fn range(&self) -> Range<usize> {
        let (base, total) = self.bounds();
        base + PAGE..base + total
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (base, _) = self.bounds();
        std::ptr::with_exposed_provenance_mut(base)
            ..std::ptr::with_exposed_provenance_mut(base + PAGE)
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let Some(mut stack) = self.stack.take() else {
            return;
        };
        stack.uses += 1;
        if stack.uses.is_multiple_of(USES) {
            stack.trim();
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(stack);
        }
    }
}
