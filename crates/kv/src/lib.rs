//! Key/value stores behind one trait.
//!
//! A command reads a snapshot of its namespace and prints the new state. [`diff`] finds what it
//! changed, and only that is applied, so that two workers which set different keys at once do not
//! undo each other's changes. Other interfaces call the store directly.

mod error;
mod memory;
mod value;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

pub use error::Error;
pub use memory::{MemoryStore, StoreLimits};
pub use value::{MemoryMeter, Value};

/// The contents of a namespace. Versions share entries, so neither taking a snapshot nor changing a
/// key copies the others.
pub type Map = rpds::HashTrieMapSync<Arc<str>, Value>;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the key's value.
    Set(String, String),
    /// Removes the key.
    Delete(String),
}

/// A store of namespaces.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the namespace as it is now. Cheap: nothing is copied.
    async fn snapshot(&self, namespace: &str) -> Result<Map, Error>;

    /// Applies all changes, or none if one is rejected.
    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error>;

    /// The value of a key.
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error>;

    /// Adds to a number (0 if the key is missing), and returns the sum.
    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error>;

    /// Sets the value if it still is `expected` (`None`: the key is missing). Returns whether it
    /// was.
    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
    ) -> Result<bool, Error>;

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
        changes.sort_by_key(|change| match change {
            Change::Set(key, _) | Change::Delete(key) => key.clone(),
        });
        assert_eq!(
            changes,
            [
                Change::Delete("gone".into()),
                Change::Set("new".into(), "5".into()),
                Change::Set("new value".into(), "4".into()),
            ]
        );
    }
}
