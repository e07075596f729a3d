//! A store in memory, which ends with the process.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::error::Error;
use crate::limits::StoreLimits;
use crate::store::{Change, ListQuery, Map, Page, Store, StoreKind, check_changes};
use crate::turn::{Turn, Turns};
use crate::value::{MemoryMeter, Value};

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    meter: Option<Arc<dyn MemoryMeter>>,
    contents: Mutex<Contents>,
    turns: Turns,
}

#[derive(Default)]
struct Contents {
    limits: StoreLimits,
    namespaces: HashMap<String, Namespace>,
    /// Bytes of all namespaces.
    bytes: usize,
}

#[derive(Default)]
struct Namespace {
    map: Map,
    /// Bytes of the keys and values.
    bytes: usize,
    /// The keys that are removed at a time.
    expiries: BTreeSet<(Instant, Arc<str>)>,
}

impl MemoryStore {
    /// Creates a store with these limits.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        let store = Self::default();
        store.set_limits(limits);
        store
    }

    /// Lets `meter` count what the store holds; it may refuse more.
    #[must_use]
    pub fn metered(mut self, meter: Arc<dyn MemoryMeter>) -> Self {
        self.meter = Some(meter);
        self
    }

    // No function leaves a namespace half changed, so the data behind a poisoned lock is good.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a namespace, if it exists.
    fn read<T>(&self, name: &str, look: impl FnOnce(&Namespace) -> T) -> Option<T> {
        let contents = &mut *self.lock();
        let namespace = contents.namespaces.get_mut(name)?;
        contents.bytes -= namespace.remove_expired();
        Some(look(namespace))
    }

    /// Changes a namespace.
    fn with<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Namespace, &ChangeRules<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let contents = &mut *self.lock();
        let count = contents.namespaces.len();
        let namespace = match contents.namespaces.get_mut(name) {
            Some(namespace) => namespace,
            None if count >= contents.limits.namespaces => {
                return Err(Error::Full {
                    what: "namespaces",
                    limit: contents.limits.namespaces,
                });
            }
            None => contents.namespaces.entry(name.to_owned()).or_default(),
        };
        contents.bytes -= namespace.remove_expired();
        let others = contents.bytes - namespace.bytes;
        let rules = ChangeRules {
            limits: &contents.limits,
            others,
            meter: self.meter.as_ref(),
        };
        let changed = change(namespace, &rules);
        contents.bytes = others + namespace.bytes;
        changed
    }
}

/// What changes are checked against.
struct ChangeRules<'m> {
    limits: &'m StoreLimits,
    /// Bytes of the other namespaces.
    others: usize,
    meter: Option<&'m Arc<dyn MemoryMeter>>,
}

