//! A server of this machine that answers well, badly or not at all.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Bytes(Vec<u8>),
    /// These, of so many that were announced; then the end.
    Broken(Vec<u8>, usize),
    /// The same, then nothing.
    Stalled(Vec<u8>, usize),
    /// A length, and no bytes.
    Claimed(usize),
    /// Bytes without an end.
    Endless,
    Silent,
    Nonsense,
    Status(u16),
    Redirect(&'static str),
}

impl Reply {
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

/// Serves until the test ends.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Paths and their replies; for others it is 404.
    pub(crate) fn start(replies: Vec<(&'static str, Reply)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let replies = Arc::new(replies);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (replies, seen) = (replies.clone(), seen.clone());
                std::thread::spawn(move || {
                    // The client may be gone.
                    let _ = answer(stream.unwrap(), &replies, &seen);
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of all requests.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    replies: &[(&'static str, Reply)],
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    let reply = replies
        .iter()
        .find(|(known, _)| *known == path)
        .map_or(Reply::Status(404), |(_, reply)| reply.clone());
    let mut with_length = |length: usize, bytes: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )?;
        stream.write_all(bytes)
    };
    let forever = || std::thread::sleep(Duration::from_secs(60));
    match reply {
        Reply::Bytes(bytes) => with_length(bytes.len(), &bytes),
        Reply::Broken(bytes, length) => with_length(length, &bytes),
        Reply::Stalled(bytes, length) => {
            with_length(length, &bytes)?;
            forever();
            Ok(())
        }
        Reply::Claimed(length) => with_length(length, b""),
        Reply::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 4096])?;
            }
        }
        Reply::Silent => {
            forever();
            Ok(())
        }
        Reply::Nonsense => stream.write_all(b"SSH-2.0-x\r\n\r\n"),
        Reply::Status(status) => write!(
            stream,
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        ),
        Reply::Redirect(to) => write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        ),
    }
}
