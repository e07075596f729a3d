//! A store in memory, which ends with the process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{Change, Error, Map, MemoryMeter, Store, Value};

/// Limits of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Most bytes of a key.
    pub key: usize,
    /// Most bytes of a value.
    pub value: usize,
    /// Most keys of a namespace.
    pub keys: usize,
    /// Most bytes of a namespace's keys and values.
    pub namespace: usize,
    /// Most namespaces.
    pub namespaces: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            key: 4 << 10,
            value: 1 << 20,
            keys: 100_000,
            namespace: 64 << 20,
            namespaces: 1_000,
        }
    }
}

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    limits: StoreLimits,
    meter: Option<Arc<dyn MemoryMeter>>,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

#[derive(Default)]
struct Namespace {
    map: Map,
    bytes: usize,
}

impl MemoryStore {
    /// Creates a store with these limits.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            meter: None,
            namespaces: Mutex::default(),
        }
    }

    /// Lets `meter` count what the store holds; it may refuse more.
    #[must_use]
    pub fn metered(mut self, meter: Arc<dyn MemoryMeter>) -> Self {
        self.meter = Some(meter);
        self
    }

    // No function leaves a namespace half changed, so the data behind a poisoned lock is good.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Namespace, &ChangeRules<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut namespaces = self.lock();
        let count = namespaces.len();
        let namespace = match namespaces.get_mut(name) {
            Some(namespace) => namespace,
            None if count >= self.limits.namespaces => {
                return Err(Error::Full {
                    what: "namespaces",
                    limit: self.limits.namespaces,
                });
            }
            None => namespaces.entry(name.to_owned()).or_default(),
        };
        let rules = ChangeRules {
            limits: &self.limits,
            meter: self.meter.as_ref(),
        };
        f(namespace, &rules)
    }
}

/// What changes are checked against.
struct ChangeRules<'m> {
    limits: &'m StoreLimits,
    meter: Option<&'m Arc<dyn MemoryMeter>>,
}

impl ChangeRules<'_> {
    /// Creates the value of an entry, and counts it with its key.
    fn text(&self, key: &str, value: &str) -> Result<Value, Error> {
        /// Bytes of an entry besides its strings.
        const ENTRY: usize = 160;
        let Some(meter) = self.meter else {
            return Ok(value.into());
        };
        let bytes = key.len() + value.len() + ENTRY;
        Value::metered(value, meter, bytes).ok_or(Error::NoMemory { bytes })
    }
}

fn check(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        return Err(Error::TooLarge { what, size, limit });
    }
    Ok(())
}

impl Namespace {
    /// Applies all changes, or none if one is rejected.
    fn apply(&mut self, rules: &ChangeRules<'_>, changes: Vec<Change>) -> Result<(), Error> {
        let limits = rules.limits;
        // The new value of each key. The last change of a key counts.
        let mut last: HashMap<&str, Option<&str>> = HashMap::new();
        for change in &changes {
            match change {
                Change::Set(key, value) => {
                    check("a key", key.len(), limits.key)?;
                    check("a value", value.len(), limits.value)?;
                    last.insert(key, Some(value));
                }
                Change::Delete(key) => {
                    last.insert(key, None);
                }
            }
        }
        let (mut keys, mut bytes) = (self.map.size(), self.bytes);
        for (key, value) in last {
            if let Some(old) = self.map.get(key) {
                keys -= 1;
                bytes -= key.len() + old.len();
            }
            if let Some(value) = value {
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
        // Changes a new version, so that a rejected change leaves the namespace as it was.
        let mut map = self.map.clone();
        for change in changes {
            match change {
                Change::Set(key, value) => {
                    let text = rules.text(&key, &value)?;
                    map.insert_mut(key.into(), text);
                }
                Change::Delete(key) => {
                    map.remove_mut(key.as_str());
                }
            }
        }
        self.map = map;
        self.bytes = bytes;
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn snapshot(&self, namespace: &str) -> Result<Map, Error> {
        Ok(self
            .lock()
            .get(namespace)
            .map(|namespace| namespace.map.clone())
            .unwrap_or_default())
    }

    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error> {
        self.with(namespace, |namespace, rules| {
            namespace.apply(rules, changes)
        })
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        Ok(self
            .lock()
            .get(namespace)
            .and_then(|namespace| namespace.map.get(key).map(|text| text.as_str().to_owned())))
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        self.with(namespace, |namespace, rules| {
            let not_a_number = || Error::NotANumber {
                key: key.to_owned(),
            };
            let now: i64 = match namespace.map.get(key) {
                Some(value) => value.trim().parse().map_err(|_| not_a_number())?,
                None => 0,
            };
            let sum = now.checked_add(delta).ok_or_else(not_a_number)?;
            let change = Change::Set(key.to_owned(), sum.to_string());
            namespace.apply(rules, vec![change])?;
            Ok(sum)
        })
    }

    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
    ) -> Result<bool, Error> {
        self.with(namespace, |namespace, rules| {
            if namespace.map.get(key).map(Value::as_str) != expected {
                return Ok(false);
            }
            let change = Change::Set(key.to_owned(), value.to_owned());
            namespace.apply(rules, vec![change])?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::diff;

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
        assert!(store.compare_and_swap("n", "k", None, "1").await.unwrap());
        assert!(!store.compare_and_swap("n", "k", None, "2").await.unwrap());
        assert!(
            store
                .compare_and_swap("n", "k", Some("1"), "2")
                .await
                .unwrap()
        );
        assert_eq!(store.get("n", "k").await.unwrap().unwrap(), "2");
    }
}
