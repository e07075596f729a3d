//! A call's view of its key/value namespace: a snapshot with the call's changes.

use std::{collections::HashMap, sync::Arc};

use wws_kv::{Change, Error, Map, Store, Value};

use crate::memory::account::{Account, Charge};

/// A namespace as one call sees it. Changes are written to the store when the call has succeeded.
pub struct KvView {
    store: Arc<dyn Store>,
    namespace: String,
    before: Map,
    changes: HashMap<String, Option<String>>,
    /// Values that atomic operations returned since the snapshot.
    known: HashMap<String, Option<String>>,
    /// Bytes that changes may still take. The host holds them, outside of the guest's memory.
    left: u64,
    charge: Charge,
    charged: u64,
}

impl KvView {
    pub(crate) async fn new(
        store: &Arc<dyn Store>,
        namespace: &str,
        bytes: u64,
        account: &Account,
    ) -> Result<Self, Error> {
        Ok(Self {
            before: store.snapshot(namespace).await?,
            store: store.clone(),
            namespace: namespace.to_owned(),
            changes: HashMap::new(),
            known: HashMap::new(),
            left: bytes,
            charge: account.nothing(),
            charged: 0,
        })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        match self.changes.get(key) {
            Some(value) => value.as_deref(),
            None => self.stored(key),
        }
    }

    fn stored(&self, key: &str) -> Option<&str> {
        match self.known.get(key) {
            Some(value) => value.as_deref(),
            None => self.before.get(key).map(Value::as_str),
        }
    }

    /// Sets the value of a key, or removes the key. Returns `false` if the call would change more
    /// than it may hold.
    #[must_use]
    pub fn set(&mut self, key: String, value: Option<String>) -> bool {
        self.take(&key, value.as_deref()) && {
            self.changes.insert(key, value);
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

    /// The store and the namespace, for atomic operations.
    #[must_use]
    pub fn store(&self) -> (Arc<dyn Store>, String) {
        (self.store.clone(), self.namespace.clone())
    }

    /// Writes the changes to the store, and sees the namespace as it is then.
    pub(crate) async fn renew(&mut self) -> Result<(), Error> {
        self.commit().await?;
        self.before = self.store.snapshot(&self.namespace).await?;
        self.known = HashMap::new();
        self.left += self.charged;
        self.charged = 0;
        self.charge.shrink_to(0);
        Ok(())
    }

    /// Writes the changes to the store. Later changes are written by the next call.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        let made = std::mem::take(&mut self.changes);
        let mut changes = Vec::new();
        for (key, value) in &made {
            match value {
                value if value.as_deref() == self.stored(key) => {}
                Some(value) => changes.push(Change::Set(key.clone(), value.clone())),
                None => changes.push(Change::Delete(key.clone())),
            }
        }
        self.known.extend(made);
        if changes.is_empty() {
            return Ok(());
        }
        self.store.apply(&self.namespace, changes).await
    }
}
