#![allow(clippy::unwrap_used, clippy::panic)]
mod client_frame;

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::queue::pair;
use crate::queue::tests::Budget;
use client_frame::frame;

struct Rig {
    client: DuplexStream,
    worker: End,
    server: tokio::task::JoinHandle<(SocketOutcome, u64)>,
    budget: Budget,
}

fn rig(limits: Limits, memory: u64) -> Rig {
    rig_with(limits, memory, None)
}

/// [`rig`] with compressed messages.
fn deflating(limits: Limits, memory: u64) -> Rig {
    let mut request = http::Request::builder().body(()).unwrap();
    let offer = http::HeaderValue::from_static("permessage-deflate");
    let name = http::header::SEC_WEBSOCKET_EXTENSIONS;
    request.headers_mut().insert(name, offer);
    let deflate = Deflate::offered(request.headers());
    assert!(deflate.is_some());
    rig_with(limits, memory, deflate)
}

fn rig_with(limits: Limits, memory: u64, deflate: Option<Deflate>) -> Rig {
    let budget = Budget::new(memory);
    let (client, stream) = tokio::io::duplex(64 << 10);
    let (worker, end) = pair(limits.queue, [budget.part(), budget.part()]);
    let charge = budget.part();
    let server = tokio::spawn(async move {
        let mut connection =
            Connection::new(stream, Bytes::new(), Role::Server, end, limits, charge);
        connection.set_deflate(deflate);
        let ended = poll_fn(|context| connection.poll(context)).await;
        (ended, connection.sent())
    });
    Rig {
        client,
        worker,
        server,
        budget,
    }
}

impl Rig {
    async fn send(&mut self, first: u8, content: &[u8]) {
        self.client.write_all(&frame(first, content)).await.unwrap();
    }

    /// The next frame that the server sends.
    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let first = self.client.read_u8().await.unwrap();
        let len = match self.client.read_u8().await.unwrap() {
            126 => usize::from(self.client.read_u16().await.unwrap()),
            127 => self.client.read_u64().await.unwrap() as usize,
            len => usize::from(len),
        };
        let mut content = vec![0; len];
        self.client.read_exact(&mut content).await.unwrap();
        (first, content)
    }

    async fn receive_close(&mut self) -> u16 {
        let (first, content) = self.receive().await;
        assert_eq!(first, 0x88);
        u16::from_be_bytes([content[0], content[1]])
    }

    async fn event(&self) -> Event {
        self.worker.receiver.next().await.unwrap()
    }
}

fn left(budget: &Budget) -> u64 {
    budget.left.load(std::sync::atomic::Ordering::SeqCst)
}

fn text(text: &str) -> Event {
    Event::Message(Message::Text(text.to_owned().into()))
}

fn short() -> Limits {
    Limits {
        idle: Duration::from_millis(600),
        ..Limits::default()
    }
}

#[tokio::test]
async fn messages_pass_in_both_directions() {
    let mut rig = rig(Limits::default(), 1 << 30);
    rig.send(0x01, b"he").await;
    rig.send(0x89, b"in between").await;
    rig.send(0x80, b"llo").await;
    assert_eq!(rig.receive().await, (0x8a, b"in between".to_vec()));
    assert_eq!(rig.event().await, text("hello"));
    let long = Bytes::from(vec![7; 100_000]);
    rig.worker
        .sender
        .send(Message::Binary(long.clone()))
        .await
        .unwrap();
    let mut received = Vec::new();
    for n in 0.. {
        let (first, piece) = rig.receive().await;
        assert_eq!(first & 0x0f, if n == 0 { 2 } else { 0 });
        assert!(piece.len() <= PIECE);
        received.extend(piece);
        if first & 0x80 != 0 {
            break;
        }
    }
    assert_eq!(received, long);
    rig.worker.sender.close(Close::with(3001, "bye"), true);
    assert_eq!(rig.receive_close().await, 3001);
    rig.send(0x88, &3001u16.to_be_bytes()).await;
    let Event::Close { close, clean } = rig.event().await else {
        panic!("a message");
    };
    assert_eq!((close.code, clean), (Some(3001), true));
    assert_eq!(rig.server.await.unwrap(), (SocketOutcome::Clean, 100_000));
}

