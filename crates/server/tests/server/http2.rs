//! HTTP/2 with prior knowledge, with real clients.

use std::process::Command;

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::common::{PATIENCE, Running, Site, log, wat};

async fn server(settings: &str) -> Running {
    let site = Site::new();
    site.settings(settings)
        .wasm("x.wasm", &wat::answers("x"))
        .wasm("slow.wasm", &wat::sleeps(2000))
        .wasm("input.wasm", &wat::logs_input())
        .file("public/big.bin", vec![b'b'; 4 << 20])
        .file("public/small.txt", "small");
    site.start().await
}

async fn connect(server: &Running) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn exchange(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Response<Vec<u8>>, h2::Error> {
    let exchange = async {
        let mut client = client.clone().ready().await?;
        let (response, mut upload) = client.send_request(request, body.is_none())?;
        if let Some(body) = body {
            // A request that is refused at once has no stream to send to any more.
            let _ = upload.send_data(body, true);
        }
        let (head, mut body) = response.await?.into_parts();
        let mut all = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            all.extend_from_slice(&piece);
            body.flow_control().release_capacity(piece.len())?;
        }
        Ok(Response::from_parts(head, all))
    };
    timeout(PATIENCE, exchange).await.expect("an answer")
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example{path}"))
        .body(())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_and_workers_are_served() {
    let server = server("").await;
    let (client, _connection) = connect(&server).await;
    let response = exchange(&client, get("/x"), None).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (200, &b"x"[..])
    );
    assert_eq!(response.headers()["content-length"], "1");
    assert!(
        response.headers().contains_key("date") && response.headers().contains_key("x-request-id")
    );
    let big = exchange(&client, get("/big.bin"), None).await.unwrap();
    assert_eq!(big.body().len(), 4 << 20);
    let mut head = get("/small.txt");
    *head.method_mut() = http::Method::HEAD;
    let response = exchange(&client, head, None).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert!(response.body().is_empty());
    let mut head = get("/x");
    *head.method_mut() = http::Method::HEAD;
    let response = exchange(&client, head, None).await.unwrap();
    assert_eq!(response.headers()["content-length"], "1");
    assert!(response.body().is_empty());
    let missing = exchange(&client, get("/none"), None).await.unwrap();
    assert_eq!(missing.status(), 404);
    // The same connection answers others meanwhile.
    let (slow, fast) = tokio::join!(
        exchange(&client, get("/slow"), None),
        exchange(&client, get("/x"), None)
    );
    assert_eq!(
        (&slow.unwrap().body()[..], &fast.unwrap().body()[..]),
        (&b"slept"[..], &b"x"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_get_the_request_as_from_http1() {
    let server = server("").await;
    let (client, _connection) = connect(&server).await;
    let mut request = Request::post("http://a.example:81/input?q=1")
        .body(())
        .unwrap();
    let headers = request.headers_mut();
    for cookie in ["a=1", "b=2"] {
        headers.append("cookie", HeaderValue::from_static(cookie));
    }
    headers.insert("x-request-id", HeaderValue::from_static("http2-input"));
    let response = exchange(&client, request, Some(Bytes::from_static(b"the body")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let line = log::line("http2-input", "guest").await;
    for part in [
        "http://a.example:81/input?q=1",
        "a=1; b=2",
        "the body",
        "x-forwarded-for",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let access = log::line("http2-input", "access").await;
    assert!(access.contains("status=200"), "{access}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limits_are_refused() {
    let server = server("max_header_bytes = \"8KiB\"\nmax_body = 1000").await;
    let (client, _connection) = connect(&server).await;
    let mut large = get("/x");
    let value = HeaderValue::try_from("x".repeat(9000)).unwrap();
    large.headers_mut().insert("a", value);
    let response = exchange(&client, large, None).await.unwrap();
    assert_eq!(response.status(), 431);
    for length in [None, Some(1001)] {
        let mut post = Request::post("http://a.example/x");
        if let Some(length) = length {
            post = post.header("content-length", length);
        }
        let body = Bytes::from(vec![b'x'; 1001]);
        let response = exchange(&client, post.body(()).unwrap(), Some(body))
            .await
            .unwrap();
        assert_eq!(response.status(), 413);
        assert!(!response.headers().contains_key("connection"));
    }
    let connect = Request::connect("a.example:80").body(()).unwrap();
    let response = exchange(&client, connect, None).await.unwrap();
    assert_eq!(response.status(), 501);
    // A length that the body does not keep.
    let lying = Request::post("http://a.example/x").header("content-length", 5);
    let end = exchange(
        &client,
        lying.body(()).unwrap(),
        Some(Bytes::from_static(b"abc")),
    )
    .await;
    match end {
        Ok(response) => assert_eq!(response.status(), 400),
        Err(error) => assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR)),
    }
    let response = exchange(&client, get("/x"), None).await.unwrap();
    assert_eq!(response.status(), 200, "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_timeout() {
    let server = server("body_timeout = \"300ms\"").await;
    let (client, _connection) = connect(&server).await;
    let mut client = client.ready().await.unwrap();
    let post = Request::post("http://a.example/x").body(()).unwrap();
    let (response, mut upload) = client.send_request(post, false).unwrap();
    upload
        .send_data(Bytes::from_static(b"half"), false)
        .unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_requests_are_no_part_of_the_body() {
    let server = server("").await;
    let (client, _connection) = connect(&server).await;
    let mut client = client.ready().await.unwrap();
    let post = Request::post("http://a.example/x").body(()).unwrap();
    let (response, mut upload) = client.send_request(post, false).unwrap();
    upload
        .send_data(Bytes::from_static(b"body"), false)
        .unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("4"));
    upload.send_trailers(trailers).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_lets_requests_end() {
    let mut server = server("").await;
    let (client, connection) = connect(&server).await;
    let mut request = get("/slow");
    let id = HeaderValue::from_static("h2-stops-1");
    request.headers_mut().insert("x-request-id", id);
    let slow = tokio::spawn(async move { exchange(&client, request, None).await });
    log::begun("h2-stops-1").await;
    server.stop();
    let response = slow.await.unwrap().unwrap();
    assert_eq!(&response.body()[..], b"slept");
    timeout(PATIENCE, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(server.stopped().await.aborted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http2() {
    let server = server("").await;
    for (path, expected) in [
        ("x", "x 2 200 1"),
        ("small.txt", "small 2 200 5"),
        ("big.bin", " 2 200 4194304"),
    ] {
        let url = format!("http://{}/{path}", server.address);
        let output = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args(["--silent", "--show-error", "--http2-prior-knowledge"])
                .args(["--max-time", "20"])
                .args([
                    "--write-out",
                    " %{http_version} %{http_code} %{size_download}",
                ])
                .arg(url)
                .output()
        });
        let output = output.await.unwrap().expect("curl with HTTP/2");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.ends_with(expected), "{path}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_upgrade_is_answered_in_http_1() {
    let server = server("").await;
    let mut client = server.connect().await;
    // What `curl --http2` sends.
    let upgrade = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for _ in 0..2 {
        let response = client.request("GET", "/x", upgrade, b"").await;
        assert_eq!((response.status, response.text().as_str()), (200, "x"));
        assert_eq!(response.header("upgrade"), None);
    }
}
