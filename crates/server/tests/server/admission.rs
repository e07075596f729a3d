//! Too many requests: some wait, some are sent away, no worker takes all places.

use std::time::{Duration, Instant};

use crate::common::{Running, Site, log, wat};

fn call(
    server: &Running,
    path: &'static str,
    id: &'static str,
) -> tokio::task::JoinHandle<crate::common::client::Response> {
    let address = server.address;
    tokio::spawn(async move {
        let mut client = crate::common::client::Client::connect(address).await;
        client
            .request("GET", path, &format!("x-request-id: {id}\r\n"), b"")
            .await
    })
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_sends_away_at_once() {
    let site = Site::new();
    site.settings("concurrency = 1\nqueue = 1")
        .wasm("slow.wasm", &wat::sleeps(1000));
    let server = site.start().await;
    let running = call(&server, "/slow", "full-1");
    settle().await;
    let waiting = call(&server, "/slow", "full-2");
    settle().await;
    let start = Instant::now();
    let refused = call(&server, "/slow", "full-3").await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert!(
        log::line("full-3", "server.queue")
            .await
            .contains("worker=\"slow.wasm\"")
    );
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_the_queue_s_time() {
    let site = Site::new();
    site.settings("concurrency = 1\nqueue_timeout = \"200ms\"")
        .wasm("slow.wasm", &wat::sleeps(1000));
    let server = site.start().await;
    let running = call(&server, "/slow", "wait-1");
    settle().await;
    let start = Instant::now();
    let refused = call(&server, "/slow", "wait-2").await.unwrap();
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert!(start.elapsed() >= Duration::from_millis(200));
    log::line("wait-2", "server.queue_timeout").await;
    assert_eq!(running.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_s_own_bound_holds_others_up_in_nothing() {
    let site = Site::new();
    site.settings("queue_timeout = \"100ms\"")
        .wasm("slow.wasm", &wat::sleeps(800))
        .file("slow.toml", "version = \"1\"\n[limits]\nconcurrency = 1\n")
        .wasm("x.wasm", &wat::answers("x"));
    let server = site.start().await;
    let running = call(&server, "/slow", "own-1");
    settle().await;
    assert_eq!(call(&server, "/slow", "own-2").await.unwrap().status, 503);
    assert_eq!(call(&server, "/x", "own-3").await.unwrap().status, 200);
    assert_eq!(running.await.unwrap().status, 200);
}
