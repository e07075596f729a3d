//! A real server with one component, and what it is asked.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use ureq::http::Request;
use wws_test::server::Server;
use wws_test::wait::patience;
use wws_test::{http, workspace};

/// The longest wait for bytes of an answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);

/// What the tests' components are given.
const SETTINGS: &str = r#"version = "1"

[vars]
MESSAGE = "from the TOML"

[[folders]]
from = "./_data"
to = "/data"

[features.http_requests]
allowed_hosts = ["allowed.test"]
allow_http = true
"#;

/// One component at the root of a project, which answers every path.
pub(crate) struct Served {
    pub(crate) project: TempDir,
    pub(crate) server: Server,
}

pub(crate) fn serve(guest: &str) -> Result<Served> {
    serve_with(guest, "")
}

/// [`serve`] with more settings.
pub(crate) fn serve_with(guest: &str, settings: &str) -> Result<Served> {
    let project = tempfile::tempdir()?;
    fs::create_dir(project.path().join("_data"))?;
    fs::copy(
        workspace::guest(guest)?,
        project.path().join("[...path].wasm"),
    )?;
    fs::write(
        project.path().join("[...path].toml"),
        format!("{SETTINGS}{settings}"),
    )?;
    let resolve = format!("allowed.test={}", outside()?);
    let server = start(project.path(), &[("WWS_RESOLVE", &resolve)])?;
    Ok(Served { project, server })
}

pub(crate) fn start(project: &Path, variables: &[(&str, &str)]) -> Result<Server> {
    let mut variables = variables.to_vec();
    variables.push(("WWS_LIMITS_CPU_TIME", "2s"));
    Server::start(project, project.join("_log"), &variables)
}

impl Served {
    pub(crate) fn get(&self, path: &str) -> Result<http::Answer> {
        http::get(self.server.port(), path)
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<http::Answer> {
        let url = format!("http://127.0.0.1:{}{path}", self.server.port());
        http::send(Request::builder().method(method).uri(url).body(body)?)
    }

    /// The status and the text of an answer.
    pub(crate) fn text(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.get(path)?;
        Ok((answer.status, answer.text()))
    }

    pub(crate) fn connect(&self) -> Result<TcpStream> {
        connect(self.server.port())
    }

    /// What the server sends on a connection of its own until it closes it.
    pub(crate) fn raw(&self, request: &str) -> Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        // A connection that is reset may have been answered before.
        let read = stream.read_to_end(&mut answer);
        ensure!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The path fails: with an error, or so that the client sees that the body is not complete.
    pub(crate) fn fails(&self, path: &str) -> Result<()> {
        let answer = self.raw(&get_request(path))?;
        ensure!(!is_complete(&answer), "{path} looks complete: {answer}");
        ensure!(!answer.contains("wasm"), "{path} tells the cause: {answer}");
        Ok(())
    }
}

/// Whether a client takes an answer for a success and its body for a whole one.
fn is_complete(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let length: Option<usize> = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok());
    let whole = match length {
        Some(length) => body.len() == length,
        None => body.ends_with("0\r\n\r\n"),
    };
    whole && !head.starts_with("HTTP/1.1 5")
}

pub(crate) fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(patience(ANSWER)))?;
    Ok(stream)
}

/// The allowed host: `/slow` never answers, anything else is answered with method, path and length
/// of the body.
fn outside() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off sees it itself.
            thread::spawn(move || drop(answer_outside(&stream)));
        }
    });
    Ok(address)
}

fn answer_outside(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        chunked |= line == "transfer-encoding: chunked";
    }
    if first.contains("/slow") {
        thread::sleep(Duration::from_secs(60));
    }
    if chunked {
        length = chunked_length(&mut reader)?;
    } else {
        reader.read_exact(&mut vec![0; length])?;
    }
    let request = first.rsplit_once(' ').context("a request line")?.0;
    let body = format!("{request} with {length} bytes\n");
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nx-outside: yes\r\nconnection: close\r\ncontent-length: {}\r\n\r\n\
         {body}",
        body.len()
    )?;
    Ok(())
}

/// Reads chunks and trailers.
fn chunked_length(reader: &mut impl BufRead) -> Result<usize> {
    let mut sum = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16)?;
        sum += length;
        if length > 0 {
            reader.read_exact(&mut vec![0; length + 2])?;
            continue;
        }
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        return Ok(sum);
    }
}

/// A stream's bytes until they contain `text`.
pub(crate) fn read_until(stream: &mut TcpStream, text: &str) -> Result<String> {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part)?;
        ensure!(
            length > 0,
            "closed before {text:?}: {:?}",
            String::from_utf8_lossy(&read)
        );
        read.extend_from_slice(&part[..length]);
        let so_far = String::from_utf8_lossy(&read);
        if so_far.contains(text) {
            return Ok(so_far.into_owned());
        }
    }
}
