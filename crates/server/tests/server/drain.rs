//! A server that stops lets what is in flight end, and nothing new begin.

use std::time::{Duration, Instant};

use crate::common::{Site, log, wat};
use tokio::{net::TcpStream, time::sleep};

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_end_and_idle_connections_close() {
    let site = Site::new();
    site.wasm("slow.wasm", &wat::sleeps(3000))
        .wasm("x.wasm", &wat::answers("x"));
    let mut server = site.start().await;
    let address = server.address;
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/x").await.status, 200);
    let mut new = server.connect().await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\nx-request-id: drains-1\r\n\r\n")
        .await;
    log::begun("drains-1").await;
    server.stop();
    assert!(idle.is_ended().await && new.is_ended().await);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    assert!(busy.has_no_answer(), "they close while it runs");
    let response = busy.response().await;
    assert_eq!(response.text(), "slept");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(busy.is_ended().await);
    assert_eq!(server.stopped().await.aborted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_requests_after_the_grace_period() {
    let site = Site::new();
    site.settings("grace_period = \"300ms\"")
        .wasm("slow.wasm", &wat::sleeps(120_000));
    let mut server = site.start().await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\nx-request-id: drains-2\r\n\r\n")
        .await;
    log::begun("drains-2").await;
    let start = Instant::now();
    server.stop();
    assert_eq!(server.stopped().await.aborted, 1);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(busy.is_ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_arriving_is_still_answered() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"));
    let mut server = site.start().await;
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().status, 100);
    client.send("ha").await;
    server.stop();
    sleep(Duration::from_millis(100)).await;
    client.send("lf").await;
    assert_eq!(client.response().await.text(), "x");
    server.stopped().await;
}
