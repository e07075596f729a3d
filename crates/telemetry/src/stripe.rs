//! Counters that several threads write to: each thread has a stripe of its own, so that threads on
//! different CPUs do not write to the same cache line.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Most stripes of a counter. Further threads share them.
const MAX_STRIPES: usize = 16;

thread_local! {
    /// The number of this thread, once it has one.
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The number of this thread, counted from 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    THREAD.with(|thread| match thread.get() {
        usize::MAX => {
            let number = NEXT.fetch_add(1, Relaxed) % MAX_STRIPES;
            thread.set(number);
            number
        }
        number => number,
    })
}

/// A value that has a cache line of its own. Two lines: CPUs fetch lines in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

/// One `T` for each of a few groups of threads.
pub(crate) struct Striped<T> {
    /// A power of two.
    stripes: Box<[Padded<T>]>,
}

impl<T: Default> Striped<T> {
    /// A stripe for each CPU, up to a bound.
    pub(crate) fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = cpus.min(MAX_STRIPES).next_power_of_two();
        Self {
            stripes: (0..count).map(|_| Padded::default()).collect(),
        }
    }

    /// The stripe of this thread.
    pub(crate) fn own(&self) -> &T {
        &self.stripes[thread_number() & (self.stripes.len() - 1)].0
    }

    /// All stripes.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.stripes.iter().map(|padded| &padded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn counts_of_all_threads_add_up() {
        let counter = Striped::<AtomicU64>::new();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.own().fetch_add(1, Relaxed);
                    }
                });
            }
        });
        let sum: u64 = counter.all().map(|stripe| stripe.load(Relaxed)).sum();
        assert_eq!(sum, 40_000);
    }
}
