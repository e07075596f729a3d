//! Turns: one request after the other reads a namespace, and writes what it changed.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// The right to be the only one that reads and changes a namespace in turn. Dropping it passes the
/// turn on.
pub struct Turn {
    /// What a store of several processes knows the turn by.
    pub(crate) token: Option<Arc<str>>,
    _held: Box<dyn Any + Send + Sync>,
}

impl Turn {
    /// A turn that lasts until `held` is dropped.
    pub(crate) fn new(token: Option<Arc<str>>, held: impl Any + Send + Sync) -> Self {
        Self {
            token,
            _held: Box::new(held),
        }
    }
}

/// The turns of this process, by namespace. Those who wait are served in their order.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of a namespace.
    pub(crate) async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        self.lock_of(namespace).lock_owned().await
    }

    fn lock_of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(namespace).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(namespace.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_only_turns_that_are_held() {
        let turns = Turns::default();
        let held = turns.take("a").await;
        for name in 0..100 {
            drop(turns.take(&name.to_string()).await);
        }
        assert!(turns.lock_of("a").try_lock().is_err());
        drop(held);
        drop(turns.take("b").await);
        let known = turns.0.lock().map(|locks| locks.len());
        assert_eq!(known.ok(), Some(1));
    }
}
