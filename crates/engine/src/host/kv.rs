//! A call's view of its key/value namespace: the namespace with the call's changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wws_kv::{Change, Error, ListQuery, Map, Page, Store, Value};

use crate::memory::account::{Account, Charge};
use crate::spec::KvGrant;

/// A namespace, for operations that change it at once. Cheap to clone.
#[derive(Clone)]
pub struct KvHandle {
    store: Arc<dyn Store>,
    namespace: Arc<str>,
    /// The first failure of the call that a later attempt may not have.
    away: Arc<OnceLock<Error>>,
}

impl KvHandle {
    fn new(grant: &KvGrant) -> Self {
        Self {
            store: grant.store.clone(),
            namespace: grant.namespace.as_str().into(),
            away: Arc::default(),
        }
    }

    fn noted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && error.is_temporary()
        {
            // The first one is the reason of all that follow.
            let _ = self.away.set(error.clone());
        }
        result
    }

    async fn get(&self, key: &str) -> Result<Option<String>, Error> {
        self.noted(self.store.get(&self.namespace, key).await)
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.noted(self.store.apply(&self.namespace, changes).await)
    }

    /// Adds to a number, and returns the sum.
    ///
    /// # Errors
    /// The store failed, or the value is no number.
    pub async fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        self.noted(self.store.increment(&self.namespace, key, delta).await)
    }

    /// Sets the value of a key if it still is `expected`. Returns whether it was, and the value
    /// that the key has now.
    ///
    /// # Errors
    /// The store failed.
    pub async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<&str>,
        value: String,
        ttl: Option<Duration>,
    ) -> Result<(bool, Option<String>), Error> {
        let (store, namespace) = (&self.store, &*self.namespace);
        let swapped = store.compare_and_swap(namespace, key, expected, &value, ttl);
        match self.noted(swapped.await)? {
            true => Ok((true, Some(value))),
            false => Ok((false, self.get(key).await?)),
        }
    }
}

/// A value that a call has set or removed and that is not stored yet.
struct PendingValue {
    value: Option<String>,
    ttl: Option<Duration>,
}

/// A namespace as one call sees it. Changes are written to the store when the call has succeeded.
///
/// A store whose versions cost nothing shows the version of the call's beginning. Another one is
/// asked for a key when the call first reads it.
pub struct KvView {
    handle: KvHandle,
    before: Option<Map>,
    changes: BTreeMap<String, PendingValue>,
    /// Values that were read from the store, or that atomic operations returned.
    known: HashMap<String, Option<String>>,
    /// Bytes that changes may still take. The host holds them, outside of the guest's memory.
    left: u64,
    charge: Charge,
    charged: u64,
}

