//! Spans that wait to be exported: a bounded queue.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use crate::trace::TraceContext;

/// Most spans that wait; further ones are dropped and counted.
pub const MAX_SPANS: usize = 2048;

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that the server answers.
    Server,
    /// A call of a worker.
    Internal,
    /// A request that a worker sends.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
}

/// Something that took time, as a part of a trace.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace and its id.
    pub context: TraceContext,
    /// The span that it is a part of.
    pub parent: Option<[u8; 8]>,
    /// A name of few values.
    pub name: String,
    /// What it is about.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub time: Duration,
    /// What is known of it, by the standard's names.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub failed: bool,
}

/// Wakes the exporter.
type Wake = Box<dyn Fn() + Send + Sync>;

/// A bounded queue. Nothing is queued until somebody exports.
pub struct ExportQueue<T> {
    max: usize,
    enabled: AtomicBool,
    items: Mutex<Vec<T>>,
    dropped: AtomicU64,
    wake: OnceLock<Wake>,
}

impl<T> ExportQueue<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            enabled: AtomicBool::new(false),
            items: Mutex::default(),
            dropped: AtomicU64::new(0),
            wake: OnceLock::new(),
        }
    }

    /// Queues from now on; `wake` is called when the queue is no longer empty, and when it is half
    /// full.
    pub fn enable(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
        self.enabled.store(true, Relaxed);
    }

    /// Whether somebody exports.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    fn items(&self) -> MutexGuard<'_, Vec<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item.
    pub fn push(&self, item: T) {
        if !self.is_enabled() {
            return;
        }
        let mut items = self.items();
        if items.len() >= self.max {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        items.push(item);
        let wake = items.len() == 1 || items.len() == self.max / 2;
        drop(items);
        if wake && let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// The number of items that wait.
    pub fn len(&self) -> usize {
        self.items().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether half of the room is used, so that a batch is due.
    pub fn is_half_full(&self) -> bool {
        self.len() >= self.max / 2
    }

    /// Takes all items.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.items())
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

    #[test]
    fn holds_what_fits_and_counts_the_rest() {
        let queue = ExportQueue::new(4);
        queue.push(0);
        assert!(queue.is_empty(), "nobody exports");
        let woken = Arc::new(AtomicU64::new(0));
        queue.enable({
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Relaxed);
            }
        });
        (0..7).for_each(|number| queue.push(number));
        assert_eq!((queue.len(), queue.dropped()), (4, 3));
        assert_eq!(woken.load(Relaxed), 2);
        assert_eq!(queue.take(), [0, 1, 2, 3]);
        queue.push(9);
        assert_eq!((queue.len(), woken.load(Relaxed)), (1, 3));
    }
}
