//! Clients that are slow, silent or gone; others are served meanwhile.

use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Running, Site, log, wat};
use tokio::time::sleep;

async fn server(settings: &str) -> Running {
    let site = Site::new();
    site.settings(settings)
        .wasm("x.wasm", &wat::answers("x"))
        .wasm("slow.wasm", &wat::sleeps(120_000))
        .file("public/big.bin", vec![1; 64 << 20]);
    site.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_do_not_keep_a_connection_open() {
    let server = server("header_timeout = \"500ms\"").await;
    let mut client = server.connect().await;
    let start = Instant::now();
    client.send("GET /x HTTP/1.1\r\nhost: a\r\n").await;
    let mut sent = 0;
    let ended = loop {
        sent += 1;
        if client
            .stream
            .try_write(format!("x-{sent}: y\r\n").as_bytes())
            .is_err()
            || sent > 50
        {
            break false;
        }
        assert_eq!(server.get("/x").await.status, 200, "others are served");
        tokio::select! {
            response = client.try_response() => {
                assert_eq!(response.unwrap().status, 408);
                break true;
            }
            () = sleep(Duration::from_millis(100)) => {}
        }
    };
    assert!(ended, "after {sent} headers");
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(400) && took < PATIENCE,
        "{took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_timeout() {
    let server = server("body_timeout = \"300ms\"").await;
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    assert!(response.text().contains("body took too long"));
    assert!(client.is_ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_an_idle_connection_after_its_timeout() {
    let server = server("idle_timeout = \"2s\"\nheader_timeout = \"800ms\"").await;
    let mut alive = server.connect().await;
    for _ in 0..3 {
        assert_eq!(alive.get("/x").await.status, 200);
        sleep(Duration::from_millis(900)).await;
    }
    assert!(alive.is_ended().await, "after its last request");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connection_is_closed_after_the_header_timeout() {
    let server = server("header_timeout = \"500ms\"").await;
    let start = Instant::now();
    for bytes in ["", "\r\n\r\n"] {
        let mut silent = server.connect().await;
        silent.send(bytes).await;
        assert!(
            silent.try_response().await.is_none(),
            "closed without a word"
        );
    }
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < PATIENCE,
        "{took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_head_is_closed_after_the_header_timeout() {
    let server = server("header_timeout = \"1s\"").await;
    let mut client = server.connect().await;
    let extension = "e".repeat(100);
    client
        .send(format!(
            "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;{extension}\r\n\
             a\r\n0\r\n\r\n"
        ))
        .await;
    assert_eq!(client.response().await.status, 200);
    client.send("GET /x HTTP/1.1\r\nhost").await;
    assert_eq!(client.response().await.status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_hangs_up_ends_its_call() {
    let server = server("concurrency = 1\nqueue_timeout = \"60s\"").await;
    let mut client = server.connect().await;
    client
        .send("GET /slow HTTP/1.1\r\nhost: a\r\nx-request-id: gone-1\r\n\r\n")
        .await;
    log::begun("gone-1").await;
    drop(client);
    let line = log::line("gone-1", "access").await;
    assert!(line.contains("status=499"), "{line}");
    // Its place is free.
    assert_eq!(server.get("/x").await.status, 200);
    // In the middle of a body, and of a head.
    for bytes in [
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf",
        "GET /x HT",
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        drop(client);
    }
    assert_eq!(server.get("/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_large_upload_with_a_reason() {
    let server = server("").await;
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 104857600\r\n\r\n")
        .await;
    let part = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        client.send(&part).await;
        assert_eq!(server.get("/x").await.status, 200);
    }
    let response = client.response().await;
    assert_eq!(response.status, 413, "the answer is not lost in a reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnects_a_client_that_does_not_read() {
    let server = server("body_timeout = \"500ms\"\nmax_connections = 2").await;
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client
            .send("GET /big.bin HTTP/1.1\r\nhost: a\r\n\r\n")
            .await;
        stuck.push(client);
    }
    // Waits for one of the two places.
    assert_eq!(server.get("/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn further_connections_wait_until_one_ends() {
    let server = server("max_connections = 1").await;
    let mut first = server.connect().await;
    assert_eq!(first.get("/x").await.status, 200);
    let mut second = server.connect().await;
    second.send("GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::select! {
        _ = second.try_response() => panic!("two at once"),
        () = sleep(Duration::from_millis(200)) => {}
    }
    drop(first);
    assert_eq!(second.response().await.status, 200);
}
