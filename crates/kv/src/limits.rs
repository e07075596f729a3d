//! Limits of a store.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::error::Error;

/// The longest time after which a value may be removed.
const MAX_TTL: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Limits of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most bytes of a key.
    pub key: usize,
    /// Most bytes of a value.
    pub value: usize,
    /// Most keys of a namespace in memory.
    pub keys: usize,
    /// Most bytes of the keys and values of a namespace in memory.
    pub namespace: usize,
    /// Most namespaces in memory.
    pub namespaces: usize,
    /// Most bytes of the store: of its keys and values in memory, of a file. Redis has a limit of
    /// its own.
    pub size: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            key: 4 << 10,
            value: 1 << 20,
            keys: 100_000,
            namespace: 64 << 20,
            namespaces: 1_000,
            size: 1 << 30,
        }
    }
}

impl StoreLimits {
    /// Checks a key and the value that it is set to.
    pub(crate) fn check(
        &self,
        key: &str,
        value: Option<(&str, Option<Duration>)>,
    ) -> Result<(), Error> {
        self.check_key(key)?;
        match value {
            Some((value, ttl)) => self.check_value(value.len(), ttl),
            None => Ok(()),
        }
    }

    pub(crate) fn check_key(&self, key: &str) -> Result<(), Error> {
        check("a key", key.len(), self.key)
    }

    /// Checks the size of a value, and the time after which it is removed.
    pub(crate) fn check_value(&self, size: usize, ttl: Option<Duration>) -> Result<(), Error> {
        check("a value", size, self.value)?;
        match ttl {
            Some(ttl) if !(Duration::from_millis(1)..=MAX_TTL).contains(&ttl) => {
                Err(Error::BadTtl(ttl))
            }
            _ => Ok(()),
        }
    }
}

/// The limits of an open store, which a reload of the project may replace.
pub(crate) struct CurrentLimits(Mutex<StoreLimits>);

impl CurrentLimits {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self(Mutex::new(limits))
    }

    pub(crate) fn get(&self) -> StoreLimits {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, limits: StoreLimits) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}

pub(crate) fn check(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        return Err(Error::TooLarge { what, size, limit });
    }
    Ok(())
}
