//! Native stacks of calls, which are kept for later calls instead of mapped for each.

use std::{
    cell::RefCell,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use wasmtime::{StackCreator, StackMemory};

use crate::memory::account::{Account, Charge};
use crate::memory::mapping::Mapping;
use crate::memory::page::{PageRange, page_size, page_up};

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

/// What the stacks of one call may take: a component whose functions run at once has several.
#[derive(Clone)]
pub(crate) struct StackAllowance(Arc<AllowanceState>);

struct AllowanceState {
    account: Account,
    /// Stacks in use.
    used: AtomicUsize,
}

/// Stacks of a call that are part of its fixed cost.
const FREE_STACKS: usize = 1;

thread_local! {
    /// Of the call that this thread runs. wasmtime's interface cannot pass it.
    static ALLOWANCE: RefCell<Option<StackAllowance>> = const { RefCell::new(None) };
}

impl StackAllowance {
    /// An allowance whose stacks are charged to `account`, as far as they are not free.
    pub(crate) fn new(account: Account) -> Self {
        Self(Arc::new(AllowanceState {
            account,
            used: AtomicUsize::new(0),
        }))
    }

    /// Runs `run`, in which this thread makes stacks for the call.
    pub(crate) fn while_running<T>(&self, run: impl FnOnce() -> T) -> T {
        struct Restore(Option<StackAllowance>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ALLOWANCE.set(self.0.take());
            }
        }
        let _restore = Restore(ALLOWANCE.replace(Some(self.clone())));
        run()
    }

    /// Counts one more stack. Returns an error if there is no memory for it.
    fn take(&self) -> Result<CountedStack, wasmtime::Error> {
        let used = self.0.used.fetch_add(1, Ordering::Relaxed);
        let mut counted = CountedStack {
            allowance: self.clone(),
            _charge: None,
        };
        if used >= FREE_STACKS {
            let charge = self.0.account.charge(ASYNC_STACK as u64).ok_or_else(|| {
                wasmtime::Error::msg(
                    "no memory for another function that runs at once (`server.memory`)",
                )
            })?;
            counted._charge = Some(charge);
        }
        Ok(counted)
    }
}

/// A stack of a call, while it is in use.
struct CountedStack {
    allowance: StackAllowance,
    _charge: Option<Charge>,
}

impl Drop for CountedStack {
    fn drop(&mut self) {
        self.allowance.0.used.fetch_sub(1, Ordering::Relaxed);
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
        mapping.allow(PageRange::new(page_size(), mapping.len()))?;
        Ok(Self { mapping, uses: 0 })
    }

    /// Returns the lower part to the system.
    fn trim(&mut self) {
        let end = self.mapping.len().saturating_sub(KEEP).max(page_size());
        // A failure costs memory, nothing else.
        let _ = self.mapping.discard(PageRange::new(page_size(), end));
    }
}

/// Bytes of a stack with its guard page.
fn total(size: usize) -> usize {
    page_up(size) + page_size()
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
        let counted = ALLOWANCE
            .with_borrow(Option::clone)
            .map(|allowance| allowance.take())
            .transpose()?;
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
            _counted: counted,
        }))
    }
}

/// A stack in use.
struct UsedStack {
    /// There until dropped.
    stack: Option<Stack>,
    idle: Arc<Mutex<Vec<Stack>>>,
    max_idle: usize,
    _counted: Option<CountedStack>,
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
        base as usize + page_size()..base as usize + total
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (base, _) = self.bounds();
        base..base.wrapping_add(page_size())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::page::assuming_page_size;

    #[test]
    fn further_stacks_of_a_call_are_charged() {
        let stacks = Stacks::new(4);
        let account = Account::new(2 * ASYNC_STACK as u64 + (64 << 10));
        let allowance = StackAllowance::new(account.clone());
        let free = account.free();
        let take = || allowance.while_running(|| stacks.new_stack(ASYNC_STACK, false));
        let first = take().unwrap();
        assert_eq!(account.free(), free);
        let (second, third) = (take().unwrap(), take().unwrap());
        let error = take().err().unwrap();
        assert!(error.to_string().contains("server.memory"), "{error}");
        drop(second);
        let fourth = take().unwrap();
        drop((first, third, fourth));
        assert_eq!(account.free(), free);
        assert!(stacks.new_stack(ASYNC_STACK, false).is_ok());
    }

    #[test]
    fn guard_is_the_page_below_the_stack() {
        assuming_page_size(|| {
            let stacks = Stacks::new(1);
            for _ in 0..=USES {
                let stack = stacks.new_stack(ASYNC_STACK, false).unwrap();
                let (guard, range) = (stack.guard_range(), stack.range());
                assert_eq!(guard.end.addr() - guard.start.addr(), page_size());
                assert_eq!(guard.end.addr(), range.start);
                assert_eq!(stack.top().addr(), range.end);
                assert_eq!(range.len(), ASYNC_STACK.next_multiple_of(page_size()));
            }
        });
    }
}
