//! WebSockets over real connections. A worker of these tests is a word: what it does.

mod http2;

use std::{
    ops::Deref,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{HeaderValue, Method, Request, Response, header};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use wws_engine::{
    Call, Program, ProgramError, RequestBody, Vm,
    websocket::{Close, End, Event, Message},
};

use crate::admin::{becomes, metric};
use crate::common::acts::{Act, Acting};
use crate::common::socket::{BINARY, CLOSE, PING, PONG, Socket, TEXT, UPGRADE, frame};
use crate::common::{PATIENCE, Site, log};

/// What a worker does.
struct SocketAct(Act);

impl Program for SocketAct {
    fn initialise<'a>(&'a self, _: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(async { Ok(()) })
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        _: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            if self.0.word == "refuses" {
                return Ok(Some(http::Response::new("no socket".into())));
            }
            let mut head = http::Response::new(());
            let protocol = match &*self.0.word {
                "protocol" => Some("chat"),
                "wrong" => Some("not-offered"),
                _ => None,
            };
            if let Some(protocol) = protocol {
                let value = HeaderValue::from_static(protocol);
                let headers = head.headers_mut();
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
                // What the connection decides.
                headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
                headers.insert("x-own", HeaderValue::from_static("yes"));
            }
            let end = vm.host().accept_socket(head).unwrap();
            let result = vm.wait(self.act(&end)).await;
            result.map(|()| None)
        })
    }
}

impl SocketAct {
    async fn act(&self, end: &End) -> Result<(), ProgramError> {
        match &*self.0.word {
            "floods" => {
                let piece = Bytes::from(vec![b'x'; 64 << 10]);
                while end
                    .sender
                    .send(Message::Binary(piece.clone()))
                    .await
                    .is_ok()
                {}
            }
            "returns" => {
                let _ = end.sender.send(Message::Text("bye".into())).await;
                return Ok(());
            }
            "closes" => end
                .sender
                .close(Close::new(Some(3042), "enough").unwrap(), true),
            "deaf" => sleep(Duration::from_secs(60)).await,
            "fails" => {
                end.receiver.next().await;
                let _ = end.sender.send(Message::Text("last words".into())).await;
                return Err(ProgramError::failed("boom"));
            }
            _ => {}
        }
        while let Some(event) = end.receiver.next().await {
            match event {
                Event::Message(message) => {
                    let _ = end.sender.send(message).await;
                }
                Event::Close { .. } if self.0.word == "stays" => {
                    sleep(Duration::from_secs(60)).await;
                }
                Event::Close { .. } => {
                    self.0.ended.fetch_add(1, SeqCst);
                }
            }
        }
        Ok(())
    }
}

struct Sockets(Acting);

impl Deref for Sockets {
    type Target = Acting;

    fn deref(&self) -> &Acting {
        &self.0
    }
}

async fn start(server: &str, limits: &str) -> Sockets {
    let site = Site::new();
    let words = [
        "echo", "refuses", "protocol", "wrong", "floods", "returns", "closes", "deaf", "fails",
        "stays",
    ];
    let make = |act| -> Arc<dyn Program> { Arc::new(SocketAct(act)) };
    Sockets(Acting::start(&site, server, limits, &words, make).await)
}

impl Sockets {
    async fn open(&self, path: &str, id: &str) -> Socket {
        Socket::open(self.server.address, path, id).await
    }

    async fn ask(&self, path: &str, headers: &str) -> Socket {
        Socket::ask(self.server.address, path, headers).await
    }
}

