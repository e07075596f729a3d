//! Key/value stores of a project.

use wws_kv::{FileStore, Store, StoreLimits};
use wws_project::LoadOptions;
use wws_server::PrepareOptions;

#[path = "../../../kv/tests/common/redis.rs"]
mod redis;

use crate::admin::ask;
use crate::common::{Site, wat};
use crate::reload::reload;

/// A project with a store in a file, and workers that count in it.
fn counting() -> Site {
    let site = Site::new();
    site.file(
        ".wws.toml",
        "[stores.main]\nkind = \"file\"\npath = \"./data/kv\"\n[stores.fast]\nkind = \"memory\"\n",
    );
    for store in ["main", "fast"] {
        let kv = format!("store = \"{store}\"\nnamespace = \"serial\"\nconsistency = \"serial\"");
        site.wasm(&format!("{store}.wasm"), &wat::counts())
            .file(&format!("{store}.toml"), format!("[data.kv]\n{kv}\n"));
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_concurrent_requests_are_exact_and_last() {
    const CLIENTS: u32 = 8;
    const EACH: u32 = 30;
    let site = counting();
    let mut server = site.start().await;
    for worker in ["main", "fast"] {
        let clients = (0..CLIENTS).map(|_| {
            let connecting = server.connect();
            async move {
                let mut client = connecting.await;
                for _ in 0..EACH {
                    let response = client.get(&format!("/{worker}")).await;
                    assert_eq!(response.status, 200, "{}", response.text());
                }
            }
        });
        futures_util::future::join_all(clients).await;
        let next = server.get(&format!("/{worker}")).await.text();
        assert_eq!(next, (CLIENTS * EACH + 1).to_string(), "{worker}");
    }
    // A second server is told who has the store, at the place of its definition.
    let refused = site.problems();
    let expected = format!("(process {} on ", std::process::id());
    assert!(
        refused.starts_with(".wws.toml:1:1: the store `main`: "),
        "{refused}"
    );
    assert!(
        refused.contains("is in use by ") && refused.contains(&expected),
        "{refused}"
    );
    // A trial touches nothing.
    let trial = PrepareOptions {
        stores: wws_server::OpenedStores::trial(),
        ..PrepareOptions::default()
    };
    site.start_prepared(&LoadOptions::default(), &trial).await;
    server.stop();
    server.stopped().await;
    let server = site.start().await;
    for (worker, next) in [("main", CLIENTS * EACH + 2), ("fast", 1)] {
        let found = server.get(&format!("/{worker}")).await.text();
        assert_eq!(found, next.to_string(), "{worker}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_outlive_the_generations_of_a_project() {
    let site = counting();
    let server = site.start().await;
    let counts = async || {
        let (main, fast) = (server.get("/main").await, server.get("/fast").await);
        (main.text(), fast.text())
    };
    assert_eq!(counts().await, ("1".into(), "1".into()));
    let toml = std::fs::read_to_string(site.root().join(".wws.toml")).unwrap();
    // The new limit holds for the store that is open, which stays, and so do its workers.
    site.file(".wws.toml", toml.replace("/kv\"", "/kv\"\nmax_value = 1"));
    assert_eq!(reload(&server, &site).await.unwrap().kept, 2);
    assert_eq!(counts().await, ("2".into(), "2".into()));
    for _ in 0..7 {
        server.get("/main").await;
    }
    assert_eq!(server.get("/main").await.status, 500);
    // The same worker, with another store of the same name.
    let file = "\"file\"\npath = \"./data/kv\"";
    site.file(".wws.toml", toml.replace(file, "\"memory\""));
    assert_eq!(reload(&server, &site).await.unwrap().kept, 1);
    assert_eq!(counts().await, ("1".into(), "3".into()));
    // The file was closed with the generation that had it.
    let path = site.root().join("data/kv");
    let other = tokio::task::spawn_blocking(move || {
        (0..30).find_map(|_| FileStore::open(&path, StoreLimits::default()).ok())
    });
    let other = other.await.unwrap().expect("the file is closed");
    let found = other.get("serial", "n").await.unwrap();
    assert_eq!(found.as_deref(), Some("9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_leaves_no_store_open() {
    let site = counting();
    let server = site.start().await;
    let toml = std::fs::read_to_string(site.root().join(".wws.toml")).unwrap();
    let limited = toml.replace("/kv\"", "/kv\"\nmax_value = 1");
    let added = "[stores.added]\nkind = \"file\"\npath = \"./data/added\"\n";
    site.file(".wws.toml", format!("{limited}{added}"))
        .file("broken.wasm", "no module");
    let problems = reload(&server, &site).await.unwrap_err();
    assert!(problems.contains("broken.wasm"), "{problems}");
    // It is created, and closed again.
    let path = site.root().join("data/added");
    assert!(path.exists());
    FileStore::open(&path, StoreLimits::default()).unwrap();
    // The limits of the project that is served still apply.
    for count in 1..=10 {
        assert_eq!(server.get("/main").await.text(), count.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panel_and_metrics_show_each_store() {
    let site = counting();
    let toml = std::fs::read_to_string(site.root().join(".wws.toml")).unwrap();
    site.file(
        ".wws.toml",
        format!("{toml}[server]\nadmin = \"127.0.0.1:0\"\n"),
    );
    let server = site.start().await;
    server.get("/main").await;
    let keys = ask(&server, "/_api/v1/kv/main%2Fserial").await.text();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(keys["keys"][0]["value"], "1");
    let metrics = ask(&server, "/metrics").await.text();
    for line in [
        "wws_kv_operations_total{store=\"file\",operation=\"turn\",outcome=\"ok\"} 1",
        "wws_kv_operations_total{store=\"file\",operation=\"apply\",outcome=\"ok\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_503_while_redis_is_unreachable() {
    let mut redis = redis::Redis::start();
    let toml = format!(
        "[stores.main]\nkind = \"redis\"\nurl = \"{}\"\n",
        redis.url()
    );
    let kv = "[data.kv]\nstore = \"main\"\nnamespace = \"n\"\nconsistency = \"serial\"\n";
    let sites = [(); 2].map(|()| {
        let site = Site::new();
        site.file(".wws.toml", &toml)
            .wasm("main.wasm", &wat::counts())
            .file("main.toml", kv);
        site
    });
    let servers = [sites[0].start().await, sites[1].start().await];
    let clients = (0..8).map(|client| {
        let connecting = servers[client % 2].connect();
        async move {
            let mut client = connecting.await;
            for _ in 0..10 {
                let response = client.get("/main").await;
                assert_eq!(response.status, 200, "{}", response.text());
            }
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(servers[0].get("/main").await.text(), "81");
    redis.kill();
    let away = servers[1].get("/main").await;
    assert_eq!(away.status, 503, "{}", away.text());
    assert_eq!(away.header("retry-after"), Some("1"));
    redis.run();
    let returned = std::time::Instant::now();
    let next = loop {
        let response = servers[1].get("/main").await;
        if response.status == 200 {
            break response.text();
        }
        assert!(returned.elapsed() < redis::PATIENCE, "not used again");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(next, "82");
}
