//! Requests that are too large or contradict themselves are refused, and the next one is served.

use crate::common::{Site, wat};

const SETTINGS: &str = "max_header_bytes = \"8KiB\"\nmax_headers = 20\nmax_body = 1000";

async fn server() -> crate::common::Running {
    let site = Site::new();
    site.settings(SETTINGS)
        .wasm("x.wasm", &wat::answers("x"))
        .file("public/a.txt", "asset");
    site.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_head_is_a_431() {
    let server = server().await;
    for headers in [
        format!("a: {}\r\n", "x".repeat(9000)),
        "a: b\r\n".repeat(21),
    ] {
        let response = server
            .connect()
            .await
            .request("GET", "/x", &headers, b"")
            .await;
        assert_eq!(response.status, 431);
    }
    let many = "a: b\r\n".repeat(18);
    assert_eq!(
        server
            .connect()
            .await
            .request("GET", "/x", &many, b"")
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_a_413_however_it_is_sent() {
    let server = server().await;
    let body = vec![b'x'; 1001];
    let mut client = server.connect().await;
    let response = client.request("POST", "/x", "", &body).await;
    assert_eq!(response.status, 413);
    assert!(response.text().contains("body is too large"));
    assert!(client.is_ended().await);
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..101 {
        client.send("a\r\n0123456789\r\n").await;
    }
    assert_eq!(client.response().await.status, 413);
    assert_eq!(
        server
            .connect()
            .await
            .request("POST", "/x", "", &body[..1000])
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_first_need_not_send_a_large_body() {
    let server = server().await;
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5000\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status, 413);
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().status, 100);
    client.send("hello").await;
    assert_eq!(client.response().await.text(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_400_for_conflicting_lengths() {
    let server = server().await;
    for headers in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ] {
        let mut client = server.connect().await;
        assert_eq!(client.request("POST", "/x", "", b"fine").await.status, 200);
        client
            .send(format!(
                "POST /x HTTP/1.1\r\nhost: a\r\n{headers}\r\n0\r\n\r\n\
            GET /x HTTP/1.1\r\nhost: a\r\n\r\n"
            ))
            .await;
        let response = client.response().await;
        assert_eq!(response.status, 400, "{headers}");
        assert!(
            response
                .text()
                .contains("both Content-Length and Transfer-Encoding"),
            "{}",
            response.text()
        );
        assert!(client.is_ended().await, "what follows is not trusted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_conflicting_lengths_in_long_lines() {
    let server = server().await;
    let both = "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\
        \r\n0\r\n\r\n";
    let spaces = " ".repeat(80);
    for first in [
        format!(
            "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;{}\r\na\r\n0\r\n\
             \r\n",
            "e".repeat(100)
        ),
        format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length:{spaces}5\r\n\r\nhello"),
    ] {
        let mut client = server.connect().await;
        client.send(&first).await;
        assert_eq!(client.response().await.status, 200, "{first}");
        client.send(both).await;
        assert_eq!(client.response().await.status, 400, "{first}");
        assert!(client.is_ended().await, "what follows is not trusted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_codings_other_than_chunked_are_refused() {
    let server = server().await;
    for (codings, status) in [
        ("transfer-encoding: gzip, chunked", 501),
        ("transfer-encoding: x, chunked", 501),
        ("transfer-encoding: identity, chunked", 501),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", 501),
        ("transfer-encoding: chunked, chunked", 400),
        ("transfer-encoding: ,chunked", 400),
        ("transfer-encoding: gzip", 400),
    ] {
        let mut client = server.connect().await;
        client
            .send(format!(
                "POST /x HTTP/1.1\r\nhost: a\r\n{codings}\r\n\r\n1\r\na\r\n0\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response().await.status, status, "{codings}");
        assert!(client.is_ended().await, "{codings}");
    }
    let mut client = server.connect().await;
    client
        .send(
            "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \tChunked \r\n\r\n1\r\na\r\n0\r\n\
            \r\n",
        )
        .await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_400_for_invalid_requests() {
    let server = server().await;
    for bytes in [
        "GET /x HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        let status = client.try_response().await.map(|response| response.status);
        assert_eq!(status, Some(400), "{bytes:?}");
        assert!(client.is_ended().await);
    }
    let mut client = server.connect().await;
    client
        .send("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("body is broken"));
    assert_eq!(server.get("/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_connect_and_trace() {
    let server = server().await;
    for request in [
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        "TRACE /x HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(request).await;
        assert_eq!(client.response().await.status, 501, "{request}");
    }
}
