//! Native stacks of calls, which are kept for later calls instead of mapped for each.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use wasmtime::{StackCreator, StackMemory};

use crate::memory::mapping::Mapping;
use crate::memory::page::{PAGE, PageRange, page_up};

/// Native stack of a guest, in bytes. Deep recursion of interpreters needs most of it.
pub(crate) const WASM_STACK: usize = 4 << 20;

/// The same with room for functions of the host.
pub(crate) const ASYNC_STACK: usize = WASM_STACK + (512 << 10);

/// Bytes at the top of a waiting stack, which every call uses, that may stay resident.
const KEEP: usize = 64 * 1024;

/// Uses of a stack after which its lower part, which a deep call may have touched, is discarded.
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
    mapping: Mapping,
    uses: u32,
}

impl Stack {
    fn new(size: usize) -> std::io::Result<Self> {
        let mut mapping = Mapping::reserve(total(size))?;
        mapping.allow(PageRange::new(PAGE, mapping.len()))?;
        Ok(Self { mapping, uses: 0 })
    }

    /// Returns the lower part to the system.
    fn trim(&mut self) {
        let end = self.mapping.len().saturating_sub(KEEP).max(PAGE);
        // A failure costs memory, nothing else.
        let _ = self.mapping.discard(PageRange::new(PAGE, end));
    }
}

/// Bytes of a stack with its guard page.
fn total(size: usize) -> usize {
    page_up(size) + PAGE
}

// SAFETY: `StackCreator` asks for stacks of at least `size` bytes with a guard below, which nobody
// else uses, and for zeros where it says so. `Stack::new` makes all but the lowest page of a
// mapping of its own accessible, `UsedStack` owns it until it is dropped, and a stack that was used
// is handed out only where zeros are not asked for: what is left in it is the host's own data and
// compiled code's, which no guest can address.
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
            .filter(|stack| stack.mapping.len() == total(size));
        let stack = match idle {
            Some(stack) => stack,
            None => Stack::new(size)?,
        };
        Ok(Box::new(UsedStack {
            stack: Some(stack),
            idle: self.idle.clone(),
            max_idle: self.max_idle,
        }))
    }
}

/// A stack in use.
struct UsedStack {
    /// There until dropped.
    stack: Option<Stack>,
    idle: Arc<Mutex<Vec<Stack>>>,
    max_idle: usize,
}

impl UsedStack {
    /// The lowest address, and the number of bytes.
    fn bounds(&self) -> (*mut u8, usize) {
        self.stack
            .as_ref()
            .map_or((std::ptr::null_mut(), 0), |stack| {
                (stack.mapping.base(), stack.mapping.len())
            })
    }
}

// SAFETY: `StackMemory` asks for the bounds of an accessible stack and of the guard below.
// `Stack::new` left the first page inaccessible and made the rest accessible, and both stay so
// while the stack lives.
unsafe impl StackMemory for UsedStack {
    fn top(&self) -> *mut u8 {
        let (base, total) = self.bounds();
        base.wrapping_add(total)
    }

    fn range(&self) -> Range<usize> {
        let (base, total) = self.bounds();
        base as usize + PAGE..base as usize + total
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (base, _) = self.bounds();
        base..base.wrapping_add(PAGE)
    }
}

impl Drop for UsedStack {
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
