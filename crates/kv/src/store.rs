//! What a key/value store can do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{error::Error, limits::StoreLimits, turn::Turn, value::Value};

/// The contents of a namespace, in the order of the keys. Versions share entries, so neither taking
/// a snapshot nor changing a key copies the others.
pub type Map = rpds::RedBlackTreeMapSync<Arc<str>, Value>;

/// Most bytes of the keys and values of a namespace that is read as a whole.
pub const MAX_SNAPSHOT: usize = 64 << 20;

/// Most keys of a namespace that is read as a whole.
pub const MAX_SNAPSHOT_KEYS: usize = 100_000;

/// Most keys of a page.
pub const PAGE_KEYS: usize = 1000;

/// Most bytes of the keys of a page, unless its first key is longer.
pub const PAGE_BYTES: usize = 64 << 10;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the key's value.
    Set(String, String),
    /// Sets the key's value, which is removed after a time.
    SetFor(String, String, Duration),
    /// Removes the key.
    Delete(String),
}

impl Change {
    /// Sets the key's value, which is removed after `ttl` if there is one.
    #[must_use]
    pub fn set(key: String, value: String, ttl: Option<Duration>) -> Self {
        match ttl {
            Some(ttl) => Self::SetFor(key, value, ttl),
            None => Self::Set(key, value),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Set(key, _) | Self::SetFor(key, ..) | Self::Delete(key) => key,
        }
    }

    /// The new value, and the time after which it is removed; `None` if the key is removed.
    pub(crate) fn value(&self) -> Option<(&str, Option<Duration>)> {
        match self {
            Self::Set(_, value) => Some((value, None)),
            Self::SetFor(_, value, ttl) => Some((value, Some(*ttl))),
            Self::Delete(_) => None,
        }
    }
}

/// Checks each of the changes that a store applies together.
pub(crate) fn check_changes(limits: &StoreLimits, changes: &[Change]) -> Result<(), Error> {
    changes
        .iter()
        .try_for_each(|change| limits.check(change.key(), change.value()))
}

/// The kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// In the memory of the process.
    Memory,
    /// In a file.
    File,
    /// In Redis or Valkey.
    Redis,
}

/// Which keys are listed: a page of those with a prefix, in the order of their bytes.
#[derive(Clone, Copy, Debug)]
pub struct ListQuery<'a> {
    /// What the keys begin with.
    pub prefix: &'a str,
    /// The last key of the page before.
    pub after: Option<&'a str>,
    /// Most keys of the page; [`PAGE_KEYS`] and [`PAGE_BYTES`] bound it as well.
    pub limit: usize,
}

impl Default for ListQuery<'_> {
    fn default() -> Self {
        Self {
            prefix: "",
            after: None,
            limit: PAGE_KEYS,
        }
    }
}

/// A page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// Whether no key with the prefix follows.
    pub is_last: bool,
}

impl Page {
    /// Collects a page from keys that are in order and begin after `query.after`. Stops at the
    /// first without the prefix.
    pub fn collect<E>(
        query: &ListQuery<'_>,
        keys: impl IntoIterator<Item = Result<String, E>>,
    ) -> Result<Self, E> {
        let limit = query.limit.clamp(1, PAGE_KEYS);
        let mut page = Self {
            keys: Vec::new(),
            is_last: true,
        };
        let mut bytes = 0;
        for key in keys {
            let key = key?;
            if !key.starts_with(query.prefix) {
                break;
            }
            bytes += key.len();
            let is_full = page.keys.len() == limit || bytes > PAGE_BYTES;
            if is_full && !page.keys.is_empty() {
                page.is_last = false;
                break;
            }
            page.keys.push(key);
        }
        Ok(page)
    }
}

/// A store of namespaces.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The kind of the store.
    fn kind(&self) -> StoreKind;

    /// Replaces the limits.
    fn set_limits(&self, limits: StoreLimits);

    /// The namespace as it is now, if that costs nothing: nothing is read or copied.
    fn version(&self, _namespace: &str) -> Option<Map> {
        None
    }

    /// Reads the whole namespace as it is now, up to [`MAX_SNAPSHOT`] bytes.
    async fn snapshot(&self, namespace: &str) -> Result<Map, Error>;

    /// Applies all changes, or none if one is rejected.
    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error>;

    /// The value of a key.
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error>;

    /// A page of keys.
    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error>;

    /// Adds to a number (0 if the key is missing), and returns the sum. A time after which the key
    /// is removed stays.
    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error>;

    /// Sets the value if it still is `expected` (`None`: the key is missing). Returns whether it
    /// was. The value is removed after `ttl`, if there is one.
    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<bool, Error>;

    /// Waits until no other holds the namespace's turn, and takes it.
    async fn serial(&self, namespace: &str) -> Result<Turn, Error>;

    /// Applies changes as [`Self::apply`] does, unless `turn` was lost.
    async fn apply_in(
        &self,
        namespace: &str,
        changes: Vec<Change>,
        _turn: &Turn,
    ) -> Result<(), Error> {
        self.apply(namespace, changes).await
    }

    /// Sets the value of a key.
    async fn set(&self, namespace: &str, key: String, value: String) -> Result<(), Error> {
        self.apply(namespace, vec![Change::Set(key, value)]).await
    }

    /// Removes a key, if it exists.
    async fn delete(&self, namespace: &str, key: String) -> Result<(), Error> {
        self.apply(namespace, vec![Change::Delete(key)]).await
    }
}

/// Returns the changes between a snapshot and the state that a worker printed.
#[must_use]
pub fn diff(before: &Map, after: HashMap<String, String>) -> Vec<Change> {
    let mut changes: Vec<_> = before
        .keys()
        .filter(|key| !after.contains_key(&***key))
        .map(|key| Change::Delete((**key).to_owned()))
        .collect();
    changes.extend(
        after
            .into_iter()
            .filter(|(key, value)| before.get(key.as_str()).map(Value::as_str) != Some(value))
            .map(|(key, value)| Change::Set(key, value)),
    );
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_has_changes_only() {
        let before: Map = [("same", "1"), ("gone", "2"), ("new value", "3")]
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let after = [("same", "1"), ("new value", "4"), ("new", "5")]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut changes = diff(&before, after);
        changes.sort_by_key(|change| change.key().to_owned());
        assert_eq!(
            changes,
            [
                Change::Delete("gone".into()),
                Change::Set("new".into(), "5".into()),
                Change::Set("new value".into(), "4".into()),
            ]
        );
    }

    #[test]
    fn pages_are_bounded_by_keys_and_bytes() {
        let page = |query: ListQuery<'_>, keys: &[&str]| {
            let keys = keys.iter().map(|key| Ok::<_, ()>((*key).to_owned()));
            Page::collect(&query, keys).unwrap_or_default()
        };
        let two = ListQuery {
            prefix: "a",
            limit: 2,
            ..ListQuery::default()
        };
        assert!(page(two, &["a1", "a2", "b"]).is_last);
        let first = page(two, &["a1", "a2", "a3"]);
        assert_eq!((first.keys.len(), first.is_last), (2, false));
        let long = "a".repeat(PAGE_BYTES + 1);
        let first = page(ListQuery::default(), &[&long, "b"]);
        assert_eq!((first.keys.len(), first.is_last), (1, false));
    }
}
