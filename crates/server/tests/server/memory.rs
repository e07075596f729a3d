//! What clients make the server hold is bounded, and others are served meanwhile.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::common::{PATIENCE, Running, Site, wat};

/// That of a small container.
const MEMORY: u64 = 64 << 20;

/// Size of a file that is larger than all buffers between it and a client.
const FILE: usize = 24 << 20;

async fn server(settings: &str) -> Running {
    let site = Site::new();
    site.settings(settings)
        .wasm("x.wasm", &wat::answers("x"))
        .file("public/big.bin", vec![1; FILE]);
    site.start_within(MEMORY).await
}

/// The next request is answered, within `limit`.
async fn is_answered_within(server: &Running, limit: Duration) {
    let start = Instant::now();
    assert_eq!(server.get("/x").await.status, 200);
    let time = start.elapsed();
    assert!(time < limit, "{time:?}");
}

/// Sends a request until it is answered.
async fn becomes_200(server: &Running, method: &str, headers: &str, body: &[u8]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect().await;
        let response = client.request(method, "/x", headers, body).await;
        if response.status == 200 {
            return;
        }
        assert!(Instant::now() < end, "it remains a {}", response.status);
        sleep(Duration::from_millis(50)).await;
    }
}

/// A connection whose client has sent a part of a head.
async fn half_head(server: &Running, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /x HTTP/1.1\r\nhost: a\r\na: {}", "x".repeat(bytes));
    // The server may have ended it meanwhile.
    let _ = timeout(PATIENCE, stream.write_all(head.as_bytes())).await;
    stream
}

async fn status(mut stream: TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_503_for_heads_beyond_their_memory() {
    let server = server("header_timeout = \"60s\"").await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(half_head(&server, 60_000).await);
        assert_eq!(
            server.get("/x").await.status,
            200,
            "short heads have their place"
        );
    }
    let mut refused = 0;
    for stream in &held {
        let mut first = [0; 12];
        match stream.try_read(&mut first) {
            Ok(12) if &first == b"HTTP/1.1 503" => refused += 1,
            _ => {}
        }
    }
    assert!((10..30).contains(&refused), "{refused} of 40");
    drop(held);
    let long = format!("a: {}\r\n", "x".repeat(50_000));
    // Their memory is free again, soon.
    becomes_200(&server, "GET", &long, b"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_unfinished_heads_does_not_block_others() {
    let server = server("").await;
    let mut flood = Vec::new();
    for _ in 0..600 {
        let address = server.address;
        flood.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n").await;
            stream
        }));
    }
    sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(server.get("/x").await.status, 200);
    }
    // The time of a head is 10 s.
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

