//! Lists what is being compiled, to report what a start waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The modules that are being compiled. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Compiling(Arc<Mutex<Vec<String>>>);

/// A module that is being compiled until this is dropped.
pub(crate) struct CompilingModule<'a> {
    all: &'a Compiling,
    name: String,
}

impl Compiling {
    /// Their names, in the order in which compilation began.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.all().clone()
    }

    /// Adds a module.
    pub(crate) fn begin(&self, name: &str) -> CompilingModule<'_> {
        self.all().push(name.to_owned());
        CompilingModule {
            all: self,
            name: name.to_owned(),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CompilingModule<'_> {
    fn drop(&mut self) {
        let mut all = self.all.all();
        if let Some(at) = all.iter().position(|name| *name == self.name) {
            all.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_being_compiled() {
        let all = Compiling::default();
        let (first, second) = (all.begin("a"), all.begin("b"));
        let same = all.clone().begin("a").name.clone();
        assert_eq!((same.as_str(), all.names().len()), ("a", 2));
        drop(first);
        assert_eq!(all.names(), ["b"]);
        drop(second);
        assert!(all.names().is_empty());
    }
}
