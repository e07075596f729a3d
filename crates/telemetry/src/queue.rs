//! What waits to be exported: a bounded queue.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// Most items of a queue; further ones are dropped and counted.
pub const MAX_QUEUED: usize = 2048;

/// Most bytes of the items of a queue.
const MAX_QUEUED_BYTES: usize = 2 << 20;

/// Something that can wait in a queue.
pub trait Queued {
    /// The memory that it takes, in bytes.
    fn bytes(&self) -> usize;
}

/// Wakes the exporter.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

/// A bounded queue. Nothing is queued until an exporter enables it.
pub struct ExportQueue<T> {
    max: usize,
    max_bytes: usize,
    enabled: AtomicBool,
    items: Mutex<QueuedItems<T>>,
    dropped: AtomicU64,
    wake: OnceLock<Wake>,
}

struct QueuedItems<T> {
    items: VecDeque<T>,
    bytes: usize,
}

impl<T: Queued> Default for ExportQueue<T> {
    fn default() -> Self {
        Self::new(MAX_QUEUED, MAX_QUEUED_BYTES)
    }
}

impl<T: Queued> ExportQueue<T> {
    fn new(max: usize, max_bytes: usize) -> Self {
        Self {
            max,
            max_bytes,
            enabled: AtomicBool::new(false),
            items: Mutex::new(QueuedItems {
                items: VecDeque::new(),
                bytes: 0,
            }),
            dropped: AtomicU64::new(0),
            wake: OnceLock::new(),
        }
    }

    /// Queues from now on. `wake` is called when the queue is no longer empty, and when it is half
    /// full.
    pub fn enable(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
        self.enabled.store(true, Relaxed);
    }

    /// Whether an exporter has enabled it.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    fn items(&self) -> MutexGuard<'_, QueuedItems<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item.
    pub fn push(&self, item: T) {
        if !self.is_enabled() {
            return;
        }
        let bytes = item.bytes();
        let mut queued = self.items();
        if queued.items.len() >= self.max || queued.bytes + bytes > self.max_bytes {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let was_half_full = self.is_half(&queued);
        queued.items.push_back(item);
        queued.bytes += bytes;
        let wakes = queued.items.len() == 1 || !was_half_full && self.is_half(&queued);
        drop(queued);
        if wakes && let Some(wake) = self.wake.get() {
            wake();
        }
    }

    fn is_half(&self, queued: &QueuedItems<T>) -> bool {
        queued.items.len() >= self.max / 2 || queued.bytes >= self.max_bytes / 2
    }

    /// The number of items that wait.
    pub fn len(&self) -> usize {
        self.items().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether half of the room is used, so that a batch is due.
    pub fn is_half_full(&self) -> bool {
        self.is_half(&self.items())
    }

    /// Takes up to `max` of the oldest items.
    pub fn take(&self, max: usize) -> Vec<T> {
        let mut queued = self.items();
        let count = queued.items.len().min(max);
        let taken: Vec<T> = queued.items.drain(..count).collect();
        queued.bytes -= taken.iter().map(Queued::bytes).sum::<usize>();
        if queued.items.is_empty() {
            // A burst is over: its memory is returned.
            queued.items = VecDeque::new();
        }
        taken
    }

    /// Counts items that could not be exported.
    pub fn lost(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Relaxed);
    }

    /// Items that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    impl Queued for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn enabled(max: usize, max_bytes: usize) -> (ExportQueue<usize>, Arc<AtomicU64>) {
        let queue = ExportQueue::new(max, max_bytes);
        let woken = Arc::new(AtomicU64::new(0));
        queue.enable({
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Relaxed);
            }
        });
        (queue, woken)
    }

    #[test]
    fn keeps_items_that_fit_and_counts_the_rest() {
        let off = ExportQueue::new(4, 100);
        off.push(0_usize);
        assert!(off.is_empty(), "nobody exports");
        let (queue, woken) = enabled(4, 100);
        (0..7).for_each(|number| queue.push(number));
        assert_eq!((queue.len(), queue.dropped()), (4, 3));
        assert_eq!(woken.load(Relaxed), 2);
        assert_eq!(queue.take(3), [0, 1, 2]);
        assert!(!queue.is_half_full());
        assert_eq!(queue.take(3), [3]);
        queue.push(9);
        assert_eq!((queue.len(), woken.load(Relaxed)), (1, 3));
        queue.lost(2);
        assert_eq!(queue.dropped(), 5);
    }

    #[test]
    fn bounds_the_bytes_of_its_items() {
        let (queue, woken) = enabled(100, 10);
        [4, 4, 4].into_iter().for_each(|bytes| queue.push(bytes));
        assert_eq!((queue.len(), queue.dropped()), (2, 1));
        assert!(queue.is_half_full());
        assert_eq!(woken.load(Relaxed), 2);
        assert_eq!(queue.take(100), [4, 4]);
        queue.push(10);
        assert_eq!((queue.len(), queue.dropped()), (1, 1));
    }
}
