//! Counts the operations of a key/value store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use wws_kv::{Change, Error, ListQuery, Map, Page, Store, StoreKind, StoreLimits, Turn};
use wws_telemetry::{KvOperation, KvStore, Telemetry};

/// A store whose operations are counted.
pub(crate) struct CountedStore<S> {
    store: S,
    telemetry: Telemetry,
}

impl<S: Store> CountedStore<S> {
    /// Counts the operations of `store`.
    pub(crate) fn new(store: S, telemetry: Telemetry) -> Arc<Self> {
        Arc::new(Self { store, telemetry })
    }

    fn count<T>(&self, operation: KvOperation, result: Result<T, Error>) -> Result<T, Error> {
        let store = match self.store.kind() {
            StoreKind::Memory => KvStore::Memory,
            StoreKind::File => KvStore::File,
            StoreKind::Redis => KvStore::Redis,
        };
        self.telemetry.kv(store, operation, result.is_ok());
        result
    }
}

#[async_trait]
impl<S: Store> Store for CountedStore<S> {
    fn kind(&self) -> StoreKind {
        self.store.kind()
    }

    fn set_limits(&self, limits: StoreLimits) {
        self.store.set_limits(limits);
    }

    fn version(&self, namespace: &str) -> Option<Map> {
        let version = self.store.version(namespace)?;
        self.count(KvOperation::Snapshot, Ok(version)).ok()
    }

    async fn snapshot(&self, namespace: &str) -> Result<Map, Error> {
        let result = self.store.snapshot(namespace).await;
        self.count(KvOperation::Snapshot, result)
    }

    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error> {
        let result = self.store.apply(namespace, changes).await;
        self.count(KvOperation::Apply, result)
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        let result = self.store.get(namespace, key).await;
        self.count(KvOperation::Get, result)
    }

    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error> {
        let result = self.store.list(namespace, query).await;
        self.count(KvOperation::List, result)
    }

    async fn serial(&self, namespace: &str) -> Result<Turn, Error> {
        let result = self.store.serial(namespace).await;
        self.count(KvOperation::Turn, result)
    }

    async fn apply_in(
        &self,
        namespace: &str,
        changes: Vec<Change>,
        turn: &Turn,
    ) -> Result<(), Error> {
        let result = self.store.apply_in(namespace, changes, turn).await;
        self.count(KvOperation::Apply, result)
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        let result = self.store.increment(namespace, key, delta).await;
        self.count(KvOperation::Increment, result)
    }

    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        let store = &self.store;
        let swapped = store.compare_and_swap(namespace, key, expected, value, ttl);
        let result = swapped.await;
        self.count(KvOperation::CompareAndSwap, result)
    }

    async fn set(&self, namespace: &str, key: String, value: String) -> Result<(), Error> {
        let result = self.store.set(namespace, key, value).await;
        self.count(KvOperation::Apply, result)
    }

    async fn delete(&self, namespace: &str, key: String) -> Result<(), Error> {
        let result = self.store.delete(namespace, key).await;
        self.count(KvOperation::Apply, result)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wws_kv::MemoryStore;
    use wws_telemetry::{TextFormat, TextSink};

    use super::*;

    #[tokio::test]
    async fn counts_successes_and_failures() {
        let telemetry = Telemetry::default();
        let store = CountedStore::new(MemoryStore::default(), telemetry.clone());
        store.set("n", "k".into(), "text".into()).await.unwrap();
        assert_eq!(store.get("n", "k").await.unwrap().as_deref(), Some("text"));
        assert!(store.increment("n", "k", 1).await.is_err());
        assert!(
            store
                .compare_and_swap("n", "k", Some("text"), "1", None)
                .await
                .unwrap()
        );
        assert_eq!(store.increment("n", "k", 1).await.unwrap(), 2);
        let mut sink = TextSink::new(TextFormat::Prometheus);
        telemetry.collect(&mut sink);
        let text = sink.finish();
        for (operation, outcome, count) in [
            ("apply", "ok", 1),
            ("get", "ok", 1),
            ("increment", "ok", 1),
            ("increment", "error", 1),
            ("compare_and_swap", "ok", 1),
            ("compare_and_swap", "error", 0),
        ] {
            let line = format!(
                "wws_kv_operations_total{{store=\"memory\",operation=\"{operation}\",\
                 outcome=\"{outcome}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}");
        }
    }
}
