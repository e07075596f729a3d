//! A request as a small server of a test reads it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;

/// A request of HTTP/1.1 with its body.
pub(crate) struct ReceivedRequest {
    /// The request line, and the lines of the headers.
    lines: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl ReceivedRequest {
    /// Reads a request. Returns `None` if the client leaves before its end.
    pub(crate) fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if line.trim_end().is_empty() {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let mut request = Self {
            lines,
            body: Vec::new(),
        };
        let length = request.header("content-length");
        let length: u64 = length.map_or(0, |length| length.parse().unwrap());
        reader.take(length).read_to_end(&mut request.body).unwrap();
        Some(request)
    }

    /// Its method and target.
    pub(crate) fn method_and_target(&self) -> (&str, &str) {
        let mut words = self.lines[0].split(' ');
        (words.next().unwrap(), words.next().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.lines.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }
}
