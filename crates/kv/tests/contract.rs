//! What all kinds of stores have in common, for those that need no other program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use wws_kv::{FileStore, MemoryStore, Store, StoreLimits};

mod common;

use common::holds;

#[tokio::test(flavor = "multi_thread")]
async fn holds_in_memory() {
    holds(Arc::new(MemoryStore::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let store = FileStore::open(&path, StoreLimits::default()).unwrap();
    holds(Arc::new(store)).await;
    // The next process finds it all.
    let store = FileStore::open(&path, StoreLimits::default()).unwrap();
    let found = store.get("concurrent", "n").await.unwrap();
    assert_eq!(found.as_deref(), Some("800"));
}
