//! Entries of a store as operators handle them: with their namespace and the time of their removal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::limits::StoreLimits;
use crate::store::Change;

/// An entry of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The value. Workers store text; other programs may store other bytes in Redis.
    pub value: Vec<u8>,
    /// When the entry is removed, in milliseconds since 1970.
    pub expires: Option<u64>,
}

impl StoredEntry {
    /// An entry that is removed after `ttl`, if there is one.
    #[must_use]
    pub fn new(namespace: &str, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            value,
            expires: ttl.map(|ttl| now().saturating_add(milliseconds(ttl))),
        }
    }

    /// Whether its time has passed.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| at <= now())
    }

    /// The time until it is removed, at least 1 ms.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        let left = self.expires?.saturating_sub(now());
        Some(Duration::from_millis(left.max(1)))
    }

    /// Checks the entry against the limits of its store.
    ///
    /// # Errors
    /// The key, the value or the time exceeds one.
    pub fn check(&self, limits: &StoreLimits) -> Result<(), Error> {
        limits.check_key(&self.key)?;
        limits.check_value(self.value.len(), self.ttl())
    }

    /// The change that stores the entry.
    ///
    /// # Errors
    /// The value is not text.
    pub(crate) fn into_change(self) -> Result<Change, Error> {
        let ttl = self.ttl();
        match String::from_utf8(self.value) {
            Ok(value) => Ok(Change::set(self.key, value, ttl)),
            Err(_) => Err(Error::NotText { key: self.key }),
        }
    }
}

/// Which entries are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntryFilter<'a> {
    /// Those of one namespace.
    pub namespace: Option<&'a str>,
    /// Those whose keys begin with it.
    pub prefix: &'a str,
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(now.unwrap_or_default())
}

/// The milliseconds of a time.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
