//! Values of a store in memory, and the meter that counts what they take.

use std::{ops::Deref, sync::Arc};

/// Counts the memory that a store's entries take, for as long as a store or a snapshot holds them.
pub trait Meter: Send + Sync + 'static {
    /// `bytes` more are about to be held. `false`: they may not be.
    fn grow(&self, bytes: usize) -> bool;

    /// `bytes` are no longer held.
    fn shrink(&self, bytes: usize);
}

/// A value, shared by the versions of a namespace that have it. Cheap to clone.
#[derive(Clone)]
pub struct Text(Arc<Metered>);

struct Metered {
    text: Box<str>,
    /// The meter, and what it counted for this entry.
    counted: Option<(Arc<dyn Meter>, usize)>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some((meter, bytes)) = &self.counted {
            meter.shrink(*bytes);
        }
    }
}

impl Text {
    /// A value whose entry takes `bytes`. `None`: the meter refuses them.
    pub(crate) fn metered(text: &str, meter: &Arc<dyn Meter>, bytes: usize) -> Option<Self> {
        meter.grow(bytes).then(|| {
            Self(Arc::new(Metered {
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

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Arc::new(Metered {
            text: text.into(),
            counted: None,
        }))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
