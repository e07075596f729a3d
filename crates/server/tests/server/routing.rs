//! Requests reach their workers, and answers their callers.

use crate::common::{Site, log, wat};

#[tokio::test(flavor = "multi_thread")]
async fn workers_answer_on_their_routes() {
    let site = Site::new();
    site.wasm("index.wasm", &wat::answers("home"))
        .wasm("api/[id].wasm", &wat::logs_input())
        .wasm("api/fixed.wasm", &wat::answers("fixed"));
    let server = site.start().await;
    let mut client = server.connect().await;
    for (path, text) in [
        ("/", "home"),
        ("/api/fixed", "fixed"),
        ("/api/fixed/?x=1", "fixed"),
    ] {
        let response = client.get(path).await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, text),
            "{path}"
        );
        assert_eq!(response.header("content-type"), Some("text/html"));
    }
    let response = client
        .request(
            "POST",
            "/api/a%20b?q=1",
            "x-request-id: routes-1\r\n",
            b"sent",
        )
        .await;
    assert_eq!(response.text(), "ok");
    let input = log::line("routes-1", "guest").await;
    for part in [
        r#""url":"http://a.example/api/a%20b?q=1""#,
        r#""params":{"id":"a b"}"#,
        r#""body":"sent""#,
        r#""method":"POST""#,
    ] {
        assert!(input.contains(part), "{part} in {input}");
    }
    assert!(input.contains("worker=\"api/[id].wasm\""), "{input}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_404_without_a_route() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"));
    let server = site.start().await;
    let response = server.get("/y").await;
    assert_eq!(response.status, 404);
    assert!(response.text().contains("Not Found"));
    assert!(response.header("x-request-id").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_split_before_it_is_decoded() {
    let site = Site::new();
    site.wasm("a/b.wasm", &wat::answers("b"))
        .file("public/c/d.txt", "d")
        .wasm("e/[...rest].wasm", &wat::answers("rest"));
    let server = site.start().await;
    let long = format!("/e{}", "/x".repeat(200));
    for (path, status) in [
        ("/a/b", 200),
        ("/%61/b", 200),
        ("//a//b", 200),
        ("/a%2Fb", 404),
        ("/c/d.txt", 200),
        ("/c%2fd.txt", 404),
        (&*long, 200),
    ] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_and_options_reach_the_worker() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::logs_input());
    let server = site.start().await;
    let mut client = server.connect().await;
    let head = client.request("HEAD", "/x", "", b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("2"))
    );
    for method in ["OPTIONS", "PURGE"] {
        let id = format!("method-{method}");
        assert_eq!(
            client
                .request(method, "/x", &format!("x-request-id: {id}\r\n"), b"")
                .await
                .status,
            200
        );
        assert!(
            log::line(&id, "guest")
                .await
                .contains(&format!(r#""method":"{method}""#))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_and_log_lines_have_the_request_id() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::prints("{", ""))
        .wasm("name.wasm", &wat::logs_input());
    let server = site.start().await;
    let mut client = server.connect().await;
    let response = client
        .request("GET", "/name", "x-request-id: my.own_name-1\r\n", b"")
        .await;
    assert_eq!(response.header("x-request-id"), Some("my.own_name-1"));
    let line = log::line("my.own_name-1", "access").await;
    for part in [
        "method=\"GET\"",
        "path=\"/name\"",
        "status=200",
        "worker=\"name.wasm\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let made = client
        .request("GET", "/name", "x-request-id: no name\r\n", b"")
        .await;
    let made = made.header("x-request-id").unwrap().to_owned();
    assert_ne!(made, "no name");
    log::line(&made, "access").await;
    // The cause is in the log, and only there.
    let failed = client
        .request("GET", "/x", "x-request-id: fails-1\r\n", b"")
        .await;
    assert_eq!(failed.status, 500);
    assert!(failed.text().contains("Internal Server Error") && failed.text().contains("fails-1"));
    assert!(
        !failed.text().contains("JSON") && !failed.text().contains("EOF"),
        "{}",
        failed.text()
    );
    let cause = log::line("fails-1", "printed no valid response").await;
    assert!(cause.contains("worker=\"x.wasm\""), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requires_exactly_one_valid_host() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"));
    let server = site.start().await;
    for (head, text) in [
        ("GET /x HTTP/1.1\r\n\r\n", "no Host header"),
        (
            "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "several Host headers",
        ),
        ("GET /x HTTP/1.1\r\nhost: a b\r\n\r\n", "not a host"),
        ("GET /x HTTP/1.1\r\nhost: <script>\r\n\r\n", "not a host"),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "not a path"),
    ] {
        let mut client = server.connect().await;
        client.send(head).await;
        let response = client.response().await;
        assert_eq!(response.status, 400, "{head}");
        assert!(
            response.text().contains(text),
            "{head}: {}",
            response.text()
        );
        assert!(client.is_ended().await);
    }
    let mut client = server.connect().await;
    client.send("GET /x HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "x");
    assert!(client.is_ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let site = Site::new();
    site.wasm("a.wasm", &wat::sleeps(50))
        .wasm("b.wasm", &wat::answers("b"));
    let server = site.start().await;
    let mut client = server.connect().await;
    client
        .send(
            "GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n\
        GET /c HTTP/1.1\r\nhost: x\r\n\r\n",
        )
        .await;
    assert_eq!(client.response().await.text(), "slept");
    assert_eq!(client.response().await.text(), "b");
    assert_eq!(client.response().await.status, 404);
}
