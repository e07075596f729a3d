//! A collector of OTLP over HTTP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Starts a collector on a free port of the loopback address, which is returned. It passes the body
/// of each request to `received`, and answers with an empty 200; an error closes the connection.
///
/// # Errors
/// No socket can be bound.
pub fn start(
    received: impl Fn(&[u8]) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let received = Arc::new(received);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let received = received.clone();
            thread::spawn(move || answer(&stream, &*received));
        }
    });
    Ok(address)
}

/// Answers the requests of a connection.
fn answer(mut stream: &TcpStream, received: &impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut read = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if read.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(io::Error::other)?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        read.read_exact(&mut body)?;
        received(&body)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
