//! What all kinds of stores have in common.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use wws_kv::{Change, Error, ListQuery, Store, StoreLimits};

const MANY: Duration = Duration::from_secs(3600);

fn set(key: &str, value: &str) -> Change {
    Change::Set(key.into(), value.into())
}

/// Waits until a condition holds; a busy machine may take long.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 30 s");
}

/// Runs all of the contract with a new store.
pub(crate) async fn holds(store: Arc<dyn Store>) {
    reads_what_was_written(&*store).await;
    lists_by_prefix_in_pages(&*store).await;
    counts(&*store).await;
    swaps(&*store).await;
    forgets_after_a_time(&*store).await;
    refuses_what_is_too_large(&*store).await;
    loses_no_increment(store.clone()).await;
    passes_the_turn_on(store).await;
}

async fn reads_what_was_written(store: &dyn Store) {
    let kv = "plain";
    assert_eq!(store.get(kv, "a").await.unwrap(), None);
    assert_eq!(store.snapshot(kv).await.unwrap().size(), 0);
    let odd = "é \u{0}\"}{%:%7D";
    let changes = vec![set("a", "1"), set(odd, odd), set("b", ""), set("a", "2")];
    store.apply(kv, changes).await.unwrap();
    assert_eq!(store.get(kv, "a").await.unwrap().as_deref(), Some("2"));
    assert_eq!(store.get(kv, odd).await.unwrap().as_deref(), Some(odd));
    store.set("other", "a".into(), "x".into()).await.unwrap();
    store.set("plain}", "a".into(), "x".into()).await.unwrap();
    store.delete(kv, "b".into()).await.unwrap();
    store.delete(kv, "missing".into()).await.unwrap();
    let all = store.snapshot(kv).await.unwrap();
    let all: Vec<_> = all
        .iter()
        .map(|(key, value)| (&**key, value.as_str()))
        .collect();
    assert_eq!(all, [("a", "2"), (odd, odd)]);
    // The last change of a key counts.
    let changes = vec![set("a", "3"), Change::Delete("a".into())];
    store.apply(kv, changes).await.unwrap();
    assert_eq!(store.get(kv, "a").await.unwrap(), None);
}

async fn lists_by_prefix_in_pages(store: &dyn Store) {
    let kv = "listed";
    let numbered = (0..25).map(|n| set(&format!("user:{n:02}"), "x"));
    let others = ["a", "user", "user;", "é"].map(|key| set(key, "x"));
    let changes = numbered.chain(others).collect();
    store.apply(kv, changes).await.unwrap();
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let query = ListQuery {
            prefix: "user:",
            after: found.last().map(String::as_str),
            limit: 10,
        };
        let page = store.list(kv, query).await.unwrap();
        pages += 1;
        found.extend(page.keys);
        if page.is_last {
            break;
        }
    }
    let expected: Vec<_> = (0..25).map(|n| format!("user:{n:02}")).collect();
    assert_eq!((found, pages), (expected, 3));
    let all = store.list(kv, ListQuery::default()).await.unwrap();
    assert_eq!((all.keys.len(), all.is_last), (29, true));
    assert_eq!(all.keys.first().map(String::as_str), Some("a"));
    assert_eq!(all.keys.last().map(String::as_str), Some("é"));
    let none = ListQuery {
        prefix: "x",
        ..ListQuery::default()
    };
    assert_eq!(store.list(kv, none).await.unwrap().keys.len(), 0);
}

