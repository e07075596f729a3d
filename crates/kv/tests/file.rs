//! Stores in files: what a crash, a second process and a full disk do to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use wws_kv::{
    Change, EntryFilter, Error, FileEntries, FileStore, OpenError, Store, StoreLimits, StoredEntry,
};

fn open(path: &Path) -> FileStore {
    FileStore::open(path, StoreLimits::default()).unwrap()
}

/// Names the store to the test's own child process.
const CHILD: &str = "WWS_TEST_KV_CHILD";

/// Writes, and prints what was acknowledged, until it is killed.
async fn write_until_killed(path: &Path) {
    let store = Arc::new(open(path));
    let process = std::process::id();
    let tasks = (0..8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 1_u64.. {
                if n.is_multiple_of(2) {
                    let key = format!("{process}/{task}/{n}");
                    store.set("n", key.clone(), "x".into()).await.unwrap();
                    println!("ack {key}");
                } else {
                    let sum = store.increment("n", "count", 1).await.unwrap();
                    println!("sum {sum}");
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Writes that are acknowledged before the process is killed, in all rounds together.
const WRITES: usize = 10_000;
const ROUNDS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_amid_writes_loses_nothing_acknowledged() {
    if let Some(path) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&path)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let (mut total, mut counted) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "kill_9_amid_writes_loses_nothing_acknowledged",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut keys, mut sum) = (Vec::new(), 0);
        let mut read = 0;
        // What was printed before the kill counts, read or not.
        while let Some(Ok(line)) = lines.next() {
            if let Some(key) = line.strip_prefix("ack ") {
                keys.push(key.to_owned());
                read += 1;
            } else if let Some(number) = line.strip_prefix("sum ") {
                sum = sum.max(number.parse::<u64>().unwrap_or(0));
                read += 1;
            }
            if read == WRITES / ROUNDS {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        // The last line may have been cut.
        if round == 0 && keys.len() > 1 {
            keys.pop();
        }
        let store = open(&path);
        let found = store.snapshot("n").await.unwrap();
        let lost: Vec<_> = keys
            .iter()
            .filter(|key| !found.contains_key(key.as_str()))
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
        let found_sum = store.increment("n", "count", 0).await.unwrap();
        assert!(
            found_sum >= i64::try_from(sum).unwrap(),
            "{found_sum} of {sum}"
        );
        println!(
            "killed: {} keys acknowledged, none lost; sum {sum} acknowledged, {found_sum} found",
            keys.len()
        );
        total += keys.len();
        counted = usize::try_from(sum).unwrap();
    }
    // The last lines of a round may have been cut.
    assert!(total + counted + 100 >= WRITES, "{total} and {counted}");
}

#[tokio::test]
async fn second_opener_is_told_who_has_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let store = open(&path);
    store.set("n", "a".into(), "1".into()).await.unwrap();
    let refused = FileStore::open(&path, StoreLimits::default())
        .err()
        .unwrap();
    let text = refused.to_string();
    assert!(matches!(refused, OpenError::InUse { .. }), "{text}");
    assert!(
        text.contains(&format!("process {} on ", std::process::id())),
        "{text}"
    );
    // Looking into it is allowed meanwhile.
    let entries = FileEntries::open(&path).unwrap();
    assert_eq!(entries.get("n", "a").unwrap().unwrap().value, b"1");
    drop(store);
    open(&path);
}

#[tokio::test]
async fn full_store_refuses_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let limits = StoreLimits {
        size: 1 << 20,
        ..StoreLimits::default()
    };
    let store = Arc::new(FileStore::open(&directory.path().join("kv"), limits).unwrap());
    let value = "x".repeat(100 << 10);
    let mut stored = 0;
    loop {
        match store.set("n", stored.to_string(), value.clone()).await {
            Ok(()) => stored += 1,
            Err(Error::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((5..=10).contains(&stored), "{stored}");
    // One that is too large does not fail those that wait together with it.
    let (small, large) = tokio::join!(
        store.set("n", "small".into(), "1".into()),
        store.set("n", "large".into(), value.clone()),
    );
    small.unwrap();
    large.unwrap_err();
    let all: Vec<_> = (0..stored).map(|n| Change::Delete(n.to_string())).collect();
    store.apply("n", all).await.unwrap();
    store.set("n", "large".into(), value.clone()).await.unwrap();
    // A larger limit holds at once.
    store.set_limits(StoreLimits::default());
    for n in 0..20 {
        store.set("n", n.to_string(), value.clone()).await.unwrap();
    }
    assert_eq!(store.snapshot("n").await.unwrap().size(), 22);
}

/// Names the directory of a small disk to the test's own child process.
const DISK: &str = "WWS_TEST_KV_DISK";

/// Runs a test again with a file system of 8 MiB in a directory, in a mount namespace of its own.
fn run_on_small_disk(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let user: &[&str] = match rustix::process::geteuid().is_root() {
        true => &[],
        false => &["--user", "--map-root-user"],
    };
    let ended = Command::new("unshare")
        .args(user)
        .args(["--mount", "--", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=8m tmpfs \"$0\"; exec \"$@\"")
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(DISK, directory.path())
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_loses_nothing_acknowledged() {
    let Some(disk) = std::env::var_os(DISK) else {
        return run_on_small_disk("full_disk_loses_nothing_acknowledged");
    };
    let [path, ballast, other] = ["kv", "ballast", "other"].map(|name| Path::new(&disk).join(name));
    std::fs::write(&other, vec![1; 1 << 18]).unwrap();
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let store = Arc::new(open(&path));
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let tasks = (0..8).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut keys = Vec::new();
                for n in 0.. {
                    let key = format!("{round}/{task}/{n}");
                    match store.set("n", key.clone(), "x".repeat(5_000)).await {
                        Ok(()) => keys.push(key),
                        Err(error) => return (keys, error),
                    }
                }
                unreachable!()
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            let (keys, error) = task.await.unwrap();
            acknowledged.extend(keys);
            let expected = "no room: bytes on the disk of the store's file, the limit is 8388608";
            assert_eq!(error.to_string(), expected);
        }
        let found = store.snapshot("n").await.unwrap();
        let is_found = |key: &String| found.contains_key(key.as_str());
        assert!(acknowledged.iter().all(is_found));
        println!(
            "full after {} writes, all of which are found",
            acknowledged.len()
        );
        if round == 0 {
            std::fs::remove_file(&ballast).unwrap();
            store.set("n", "more".into(), "1".into()).await.unwrap();
        }
    }
    drop(store);
    // The next process says that the disk is full, or has room enough for itself.
    match FileStore::open(&path, StoreLimits::default()) {
        Err(OpenError::DiskFull { .. }) => std::fs::remove_file(&other).unwrap(),
        opened => drop(opened.unwrap()),
    }
    let found = open(&path).snapshot("n").await.unwrap();
    assert!(
        acknowledged
            .iter()
            .all(|key| found.contains_key(key.as_str()))
    );
}

#[tokio::test]
async fn file_shrinks_when_much_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let store = open(&path);
    let value = "x".repeat(1 << 20);
    let keys = 0..16;
    let all = keys
        .clone()
        .map(|n| Change::Set(n.to_string(), value.clone()));
    store.apply("n", all.collect()).await.unwrap();
    let all = keys.map(|n| Change::Delete(n.to_string()));
    store.apply("n", all.collect()).await.unwrap();
    for _ in 0..20 {
        store.increment("n", "count", 1).await.unwrap();
    }
    drop(store);
    // Until the writer has ended.
    open(&path);
    let size = path.metadata().unwrap().len();
    assert!(size < 4 << 20, "{size}");
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    std::fs::write(
        &path,
        "not a database, but a text that somebody needs\n".repeat(100),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = FileStore::open(&path, StoreLimits::default())
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::Database { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let missing = FileStore::open(&directory.path().join("no/kv"), StoreLimits::default());
    assert!(matches!(missing.err().unwrap(), OpenError::Io { .. }));
    assert!(FileEntries::open(&directory.path().join("none")).is_err());
}

#[tokio::test]
async fn entries_are_read_in_order_while_the_store_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let store = open(&path);
    let hour = std::time::Duration::from_secs(3600);
    store.set("b", "k".into(), "1".into()).await.unwrap();
    let changes = vec![
        Change::Set("k2".into(), "2".into()),
        Change::SetFor("k1".into(), "é\n".into(), hour),
    ];
    store.apply("a", changes).await.unwrap();
    let entries = FileEntries::open(&path).unwrap();
    let mut found = Vec::new();
    let mut expiries = HashMap::new();
    let mut add = |entry: StoredEntry| {
        expiries.insert(entry.key.clone(), entry.expires);
        found.push((entry.namespace, entry.key, entry.value));
        Ok(())
    };
    entries.each(EntryFilter::default(), &mut add).unwrap();
    let expected = [("a", "k1", "é\n"), ("a", "k2", "2"), ("b", "k", "1")];
    let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.as_bytes().to_vec()));
    assert_eq!(found, expected);
    assert!(expiries["k1"].is_some_and(|at| at > 1_700_000_000_000));
    assert_eq!(expiries["k2"], None);
    assert_eq!(entries.namespaces().unwrap(), ["a", "b"]);
}
