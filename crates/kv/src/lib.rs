//! Key/value stores behind one trait: in memory, in a file, in Redis.
//!
//! A command reads a snapshot of its namespace and prints the new state. [`diff`] finds what it
//! changed, and only that is applied, so that two workers which set different keys at once do not
//! undo each other's changes. Other interfaces call the store directly.

#![forbid(unsafe_code)]

mod backup;
mod contents;
mod entry;
mod error;
mod file;
mod limits;
mod memory;
mod redis;
mod snapshot;
mod store;
mod turn;
mod value;

pub use backup::{BackupError, BackupProblem, BackupReader, BackupWriter};
pub use contents::{ContentsError, StoreContents};
pub use entry::{EntryFilter, StoredEntry};
pub use error::Error;
pub use file::{FileEditor, FileEntries, FileStore, OpenError};
pub use limits::StoreLimits;
pub use memory::MemoryStore;
pub use redis::{HostAddresses, RedisOptions, RedisStore};
pub use store::{
    Change, ListQuery, MAX_SNAPSHOT, MAX_SNAPSHOT_KEYS, Map, PAGE_BYTES, PAGE_KEYS, Page, Store,
    StoreKind, diff,
};
pub use turn::Turn;
pub use value::{MemoryMeter, Value};
