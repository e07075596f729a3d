//! A client that sends exactly what it is told.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref()))
            .await
            .expect("sent")
            .unwrap();
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "", b"").await
    }

    /// Sends a request; `headers` are whole lines.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Response {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: a.example\r\n{headers}{length}\r\n"
        ))
        .await;
        self.send(body).await;
        match method {
            "HEAD" => self.head().await.expect("a response"),
            _ => self.response().await,
        }
    }

    /// Reads a response.
    pub async fn response(&mut self) -> Response {
        self.try_response().await.expect("a response")
    }

    /// Reads a response, `None` where the connection ends instead.
    pub async fn try_response(&mut self) -> Option<Response> {
        let mut response = self.head().await?;
        if matches!(response.status, 204 | 304) {
            return Some(response);
        }
        let length: usize = response
            .header("content-length")
            .expect("a length")
            .parse()
            .unwrap();
        while self.read.len() < length {
            assert!(
                self.more().await > 0,
                "the body is cut off: {} of {length}",
                self.read.len()
            );
        }
        response.body = self.read.drain(..length).collect();
        Some(response)
    }

    /// Reads the head of a response.
    pub async fn head(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.more().await == 0 {
                assert!(
                    self.read.is_empty(),
                    "half a head: {:?}",
                    String::from_utf8_lossy(&self.read)
                );
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Some(Response {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// Whether nothing has come yet of a response.
    pub fn has_no_answer(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.read.is_empty()
            && matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The server has ended the connection, cleanly or not.
    pub async fn is_ended(&mut self) -> bool {
        self.more().await == 0
    }

    async fn more(&mut self) -> usize {
        let mut buffer = vec![0; 64 << 10];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer))
            .await
            .expect("an answer in time");
        // A reset is an end too.
        let read = read.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..read]);
        read
    }
}
