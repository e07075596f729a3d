//! Workers that read requests and make responses as they come, over real sockets.
//!
//! A worker of these tests is a word: what it does.

use std::{
    io::Read as _,
    ops::Deref,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use wws_engine::{Call, Program, ProgramError, RequestBody, Vm};

use crate::common::acts::{Act, Acting};
use crate::common::{PATIENCE, Site, log, wat};

/// What a worker does.
struct Streaming(Act);

impl Program for Streaming {
    fn initialise<'a>(&'a self, _: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(async { Ok(()) })
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            let answer = self.act(vm, call.request.into_body()).await;
            self.0.ended.fetch_add(1, SeqCst);
            answer
        })
    }
}

impl Streaming {
    async fn act(
        &self,
        vm: &mut Vm,
        body: RequestBody,
    ) -> Result<Option<http::Response<Bytes>>, ProgramError> {
        let whole = |text: String| Ok(Some(http::Response::new(Bytes::from(text))));
        match &*self.0.word {
            "length" => {
                let body = vm.wait(body.collect(u64::MAX)).await?;
                return whole(body.len().to_string());
            }
            "ignores" => return whole("ignored".into()),
            "sleeps" => {
                vm.wait(sleep(Duration::from_secs(60))).await;
                return whole("slept".into());
            }
            _ => {}
        }
        let kind = match &*self.0.word {
            "events" | "held-events" => "text/event-stream",
            "grpc" => "application/grpc",
            _ => "text/plain",
        };
        let mut head = http::Response::builder().header("content-type", kind);
        if self.0.word == "short" || self.0.word == "large" {
            head = head.header("content-length", 16 << 20);
        }
        let sender = vm.host().start_response(head.body(()).unwrap()).unwrap();
        let rest = async {
            let pause = || sleep(Duration::from_millis(150));
            match &*self.0.word {
                "clock" | "events" => {
                    for _ in 0..4 {
                        pause().await;
                        sender.send("tick\n".into()).await.ok()?;
                    }
                }
                "held" | "held-events" => {
                    sender.send("tick\n".into()).await.ok()?;
                    self.0.wait_for_test().await;
                    for _ in 0..3 {
                        sender.send("tick\n".into()).await.ok()?;
                    }
                }
                "echo" | "grpc" => {
                    let RequestBody::Stream(mut body) = body else {
                        return sender.finish().await.ok();
                    };
                    while let Some(frame) = body.frame().await {
                        if let Ok(piece) = frame.ok()?.into_data() {
                            sender.send(piece).await.ok()?;
                        }
                    }
                    if self.0.word == "grpc" {
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        sender.send_trailers(trailers).await.ok()?;
                    }
                }
                "floods" => loop {
                    sender.send(Bytes::from(vec![b'x'; 64 << 10])).await.ok()?;
                },
                "large" => {
                    for _ in 0..256 {
                        sender.send(Bytes::from(vec![b'x'; 64 << 10])).await.ok()?;
                    }
                }
                "waits" => {
                    sender.send("a piece".into()).await.ok()?;
                    std::future::pending::<()>().await;
                }
                "short" => sender.send("abc".into()).await.ok()?,
                "at-once" => sender.send("text ".repeat(500).into()).await.ok()?,
                "empty" => {}
                "fails" => {
                    sender.send("a piece".into()).await.ok()?;
                    sender.ready().await.ok()?;
                    pause().await;
                    return None;
                }
                other => panic!("{other}"),
            }
            sender.finish().await.ok()
        };
        match vm.wait(rest).await {
            Some(()) => Ok(None),
            None => Err(ProgramError::failed("boom")),
        }
    }
}

struct Streams(Acting);

impl Deref for Streams {
    type Target = Acting;

    fn deref(&self) -> &Acting {
        &self.0
    }
}

async fn start(server: &str, limits: &str) -> Streams {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"));
    let words = [
        "length",
        "ignores",
        "clock",
        "events",
        "held",
        "held-events",
        "echo",
        "floods",
        "large",
        "waits",
        "short",
        "at-once",
        "empty",
        "fails",
        "grpc",
        "sleeps",
    ];
    let make = |act| -> Arc<dyn Program> { Arc::new(Streaming(act)) };
    Streams(Acting::start(&site, server, limits, &words, make).await)
}