impl Namespace {
    /// Removes the keys whose time has passed. Returns their bytes.
    fn remove_expired(&mut self) -> usize {
        if self.expiries.is_empty() {
            return 0;
        }
        let now = Instant::now();
        let mut removed = 0;
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let Some((_, key)) = self.expiries.pop_first() else {
                break;
            };
            if let Some(value) = self.map.get(&key) {
                removed += key.len() + value.len();
                self.map.remove_mut(&key);
            }
        }
        self.bytes -= removed;
        removed
    }

    /// Applies all changes, or none if one is rejected.
    fn apply(&mut self, rules: &ChangeRules<'_>, changes: &[Change]) -> Result<(), Error> {
        let limits = rules.limits;
        check_changes(limits, changes)?;
        // The new value of each key. The last change of a key counts.
        let last: HashMap<&str, Option<(&str, Option<Duration>)>> = changes
            .iter()
            .map(|change| (change.key(), change.value()))
            .collect();
        let (mut keys, mut bytes) = (self.map.size(), self.bytes);
        for (key, value) in &last {
            if let Some(old) = self.map.get(*key) {
                keys -= 1;
                bytes -= key.len() + old.len();
            }
            if let Some((value, _)) = value {
                keys += 1;
                bytes += key.len() + value.len();
            }
        }
        if keys > limits.keys && keys > self.map.size() {
            return Err(Error::Full {
                what: "keys of a namespace",
                limit: limits.keys,
            });
        }
        if bytes > limits.namespace && bytes > self.bytes {
            return Err(Error::Full {
                what: "bytes of a namespace",
                limit: limits.namespace,
            });
        }
        let size = usize::try_from(limits.size).unwrap_or(usize::MAX);
        if bytes > self.bytes && rules.others.saturating_add(bytes) > size {
            return Err(Error::Full {
                what: "bytes of the store (`max_size`)",
                limit: size,
            });
        }
        let now = Instant::now();
        let mut set = Vec::with_capacity(last.len());
        let mut removed = Vec::new();
        for (key, value) in last {
            match value {
                Some((value, ttl)) => {
                    let expires = ttl.and_then(|ttl| now.checked_add(ttl));
                    let value = Value::counted(key, value, expires, rules.meter)?;
                    set.push((Arc::from(key), value));
                }
                None => removed.push(key),
            }
        }
        // Nothing below fails.
        for key in removed {
            self.forget_expiry(key);
            self.map.remove_mut(key);
        }
        for (key, value) in set {
            self.put(key, value);
        }
        self.bytes = bytes;
        Ok(())
    }

    fn put(&mut self, key: Arc<str>, value: Value) {
        self.forget_expiry(&key);
        if let Some(at) = value.expires() {
            self.expiries.insert((at, key.clone()));
        }
        self.map.insert_mut(key, value);
    }

    fn forget_expiry(&mut self, key: &str) {
        if let Some((name, value)) = self.map.get_key_value(key)
            && let Some(at) = value.expires()
        {
            self.expiries.remove(&(at, name.clone()));
        }
    }

    fn list(&self, query: &ListQuery<'_>) -> Page {
        let from = match query.after {
            Some(after) if after >= query.prefix => Bound::Excluded(after),
            _ => Bound::Included(query.prefix),
        };
        let keys = self.map.range::<str, _>((from, Bound::Unbounded));
        let keys = keys.map(|(key, _)| Ok::<_, std::convert::Infallible>((**key).to_owned()));
        match Page::collect(query, keys) {
            Ok(page) => page,
            Err(never) => match never {},
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    fn set_limits(&self, limits: StoreLimits) {
        self.lock().limits = limits;
    }

    fn version(&self, namespace: &str) -> Option<Map> {
        let version = self.read(namespace, |namespace| namespace.map.clone());
        Some(version.unwrap_or_default())
    }

    async fn snapshot(&self, namespace: &str) -> Result<Map, Error> {
        Ok(self.version(namespace).unwrap_or_default())
    }

    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error> {
        self.with(namespace, |namespace, rules| {
            namespace.apply(rules, &changes)
        })
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        let found = self.read(namespace, |namespace| namespace.map.get(key).cloned());
        Ok(found.flatten().map(|value| value.as_str().to_owned()))
    }

    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error> {
        let page = self.read(namespace, |namespace| namespace.list(&query));
        Ok(page.unwrap_or(Page {
            keys: Vec::new(),
            is_last: true,
        }))
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        self.with(namespace, |namespace, rules| {
            let old = namespace.map.get(key);
            let sum = Error::sum(key, old.map(Value::as_str), delta)?;
            let now = Instant::now();
            let left = old.and_then(Value::expires).map(|at| {
                let left = at.saturating_duration_since(now);
                left.max(Duration::from_millis(1))
            });
            let change = Change::set(key.to_owned(), sum.to_string(), left);
            namespace.apply(rules, &[change])?;
            Ok(sum)
        })
    }

    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        self.with(namespace, |namespace, rules| {
            if namespace.map.get(key).map(Value::as_str) != expected {
                return Ok(false);
            }
            let change = Change::set(key.to_owned(), value.to_owned(), ttl);
            namespace.apply(rules, &[change])?;
            Ok(true)
        })
    }

    async fn serial(&self, namespace: &str) -> Result<Turn, Error> {
        Ok(Turn::new(None, self.turns.take(namespace).await))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::diff;

    fn set(key: &str, value: &str) -> Change {
        Change::Set(key.into(), value.into())
    }

    #[tokio::test]
    async fn keeps_concurrent_changes_of_different_keys() {
        let store = MemoryStore::default();
        store.apply("n", vec![set("old", "0")]).await.unwrap();
        let first = store.snapshot("n").await.unwrap();
        let second = store.snapshot("n").await.unwrap();
        for (snapshot, key) in [(first, "a"), (second, "b")] {
            let mut after: HashMap<_, _> = snapshot
                .iter()
                .map(|(key, value)| ((**key).to_owned(), (**value).to_owned()))
                .collect();
            after.insert(key.into(), "1".into());
            store.apply("n", diff(&snapshot, after)).await.unwrap();
        }
        let now = store.snapshot("n").await.unwrap();
        assert_eq!(now.size(), 3);
    }

    #[tokio::test]
    async fn snapshot_does_not_change() {
        let store = MemoryStore::default();
        store.apply("n", vec![set("a", "1")]).await.unwrap();
        let snapshot = store.snapshot("n").await.unwrap();
        store.apply("n", vec![set("a", "2")]).await.unwrap();
        assert_eq!(snapshot["a"], "1");
        assert_eq!(store.get("n", "a").await.unwrap().unwrap(), "2");
    }

    #[tokio::test]
    async fn namespaces_are_separate() {
        let store = MemoryStore::default();
        store.set("a", "k".into(), "v".into()).await.unwrap();
        assert_eq!(store.get("b", "k").await.unwrap(), None);
    }

    #[tokio::test]
    async fn rejected_change_changes_nothing() {
        let store = MemoryStore::new(StoreLimits {
            value: 3,
            keys: 2,
            namespace: 20,
            namespaces: 1,
            key: 10,
            size: u64::MAX,
        });
        store.apply("n", vec![set("a", "1")]).await.unwrap();
        for changes in [
            vec![set("b", "2"), set("c", "long")],
            vec![set("b", "2"), set("c", "3")],
            vec![Change::Delete("a".into()), set("k".repeat(11).as_str(), "")],
            vec![set("aaaaaaaaaa", "111"), set("a", "12345678")],
        ] {
            store.apply("n", changes).await.unwrap_err();
            assert_eq!(store.snapshot("n").await.unwrap().size(), 1);
        }
        assert!(matches!(
            store.set("m", "a".into(), String::new()).await,
            Err(Error::Full {
                what: "namespaces",
                ..
            })
        ));
    }

    /// A meter of a number of bytes.
    struct Bytes(std::sync::atomic::AtomicUsize);

    impl MemoryMeter for Bytes {
        fn grow(&self, bytes: usize) -> bool {
            use std::sync::atomic::Ordering::Relaxed;
            self.0
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes))
                .is_ok()
        }

        fn shrink(&self, bytes: usize) {
            self.0
                .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn counts_entries_until_no_snapshot_has_them() {
        let meter = Arc::new(Bytes(10_000.into()));
        let left = || meter.0.load(std::sync::atomic::Ordering::Relaxed);
        let store = MemoryStore::default().metered(meter.clone());
        store
            .apply("n", vec![set("a", &"1".repeat(4000))])
            .await
            .unwrap();
        let with_one = left();
        assert!(with_one < 6000);
        let snapshot = store.snapshot("n").await.unwrap();
        store
            .apply("n", vec![set("a", &"2".repeat(4000))])
            .await
            .unwrap();
        assert!(left() < 2000, "the snapshot still has the old value");
        let refused = store.apply("n", vec![set("b", "1"), set("c", &"3".repeat(4000))]);
        assert!(matches!(refused.await, Err(Error::NoMemory { .. })));
        assert_eq!(store.get("n", "b").await.unwrap(), None);
        drop(snapshot);
        assert_eq!(left(), with_one);
        store
            .apply("n", vec![Change::Delete("a".into())])
            .await
            .unwrap();
        assert_eq!(left(), 10_000);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn counts_increments_of_many_threads() {
        const EACH: i64 = if cfg!(miri) { 10 } else { 500 };
        let store = Arc::new(MemoryStore::default());
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move {
                    for _ in 0..EACH {
                        store.increment("n", "count", 1).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.increment("n", "count", 0).await.unwrap(), 8 * EACH);
        store.set("n", "word".into(), "x".into()).await.unwrap();
        assert!(store.increment("n", "word", 1).await.is_err());
    }

    #[tokio::test]
    async fn swap_requires_the_expected_value() {
        let store = MemoryStore::default();
        assert!(
            store
                .compare_and_swap("n", "k", None, "1", None)
                .await
                .unwrap()
        );
        assert!(
            !store
                .compare_and_swap("n", "k", None, "2", None)
                .await
                .unwrap()
        );
        assert!(
            store
                .compare_and_swap("n", "k", Some("1"), "2", None)
                .await
                .unwrap()
        );
        assert_eq!(store.get("n", "k").await.unwrap().unwrap(), "2");
    }
}