#[tokio::test]
async fn a_client_that_closes_gets_an_answer() {
    let mut rig = rig(Limits::default(), 1 << 30);
    rig.send(0x88, b"\x03\xe8done").await;
    assert_eq!(rig.receive_close().await, 1000);
    let Event::Close { close, clean } = rig.event().await else {
        panic!("a message");
    };
    assert_eq!(
        (close.code, &*close.reason, clean),
        (Some(1000), "done", true)
    );
    assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Clean);
}

#[tokio::test]
async fn a_breach_of_the_protocol_closes_with_its_code() {
    let limits = Limits {
        message: 1000,
        frame: 500,
        ..Limits::default()
    };
    for (bytes, expected) in [
        (frame(0x81, b"\xff\xfe"), code::INVALID),
        (frame(0x82, &[0; 501]), code::TOO_LARGE),
        (
            [
                frame(0x02, &[0; 500]),
                frame(0x00, &[0; 500]),
                frame(0x00, b"1"),
            ]
            .concat(),
            code::TOO_LARGE,
        ),
        (vec![0x81, 0x02, b'h', b'i'], code::PROTOCOL),
        (frame(0xc1, b"hi"), code::PROTOCOL),
        (frame(0x83, b"hi"), code::PROTOCOL),
        (frame(0x8b, b"hi"), code::PROTOCOL),
        (frame(0x80, b"hi"), code::PROTOCOL),
        (frame(0x09, b"hi"), code::PROTOCOL),
        (frame(0x89, &[0; 126]), code::PROTOCOL),
        (
            [frame(0x01, b"a"), frame(0x01, b"b")].concat(),
            code::PROTOCOL,
        ),
        (frame(0x88, b"\x03"), code::PROTOCOL),
        // 1 GiB is announced.
        (
            vec![0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4],
            code::TOO_LARGE,
        ),
    ] {
        let mut rig = rig(limits.clone(), 1 << 30);
        rig.client.write_all(&bytes).await.unwrap();
        assert_eq!(rig.receive_close().await, expected, "{bytes:x?}");
        let Event::Close { clean, .. } = rig.event().await else {
            panic!("a message");
        };
        assert!(!clean);
        assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Failed(expected));
    }
}

#[tokio::test]
async fn a_message_without_memory_closes_the_socket() {
    let mut rig = rig(Limits::default(), 100_000);
    let message = frame(0x82, &[0; 300_000]);
    // The server may stop reading.
    let _ = rig.client.write_all(&message[..200_000]).await;
    assert_eq!(rig.receive_close().await, code::TRY_AGAIN);
    assert_eq!(
        rig.server.await.unwrap().0,
        SocketOutcome::Failed(code::TRY_AGAIN)
    );
}

#[tokio::test]
async fn memory_is_free_again_after_large_messages() {
    let total = 8 << 20;
    let mut rig = rig(Limits::default(), total);
    for _ in 0..20 {
        let sending = frame(0x82, &vec![1; 1 << 20]);
        let (sent, event) =
            tokio::join!(rig.client.write_all(&sending), rig.worker.receiver.next());
        sent.unwrap();
        assert!(matches!(event, Some(Event::Message(_))));
    }
    rig.send(0x81, b"small").await;
    assert_eq!(rig.event().await, text("small"));
    rig.worker.receiver.release();
    rig.send(0x89, b"").await;
    rig.receive().await;
    assert_eq!(left(&rig.budget), total);
}

