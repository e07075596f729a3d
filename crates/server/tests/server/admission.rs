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

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_rejects_at_once() {
    let site = Site::new();
    site.settings("concurrency = 1\nqueue = 1")
        .wasm("slow.wasm", &wat::sleeps(2000));
    let server = site.start().await;
    let running = call(&server, "/slow", "full-1");
    log::begun("full-1").await;
    // One of them waits.
    let ids = ["full-2", "full-3"];
    let further = ids.map(|id| call(&server, "/slow", id));
    let (refused, which, mut waiting) = futures_util::future::select_all(further).await;
    assert!(!running.is_finished(), "at once");
    let refused = refused.unwrap();
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert!(
        log::line(ids[which], "server.queue")
            .await
            .contains("worker=\"slow.wasm\"")
    );
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(waiting.remove(0).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_the_time_in_the_queue() {
    let site = Site::new();
    site.settings("concurrency = 1\nqueue_timeout = \"200ms\"")
        .wasm("slow.wasm", &wat::sleeps(3000));
    let server = site.start().await;
    let running = call(&server, "/slow", "wait-1");
    log::begun("wait-1").await;
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
async fn bound_of_one_worker_does_not_delay_others() {
    let site = Site::new();
    site.settings("queue_timeout = \"100ms\"")
        .wasm("slow.wasm", &wat::sleeps(3000))
        .file("slow.toml", "version = \"1\"\n[limits]\nconcurrency = 1\n")
        .wasm("x.wasm", &wat::answers("x"));
    let server = site.start().await;
    let running = call(&server, "/slow", "own-1");
    log::begun("own-1").await;
    assert_eq!(call(&server, "/slow", "own-2").await.unwrap().status, 503);
    assert_eq!(call(&server, "/x", "own-3").await.unwrap().status, 200);
    assert_eq!(running.await.unwrap().status, 200);
}
