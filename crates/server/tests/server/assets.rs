//! Files of `public/`.

use std::os::unix::fs::symlink;

use crate::common::{Site, wat};

async fn site() -> (Site, crate::common::Running) {
    let site = Site::new();
    site.file("public/a.txt", "0123456789")
        .file("public/index.html", "<p>home")
        .file("public/img/x.svg", "<svg/>")
        .file("public/big.bin", vec![7; 3_000_001])
        .file("public/empty.css", "")
        .wasm("w.wasm", &wat::answers("w"));
    let server = site.start().await;
    (site, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_has_its_type_and_its_version() {
    let (_site, server) = site().await;
    let mut client = server.connect().await;
    for (path, kind, text) in [
        ("/a.txt", "text/plain; charset=utf-8", "0123456789"),
        ("/", "text/html; charset=utf-8", "<p>home"),
        ("/img/x.svg", "image/svg+xml; charset=utf-8", "<svg/>"),
        ("/empty.css", "text/css; charset=utf-8", ""),
    ] {
        let response = client.get(path).await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, text),
            "{path}"
        );
        assert_eq!(response.header("content-type"), Some(kind));
        assert!(response.header("x-request-id").is_some());
    }
    let response = client.get("/a.txt").await;
    let etag = response.header("etag").unwrap().to_owned();
    let date = response.header("last-modified").unwrap().to_owned();
    for condition in [
        format!("if-none-match: {etag}\r\n"),
        format!("if-modified-since: {date}\r\n"),
    ] {
        let response = client.request("GET", "/a.txt", &condition, b"").await;
        assert_eq!(response.status, 304, "{condition}");
        assert_eq!(response.header("etag"), Some(etag.as_str()));
    }
    assert_eq!(
        client
            .request("GET", "/a.txt", "if-none-match: \"other\"\r\n", b"")
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_arrives_whole_and_in_parts() {
    let (_site, server) = site().await;
    let mut client = server.connect().await;
    let response = client.get("/big.bin").await;
    assert_eq!(
        response.header("content-type"),
        Some("application/octet-stream")
    );
    assert!(response.body.len() == 3_000_001 && response.body.iter().all(|byte| *byte == 7));
    let part = client
        .request("GET", "/big.bin", "range: bytes=1000000-1999999\r\n", b"")
        .await;
    assert_eq!((part.status, part.body.len()), (206, 1_000_000));
    assert_eq!(
        part.header("content-range"),
        Some("bytes 1000000-1999999/3000001")
    );
    let end = client
        .request("GET", "/a.txt", "range: bytes=-3\r\n", b"")
        .await;
    assert_eq!((end.status, end.text().as_str()), (206, "789"));
    let beyond = client
        .request("GET", "/a.txt", "range: bytes=10-\r\n", b"")
        .await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some("bytes */10"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn head_sends_all_headers_without_content() {
    let (_site, server) = site().await;
    let mut client = server.connect().await;
    let head = client.request("HEAD", "/big.bin", "", b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("3000001"))
    );
    assert!(head.header("etag").is_some());
    // A range is of GET alone.
    for range in ["bytes=0-9", "bytes=9999999-"] {
        let headers = format!("range: {range}\r\n");
        let head = client.request("HEAD", "/big.bin", &headers, b"").await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("3000001")),
            "{range}"
        );
    }
    // The connection is still in step.
    assert_eq!(client.get("/a.txt").await.text(), "0123456789");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_412_for_another_version() {
    let (_site, server) = site().await;
    let mut client = server.connect().await;
    let etag = client
        .get("/a.txt")
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    for (condition, status) in [
        (format!("if-match: {etag}"), 200),
        ("if-match: \"other\"".to_owned(), 412),
        (
            "if-unmodified-since: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
            412,
        ),
        ("if-match: \"other\"\r\nrange: bytes=0-1".to_owned(), 412),
    ] {
        let headers = format!("{condition}\r\n");
        let response = client.request("GET", "/a.txt", &headers, b"").await;
        assert_eq!(response.status, status, "{condition}");
        assert_eq!(response.body.is_empty(), status == 412, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_one_path() {
    let site = Site::new();
    site.file("public/docs/index.html", "<p>docs")
        .file("public/help.html", "<p>help")
        .file("public/pic.png", "pic")
        .wasm("[id].wasm", &wat::answers("id"));
    let server = site.start().await;
    let mut client = server.connect().await;
    for (path, location) in [
        ("/docs", "/docs/"),
        ("/docs?x=1&y=//z", "/docs/?x=1&y=//z"),
        ("//docs", "/docs/"),
        ("/help/", "/help"),
        ("/pic.png/", "/pic.png"),
    ] {
        let response = client.get(path).await;
        assert_eq!(
            (response.status, response.header("location")),
            (308, Some(location)),
            "{path}"
        );
    }
    for (path, text) in [
        ("/docs/", "<p>docs"),
        ("/docs/index.html", "<p>docs"),
        ("/help", "<p>help"),
        ("/help.html", "<p>help"),
        ("/pic.png", "pic"),
        ("/7/", "id"),
    ] {
        let response = client.get(path).await;
        let answer = (response.status, response.text());
        assert_eq!(answer, (200, text.to_owned()), "{path}");
    }
    // Assets are only read: what would change something is for the worker.
    for method in ["POST", "OPTIONS"] {
        assert_eq!(client.request(method, "/help", "", b"").await.text(), "id");
    }
    let refused = client.request("POST", "/docs/index.html", "", b"x").await;
    assert_eq!(refused.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_are_only_read() {
    let (_site, server) = site().await;
    let mut client = server.connect().await;
    let response = client.request("POST", "/a.txt", "", b"x").await;
    assert_eq!(
        (response.status, response.header("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
    let mut client = server.connect().await;
    assert_eq!(
        client.request("OPTIONS", "/a.txt", "", b"").await.status,
        204
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_changed_files_and_404_for_removed_ones() {
    let (site, server) = site().await;
    let before = server.get("/a.txt").await;
    site.file("public/a.txt", "9876543210");
    let after = server.get("/a.txt").await;
    assert_eq!(after.text(), "9876543210");
    assert_ne!(
        after.header("etag"),
        before.header("etag"),
        "of the same size, within a second"
    );
    std::fs::remove_file(site.root().join("public/a.txt")).unwrap();
    assert_eq!(server.get("/a.txt").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leaves_the_project_is_never_followed() {
    let (site, server) = site().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::remove_file(site.root().join("public/a.txt")).unwrap();
    symlink(
        outside.path().join("secret"),
        site.root().join("public/a.txt"),
    )
    .unwrap();
    let response = server.get("/a.txt").await;
    assert_eq!(response.status, 500);
    assert!(!response.text().contains("secret"));
    for path in [
        "/../w.wasm",
        "/%2e%2e/w.wasm",
        "/..%2fw.wasm",
        "/img/../../w.wasm",
        "//w.wasm",
        "/img%00/x.svg",
    ] {
        let status = server.get(path).await.status;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_404_page_of_the_project() {
    let site = Site::new();
    site.file("public/404.html", "<p>lost")
        .wasm("w.wasm", &wat::answers("w"));
    let server = site.start().await;
    let response = server.get("/nowhere").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (404, "<p>lost")
    );
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(response.header("etag"), None);
}