#[tokio::test]
async fn a_worker_that_takes_nothing_stops_the_client() {
    let limits = Limits {
        queue: 10_000,
        ..Limits::default()
    };
    let mut rig = rig(limits, 1 << 30);
    let flood = frame(0x82, &[0; 1000]).repeat(1000);
    let sent = tokio::time::timeout(Duration::from_millis(300), rig.client.write_all(&flood)).await;
    assert!(sent.is_err(), "a million bytes were taken");
    for _ in 0..10 {
        rig.event().await;
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_the_worker_and_its_pings_are_not_read() {
    let limits = Limits {
        queue: 10_000,
        idle: Duration::from_millis(500),
        ..Limits::default()
    };
    let mut rig = rig(limits, 1 << 30);
    let message = || Message::Binary(vec![0; 1000].into());
    let flood = async {
        for _ in 0..1000 {
            rig.worker.sender.send(message()).await?;
        }
        Ok::<_, NotSent>(())
    };
    let (flooded, ()) = tokio::join!(flood, async {
        let ping = frame(0x89, &[0; 100]);
        for _ in 0..10_000 {
            let wrote = rig.client.write_all(&ping);
            if tokio::time::timeout(Duration::from_millis(300), wrote)
                .await
                .is_err()
            {
                break;
            }
        }
    });
    // It is given up.
    assert_eq!(flooded, Err(NotSent::Closed));
    assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Silent);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_closed() {
    let mut rig = rig(short(), 1 << 30);
    for _ in 0..3 {
        assert_eq!(rig.receive().await, (0x89, vec![]));
        rig.send(0x8a, b"").await;
    }
    assert_eq!(rig.receive().await, (0x89, vec![]));
    assert_eq!(rig.receive_close().await, code::GOING_AWAY);
    assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Silent);
}

#[tokio::test]
async fn fragments_without_an_end_are_pinged_and_then_closed() {
    let mut rig = rig(short(), 1 << 30);
    rig.send(0x01, b"").await;
    let mut client = tokio::io::split(rig.client);
    let trickle = async {
        while client.1.write_all(&frame(0x00, b"")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = async {
        let mut all = Vec::new();
        client.0.read_to_end(&mut all).await.unwrap();
        all
    };
    let (_, all) = tokio::join!(trickle, all);
    assert_eq!(all[..4], [0x89, 0, 0x88, 2 + 25], "{all:x?}");
    assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Silent);
}

#[tokio::test]
async fn closes_after_the_last_messages_of_a_worker() {
    let budget = Budget::new(1 << 30);
    let (mut client, stream) = tokio::io::duplex(1 << 20);
    let (worker, end) = pair(1 << 20, [budget.part(), budget.part()]);
    worker.sender.send(Message::Text("a".into())).await.unwrap();
    drop(worker);
    let mut connection = Connection::new(
        stream,
        Bytes::new(),
        Role::Server,
        end,
        Limits::default(),
        budget.part(),
    );
    connection.close_at_end(Close::with(code::INTERNAL, ""));
    let ended = tokio::join!(poll_fn(|context| connection.poll(context)), async {
        let mut all = [0; 7];
        client.read_exact(&mut all).await.unwrap();
        assert_eq!(all, [0x81, 1, b'a', 0x88, 2, 3, 0xf3]);
        client.write_all(&frame(0x88, &[3, 0xf3])).await.unwrap();
    });
    assert_eq!(ended.0, SocketOutcome::Clean);
}

#[tokio::test]
async fn lost_connection_is_an_abnormal_close() {
    let Rig {
        client,
        worker,
        server,
        ..
    } = rig(Limits::default(), 1 << 30);
    drop(client);
    let Some(Event::Close { close, clean }) = worker.receiver.next().await else {
        panic!("a message");
    };
    assert_eq!((close.code, clean), (Some(code::ABNORMAL), false));
    assert_eq!(server.await.unwrap().0, SocketOutcome::Lost);
}

/// The frame of a compressed message, whose content is `len` times `byte`.
fn bomb(byte: u8, len: usize) -> Vec<u8> {
    let mut content = Vec::new();
    let (all, step) = (vec![byte; len], 16 << 10);
    for (n, piece) in all.chunks(step).enumerate() {
        let is_last = (n + 1) * step >= len;
        content.extend(deflate::compress(piece, is_last).unwrap());
    }
    content
}

#[tokio::test]
async fn compressed_messages_pass_in_both_directions() {
    let mut rig = deflating(Limits::default(), 1 << 30);
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    rig.send(0xc1, &hello).await;
    assert_eq!(rig.event().await, text("Hello"));
    // In frames, with a ping between them.
    rig.send(0x41, &hello[..3]).await;
    rig.send(0x89, b"").await;
    rig.send(0x80, &hello[3..]).await;
    assert_eq!(rig.receive().await.0, 0x8a);
    assert_eq!(rig.event().await, text("Hello"));
    rig.send(0x81, b"not compressed").await;
    assert_eq!(rig.event().await, text("not compressed"));
    rig.send(0xc2, &[0]).await;
    assert_eq!(
        rig.event().await,
        Event::Message(Message::Binary(Bytes::new()))
    );

    let long = Bytes::from(vec![b'a'; 100_000]);
    for (message, bytes) in [("short", 5), ("long", 100_000)] {
        let content = match message {
            "short" => Bytes::from_static(b"short"),
            _ => long.clone(),
        };
        rig.worker
            .sender
            .send(Message::Text(content))
            .await
            .unwrap();
        let (mut first, mut content) = rig.receive().await;
        assert_eq!(first & 0x7f, if message == "short" { 1 } else { 0x41 });
        while first & 0x80 == 0 {
            let (next, more) = rig.receive().await;
            assert_eq!(next & 0x7f, 0);
            first = next;
            content.extend(more);
        }
        if message == "long" {
            assert!(content.len() < 2_000, "{}", content.len());
            assert_eq!(content, bomb(b'a', bytes));
        }
    }
    rig.send(0x88, &1000_u16.to_be_bytes()).await;
    assert_eq!(rig.receive_close().await, 1000);
    let (ended, sent) = rig.server.await.unwrap();
    assert_eq!((ended, sent), (SocketOutcome::Clean, 100_005));
    drop(rig.worker);
    assert_eq!(left(&rig.budget), 1 << 30);
}

#[tokio::test]
async fn compressed_messages_keep_to_the_limits() {
    // What it is inflated to counts.
    let limits = Limits {
        message: 100_000,
        frame: 2_000,
        ..Limits::default()
    };
    let mut fits = deflating(limits.clone(), 1 << 30);
    fits.send(0xc2, &bomb(7, 100_000)).await;
    let whole = Event::Message(Message::Binary(vec![7; 100_000].into()));
    assert_eq!(fits.event().await, whole);
    for (memory, content, code) in [
        (1 << 30, bomb(7, 100_001), 1009),
        (1 << 30, bomb(7, 2_000_000), 1009),
        (1 << 30, vec![0; 2_100], 1009),
        // No memory for the message, and none to inflate it.
        (100_000, bomb(7, 90_000), 1013),
        (10_000, bomb(7, 10), 1013),
    ] {
        let mut rig = deflating(limits.clone(), memory);
        rig.send(0xc2, &content).await;
        assert_eq!(rig.receive_close().await, code);
        assert_eq!(rig.server.await.unwrap().0, SocketOutcome::Failed(code));
        drop(rig.worker);
        assert_eq!(left(&rig.budget), memory);
    }
}

#[tokio::test]
async fn rejects_compression_that_was_not_negotiated() {
    for (first, content, code) in [
        // Bytes that are no deflate, a text that is not UTF-8.
        (0xc2, &[0xff, 0xff, 0xff][..], 1002),
        (0xc1, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00], 1007),
        // Other reserved bits, and the bit where it may not be.
        (0xa2, b"x", 1002),
        (0x92, b"x", 1002),
        (0xc9, b"x", 1002),
    ] {
        let mut rig = deflating(Limits::default(), 1 << 30);
        rig.send(first, content).await;
        assert_eq!(rig.receive_close().await, code, "{first:x} {content:x?}");
    }
    let mut continued = deflating(Limits::default(), 1 << 30);
    continued.send(0x41, &[0xf2, 0x48]).await;
    continued.send(0xc0, &[0xcd, 0xc9, 0xc9, 0x07, 0x00]).await;
    assert_eq!(continued.receive_close().await, 1002);
    let mut plain = rig(Limits::default(), 1 << 30);
    plain
        .send(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00])
        .await;
    assert_eq!(plain.receive_close().await, 1002);
}