/// Closes a socket as a client does, and waits for the server.
async fn close(mut socket: Socket) {
    socket.send(CLOSE, &1000u16.to_be_bytes()).await;
    assert_eq!(socket.closed().await, 1000);
    assert!(socket.is_ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_talks_with_a_worker() {
    let sockets = start("", "").await;
    let mut socket = sockets.open("/echo", "echo-1").await;
    assert!(
        socket
            .head
            .contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{}",
        socket.head
    );
    for (kind, content) in [
        (TEXT, "héllo".as_bytes()),
        (TEXT, b""),
        (BINARY, &[0, 255]),
        (BINARY, &vec![7; 1 << 20]),
    ] {
        socket.send(kind, content).await;
        assert_eq!(socket.message().await, Some((kind, content.to_vec())));
    }
    socket.send(PING, b"now").await;
    assert_eq!(socket.message().await, Some((PONG, b"now".to_vec())));
    let bye = [&3001u16.to_be_bytes()[..], b"bye"].concat();
    socket.send(CLOSE, &bye).await;
    assert_eq!(socket.message().await, Some((CLOSE, bye)));
    assert!(socket.is_ended().await);
    sockets.wait_for_end_of(1).await;
    let line = log::line("echo-1", "access").await;
    // What was echoed.
    let bytes = "héllo".len() + 2 + (1 << 20);
    assert!(
        line.contains(&format!("status=101 bytes={bytes}")) && !line.contains("aborted_by"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_and_pings_between_them_are_one_message() {
    let sockets = start("", "").await;
    let mut socket = sockets.open("/echo", "").await;
    for (first, content) in [
        (0x01, "a"),
        (PING, "x"),
        (0x00, ""),
        (0x00, "b"),
        (0x80, "c"),
    ] {
        socket.send(first, content.as_bytes()).await;
    }
    assert_eq!(socket.message().await, Some((PONG, b"x".to_vec())));
    assert_eq!(socket.message().await, Some((TEXT, b"abc".to_vec())));
    close(socket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_with_the_request_are_not_lost() {
    let sockets = start("", "").await;
    let request = format!("GET /echo HTTP/1.1\r\nhost: a\r\n{UPGRADE}\r\n");
    let bytes = [
        request.into_bytes(),
        frame(TEXT, b"early"),
        frame(PING, b""),
    ]
    .concat();
    let mut socket = Socket::begin(sockets.server.address, &bytes).await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    let mut came = vec![
        socket.message().await.unwrap(),
        socket.message().await.unwrap(),
    ];
    came.sort();
    assert_eq!(came, [(TEXT, b"early".to_vec()), (PONG, vec![])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_worker_that_accepts_gets_a_socket() {
    let sockets = start("", "").await;
    let plain = sockets.ask("/refuses", UPGRADE).await;
    assert!(plain.head.starts_with("HTTP/1.1 200 "), "{}", plain.head);
    let missing = sockets.ask("/missing", UPGRADE).await;
    assert!(
        missing.head.starts_with("HTTP/1.1 404 "),
        "{}",
        missing.head
    );
    // The worker accepts what the client did not ask for.
    let unasked = sockets.ask("/echo", "").await;
    assert!(
        unasked.head.starts_with("HTTP/1.1 426 "),
        "{}",
        unasked.head
    );
    assert!(unasked.head.contains("upgrade: websocket\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_handshakes_have_a_status() {
    let sockets = start("", "").await;
    for (from, to, status) in [
        ("version: 13", "version: 8", 426),
        ("sec-websocket-version: 13\r\n", "", 426),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400),
        ("connection: Upgrade", "connection: keep-alive", 426),
        (
            "upgrade: websocket",
            "upgrade: websocket\r\nsec-websocket-protocol: a,,b",
            400,
        ),
        (
            "upgrade: websocket",
            "upgrade: websocket\r\ncontent-length: 0",
            101,
        ),
    ] {
        let bad = sockets.ask("/echo", &UPGRADE.replace(from, to)).await;
        assert!(
            bad.head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{to}: {}",
            bad.head
        );
        if status == 426 {
            assert!(
                bad.head.contains("sec-websocket-version: 13\r\n"),
                "{}",
                bad.head
            );
        }
    }
    let mut post = sockets.server.connect().await;
    let answer = post.request("POST", "/echo", UPGRADE, b"x").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_is_one_that_the_client_offers() {
    let sockets = start("", "").await;
    let offer = format!("{UPGRADE}sec-websocket-protocol: log, chat\r\n");
    let chosen = sockets.ask("/protocol", &offer).await;
    assert!(chosen.head.starts_with("HTTP/1.1 101 "), "{}", chosen.head);
    for line in [
        "sec-websocket-protocol: chat\r\n",
        "x-own: yes\r\n",
        "upgrade: websocket\r\n",
    ] {
        assert!(chosen.head.contains(line), "{}", chosen.head);
    }
    assert!(!chosen.head.contains("h2c"), "{}", chosen.head);
    let none = sockets.ask("/echo", &offer).await;
    assert!(
        !none.head.contains("sec-websocket-protocol"),
        "{}",
        none.head
    );
    let id = format!("{offer}x-request-id: protocol-1\r\n");
    let wrong = sockets.ask("/wrong", &id).await;
    assert!(wrong.head.starts_with("HTTP/1.1 500 "), "{}", wrong.head);
    log::line("protocol-1", "did not offer").await;
    let unasked = sockets.ask("/protocol", UPGRADE).await;
    assert!(
        unasked.head.starts_with("HTTP/1.1 500 "),
        "{}",
        unasked.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_worker_has_a_close_code() {
    let sockets = start("", "").await;
    let mut returned = sockets.open("/returns", "").await;
    assert_eq!(returned.message().await, Some((TEXT, b"bye".to_vec())));
    assert_eq!(returned.closed().await, 1000);
    let mut closed = sockets.open("/closes", "").await;
    let (_, content) = closed.message().await.unwrap();
    assert_eq!(content, [&3042u16.to_be_bytes()[..], b"enough"].concat());
    let mut failed = sockets.open("/fails", "fails-1").await;
    failed.send(TEXT, b"go").await;
    assert_eq!(failed.message().await, Some((TEXT, b"last words".to_vec())));
    assert_eq!(failed.closed().await, 1011);
    failed.send(CLOSE, &1011u16.to_be_bytes()).await;
    assert!(failed.is_ended().await);
    log::line("fails-1", "boom").await;
    let line = log::line("fails-1", "access").await;
    assert!(line.contains("aborted_by=\"worker\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_closes_with_a_code() {
    let sockets = start("", "socket_message = \"64KiB\"\nsocket_frame = \"16KiB\"").await;
    let large = |first, len| frame(first, &vec![b'a'; len]);
    let gibibyte = vec![0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    for (n, (bytes, expected)) in [
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        ([frame(0x01, b"\xc3"), frame(0x80, b"\x28")].concat(), 1007),
        (vec![TEXT, 2, b'h', b'i'], 1002),
        (frame(0x91, b"reserved"), 1002),
        (frame(0x83, b"opcode"), 1002),
        (frame(0x8f, b"opcode"), 1002),
        (frame(0x80, b"nothing continues"), 1002),
        (frame(0x09, b"half a ping"), 1002),
        (frame(PING, &[0; 126]), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, &1005u16.to_be_bytes()), 1002),
        (gibibyte, 1009),
        (large(BINARY, (16 << 10) + 1), 1009),
        // Fragments without an end.
        (
            [large(0x02, 16 << 10), large(0x00, 16 << 10).repeat(4)].concat(),
            1009,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("bad-{n}-");
        let mut socket = sockets.open("/echo", &id).await;
        socket.write(&bytes).await;
        assert_eq!(socket.closed().await, expected, "{n}");
        drop(socket);
        let line = log::line(&id, "access").await;
        assert!(line.contains("aborted_by=\"client\""), "{line}");
    }
    sockets.wait_for_end_of(14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_a_close_is_disconnected() {
    let sockets = start("", "").await;
    let start = Instant::now();
    let mut socket = sockets.open("/returns", "unanswered-1").await;
    assert_eq!(socket.closed().await, 1000);
    assert!(socket.is_ended().await);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_ends_its_worker() {
    let sockets = start("", "").await;
    let socket = sockets.open("/echo", "hangs-up-1").await;
    drop(socket);
    sockets.wait_for_end_of(1).await;
    let line = log::line("hangs-up-1", "access").await;
    assert!(
        line.contains("status=101") && line.contains("aborted_by=\"client\""),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_worker_that_continues_after_the_close() {
    let sockets = start("", "wall_time = \"3s\"").await;
    let socket = sockets.open("/stays", "stays-1").await;
    close(socket).await;
    log::line("stays-1", "after the WebSocket was closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_pinged_and_then_disconnected() {
    let sockets = start("", "socket_idle = \"4s\"").await;
    let mut socket = sockets.open("/echo", "silent-1").await;
    for _ in 0..3 {
        assert_eq!(socket.frame().await, Some((PING, vec![])));
        socket.send(PONG, b"").await;
    }
    assert_eq!(socket.frame().await, Some((PING, vec![])));
    assert_eq!(socket.closed().await, 1001);
    sockets.wait_for_end_of(1).await;
    log::line("silent-1", "aborted_by=\"client\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_fragments_count_as_silence() {
    let sockets = start("", "socket_idle = \"400ms\"").await;
    let mut socket = sockets.open("/echo", "").await;
    socket.send(0x01, b"a").await;
    let start = Instant::now();
    while socket.stream.write_all(&frame(0x00, b"")).await.is_ok() {
        sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() < PATIENCE);
    }
    sockets.wait_for_end_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_is_flooded_is_disconnected() {
    let sockets = start("body_timeout = \"600ms\"", "").await;
    let slow = sockets.open("/floods", "flooded-1").await;
    let line = log::line("flooded-1", "access").await;
    assert!(line.contains("aborted_by=\"client\""), "{line}");
    drop(slow);
    sockets.wait_for_end_of(1).await;
    // One that reads is served.
    let sockets = start("", "").await;
    let mut fast = sockets.open("/floods", "").await;
    for _ in 0..200 {
        assert_eq!(fast.message().await.unwrap().1.len(), 64 << 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_reads_nothing_stops_its_client() {
    let sockets = start("", "socket_queue = \"64KiB\"").await;
    let mut socket = sockets.open("/deaf", "").await;
    let flood = frame(BINARY, &[0; 1000]);
    let mut sent = 0;
    while timeout(Duration::from_secs(1), socket.stream.write_all(&flood))
        .await
        .is_ok()
    {
        sent += flood.len();
        // What the kernel holds, and the queue.
        assert!(sent < 16 << 20, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_sockets_is_bounded_and_calls_go_on() {
    let settings = "max_sockets = 3\nconcurrency = 2\nadmin = \"127.0.0.1:0\"";
    let sockets = start(settings, "").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(sockets.open("/echo", "").await);
    }
    assert_eq!(metric(&sockets.server, "wws_sockets").await, 3.0);
    assert_eq!(metric(&sockets.server, "wws_sockets_limit").await, 3.0);
    let further = sockets.ask("/echo", UPGRADE).await;
    assert!(
        further.head.starts_with("HTTP/1.1 503 "),
        "{}",
        further.head
    );
    assert_eq!(sockets.server.get("/refuses").await.status, 200);
    close(open.pop().unwrap()).await;
    sockets.wait_for_end_of(1).await;
    let start = Instant::now();
    while !sockets
        .ask("/echo", UPGRADE)
        .await
        .head
        .starts_with("HTTP/1.1 101 ")
    {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    drop(open);
    becomes(&sockets.server, "wws_sockets", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_closes_its_sockets() {
    let mut sockets = start("", "").await;
    let mut polite = sockets.open("/echo", "stops-1").await;
    let mut rude = sockets.open("/echo", "stops-2").await;
    polite.send(TEXT, b"a").await;
    polite.message().await.unwrap();
    sockets.0.server.stop();
    assert_eq!(polite.closed().await, 1001);
    polite.send(CLOSE, &1001u16.to_be_bytes()).await;
    assert!(polite.is_ended().await);
    assert_eq!(rude.closed().await, 1001);
    let line = log::line("stops-1", "access").await;
    assert!(line.contains("aborted_by=\"shutdown\""), "{line}");
    let drained = sockets.0.server.stopped().await;
    assert_eq!(drained.aborted, 0);
    drop(rude);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_has_an_end_in_time() {
    let sockets = start("", "stream_time = \"500ms\"").await;
    let mut socket = sockets.open("/echo", "").await;
    let start = Instant::now();
    assert_eq!(socket.closed().await, 1001);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}
