//! What an exporter takes: spans and log records that wait, and word that metrics have changed; and
//! the access log.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
};

use crate::access::AccessLog;
use crate::queue::{ExportQueue, Wake};
use crate::span::{LogRecord, Span};

/// What waits to be exported, and the access log.
#[derive(Default)]
pub(crate) struct Exports {
    pub(crate) spans: ExportQueue<Span>,
    pub(crate) logs: ExportQueue<LogRecord>,
    pub(crate) changes: Changes,
    pub(crate) access: AccessLog,
}

/// Wakes an exporter of metrics when something is counted, so that it needs no timer while nothing
/// is.
#[derive(Default)]
pub struct Changes {
    /// Whether the exporter waits for a change.
    awaited: AtomicBool,
    wake: OnceLock<Wake>,
}

impl Changes {
    /// Sets what is called at the first change after each [`wait`](Self::wait).
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    /// Asks for word of the next change. To be called before the counters are read.
    pub fn wait(&self) {
        self.awaited.store(true, SeqCst);
    }

    /// Records that something was counted: one relaxed load, unless an exporter waits.
    pub fn touch(&self) {
        if self.awaited.load(Relaxed)
            && self.awaited.swap(false, Relaxed)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicU64};

    #[test]
    fn wakes_once_for_each_wait() {
        let (changes, woken) = (Changes::default(), Arc::new(AtomicU64::new(0)));
        changes.touch();
        changes.on_change({
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Relaxed);
            }
        });
        changes.touch();
        assert_eq!(woken.load(Relaxed), 0, "nobody waits");
        for wakes in 1..=2 {
            changes.wait();
            (0..3).for_each(|_| changes.touch());
            assert_eq!(woken.load(Relaxed), wakes);
        }
    }
}
