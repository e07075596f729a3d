//! What a power cut does to a store in a file.
//!
//! SQLite runs on file system calls that are recorded: what was written, and what was synced. A cut
//! leaves what was synced, and of the rest any sectors: the kernel may have written them in any
//! order. A store that is opened from what is left must have all that was acknowledged before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(unsafe_code, reason = "SQLite's interface to file systems is one of C")]

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};

use wws_kv::{Change, FileStore, Store, StoreLimits};

use recorder::FileImage;

mod recorder;

/// Parts of a write that reach the disk by themselves.
const SECTOR: usize = 512;

/// Pseudo-random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// How much of what was not synced reaches the disk.
#[derive(Clone, Copy, Debug)]
enum Unsynced {
    Nothing,
    SomeSectors,
    All,
}

/// The files as they are after a cut.
fn after_cut(
    files: &BTreeMap<OsString, FileImage>,
    directory: &Path,
    unsynced: Unsynced,
    random: &mut Random,
) {
    for (name, image) in files {
        let mut content = image.synced.clone();
        for write in &image.pending {
            let Some((offset, bytes)) = write.bytes() else {
                let length = write.length();
                if !matches!(unsynced, Unsynced::Nothing) {
                    content.resize(length, 0);
                }
                continue;
            };
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                let is_kept = match unsynced {
                    Unsynced::Nothing => false,
                    Unsynced::SomeSectors => random.next().is_multiple_of(2),
                    Unsynced::All => true,
                };
                if is_kept {
                    let at = offset + index * SECTOR;
                    content.resize(content.len().max(at + sector.len()), 0);
                    content[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        std::fs::write(directory.join(name), content).unwrap();
    }
}

/// What was acknowledged.
#[derive(Clone, Default)]
struct Acknowledged {
    keys: HashSet<String>,
    sum: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn power_cut_loses_nothing_acknowledged() {
    const TASKS: usize = 8;
    const WRITES: usize = 10_000;
    const CUTS: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    recorder::record_files_in(directory.path());
    let store = FileStore::open(&directory.path().join("kv"), StoreLimits::default()).unwrap();
    let (store, acknowledged) = (
        Arc::new(store),
        Arc::new(Mutex::new(Acknowledged::default())),
    );
    let tasks = (0..TASKS).map(|task| {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for n in 0..WRITES / TASKS {
                if n % 4 == 3 {
                    let sum = store.increment("n", "count", 1).await.unwrap();
                    let mut acknowledged = acknowledged.lock().unwrap();
                    acknowledged.sum = acknowledged.sum.max(sum);
                } else {
                    // Some are larger than a page.
                    let key = format!("{task}/{n}");
                    let value = "x".repeat(if n % 10 == 0 { 9_000 } else { 10 });
                    let change = vec![Change::Set(key.clone(), value)];
                    store.apply("n", change).await.unwrap();
                    acknowledged.lock().unwrap().keys.insert(key);
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = seed.unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let (mut checked, mut unsynced_writes) = (0, 0);
    for cut in 0..CUTS {
        // Spread over the writes; the last cut follows all of them.
        loop {
            let done = acknowledged.lock().unwrap().keys.len() * 4 / 3;
            if done >= WRITES * cut / CUTS || tasks.iter().all(|task| task.is_finished()) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // Before the files: what is acknowledged meanwhile may be lost.
        let before = acknowledged.lock().unwrap().clone();
        let files = recorder::files(directory.path());
        unsynced_writes += files.values().map(|file| file.pending.len()).sum::<usize>();
        for unsynced in [Unsynced::Nothing, Unsynced::SomeSectors, Unsynced::All] {
            let left = tempfile::tempdir().unwrap();
            after_cut(&files, left.path(), unsynced, &mut random);
            let path = left.path().join("kv");
            let store = FileStore::open(&path, StoreLimits::default())
                .unwrap_or_else(|error| panic!("cut {cut}, {unsynced:?}, seed {seed}: {error}"));
            let found = store.snapshot("n").await.unwrap();
            let lost = before
                .keys
                .iter()
                .find(|key| !found.contains_key(key.as_str()));
            assert!(
                lost.is_none(),
                "{lost:?}: cut {cut}, {unsynced:?}, seed {seed}"
            );
            let sum = store.increment("n", "count", 0).await.unwrap();
            assert!(
                sum >= before.sum,
                "{sum} of {}: cut {cut}, {unsynced:?}",
                before.sum
            );
            drop(store);
            let connection = rusqlite::Connection::open(&path).unwrap();
            let check: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(check, "ok", "cut {cut}, {unsynced:?}, seed {seed}");
        }
        checked = before.keys.len() + usize::try_from(before.sum).unwrap();
    }
    for task in tasks {
        task.await.unwrap();
    }
    println!(
        "{CUTS} cuts: all of up to {checked} acknowledged writes found; {unsynced_writes} writes \
         of files were not synced"
    );
}

/// The recorder notices a database that does not sync.
#[test]
fn power_cut_loses_what_is_not_synced() {
    let directory = tempfile::tempdir().unwrap();
    recorder::record_files_in(directory.path());
    let connection = rusqlite::Connection::open(directory.path().join("kv")).unwrap();
    connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .unwrap();
    connection
        .execute_batch("CREATE TABLE t (n INTEGER)")
        .unwrap();
    connection
        .pragma_update(None, "synchronous", "OFF")
        .unwrap();
    connection
        .execute_batch("INSERT INTO t VALUES (1)")
        .unwrap();
    let files = recorder::files(directory.path());
    let left = tempfile::tempdir().unwrap();
    after_cut(&files, left.path(), Unsynced::Nothing, &mut Random(1));
    let connection = rusqlite::Connection::open(left.path().join("kv")).unwrap();
    let count = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_ne!(count.ok(), Some(1));
}
