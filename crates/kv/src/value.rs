//! Values of a store in memory, and the meter that counts their memory.

use std::{ops::Deref, sync::Arc};

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
    /// Creates a value whose entry takes `bytes`. Returns `None` if the meter refuses them.
    pub(crate) fn metered(text: &str, meter: &Arc<dyn MemoryMeter>, bytes: usize) -> Option<Self> {
        meter.grow(bytes).then(|| {
            Self(Arc::new(MeteredValue {
                text: text.into(),
                counted: Some((meter.clone(), bytes)),
            }))
        })
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