impl KvView {
    pub(crate) fn new(grant: &KvGrant, bytes: u64, account: &Account) -> Self {
        Self {
            before: grant.store.version(&grant.namespace),
            handle: KvHandle::new(grant),
            changes: BTreeMap::new(),
            known: HashMap::new(),
            left: bytes,
            charge: account.nothing(),
            charged: 0,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The store failed.
    pub async fn get(&mut self, key: &str) -> Result<Option<String>, Error> {
        if let Some(pending) = self.changes.get(key) {
            return Ok(pending.value.clone());
        }
        if let Some(value) = self.known.get(key) {
            return Ok(value.clone());
        }
        if let Some(before) = &self.before {
            return Ok(before.get(key).map(|value| value.as_str().to_owned()));
        }
        let value = self.handle.get(key).await?;
        // Without room for it, the next read asks again.
        if self.take(key, value.as_deref()) {
            self.known.insert(key.to_owned(), value.clone());
        }
        Ok(value)
    }

    /// Sets the value of a key, for a time if there is one, or removes the key. Returns `false` if
    /// the call would change more than it may hold.
    #[must_use]
    pub fn set(&mut self, key: String, value: Option<String>, ttl: Option<Duration>) -> bool {
        self.take(&key, value.as_deref()) && {
            self.changes.insert(key, PendingValue { value, ttl });
            true
        }
    }

    /// Records the value of a key after an atomic operation of this call. Returns `false` as
    /// [`Self::set`] does.
    #[must_use]
    pub fn learn(&mut self, key: String, now: Option<String>) -> bool {
        self.take(&key, now.as_deref()) && {
            self.changes.remove(&key);
            self.known.insert(key, now);
            true
        }
    }

    fn take(&mut self, key: &str, value: Option<&str>) -> bool {
        /// Bytes of a map's entry besides its strings.
        const ENTRY: usize = 64;
        let bytes = (key.len() + value.map_or(0, str::len) + ENTRY) as u64;
        match self.left.checked_sub(bytes) {
            Some(left) if self.charge.grow_to(self.charged + bytes) => {
                self.left = left;
                self.charged += bytes;
                true
            }
            _ => false,
        }
    }

    /// The namespace, for atomic operations.
    #[must_use]
    pub fn handle(&self) -> KvHandle {
        self.handle.clone()
    }

    /// The failure of the store because of which the call should be tried again.
    pub(crate) fn away(&self) -> Option<&Error> {
        self.handle.away.get()
    }

    /// What reading a page of keys needs: the namespace, and the keys that this call has set or
    /// removed.
    #[must_use]
    pub fn listing(&self, query: &ListQuery<'_>) -> Listing {
        let after = query.after.unwrap_or_default();
        let pending = self.changes.iter().filter(|(key, _)| {
            key.starts_with(query.prefix) && (query.after.is_none() || key.as_str() > after)
        });
        Listing {
            handle: self.handle(),
            pending: pending
                .map(|(key, pending)| (key.clone(), pending.value.is_some()))
                .collect(),
        }
    }

    /// Writes the changes to the store, and sees the namespace as it is then.
    pub(crate) async fn renew(&mut self) -> Result<(), Error> {
        self.commit().await?;
        let handle = &self.handle;
        self.before = handle.store.version(&handle.namespace);
        self.known = HashMap::new();
        self.left += self.charged;
        self.charged = 0;
        self.charge.shrink_to(0);
        Ok(())
    }

    /// Writes the changes to the store. Later changes are written by the next call.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        let mut changes = Vec::new();
        for (key, pending) in std::mem::take(&mut self.changes) {
            let stored = match self.known.get(&key) {
                Some(value) => Some(value.as_deref()),
                None => self
                    .before
                    .as_ref()
                    .map(|before| before.get(key.as_str()).map(Value::as_str)),
            };
            // A value that is kept for a time is kept longer by setting it again.
            if pending.ttl.is_some() || stored != Some(pending.value.as_deref()) {
                changes.push(match &pending.value {
                    Some(value) => Change::set(key.clone(), value.clone(), pending.ttl),
                    None => Change::Delete(key.clone()),
                });
            }
            self.known.insert(key, pending.value);
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.handle.apply(changes).await
    }
}

/// A page of keys that is read while the call goes on.
pub struct Listing {
    handle: KvHandle,
    /// Whether the call has set a key, or removed it.
    pending: BTreeMap<String, bool>,
}

impl Listing {
    /// The keys of the page: those of the store, with those that the call has set and without those
    /// that it has removed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn read(self, query: ListQuery<'_>) -> Result<Page, Error> {
        if self.pending.is_empty() {
            return self.page(query).await;
        }
        // What is removed here may be all of a page: then the next one is read.
        let mut after = query.after.map(str::to_owned);
        loop {
            let asked = ListQuery {
                after: after.as_deref(),
                ..query
            };
            let page = self.page(asked).await?;
            let last = page.keys.last().cloned();
            let reaches =
                |key: &str| page.is_last || last.as_deref().is_some_and(|last| key <= last);
            let mut keys: BTreeSet<_> = page.keys.iter().cloned().collect();
            for (key, is_set) in &self.pending {
                match is_set {
                    true if reaches(key) && after.as_deref().is_none_or(|after| &**key > after) => {
                        keys.insert(key.clone());
                    }
                    true => {}
                    false => {
                        keys.remove(key);
                    }
                }
            }
            if keys.is_empty() && !page.is_last {
                after = last;
                continue;
            }
            let keys = keys.into_iter().map(Ok::<_, Error>);
            let merged = Page::collect(&query, keys)?;
            return Ok(Page {
                is_last: merged.is_last && page.is_last,
                keys: merged.keys,
            });
        }
    }

    async fn page(&self, query: ListQuery<'_>) -> Result<Page, Error> {
        let KvHandle {
            store, namespace, ..
        } = &self.handle;
        self.handle.noted(store.list(namespace, query).await)
    }
}