async fn counts(store: &dyn Store) {
    let kv = "counted";
    assert_eq!(store.increment(kv, "n", 5).await.unwrap(), 5);
    assert_eq!(store.increment(kv, "n", -7).await.unwrap(), -2);
    assert_eq!(store.get(kv, "n").await.unwrap().as_deref(), Some("-2"));
    let changes = vec![set("word", "x"), set("most", &i64::MAX.to_string())];
    store.apply(kv, changes).await.unwrap();
    for key in ["word", "most"] {
        let refused = store.increment(kv, key, 1).await;
        assert!(
            matches!(refused, Err(Error::NotANumber { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(store.get(kv, "word").await.unwrap().as_deref(), Some("x"));
}

async fn swaps(store: &dyn Store) {
    let kv = "swapped";
    let swap = async |expected, new| {
        store
            .compare_and_swap(kv, "k", expected, new, None)
            .await
            .unwrap()
    };
    assert!(!swap(Some("1"), "2").await);
    assert!(swap(None, "1").await);
    assert!(!swap(None, "2").await);
    assert!(swap(Some("1"), "2").await);
    assert_eq!(store.get(kv, "k").await.unwrap().as_deref(), Some("2"));
}

async fn forgets_after_a_time(store: &dyn Store) {
    let kv = "timed";
    let short = Duration::from_millis(20);
    let for_a_time = |key: &str, ttl| Change::SetFor(key.into(), "1".into(), ttl);
    let changes = vec![
        for_a_time("short", short),
        for_a_time("long", MANY),
        for_a_time("kept", short),
        for_a_time("counted", short),
        set("kept", "1"),
    ];
    store.apply(kv, changes).await.unwrap();
    // Keeps the time after which the key is removed, unless it is removed already.
    store.increment(kv, "long", 1).await.unwrap();
    assert!(
        store
            .compare_and_swap(kv, "swapped", None, "1", Some(short))
            .await
            .unwrap()
    );
    for key in ["short", "counted", "swapped"] {
        until(key, async || store.get(kv, key).await.unwrap().is_none()).await;
    }
    let keys = store.list(kv, ListQuery::default()).await.unwrap().keys;
    assert_eq!(keys, ["kept", "long"]);
    assert_eq!(store.snapshot(kv).await.unwrap().size(), 2);
    assert_eq!(store.increment(kv, "counted", 3).await.unwrap(), 3);
    assert!(
        store
            .compare_and_swap(kv, "short", None, "2", None)
            .await
            .unwrap()
    );
    assert_eq!(store.get(kv, "long").await.unwrap().as_deref(), Some("2"));
    for ttl in [Duration::ZERO, MANY * 24 * 366 * 11] {
        let refused = store.apply(kv, vec![for_a_time("short", ttl)]).await;
        assert!(matches!(refused, Err(Error::BadTtl(_))), "{refused:?}");
    }
}

async fn refuses_what_is_too_large(store: &dyn Store) {
    let kv = "large";
    let limits = StoreLimits::default();
    let key = "k".repeat(limits.key + 1);
    let value = "v".repeat(limits.value + 1);
    store.set(kv, "a".into(), value[1..].into()).await.unwrap();
    for changes in [
        vec![set("b", "1"), set(&key, "1")],
        vec![set("b", "1"), set("c", &value)],
    ] {
        let refused = store.apply(kv, changes).await;
        assert!(
            matches!(refused, Err(Error::TooLarge { .. })),
            "{refused:?}"
        );
    }
    assert!(store.increment(kv, &key, 1).await.is_err());
    assert!(
        store
            .compare_and_swap(kv, "b", None, &value, None)
            .await
            .is_err()
    );
    assert_eq!(store.get(kv, "b").await.unwrap(), None);
    assert_eq!(
        store.get(kv, "a").await.unwrap().unwrap().len(),
        limits.value
    );
}

async fn loses_no_increment(store: Arc<dyn Store>) {
    let kv = "concurrent";
    let tasks = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                store.increment(kv, "n", 1).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(store.increment(kv, "n", 0).await.unwrap(), 800);
}

async fn passes_the_turn_on(store: Arc<dyn Store>) {
    let kv = "serial";
    let tasks = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                let turn = store.serial(kv).await.unwrap();
                let now = store.get(kv, "n").await.unwrap();
                let next = now.map_or(0, |now| now.parse::<u32>().unwrap()) + 1;
                let change = set("n", &next.to_string());
                store.apply_in(kv, vec![change], &turn).await.unwrap();
            }
        })
    });
    // Turns of other namespaces are apart.
    let _other = store.serial("another").await.unwrap();
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(store.get(kv, "n").await.unwrap().as_deref(), Some("200"));
}