/// Each of 400 connections keeps one of 32 places for a fifth of a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_idle_connections_delays_others_for_seconds() {
    let server = server("max_connections = 32").await;
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(TcpStream::connect(server.address).await.unwrap());
    }
    // A second each would be more than ten.
    is_answered_within(&server, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_waits_longest_makes_room_for_another() {
    let server = server("max_connections = 2").await;
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/x").await.status, 200);
    let half = half_head(&server, 10).await;
    // 2 of 10 seconds are more than 2 of 75.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.get("/x").await.status, 200);
    assert_eq!(status(half).await, Some(503));
    assert_eq!(idle.get("/x").await.status, 200, "it was not in the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_503_for_uploads_beyond_their_memory() {
    let server = server("max_body = \"4MiB\"\nqueue_timeout = \"100ms\"\nconcurrency = 4").await;
    let body = vec![b'x'; 3 << 20];
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4194304\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = timeout(PATIENCE, stream.write_all(&body)).await;
        held.push(stream);
        let small = server
            .connect()
            .await
            .request("POST", "/x", "", b"small")
            .await;
        assert_eq!(small.status, 200);
    }
    let (mut refused, end) = (0, Instant::now() + PATIENCE);
    while refused < 3 {
        assert!(Instant::now() < end, "{refused} of 8");
        sleep(Duration::from_millis(50)).await;
        let mut first = [0; 12];
        refused += held
            .iter()
            .filter(|stream| {
                stream.try_read(&mut first).is_ok_and(|read| read == 12)
                    && &first == b"HTTP/1.1 503"
            })
            .count();
    }
    assert!(refused < 8, "{refused} of 8");
    drop(held);
    // One of the largest size has room when it is alone.
    becomes_200(&server, "POST", "", &vec![b'x'; 4 << 20]).await;
}

/// Asks for the large file, with a small buffer of its own.
async fn reader(server: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let head = b"GET /big.bin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream
}

/// Reads so many bytes at a time for 4 s, and what follows as fast as it comes. Returns how much it
/// was.
async fn read_slowly(mut stream: TcpStream, bytes: usize) -> usize {
    let start = Instant::now();
    let mut buffer = vec![0; bytes];
    let mut all = 0;
    while start.elapsed() < Duration::from_secs(4) {
        sleep(Duration::from_millis(50)).await;
        if bytes > 0 {
            all += stream.read(&mut buffer).await.unwrap_or(0);
        }
    }
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it ends");
    all + rest.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_too_little_are_disconnected() {
    let server = server("body_timeout = \"1200ms\"\nmin_send_rate = \"100KiB\"").await;
    let read = async |bytes| read_slowly(reader(&server).await, bytes).await;
    // 10 KB, nothing, and 1.3 MB a second.
    let (slow, stuck, fast) = tokio::join!(read(500), read(0), read(64 << 10));
    assert!(fast > FILE, "{fast}");
    // What the kernel has is read when the server has ended the connection.
    assert!(slow < FILE / 2, "{slow}");
    assert!(stuck < FILE / 2, "{stuck}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_readers_do_not_block_others() {
    let server = server("max_connections = 4").await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(reader(&server).await);
    }
    // The time of a body is 30 s.
    is_answered_within(&server, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_readers_share_the_memory() {
    let server = server("").await;
    let mut readers = Vec::new();
    for _ in 0..100 {
        readers.push(reader(&server).await);
    }
    sleep(Duration::from_millis(500)).await;
    let mut client = server.connect().await;
    assert_eq!(client.get("/x").await.status, 200);
    // Each goes on when its client does.
    for mut stream in readers.into_iter().take(10) {
        let mut part = vec![0; 1 << 20];
        let read = timeout(PATIENCE, stream.read_exact(&mut part)).await;
        assert!(read.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_calls_wait_leaves_memory_for_others() {
    let site = Site::new();
    site.settings("queue_timeout = \"500ms\"")
        .wasm("x.wasm", &wat::answers("x"))
        .wasm("sleeps.wasm", &wat::sleeps(120_000))
        .file(
            "sleeps.toml",
            "version = \"1\"\n[limits]\nwall_time = \"100s\"\n",
        );
    let server = site.start_within(MEMORY).await;
    let mut waiting = Vec::new();
    for _ in 0..24 {
        let mut client = server.connect().await;
        waiting.push(tokio::spawn(
            async move { client.get("/sleeps").await.status },
        ));
    }
    let refused = || waiting.iter().filter(|call| call.is_finished()).count();
    let end = Instant::now() + PATIENCE;
    while refused() < 16 {
        assert!(Instant::now() < end, "{} of 24", refused());
        assert_eq!(server.get("/x").await.status, 200);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(refused() < 24, "some run");
    assert_eq!(server.get("/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_make_room_for_another_connection() {
    let server = server("max_connections = 4").await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // The time of a body is 30 s.
    is_answered_within(&server, Duration::from_secs(8)).await;
    let refused = slow.iter().filter(|stream| {
        let mut first = [0; 12];
        matches!(stream.try_read(&mut first), Ok(12)) && &first == b"HTTP/1.1 503"
    });
    assert!(refused.count() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_make_room_for_another_connection() {
    let server = server("max_connections = 4").await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let head = "GET /big.bin HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(tokio::spawn(async move {
            let mut few = [0; 400];
            while let Ok(1..) = stream.read(&mut few).await {
                sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    sleep(Duration::from_millis(300)).await;
    // The time to take an answer is 30 s, and they take more than they have to.
    is_answered_within(&server, Duration::from_secs(8)).await;
}
