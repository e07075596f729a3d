//! Frames of WebSockets: any bytes are messages within their bound or a breach of the protocol, the
//! same ones however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;

use charge::MemoryCharge;
use deflate::Deflate;
use frames::{Breach, Decoder, Incoming, Role};
use queue::Message;

// Of the crate without what drives a socket.
#[allow(dead_code)]
#[path = "../../crates/websocket/src/charge.rs"]
mod charge;
#[allow(dead_code)]
#[path = "../../crates/websocket/src/close.rs"]
mod close;
#[allow(dead_code)]
#[path = "../../crates/websocket/src/deflate.rs"]
mod deflate;
#[allow(dead_code)]
#[path = "../../crates/websocket/src/frames.rs"]
mod frames;
#[allow(dead_code)]
#[path = "../../crates/websocket/src/queue.rs"]
mod queue;

/// The longest frame and message.
const MAX: usize = 8 << 10;

/// As much memory as a message can need: twice its size while it grows, and an inflater.
struct Bounded;

impl MemoryCharge for Bounded {
    fn resize(&mut self, bytes: u64) -> bool {
        assert!(bytes <= 2 * MAX as u64 + deflate::INFLATER, "{bytes} bytes");
        true
    }
}

// The first byte is the side and whether messages may be compressed, the second how many bytes come
// at once.
fuzz_target!(|bytes: &[u8]| {
    let [choice, part, rest @ ..] = bytes else {
        return;
    };
    let role = match choice & 1 {
        0 => Role::Server,
        _ => Role::Client,
    };
    let deflates = choice & 2 != 0;
    let (whole, breach) = decoded(role, deflates, rest, usize::MAX);
    let (parts, again) = decoded(role, deflates, rest, usize::from(*part) + 1);
    assert_eq!(whole, parts);
    assert_eq!(breach.is_some(), again.is_some());
    if role == Role::Client {
        encoded_again(whole);
    }
});

/// Everything that comes of bytes, and what ends it.
fn decoded(
    role: Role,
    deflates: bool,
    bytes: &[u8],
    part: usize,
) -> (Vec<Incoming>, Option<Breach>) {
    let mut decoder = Decoder::new(role, MAX as u64, MAX as u64, Box::new(Bounded));
    if deflates {
        let mut headers = http::HeaderMap::new();
        let offer = http::HeaderValue::from_static("permessage-deflate");
        headers.insert(http::header::SEC_WEBSOCKET_EXTENSIONS, offer);
        decoder.set_deflate(Deflate::offered(&headers));
    }
    let mut all = Vec::new();
    for mut piece in bytes.chunks(part) {
        while !piece.is_empty() {
            match decoder.feed(piece) {
                Ok((used, incoming)) => {
                    if let Some(Incoming::Message(Message::Text(text))) = &incoming {
                        assert!(std::str::from_utf8(text).is_ok());
                    }
                    if let Some(Incoming::Message(message)) = &incoming {
                        let (Message::Text(content) | Message::Binary(content)) = message;
                        assert!(content.len() <= MAX);
                        decoder.release();
                    }
                    all.extend(incoming);
                    piece = &piece[used..];
                }
                Err(breach) => return (all, Some(breach)),
            }
        }
    }
    (all, None)
}

/// What a server sends of the messages is the same messages.
fn encoded_again(messages: Vec<Incoming>) {
    let messages: Vec<Incoming> = messages
        .into_iter()
        .filter(|incoming| matches!(incoming, Incoming::Message(_)))
        .collect();
    let mut bytes = Vec::new();
    for incoming in &messages {
        let (opcode, content) = match incoming {
            Incoming::Message(Message::Text(content)) => (frames::TEXT, content),
            Incoming::Message(Message::Binary(content)) => (frames::BINARY, content),
            _ => continue,
        };
        frames::encode(&mut bytes, Role::Server, opcode, true, content).expect("no mask");
    }
    assert_eq!(decoded(Role::Client, false, &bytes, 100), (messages, None));
}
