//! Namespaces that are read as a whole.

use std::sync::Arc;

use crate::error::Error;
use crate::store::{MAX_SNAPSHOT, MAX_SNAPSHOT_KEYS, Map};
use crate::value::{MemoryMeter, Value};

/// A namespace that is read as a whole, within bounds.
#[derive(Default)]
pub(crate) struct SnapshotBuilder {
    pub(crate) map: Map,
    bytes: usize,
}

impl SnapshotBuilder {
    pub(crate) fn add(
        &mut self,
        key: &str,
        value: &str,
        meter: Option<&Arc<dyn MemoryMeter>>,
    ) -> Result<(), Error> {
        self.bytes += key.len() + value.len();
        let what = "the keys and values of a namespace that is read as a whole,";
        crate::limits::check(what, self.bytes, MAX_SNAPSHOT)?;
        if self.map.size() == MAX_SNAPSHOT_KEYS {
            return Err(Error::Full {
                what: "keys of a namespace that is read as a whole",
                limit: MAX_SNAPSHOT_KEYS,
            });
        }
        let value = Value::counted(key, value, None, meter)?;
        self.map.insert_mut(key.into(), value);
        Ok(())
    }
}
