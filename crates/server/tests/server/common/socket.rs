//! A client of WebSockets that sends exactly what a test asks for.

#[path = "../../../../websocket/src/connection/tests/client_frame.rs"]
mod client_frame;

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;
pub(crate) use client_frame::frame;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// The headers of a request that asks for a socket, without those of the tests' own.
pub const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub struct Socket {
    pub stream: TcpStream,
    /// The head of the server's answer.
    pub head: String,
}

impl Socket {
    /// Asks for a socket; `headers` are whole lines. The answer may be any.
    pub async fn ask(address: SocketAddr, path: &str, headers: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        Self::begin(address, request.as_bytes()).await
    }

    /// Sends bytes that begin with a request, and reads the head of the answer.
    pub async fn begin(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("a head");
            head.push(byte.unwrap());
        }
        Self {
            stream,
            head: String::from_utf8(head).unwrap(),
        }
    }

    pub async fn open(address: SocketAddr, path: &str, id: &str) -> Self {
        let headers = format!("{UPGRADE}x-request-id: {id}\r\n");
        let socket = Self::ask(address, path, &headers).await;
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
        socket
    }

    pub async fn send(&mut self, first: u8, content: &[u8]) {
        self.write(&frame(first, content)).await;
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("sent")
            .unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let first = self.stream.read_u8().await.ok()?;
            let len = match self.stream.read_u8().await.ok()? {
                126 => usize::from(self.stream.read_u16().await.ok()?),
                127 => usize::try_from(self.stream.read_u64().await.ok()?).unwrap(),
                len => usize::from(len),
            };
            let mut content = vec![0; len];
            self.stream.read_exact(&mut content).await.ok()?;
            Some((first, content))
        };
        timeout(PATIENCE, read).await.expect("a frame")
    }

    /// The next message, or control frame, whose kind is that of its first frame.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, mut content) = self.frame().await?;
        let mut last = first;
        while last & 0x80 == 0 {
            let (next, piece) = self.frame().await?;
            assert_eq!(next & 0x0f, 0, "a continuation");
            content.extend(piece);
            last = next;
        }
        Some((first | 0x80, content))
    }

    /// Reads until the server's close. Returns its code, or 1006 without one.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.message().await {
                None => return 1006,
                Some((CLOSE, content)) => {
                    return match content[..] {
                        [] => 1005,
                        [a, b, ..] => u16::from_be_bytes([a, b]),
                        [_] => panic!("half a code"),
                    };
                }
                Some(_) => {}
            }
        }
    }

    /// Whether the server has closed the connection.
    pub async fn is_ended(&mut self) -> bool {
        let mut scrap = [0; 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut scrap)).await;
        matches!(read.expect("an end"), Ok(0) | Err(_))
    }
}
