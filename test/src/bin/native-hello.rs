//! A small static server: the native program of the test images, and the peer of start-time
//! measurements.
//!
//! Listens on `PORT` (3000) of IPv6 and IPv4, or of IPv4 where there is no IPv6, answers every
//! request with `native` (and ends with code N after `/exit/N`), takes memory without end on
//! `/eat`, and says on both standard streams that it is up. With the argument `pause` it waits for
//! ever: the first container of a pod.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::{env, io};

fn main() -> io::Result<()> {
    if env::args().nth(1).as_deref() == Some("pause") {
        loop {
            std::thread::park();
        }
    }
    let port = env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok())
        .unwrap_or(3000);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    println!("native hello on port {port}");
    eprintln!("native hello's second stream");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        let got = stream.read(&mut request)?;
        // A way to end with a chosen code: `GET /exit/7`.
        let text = String::from_utf8_lossy(&request[..got]);
        let code = text
            .strip_prefix("GET /exit/")
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        if text.starts_with("GET /eat ") {
            eat();
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nnative\n",
        )?;
        if let Some(code) = code {
            std::process::exit(code);
        }
    }
    Ok(())
}

fn eat() -> ! {
    let mut all = Vec::new();
    loop {
        // Written to, so that it is really taken.
        all.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}