impl Streams {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// All that comes for a request.
    async fn exchange(&self, request: &str) -> String {
        let stream = self.send(request).await;
        String::from_utf8_lossy(&read_all(stream).await).into_owned()
    }
}

async fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all))
        .await
        .expect("an end");
    all
}

/// Reads until a text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !all.windows(text.len()).any(|part| part == text.as_bytes()) {
        let read = timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..read]);
    }
    all
}

fn get(path: &str, id: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n")
}

fn is_complete(response: &str) -> bool {
    response.ends_with("0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_sent_as_they_are_made_and_logged_at_the_end() {
    let streams = start("", "").await;
    let mut stream = streams.send(&get("/held-events", "clock-1")).await;
    read_until(&mut stream, "tick").await;
    assert!(log::lines("clock-1", "access").is_empty());
    streams.go_on();
    let rest = String::from_utf8(read_all(stream).await).unwrap();
    assert!(is_complete(&rest), "{rest}");
    let line = log::line("clock-1", "access").await;
    assert!(
        line.contains("status=200 bytes=20") && !line.contains("aborted_by"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_is_echoed_in_constant_memory() {
    const SIZE: u64 = 1 << 30;
    let streams = start("", "cpu_time = \"60s\"").await;
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\nconnection: close\r\n\r\n"
    );
    let stream = streams.send(&request).await;
    let (mut reader, mut writer) = stream.into_split();
    let held = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() as u64
    };
    let before = held();
    let writing = tokio::spawn(async move {
        let piece = vec![b'x'; 256 << 10];
        for _ in 0..SIZE >> 18 {
            writer.write_all(&piece).await.unwrap();
        }
        writer
    });
    let (mut buffer, mut read, mut most) = (vec![0; 256 << 10], 0, before);
    loop {
        let some = timeout(PATIENCE, reader.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        if some == 0 {
            break;
        }
        if (read + some as u64) >> 26 > read >> 26 {
            most = most.max(held());
        }
        read += some as u64;
    }
    assert!(buffer.windows(1).any(|byte| byte == b"x"));
    drop(writing.await.unwrap());
    assert!(read > SIZE && read < SIZE + SIZE / 64, "{read}");
    // Other tests of this program run as well.
    assert!(most - before < 256 << 20, "{before} before, {most} at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_worker() {
    let streams = start("concurrency = 1", "").await;
    for (act, id) in [
        ("waits", "gone-waits"),
        ("floods", "gone-floods"),
        ("events", "gone-events"),
    ] {
        let mut stream = streams.send(&get(&format!("/{act}"), id)).await;
        read_until(&mut stream, "\r\n\r\n").await;
        drop(stream);
        let line = log::line(id, "access").await;
        assert!(
            line.contains("status=200") && line.contains("aborted_by=\"client\""),
            "{line}"
        );
        // Its place is free.
        assert_eq!(streams.server.get("/x").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_after_the_head_aborts_the_response() {
    let streams = start("", "stream_idle = \"2s\"").await;
    for (act, cause) in [
        ("fails", "boom"),
        ("short", "fewer bytes than its Content-Length"),
        ("waits", "without a piece of the response"),
    ] {
        let id = format!("aborts-{act}");
        let response = streams.exchange(&get(&format!("/{act}"), &id)).await;
        // What was not sent before the failure is not sent at all.
        assert!(
            response.is_empty() || response.starts_with("HTTP/1.1 200"),
            "{response}"
        );
        assert!(
            !is_complete(&response) && response.len() < 1 << 20,
            "{response}"
        );
        let line = log::line(&id, "access").await;
        assert!(line.contains("aborted_by=\"worker\""), "{line}");
        let causes = log::lines(&id, "after the head of the response");
        assert!(causes.len() == 1 && causes[0].contains(cause), "{causes:?}");
        assert!(causes[0].contains(act), "the worker's name: {causes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_too_slow_or_too_large_are_refused() {
    let streams = start("max_body = 10", "stream_idle = \"1s\"\nstream_bytes = 1000").await;
    let post = |path: &str, length: usize, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nconnection: close\r\n\
             \r\n{body}"
        )
    };
    let body = "x".repeat(1000);
    let response = streams.exchange(&post("/length", 1000, &body)).await;
    assert!(
        response.ends_with("\r\n\r\n1000"),
        "max_body is for others: {response}"
    );
    let response = streams.exchange(&post("/length", 100, "half")).await;
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
    let response = streams.exchange(&post("/length", 1001, "")).await;
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    let chunked = "POST /length HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = format!(
        "{chunked}1f4\r\n{0}\r\n1f5\r\n{0}x\r\n0\r\n\r\n",
        "x".repeat(500)
    );
    let response = streams.exchange(&chunks).await;
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    let response = streams.exchange(&format!("{chunked}zz\r\n")).await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    // What comes after the head cannot be answered.
    let response = streams.exchange(&post("/echo", 100, "half")).await;
    assert!(
        response.contains("half") && !is_complete(&response),
        "{response}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn discards_bodies_that_a_worker_does_not_read() {
    let streams = start("", "").await;
    let body = "x".repeat(100_000);
    let request =
        format!("POST /ignores HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{body}");
    let response = streams.exchange(&request).await;
    assert!(response.contains("\r\n\r\nignored"), "{response}");
    // What comes at once is read, and the connection is used again.
    let small = "POST /ignores HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let mut client = streams.server.connect().await;
    for _ in 0..3 {
        client.send(small).await;
        assert_eq!(client.response().await.text(), "ignored");
    }
    // A client that asks first is not told to send it.
    let expects =
        "POST /ignores HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    let response = streams.exchange(expects).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_are_disconnected() {
    let streams = start("concurrency = 1\nbody_timeout = \"500ms\"", "").await;
    let stream = streams.send(&get("/floods", "slow-reader")).await;
    let line = log::line("slow-reader", "access").await;
    assert!(line.contains("aborted_by=\"client\""), "{line}");
    assert_eq!(streams.server.get("/x").await.status, 200);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_calls_get_the_slot_of_an_idle_client() {
    let streams = start("concurrency = 2\nqueue_timeout = \"10s\"", "").await;
    let mut held = Vec::new();
    // One sends nothing of its body, the other takes nothing of its response.
    for request in [
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n",
        "GET /floods HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        held.push(streams.send(request).await);
    }
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    assert_eq!(streams.server.get("/x").await.status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_calls_get_the_slot_of_a_silent_client() {
    let streams = start("concurrency = 1\nqueue_timeout = \"10s\"", "").await;
    let request = "POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n";
    let mut held = streams.send(request).await;
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    assert_eq!(streams.server.get("/x").await.status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    read_until(&mut held, "HTTP/1.1 503").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_without_a_body_let_the_worker_end() {
    let streams = start("", "").await;
    // Answered while the worker waits.
    let request = "HEAD /held HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let response = streams.exchange(request).await;
    assert!(
        response.starts_with("HTTP/1.1 200") && response.ends_with("\r\n\r\n"),
        "{response}"
    );
    streams.go_on();
    streams.wait_for_end_of(1).await;
    // All bytes of an announced length are sent before the worker has ended.
    let response = streams.exchange(&get("/large", "large-1")).await;
    assert!(response.len() > 16 << 20);
    streams.wait_for_end_of(2).await;
    let line = log::line("large-1", "access").await;
    assert!(
        line.contains("bytes=16777216") && !line.contains("aborted_by"),
        "{line}"
    );
}

/// The headers of a response, but those that differ between any two, and how its body is framed.
fn headers_of(response: &str) -> Vec<&str> {
    let (head, _) = response.split_once("\r\n\r\n").expect("a head");
    let mut headers: Vec<_> = head
        .lines()
        .filter(|line| {
            let omitted = ["date: ", "x-request-id: ", "transfer-encoding: "];
            !omitted.iter().any(|name| line.starts_with(name))
        })
        .collect();
    headers.sort_unstable();
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_to_head_has_the_headers_of_one_to_get() {
    for settings in ["", "compression = true"] {
        let streams = start(settings, "").await;
        let ask = async |method: &str, path: &str, accepted: &str| {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\naccept-encoding: {accepted}\r\n\
                 connection: close\r\n\r\n"
            );
            streams.exchange(&request).await
        };
        for accepted in ["gzip", "identity"] {
            for path in ["/at-once", "/large", "/ignores", "/clock", "/x"] {
                let get = ask("GET", path, accepted).await;
                let head = ask("HEAD", path, accepted).await;
                assert_eq!(headers_of(&get), headers_of(&head), "{settings} {path}");
                assert!(head.ends_with("\r\n\r\n"), "{head}");
            }
        }
        let head = ask("HEAD", "/at-once", "identity").await;
        assert!(head.contains("content-length: 2500\r\n"), "{head}");
        // A worker that makes no body because of the method says nothing about its length.
        let head = ask("HEAD", "/empty", "identity").await;
        assert!(!head.contains("content-length"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_may_end_within_the_grace_period() {
    let mut streams = start("grace_period = \"3s\"", "").await;
    let mut held = streams.send(&get("/held", "stop-held")).await;
    let mut waits = streams.send(&get("/waits", "stop-waits")).await;
    read_until(&mut held, "tick").await;
    read_until(&mut waits, "a piece").await;
    streams.0.server.stop();
    streams.go_on();
    let rest = String::from_utf8(read_all(held).await).unwrap();
    assert!(is_complete(&rest), "{rest}");
    assert_eq!(streams.0.server.stopped().await.aborted, 1);
    let rest = String::from_utf8(read_all(waits).await).unwrap();
    assert!(!is_complete(&rest), "{rest}");
    let line = log::line("stop-waits", "access").await;
    assert!(line.contains("aborted_by=\"shutdown\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_compressed_piece_by_piece() {
    let streams = start("compression = true", "").await;
    let request =
        |path: &str| format!("GET {path} HTTP/1.0\r\nhost: a\r\naccept-encoding: br, gzip\r\n\r\n");
    let mut stream = streams.send(&request("/held")).await;
    let mut all = read_until(&mut stream, "\r\n\r\n").await;
    // The first piece is whole before the others are made.
    let mut buffer = vec![0; 4096];
    let body_of = |all: &[u8]| {
        let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        all[at + 4..].to_vec()
    };
    let text_of = |body: &[u8]| {
        let mut text = [0; 100];
        let mut decoder = flate2::read::GzDecoder::new(body);
        let mut read = 0;
        while let Ok(more @ 1..) = decoder.read(&mut text[read..]) {
            read += more;
        }
        String::from_utf8_lossy(&text[..read]).into_owned()
    };
    while text_of(&body_of(&all)) != "tick\n" {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let read = read.unwrap().unwrap();
        assert!(read > 0);
        all.extend_from_slice(&buffer[..read]);
    }
    streams.go_on();
    all.extend(read_all(stream).await);
    assert_eq!(text_of(&body_of(&all)), "tick\ntick\ntick\ntick\n");
    let head = String::from_utf8_lossy(&all).into_owned();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let events = streams.exchange(&request("/events")).await;
    assert!(
        events.ends_with("\r\n\r\ntick\ntick\ntick\ntick\n"),
        "{events}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wall_time_excludes_waiting_for_the_client() {
    let streams = start("", "wall_time = \"1500ms\"").await;
    let head =
        "POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 16\r\nconnection: close\r\n\r\n";
    let mut stream = streams.send(head).await;
    for _ in 0..16 {
        sleep(Duration::from_millis(150)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let response = String::from_utf8(read_all(stream).await).unwrap();
    assert!(response.ends_with("\r\n\r\n16"), "{response}");
    let response = streams.exchange(&get("/sleeps", "too-long")).await;
    assert!(response.starts_with("HTTP/1.1 504"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_through() {
    let streams = start("", "").await;
    let stream = TcpStream::connect(streams.server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post("http://a.example/grpc")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, mut upload) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(!response.headers().contains_key("content-length"));
    let mut download = response.into_body();
    // Each message is answered before the next is sent.
    for message in ["\0\0\0\0\x02hi", "\0\0\0\0\x05there"] {
        upload.send_data(Bytes::from(message), false).unwrap();
        let answer = timeout(PATIENCE, download.data())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(answer, message);
        download
            .flow_control()
            .release_capacity(answer.len())
            .unwrap();
    }
    upload.send_data(Bytes::new(), true).unwrap();
    assert!(timeout(PATIENCE, download.data()).await.unwrap().is_none());
    let trailers = timeout(PATIENCE, download.trailers())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    streams.wait_for_end_of(1).await;
    connection.abort();
}
