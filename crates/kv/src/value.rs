//! Values of a store in memory, and the meter that counts their memory.

use std::{ops::Deref, sync::Arc, time::Instant};

use crate::error::Error;

/// Counts the memory of entries for as long as a store or a snapshot holds them.
pub trait MemoryMeter: Send + Sync + 'static {
    /// Counts `bytes` that are about to be held. Returns `false` if they may not be.
    fn grow(&self, bytes: usize) -> bool;

    /// Counts `bytes` that are no longer held.
    fn shrink(&self, bytes: usize);
}

/// A value, shared by the versions of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Value(Arc<MeteredValue>);

struct MeteredValue {
    text: Box<str>,
    /// When a store in memory removes it.
    expires: Option<Instant>,
    /// The meter, and the bytes that it counted for this entry.
    counted: Option<(Arc<dyn MemoryMeter>, usize)>,
}

impl Drop for MeteredValue {
    fn drop(&mut self) {
        if let Some((meter, bytes)) = &self.counted {
            meter.shrink(*bytes);
        }
    }
}

impl Value {
    /// Creates the value of `key`, and counts it with its key. Fails if the meter refuses them.
    pub(crate) fn counted(
        key: &str,
        text: &str,
        expires: Option<Instant>,
        meter: Option<&Arc<dyn MemoryMeter>>,
    ) -> Result<Self, Error> {
        /// Bytes of an entry besides its strings.
        const ENTRY: usize = 160;
        let bytes = key.len() + text.len() + ENTRY;
        if let Some(meter) = meter
            && !meter.grow(bytes)
        {
            return Err(Error::NoMemory { bytes });
        }
        Ok(Self(Arc::new(MeteredValue {
            text: text.into(),
            expires,
            counted: meter.map(|meter| (meter.clone(), bytes)),
        })))
    }

    /// When a store in memory removes it.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.0.expires
    }

    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(Arc::new(MeteredValue {
            text: text.into(),
            expires: None,
            counted: None,
        }))
    }
}

impl Deref for Value {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Value {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
