//! Compressed answers, over real sockets.

use std::io::Read;

use crate::common::{Running, Site, wat};

async fn server(settings: &str) -> Running {
    let text = "text ".repeat(1000);
    let json = format!(r#"{{"data":"{text}","headers":{{"content-type":"text/plain"}}}}"#);
    let site = Site::new();
    site.settings(settings)
        .wasm("w.wasm", &wat::prints(&json, ""))
        .file("public/a.css", "plain content")
        .file("public/a.css.br", "content in brotli")
        .file("public/a.css.gz", "content in gzip");
    site.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_workers_are_compressed_where_that_is_set() {
    let off = server("").await;
    let accept = "accept-encoding: gzip\r\n";
    let response = off.connect().await.request("GET", "/w", accept, b"").await;
    assert_eq!(
        (response.header("content-encoding"), response.body.len()),
        (None, 5000)
    );
    let on = server("compression = true").await;
    let mut client = on.connect().await;
    let response = client.request("GET", "/w", accept, b"").await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(response.header("vary"), Some("accept-encoding"));
    assert!(response.body.len() < 500, "{}", response.body.len());
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&*response.body);
    decoder.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text ".repeat(1000));
    let plain = client.get("/w").await;
    assert_eq!(
        (plain.header("content-encoding"), plain.body.len()),
        (None, 5000)
    );
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_files_beside_assets_are_sent_to_those_who_accept_them() {
    let server = server("").await;
    let mut client = server.connect().await;
    for (headers, body, coding) in [
        ("", "plain content", None),
        (
            "accept-encoding: br, gzip\r\n",
            "content in brotli",
            Some("br"),
        ),
        ("accept-encoding: gzip\r\n", "content in gzip", Some("gzip")),
        ("accept-encoding: zstd\r\n", "plain content", None),
        ("accept-encoding: br\r\nrange: bytes=0-4\r\n", "plain", None),
    ] {
        let response = client.request("GET", "/a.css", headers, b"").await;
        assert_eq!(
            (&*response.text(), response.header("content-encoding")),
            (body, coding)
        );
        assert!(
            response
                .header("content-type")
                .unwrap()
                .starts_with("text/css")
        );
        assert_eq!(response.header("vary"), Some("accept-encoding"));
    }
    let response = client
        .request("GET", "/a.css", "accept-encoding: br\r\n", b"")
        .await;
    let etag = format!(
        "accept-encoding: br\r\nif-none-match: {}\r\n",
        response.header("etag").unwrap()
    );
    assert_eq!(
        client.request("GET", "/a.css", &etag, b"").await.status,
        304
    );
    let plain = format!("if-none-match: {}\r\n", response.header("etag").unwrap());
    assert_eq!(
        client.request("GET", "/a.css", &plain, b"").await.status,
        200
    );
}
