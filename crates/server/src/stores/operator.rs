//! The contents of a project's store, for a command beside its servers.

use std::collections::BTreeMap;

use wws_kv::{StoreContents, StoreLimits};
use wws_project::{StoreDefinition, StorePlace};

use crate::stores::OpenStoreError;

/// Why the contents of a store cannot be read by a command.
#[derive(Debug, thiserror::Error)]
pub enum NotReadable {
    /// They are in the memory of a server.
    #[error(
        "the store `{0}` is in the memory of its server: no other process can read it, and it ends \
         with the server; a store of the kind \"file\" or \"redis\" lasts"
    )]
    Memory(String),
    /// The store cannot be opened.
    #[error("the store `{name}`: {source}")]
    Store {
        /// The store's name.
        name: String,
        /// Why.
        #[source]
        source: OpenStoreError,
    },
}

/// The contents of a store, and its limits. A server may use the store meanwhile. With
/// `is_changed`, the directory of a file is created.
///
/// # Errors
/// The store is in memory, or cannot be opened.
pub fn store_contents(
    definition: &StoreDefinition,
    env: &BTreeMap<String, String>,
    is_changed: bool,
) -> Result<(StoreContents, StoreLimits), NotReadable> {
    let limits = super::limits(&definition.limits);
    let failed = |source| NotReadable::Store {
        name: definition.name.clone(),
        source,
    };
    let contents = match &definition.place {
        StorePlace::Memory => return Err(NotReadable::Memory(definition.name.clone())),
        StorePlace::File(path) => {
            if is_changed {
                super::create_directory_of(path).map_err(failed)?;
            }
            StoreContents::of_file(path, limits)
        }
        StorePlace::Redis(url) => {
            StoreContents::of_redis(super::redis(url, env, limits).map_err(failed)?)
        }
    };
    Ok((contents, limits))
}
