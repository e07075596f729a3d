//! A server that nobody calls gives its memory back. Nothing ticks meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::Notify;

/// Wakes the task that watches for idleness.
#[derive(Default)]
pub(crate) struct Idle {
    asleep: AtomicBool,
    wake: Notify,
}

impl Idle {
    /// A request came.
    pub(crate) fn touch(&self) {
        if self.asleep.load(Relaxed) && self.asleep.swap(false, Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Runs `trim` each time that `count` has not moved for `quiet`: after the start, and after it has moved.
    pub(crate) async fn watch<F: Future<Output = ()>>(
        &self,
        quiet: Duration,
        count: impl Fn() -> u64,
        trim: impl Fn() -> F,
    ) {
        loop {
            loop {
                let before = count();
                tokio::time::sleep(quiet).await;
                if count() == before {
                    break;
                }
            }
            trim().await;
            self.asleep.store(true, Relaxed);
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, pin::pin};

    #[tokio::test]
    async fn memory_is_given_back_once_after_the_start_and_each_rush() {
        let (idle, count, trims) = (Idle::default(), Cell::new(0), Cell::new(0));
        let mut watch = pin!(idle.watch(
            Duration::from_millis(60),
            || count.get(),
            || {
                trims.set(trims.get() + 1);
                std::future::ready(())
            }
        ));
        let mut pass = async |time: u64| {
            let _ = tokio::time::timeout(Duration::from_millis(time), watch.as_mut()).await;
        };
        pass(500).await;
        assert_eq!(trims.get(), 1);
        for rush in 2..=3 {
            for _ in 0..5 {
                count.set(count.get() + 1);
                idle.touch();
                pass(10).await;
            }
            assert_eq!(trims.get(), rush - 1);
            pass(500).await;
            assert_eq!(trims.get(), rush);
        }
    }
}
