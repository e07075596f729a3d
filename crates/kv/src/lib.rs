//! Key/value stores behind one trait.
//!
//! A worker of the old protocol is handed a snapshot of its namespace and prints what it should become: [`diff`] finds what it
//! changed, and only that is applied, so that two workers which set different keys at once both win. Other interfaces call the store directly.

mod error;
mod memory;
mod text;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

pub use error::Error;
pub use memory::{Bounds, Memory};
pub use text::{Meter, Text};

/// The contents of a namespace. Versions share what is the same in them: a snapshot is neither copied nor makes a change copy the rest.
pub type Map = rpds::HashTrieMapSync<Arc<str>, Text>;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key gets this value.
    Set(String, String),
    /// The key goes.
    Delete(String),
}

/// A store of namespaces.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The namespace as it is now. Cheap: it is shared, not copied.
    async fn snapshot(&self, namespace: &str) -> Result<Map, Error>;

    /// Makes all changes, or none where one is refused.
    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error>;

    /// The value of a key.
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error>;

    /// Adds to a number, 0 where the key is not there, and returns the sum.
    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error>;

    /// Sets the value if it is still `expected` (`None`: not there). Returns whether it was.
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

    /// Removes a key; one that isn't there is no error.
    async fn delete(&self, namespace: &str, key: String) -> Result<(), Error> {
        self.apply(namespace, vec![Change::Delete(key)]).await
    }
}

/// What was changed between a snapshot and the state that a worker printed.
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
            .filter(|(key, value)| before.get(key.as_str()).map(Text::as_str) != Some(value))
            .map(|(key, value)| Change::Set(key, value)),
    );
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_in_a_diff() {
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
